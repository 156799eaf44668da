"""Drives servers through IPMI, where there is no Redfish: power on, off, and off as a fence.

IPMI does not say when a system is up: a server counts as up when it has been on, without a fault, for as long
as its boot takes. After power was asked for, whatever cannot be told is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import nullcontext
from typing import Final

from evac.drivers import parameters
from evac.drivers.capabilities import BootsServers, Fences, PowerReport
from evac.drivers.ipmi import DRIVER
from evac.drivers.ipmi.program import Asker, Chassis, Target, Unanswered, read_target
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable

VERBS: Final[frozenset[Verb]] = frozenset({"boot", "stop", "fence"})
DEVICES: Final = {"disk": "disk", "pxe": "pxe"}
Value = str | int | bool
UNKNOWN_BOOT_S: Final = 60.0
PAUSE_S: Final = 2.0
PAUSE_MOST_S: Final = 30.0
SILENT_LOOKS: Final = 3
KEPT_MOST: Final = 65_536
TRUST: Final = "IPMI 2.0: only the shared password"


class IpmiDriver(BootsServers, Fences):
    """Servers of all sites; one of it serves a whole run."""

    name = "ipmi"
    verbs = VERBS

    def __init__(self) -> None:
        self._asker = Asker()
        self._on_since: dict[str, float] = {}

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            target = _read(action)
            seen = await self._seen(target, _ends(order))
        except ActionError as error:
            return Checked((error.message,), {"code": error.code}, error)
        return Checked((), _evidence(target, seen))

    async def execute(self, action: Action, order: Order) -> Evidence:
        target, ends = _read(action), _ends(order)
        if action.verb == "boot":
            return await self._boot(target, ends, order)
        forced = action.verb == "fence" or parameters.flag(action.parameters, "force")
        return await self._off(target, action, ends, "off" if forced else "soft", order.dry_run)

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            target = _read(action)
            seen = await self._seen(target, _ends(order))
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200], "code": error.code})
        evidence = _evidence(target, seen)
        if action.verb != "boot":
            off = seen.power == "off"
            return (
                Observed("done", evidence | parameters.proof_of(action))
                if off
                else Observed("absent", evidence)
            )
        if seen.power == "off":
            self._on_since.pop(target.address, None)
            return Observed("absent", evidence)
        if self._on_for_s(target) >= _boot_s(target):
            return Observed("done", evidence | _state(seen))
        return Observed("unclear", evidence | {"why": "it is on, and may still boot"})

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Of a boot: off again, gracefully in the first half of the time. A fence is not taken back."""
        if action.verb != "boot":
            raise Permanent("undo-unsafe", f"{action.verb} of {action.target} is not taken back by itself")
        target, ends = _read(action), _ends(order)
        try:
            return await self._off(target, action, ends - order.timeout_s / 2, "soft", order.dry_run)
        except OutcomeUnknown:
            return await self._off(target, action, ends, "off", order.dry_run)

    async def look(self, action: Action, within_s: float) -> PowerReport:
        """The power of a server now. Raises `ActionError`, also for another machine."""
        target = _read(action)
        seen = await self._seen(target, asyncio.get_running_loop().time() + within_s)
        return PowerReport(action.target, seen.power, health="warning" if seen.fault or seen.drives else "")

    async def close(self) -> None:
        """Nothing is kept open between calls."""

    async def _seen(self, target: Target, ends: float) -> Chassis:
        """Raises unless it is the machine of the inventory, and tells its power."""
        if target.serial:
            serials = await self._asker.serials(target, ends)
            if target.serial.casefold() not in (one.casefold() for one in serials):
                found = serials[0] if serials else "no serial number"
                words = f"{target.address} is {found}, and {target.server} is {target.serial}"
                raise Permanent("bmc-wrong-serial", words)
        return await self._asker.chassis(target, ends)

    async def _boot(self, target: Target, ends: float, order: Order) -> Evidence:
        seen = await self._seen(target, ends)
        if order.dry_run:
            words = "nothing: it is on" if seen.power == "on" else "chassis power on"
            return _evidence(target, seen) | {"would_send": words}
        found_on, sure = seen.power == "on", True
        if not found_on:
            self._on_since.pop(target.address, None)
            if target.boot_source:
                await self._asker.ask(target, ends, "chassis", "bootdev", DEVICES[target.boot_source])
            try:
                async with (order.power or nullcontext)():
                    await self._asker.ask(target, ends, "chassis", "power", "on")
                if order.switched_on is not None:
                    order.switched_on()
            except Unanswered:
                sure = False  # it may have arrived: whoever looks sees it
        evidence = await self._follow(target, ends, sure)
        return {**evidence, "found": "on"} if found_on else evidence

    async def _follow(self, target: Target, ends: float, sure: bool) -> Evidence:
        """Until it has been on for as long as a boot takes. sure: whether the request arrived."""
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        silent = off = 0
        wait = min(PAUSE_S, _boot_s(target))
        while loop.time() + wait < ends:
            await asyncio.sleep(wait)
            try:
                seen = await self._asker.chassis(target, ends)
            except ActionError as error:
                silent += 1
                if silent >= SILENT_LOOKS or not isinstance(error, Retryable):
                    raise OutcomeUnknown(error.code, f"{error.message} after power was asked for") from error
                continue
            silent = 0
            if seen.power == "on":
                left = _boot_s(target) - self._on_for_s(target)
                if left <= 0:
                    return (
                        _evidence(target, seen)
                        | _state(seen)
                        | {"boot_ms": int((loop.time() - began) * 1_000)}
                    )
                off, wait = 0, max(left, 0.05)
                continue
            off += 1
            if off >= SILENT_LOOKS and not sure:
                raise Retryable("bmc-hanging", f"{target.address} did not take the request to switch on")
            if off >= SILENT_LOOKS:
                self._stays_off(target, seen)
            wait = min(wait * 2, PAUSE_MOST_S)
        raise OutcomeUnknown("bmc-silent", f"{target.server} was not seen up in time", "look at it")

    def _stays_off(self, target: Target, seen: Chassis) -> None:
        if seen.fault or target.address in self._on_since:
            words = seen.fault or "the power came on and went away"
            raise Permanent("server-power-fault", f"{target.server}: {words}")
        raise Permanent("bmc-lying", f"{target.server}: its controller said done, and it stays off")

    async def _off(self, target: Target, action: Action, ends: float, how: str, dry_run: bool) -> Evidence:
        seen = await self._seen(target, ends)
        if dry_run:
            words = "nothing: it is off" if seen.power == "off" else f"chassis power {how}"
            return _evidence(target, seen) | {"would_send": words}
        if seen.power != "off":
            with contextlib.suppress(Unanswered):  # it may have arrived: whoever looks sees it
                await self._asker.ask(target, ends, "chassis", "power", how)
            seen = await self._until_off(target, ends)
        self._on_since.pop(target.address, None)
        return _evidence(target, seen) | parameters.proof_of(action)

    async def _until_off(self, target: Target, ends: float) -> Chassis:
        loop, pause, trouble = asyncio.get_running_loop(), 0.25, ""
        while loop.time() + pause < ends:
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_MOST_S)
            try:
                seen = await self._asker.chassis(target, ends)
            except ActionError as error:
                trouble = error.message
                continue
            trouble = ""
            if seen.power == "off":
                return seen
        words = trouble or f"{target.server} is still on"
        raise OutcomeUnknown("bmc-silent" if trouble else "bmc-lying", words, "look at the power light")

    def _on_for_s(self, target: Target) -> float:
        """How long it has been seen on."""
        now = asyncio.get_running_loop().time()
        if len(self._on_since) > KEPT_MOST:
            self._on_since.clear()
        return now - self._on_since.setdefault(target.address, now)


def _read(action: Action) -> Target:
    if action.verb not in VERBS:
        raise Permanent("verb-unknown", f"ipmi cannot {action.verb}")
    parameters.refuse_proof(action, DRIVER.proofs)
    return read_target(action)


def _boot_s(target: Target) -> float:
    return target.boot_ms / 1_000 or UNKNOWN_BOOT_S


def _state(seen: Chassis) -> dict[str, Value]:
    return {"state": "degraded", "why": seen.drives} if seen.drives else {"state": "up"}


def _evidence(target: Target, seen: Chassis) -> dict[str, Value]:
    health = seen.fault or seen.drives or "unknown"
    return {"power": seen.power, "health": health, "serial": target.serial, "tls": TRUST}


def _ends(order: Order) -> float:
    return asyncio.get_running_loop().time() + order.timeout_s
