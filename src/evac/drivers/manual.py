"""Drivers that reach no system: `manual` for people, and `noop`.

A step for a person never completes by itself: execute reports an unknown outcome, and observe stays unclear
until the action has `attested_by` and `attested_reason`, which the engine adds from the journal.

`noop` does nothing, in the same sequence as every other driver: check, execute, observe, undo. It is for
measuring the engine and for trying out plans; its state exists in this process only.
"""

from __future__ import annotations

from typing import Final, get_args

from evac.drivers import parameters
from evac.drivers.port import NO_EVIDENCE, Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.spec import DriverSpec, Setting
from evac.model.errors import ActionError, OutcomeUnknown, Permanent

_READY: Final = Checked()
_DONE: Final = Observed("done")
_ABSENT: Final = Observed("absent")


class NoopDriver:
    """Remembers by key which orders it executed."""

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
        """Nothing to close."""


NOOP = DriverSpec(
    "noop",
    "does nothing; it is for measurements, and plans use it automatically",
    (),
    (),
    "evac.drivers.manual:NoopDriver",
    acts=False,
    agent_may=True,
)


VERBS: Final[frozenset[Verb]] = frozenset(get_args(Verb))
_SHOWN: Final = 900


class ManualDriver:
    """Acts through people only."""

    name = "manual"
    verbs = VERBS

    async def check(self, action: Action, order: Order) -> Checked:
        """Ready if a person can be given instructions."""
        try:
            return Checked((), _asked(action))
        except ActionError as error:
            return Checked((error.message,))

    async def execute(self, action: Action, order: Order) -> Evidence:
        asked = _asked(action)
        if order.dry_run:
            return asked
        attested = _attested(action)
        if attested is None:
            raise OutcomeUnknown(
                "attest-needed",
                f"a person must do this: {asked['instructions']}",
                f"when it is done: evac run attest {order.run} {order.step} --reason R",
            )
        return attested

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            attested = _attested(action)
            return Observed("done", attested) if attested else Observed("unclear", _asked(action))
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})

    async def undo(self, action: Action, order: Order) -> Evidence:
        raise Permanent(
            "undo-by-hand",
            "a person did this step, so a person must undo it",
            "undo it by hand, then attest it",
        )

    async def close(self) -> None:
        """Nothing to close."""


def _asked(action: Action) -> Evidence:
    """The instruction: from the plan, else from the endpoint; else only verb and target."""
    written = parameters.text(action.parameters, "instructions", "") or parameters.text(
        action.settings, "instructions", ""
    )
    words = written or (f"{action.verb} {action.target}" + (f" at {action.at}" if action.at else ""))
    return {"instructions": words[:_SHOWN], "waits_for": "attest"}


def _attested(action: Action) -> Evidence | None:
    """Who attests it, and why; None until someone does. A name without a reason is not enough."""
    who = parameters.text(action.parameters, "attested_by", "")
    if not who:
        return None
    reason = parameters.text(action.parameters, "attested_reason")
    return {"attested_by": who[:200], "attested_reason": reason[:_SHOWN]}


DRIVER = DriverSpec(
    "manual",
    "asks a person to do the step; the step is done when a person attests it; "
    "plans use this driver by default",
    (),
    (Setting("instructions", "text", "instructions for steps that have none"),),
    "evac.drivers.manual:ManualDriver",
    acts=False,
    by_person=True,
)
