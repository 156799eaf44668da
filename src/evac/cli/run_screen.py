"""A run as it goes on: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from evac.cli.output import say
from evac.report.run_report import RunShown, run_text

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

    def show(self, shown: RunShown) -> None:
        view = shown.view
        if self._quiet:
            return
        if self._live is not None:
            from rich.text import Text

            size = self._live.console.size
            text = run_text(shown, size.width, False, max(3, size.height - _BESIDE_STEPS))
            self._live.update(Text(text))
            return
        if view.phase != self._phase:
            self._phase = view.phase
            say(f"{view.spec.run}: {view.phase.replace('_', ' ')}")
        for i, step in enumerate(view.steps):
            phase = view.phases[i]
            if phase not in ("pending", "ready") and self._seen.get(step.id) != phase:
                self._seen[step.id] = phase
                say(f"  {step.id}: {phase}")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
