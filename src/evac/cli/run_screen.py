"""A run as it goes on: a screen on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from evac.cli.console import say
from evac.views.documents import RunDocument
from evac.views.run_report import run_text
from evac.views.watch_screen import Recent, watch_screen

STEPS_ASKED: Final = 200
"""Steps whose changes the screen shows, those first that need a look."""
_BESIDE_STEPS: Final = 18
"""Lines of the table of steps that are no steps; what does not fit would be cut off."""


class Teller:
    """Shows a run each time it changed. `close` leaves the terminal as it was."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._seen: dict[str, str] = {}
        self._phase = ""
        self._recent = Recent()
        self._last: RunDocument | None = None
        self._table = False
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self._live.start()

    @property
    def most(self) -> int | None:
        """How many steps are needed to show a run, those first that need a look; None: all of them."""
        if self._quiet:
            return 1
        return None if self._live is None else STEPS_ASKED

    def show(self, document: RunDocument) -> None:
        if self._quiet:
            return
        if self._live is not None:
            self._recent.see(document)
            self._last = document
            self._draw()
            return
        state = document.state
        if state != self._phase:
            self._phase = state
            say(f"{document.run}: {state.replace('_', ' ')}")
        for step in document.steps:
            phase = step.state
            if phase not in ("pending", "ready") and self._seen.get(step.id) != phase:
                self._seen[step.id] = phase
                say(f"  {step.id}: {phase}")

    def switch(self) -> None:
        """From the summary to the table of steps, or back."""
        self._table = not self._table
        if self._live is not None and self._last is not None:
            self._draw()

    def _draw(self) -> None:
        from rich.text import Text

        assert self._last is not None
        width, height = self._live.console.size
        if self._table:
            self._live.update(Text(run_text(self._last, width, False, max(3, height - _BESIDE_STEPS))))
            return
        lines = watch_screen(self._last, list(self._recent.lines), width, height)
        text = Text("\n").join(Text(words, style) for words, style in lines)
        self._live.update(text)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


@contextlib.contextmanager
def keys(pressed: Callable[[str], None]) -> Iterator[None]:
    """Reads single keys of the terminal while the loop runs; nothing where there is no terminal."""
    try:
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor) if sys.stdin.isatty() else None
    except (ImportError, OSError, ValueError):
        before = None
    if before is None:
        yield
        return
    loop = asyncio.get_running_loop()
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, lambda: pressed(sys.stdin.read(1)))
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
