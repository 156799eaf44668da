"""Switches a server off: gracefully, by force, or gracefully first; and off as a fence, seen.

Off is what was seen, never what was answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from evac.drivers import parameters
from evac.drivers.port import Action, Evidence, Observed, Order
from evac.drivers.redfish import system
from evac.drivers.redfish.boot import check_identity, check_power_told, evidence_of
from evac.drivers.redfish.calls import NoAnswer, Talk, Wire, refusal
from evac.drivers.redfish.power import switch
from evac.drivers.redfish.quirks import choose
from evac.drivers.redfish.settings import Target
from evac.drivers.redfish.system import System
from evac.model.errors import OutcomeUnknown, Permanent, Retryable

FIRST_PAUSE_S: Final = 0.25
PAUSE_MOST_S: Final = 10.0
FORCE_S: Final = 15.0
Find = Callable[[Talk], Awaitable[System]]


async def switch_off(
    wire: Wire, target: Target, action: Action, order: Order, ends: float, find: Find, insists: bool = False
) -> Evidence:
    """insists: by force when it has not gone down gracefully in half of the time."""
    forced = action.verb == "fence" or parameters.flag(action.parameters, "force")
    async with wire.talk(target, ends) as talk:
        seen = await find(talk)
        check_identity(target, seen)
        check_power_told(target, seen)
        how = _how(target, seen, forced)
        if order.dry_run:
            words = "nothing: it is off" if seen.power == "off" else f"Reset {how}"
            return evidence_of(seen, target) | {"would_send": words}
        if seen.power == "off":
            return _evidence(action, seen, target)
        if seen.power != "falling" or forced:
            await _send(talk, seen, how)
    if not insists or forced:
        return await _until_off(wire, target, action, seen.path, ends)
    try:
        halfway = max(asyncio.get_running_loop().time(), min(ends - FORCE_S, ends - order.timeout_s / 2))
        return await _until_off(wire, target, action, seen.path, halfway)
    except OutcomeUnknown:
        async with wire.talk(target, ends) as talk:
            await _send(talk, seen, _how(target, seen, True))
        return await _until_off(wire, target, action, seen.path, ends)


def _how(target: Target, seen: System, forced: bool) -> str:
    how = choose(seen.quirks.off if forced else seen.quirks.graceful, seen.reset_types, seen.quirks)
    if not how or not seen.reset_path:
        words = "force" if forced else "graceful shutdown"
        raise Permanent("bmc-unsupported", f"{target.address} offers no {words}")
    return how


async def _send(talk: Talk, seen: System, how: str) -> None:
    """Asks once; what is not answered is seen by looking."""
    try:
        answer = await switch(talk, seen, how)
    except NoAnswer:
        return
    if 300 <= answer.status < 500 or answer.status == 501:
        raise refusal(talk.target.address, answer)


async def _until_off(wire: Wire, target: Target, action: Action, path: str, ends: float) -> Evidence:
    loop = asyncio.get_running_loop()
    pause, trouble = FIRST_PAUSE_S, ""
    while (left := ends - loop.time()) > FIRST_PAUSE_S / 2:
        await asyncio.sleep(min(pause, left / 2))
        pause = min(pause * 2, PAUSE_MOST_S)
        try:
            async with wire.talk(target, ends) as talk:
                seen = await system.look(talk, path, last=True)
        except Retryable as error:
            trouble = error.message
            continue
        except Permanent as error:
            raise OutcomeUnknown(error.code, error.message, error.hint) from error
        trouble = ""
        if seen.power == "off":
            return _evidence(action, seen, target)
    words = trouble or f"{target.server} is still on"
    raise OutcomeUnknown("bmc-silent" if trouble else "bmc-lying", words, "look at the power light")


def observed(action: Action, seen: System, evidence: dict[str, str | int | bool]) -> Observed:
    if seen.power == "off":
        return Observed("done", evidence | parameters.proof_of(action))
    return Observed("absent" if seen.power == "on" else "unclear", evidence)


def _evidence(action: Action, seen: System, target: Target) -> dict[str, str | int | bool]:
    return evidence_of(seen, target) | parameters.proof_of(action)
