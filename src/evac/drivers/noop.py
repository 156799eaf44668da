"""A driver that does nothing, and goes the way of every other: it is checked, executed, observed, undone.

For measuring the engine and for plans that are tried out. What it did lives in this process only.
"""

from __future__ import annotations

from typing import Final, get_args

from evac.drivers.port import NO_EVIDENCE, Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.spec import DriverSpec

_READY: Final = Checked()
_DONE: Final = Observed("done")
_ABSENT: Final = Observed("absent")


class NoopDriver:
    """Remembers which orders it carried out, by their key."""

    name = "noop"
    verbs: frozenset[Verb] = frozenset(get_args(Verb))

    def __init__(self) -> None:
        self._done: set[str] = set()

    async def check(self, action: Action, order: Order) -> Checked:
        return _READY

    async def execute(self, action: Action, order: Order) -> Evidence:
        if not order.dry_run:
            self._done.add(order.key)
        return NO_EVIDENCE

    async def observe(self, action: Action, order: Order) -> Observed:
        return _DONE if order.key in self._done else _ABSENT

    async def undo(self, action: Action, order: Order) -> Evidence:
        if not order.dry_run:
            self._done.discard(order.key)
        return NO_EVIDENCE

    async def close(self) -> None:
        """Nothing is kept open."""


DRIVER = DriverSpec(
    "noop",
    "does nothing, for measuring; plans use it by themselves",
    (),
    (),
    "evac.drivers.noop:NoopDriver",
    acts=False,
    agent_may=True,
)
