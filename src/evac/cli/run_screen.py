"""A run as it goes on: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from evac.cli.console import say
from evac.views.documents import RunDocument
from evac.views.run_report import run_text

_BESIDE_STEPS = 18
"""Lines of the live screen that are no steps; what does not fit would be cut off."""


class Teller:
    """Shows a run each time it changed. `close` leaves the terminal as it was."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._seen: dict[str, str] = {}
        self._phase = ""
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
        return None if self._live is None else self._room()

    def _room(self) -> int:
        height: int = self._live.console.size.height
        return max(3, height - _BESIDE_STEPS)

    def show(self, document: RunDocument) -> None:
        if self._quiet:
            return
        if self._live is not None:
            from rich.text import Text

            text = run_text(document, self._live.console.size.width, False, self._room())
            self._live.update(Text(text))
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

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
