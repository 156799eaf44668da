"""Says which test made a connection that was left open.

A transport that nobody closed warns when it is collected, which may be many tests later, in one that opened
nothing. With this its warning names the test that it is of.
"""

from __future__ import annotations

import asyncio.selector_events
import os
from typing import Any


def name_their_tests() -> None:
    """Let `repr` of each transport, which is what its warning shows, end in the test that opened it."""
    transport: Any = asyncio.selector_events._SelectorTransport  # type: ignore[attr-defined]
    begun, shown = transport.__init__, transport.__repr__

    def begin(self: Any, *args: Any, **more: Any) -> None:
        self.opened_in = os.environ.get("PYTEST_CURRENT_TEST", "no test")
        begun(self, *args, **more)

    transport.__init__ = begin
    transport.__repr__ = lambda self: f"{shown(self)} opened in {getattr(self, 'opened_in', 'no test')}"
