"""A live view of a run: a screen on a terminal, else a line for each change."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from typing import Any, Final

from evac.cli.console import say
from evac.model.foreign_text import without_controls
from evac.model.records import dataclass
from evac.run.values import ENDED
from evac.views.documents import RunDocument, StepRow, took_ms
from evac.views.run_report import run_text
from evac.views.wait_words import urgency
from evac.views.words import duration, moment_ms, number, plural

EVENTS_MOST: Final = 8
RUNNING_MOST: Final = 8
WAITS_MOST: Final = 3
KEYS: Final = "q detach (the run continues)   s steps   Ctrl-C detach"
_DONE: Final = ("succeeded", "skipped")
_QUIET: Final = ("pending", "ready")
_BAD: Final = ("failed", "unknown")
_FULL, _EMPTY = "█", "░"

Line = tuple[str, str]
"""(text, style)"""
STEPS_ASKED: Final = 200
"""Maximum number of steps whose changes the screen shows, those that need attention first."""
_BESIDE_STEPS: Final = 18
"""Lines around the table of steps; what does not fit would be cut off."""


@dataclass(slots=True)
class Recent:
    """Recent events, from one document to the next."""

    states: dict[str, str] = field(default_factory=dict)
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=EVENTS_MOST))

    def see(self, document: RunDocument) -> None:
        """Record each step whose state changed."""
        clock = (document.as_of or "")[11:19]
        for step in document.steps:
            before = self.states.get(step.id)
            if before == step.state:
                continue
            self.states[step.id] = step.state
            if step.state not in _QUIET and before is not None:
                style = "red" if step.state in _BAD else ""
                self.lines.appendleft((f"{clock}  {step.id}  {step.state.replace('_', ' ')}", style))


def watch_screen(document: RunDocument, recent: Sequence[Line], width: int, height: int) -> list[Line]:
    """At most `height` lines of at most `width` characters; commands to type are never cut."""
    lines = list(_lines(document, recent, width))
    keys = [("", ""), (KEYS, "dim")]
    return [*lines[: max(1, height - len(keys) - 1)], *keys]


def _lines(document: RunDocument, recent: Sequence[Line], width: int) -> Iterator[Line]:
    state = document.state.replace("_", " ")
    yield _cut(f"{document.run}: {state}", width), "bold"
    if document.question:
        yield _cut(document.question, width), "dim"
    yield "", ""
    yield from _progress(document, width)
    for lost in document.left[:WAITS_MOST]:
        yield _cut(f"{lost.label.capitalize()}: {lost.name} ({lost.words})", width), "yellow"
    waits = sorted((one for one in document.waits if one.words), key=urgency)
    if waits:
        yield "", ""
        yield f"Waiting for a person ({number(len(waits))})", "bold yellow"
        for one in waits[:WAITS_MOST]:
            yield _cut(f"! {one.words}", width), "yellow"
            if one.next:
                yield f"  {without_controls(one.next)}", "bold"
        if len(waits) > WAITS_MOST:
            yield f"  and {number(len(waits) - WAITS_MOST)} more: evac run show {document.run}", "dim"
    yield from _running(document, width)
    if recent:
        yield "", ""
        yield "Last events", "bold"
        for words, style in recent[:EVENTS_MOST]:
            yield _cut(words, width), style


def _progress(document: RunDocument, width: int) -> Iterator[Line]:
    """A bar, the time it has run, and when services are expected back."""
    whole = sum(document.counts.values())
    done = sum(document.counts.get(phase, 0) for phase in _DONE)
    failed = document.counts.get("failed", 0)
    size = max(10, min(40, width - 40))
    full = size * done // whole if whole else 0
    words = f"{_FULL * full}{_EMPTY * (size - full)}  {number(done)} of {plural(whole, 'step')}"
    yield _cut(words + (f", {number(failed)} failed" if failed else ""), width), "red" if failed else "green"
    began, now = moment_ms(document.started_at), moment_ms(document.ended_at or document.as_of)
    parts = [f"Running for {duration((now - began) // 1_000 * 1_000)}"] if began else ["Not started"]
    if document.state in ENDED and began:
        parts = [f"Ended after {duration((now - began) // 1_000 * 1_000)}"]
    elif document.expected_at:
        left = moment_ms(document.expected_at) - now
        parts.append(f"about {duration(left // 1_000 * 1_000)} left" if left > 0 else "overdue")
    yield _cut(", ".join(parts), width), ""


def _running(document: RunDocument, width: int) -> Iterator[Line]:
    rows = [one for one in document.steps if one.state == "running"]
    if not rows:
        return
    now = moment_ms(document.as_of)
    yield "", ""
    yield f"Running ({number(document.counts.get('running', len(rows)))})", "bold"
    longest = max(len(one.id) for one in rows[:RUNNING_MOST])
    for one in rows[:RUNNING_MOST]:
        yield _cut(f"  {one.id:{longest}}  {_for(one, now)}", width), ""
    if len(rows) > RUNNING_MOST:
        yield f"  and {number(len(rows) - RUNNING_MOST)} more", "dim"


def _for(row: StepRow, now: int) -> str:
    took = took_ms(row, now)
    tries = f", try {row.attempts}" if row.attempts > 1 else ""
    return ("-" if took is None else duration(took // 1_000 * 1_000)) + tries


def _cut(words: str, width: int) -> str:
    clean = without_controls(words)
    return clean if len(clean) <= width else clean[: max(1, width - 1)] + "…"


class Teller:
    """Shows a run after each change. `close` restores the terminal."""

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
        """Number of steps needed to show a run, those that need attention first; None: all."""
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
        """Switch between the summary and the table of steps."""
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
    """Read single keys of the terminal while the loop runs; nothing if there is no terminal."""
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
