"""The breaker of a feed, as a Redfish circuit: closed and opened from afar, and looked at.

A breaker that tripped is closed like one that is open: whoever asks for it has decided that it may be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from evac.drivers.port import Action, Evidence, Observed, Order
from evac.drivers.redfish.calls import Talk, Wire, refusal
from evac.drivers.redfish.settings import Target, is_own_path
from evac.drivers.redfish.system import text, words_of
from evac.model.errors import OutcomeUnknown, Permanent, Retryable

BREAKER: Final = "#Circuit.BreakerControl"
POWER: Final = "#Circuit.PowerControl"
LOOK_PAUSE_S: Final = 0.5
_WANTED: Final[Mapping[str, str]] = {"start": "On", "stop": "Off"}
Fresh = Callable[[], "Circuit | None"]


@dataclass(frozen=True, slots=True)
class Circuit:
    """power: On, Off, or "" where it is not told. breaker: Normal, Tripped, Off, or ""."""

    label: str
    power: str
    breaker: str
    action_path: str
    allowed: frozenset[str]

    @property
    def closed(self) -> bool:
        return self.power == "On" and self.breaker in ("Normal", "")

    @property
    def open(self) -> bool:
        return self.power == "Off"


async def see(talk: Talk, path: str) -> Circuit:
    found = await talk.get(path)
    actions = found.get("Actions")
    action = next((one for one in (_part(actions, BREAKER), _part(actions, POWER)) if one), {})
    target, allowed = action.get("target"), action.get("PowerState@Redfish.AllowableValues")
    return Circuit(
        text(found, "UserLabel") or text(found, "Name"),
        text(found, "PowerState"),
        text(found, "BreakerState"),
        str(target) if is_own_path(target) else "",
        words_of(allowed),
    )


async def look(wire: Wire, target: Target, ends: float) -> Circuit:
    async with wire.talk(target, ends) as talk:
        return await see(talk, target.circuit)


async def move(
    wire: Wire, target: Target, action: Action, order: Order, ends: float, fresh: Fresh
) -> Evidence:
    """Closes or opens the breaker, once, and looks until it is. fresh: what was seen of it a moment ago.
    Raises `Permanent`, `Retryable`, or `OutcomeUnknown`.
    """
    wanted = _WANTED[action.verb]
    async with wire.talk(target, ends, goes_on=True) as talk:
        seen = fresh() or await see(talk, target.circuit)
        check_movable(target, action, seen)
        if order.dry_run:
            return evidence_of(seen, target) | {"would_send": f"PowerState {wanted}"}
        if is_as_wanted(action, seen):
            return evidence_of(seen, target)
        unheard = await _told(talk, seen, wanted)
        if unheard is None or unheard.code != "bmc-busy":  # who wants no requests now is not asked
            with contextlib.suppress(Retryable):
                seen = await see(talk, target.circuit)
                if is_as_wanted(action, seen):
                    return evidence_of(seen, target)
    if unheard is not None:
        raise OutcomeUnknown(unheard.code, unheard.message, "look at the breaker") from unheard
    return await _until(wire, target, action, ends)


async def _told(talk: Talk, seen: Circuit, wanted: str) -> Retryable | None:
    """Sends it. What it raised where nobody knows whether it arrived; None where it was accepted."""
    address = talk.target.address
    try:
        answer = await talk.ask("POST", seen.action_path, {"PowerState": wanted})
    except Retryable as error:
        return error
    if answer.status >= 500:
        return Retryable("bmc-half-dead", f"{address} answers {answer.status}")
    if answer.status >= 300:
        raise refusal(address, answer)
    return None


async def _until(wire: Wire, target: Target, action: Action, ends: float) -> Evidence:
    loop = asyncio.get_running_loop()
    while loop.time() < ends - LOOK_PAUSE_S:
        try:
            seen = await look(wire, target, ends)
        except Retryable as error:
            raise OutcomeUnknown(error.code, error.message, "look at the breaker") from error
        if is_as_wanted(action, seen):
            return evidence_of(seen, target)
        if action.verb == "start" and seen.breaker == "Tripped":
            raise Permanent("feed-tripped", f"{action.target} tripped when it was closed")
        await asyncio.sleep(LOOK_PAUSE_S)
    raise OutcomeUnknown("bmc-lying", f"the breaker of {action.target} does not move", "look at the breaker")


def check_movable(target: Target, action: Action, seen: Circuit) -> None:
    """Raises `Permanent` where the circuit cannot be moved, or belongs to another feed."""
    if not seen.action_path or (seen.allowed and _WANTED[action.verb] not in seen.allowed):
        raise Permanent("bmc-unsupported", f"{target.address} cannot {action.verb} {target.circuit}")
    label = action.settings.get("label")
    if label and seen.label != label:
        raise Permanent("circuit-wrong", f"{target.circuit} is {seen.label or 'without a name'}, not {label}")


def observed(action: Action, seen: Circuit, target: Target) -> Observed:
    evidence = evidence_of(seen, target)
    if is_as_wanted(action, seen):
        return Observed("done", evidence)
    told = seen.closed or seen.open or seen.breaker == "Tripped"
    return Observed("absent" if told else "unclear", evidence)


def is_as_wanted(action: Action, seen: Circuit) -> bool:
    return seen.closed if action.verb == "start" else seen.open


def evidence_of(seen: Circuit, target: Target) -> dict[str, str | int | bool]:
    return {
        "circuit": target.circuit,
        "label": seen.label,
        "power": seen.power.lower() or "unknown",
        "breaker": seen.breaker.lower() or "unknown",
        "tls": target.access.trust.words,
    }


def _part(found: Any, key: str) -> dict[str, Any]:
    part = found.get(key) if isinstance(found, dict) else None
    return part if isinstance(part, dict) else {}
