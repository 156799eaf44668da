"""Boots one server through its controller: verify its identity, check its power, power it on once, follow it
until it is up. Also powers it off: gracefully, by force, or gracefully first; or as a fence.

Power is requested at most once in a try; the outcome of a request without a response is observed. After a
power request, anything unclear is unknown, never failed: power may be flowing. Off means observed off,
whatever the response was.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Final, Literal

from evac.drivers import parameters
from evac.drivers.port import Action, Evidence, Observed, Order, PowerTurn
from evac.drivers.redfish import system
from evac.drivers.redfish.calls import NoBmcAnswer, Talk, Wire, refusal
from evac.drivers.redfish.settings import RedfishTarget, choose
from evac.drivers.redfish.system import UP, System, healthy_storage, set_boot_source, switch
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass

UNKNOWN_BOOT_S: Final = 60.0
FIRST_SHARE: Final = 1.0
FIRST_SPREAD: Final = 0.0025
"""Share of the predicted time over which first looks are spread: boots start one after another anyway, and
the last one seen up late delays the whole wave.
"""
PAUSE_SHARE: Final = 0.03
PAUSE_LEAST_S: Final = 0.25
PAUSE_MOST_S: Final = 60.0
PAUSE_GROWTH: Final = 1.25
SILENT_LOOKS: Final = 3
SILENT_PAUSE_S: Final = 2.0
OFF_LOOKS: Final = 3
LOOPS: Final = 3
RESERVE_S: Final = 12.0
"""Part of an order's time reserved for powering off a server that will not come up."""


Begun = Literal["on", "switched", "unsure"]
"""on: it was already on. unsure: power was requested, but it is unknown whether the request arrived."""
_STAGES: Final = (
    "PrimaryProcessorInitializationStarted",
    "BusInitializationStarted",
    "MemoryInitializationStarted",
    "SecondaryProcessorInitializationStarted",
    "PCIResourceConfigStarted",
    "SystemHardwareInitializationComplete",
    "SetupEntered",
    "OSBootStarted",
    "OSRunning",
)


@dataclass(slots=True)
class _Course:
    """Observations since power was requested. ours: by us. resets: distinct starts."""

    began: float
    last_reset: str
    ours: bool
    seen: System | None = None
    silent: int = 0
    off: int = 0
    stage: int = -1
    resets: int = 0
    saw_on: bool = False
    trouble: str = ""
    code: str = "bmc-silent"


class Boot:
    """One boot. path: of the system at its controller; ends: by the loop's clock."""

    def __init__(self, wire: Wire, target: RedfishTarget, ends: float, order: Order) -> None:
        self._power: PowerTurn = order.power or nullcontext
        self._switched_on = order.switched_on
        self._wire, self._target = wire, target
        self._ends = ends - min(RESERVE_S, order.timeout_s / 5)
        self._last = ends
        self._loop = asyncio.get_running_loop()
        self._spread = zlib.crc32(target.address.encode()) / 2**32
        self._predicted_s = target.boot_ms / 1_000 or UNKNOWN_BOOT_S

    async def begin(self, talk: Talk, seen: System) -> Begun:
        """Power the server on, unless it is on. Raises the error for a refusal."""
        if seen.power in ("on", "rising"):
            return "on"
        if seen.power != "off":
            raise Retryable("bmc-busy", f"{self._target.server} is being switched off", after_ms=10_000)
        how = on_type(self._target, seen)
        await set_boot_source(talk, seen)
        try:
            async with self._power():
                answer = await switch(talk, seen, how)
        except NoBmcAnswer:
            return "unsure"
        if answer.status >= 500 and answer.status != 501:
            return "unsure"
        if answer.status >= 300:
            raise refusal(self._target.address, answer)
        if self._switched_on is not None:
            self._switched_on()
        return "switched"

    async def follow(self, seen: System, begun: Begun) -> Evidence:
        """Poll until it is up. Raises `Permanent` with the code of the problem, or `OutcomeUnknown`."""
        found_on = begun == "on"
        course = _Course(self._loop.time(), seen.last_reset, not found_on)
        if found_on and is_up(seen, self._target, 0.0):
            return await self._arrived(seen, course, found_on)
        if begun == "unsure":
            await self._settle(seen.path, course)
        pause = max(PAUSE_LEAST_S, PAUSE_SHARE * self._predicted_s) * (0.8 + 0.4 * self._spread)
        first = self._predicted_s * (FIRST_SHARE + FIRST_SPREAD * self._spread)
        first += course.began - self._loop.time()
        wait = pause if found_on else max(pause, first)
        while True:
            await self._sleep(wait, course)
            now = await self._look(seen.path, course)
            if now is not None and self._judge(now, course):
                return await self._arrived(now, course, found_on)
            if course.resets >= LOOPS:
                await self._give_up("server-boot-loop", f"it started {course.resets} times", course)
            if course.off >= OFF_LOOKS:
                self._stays_off(course)
            if course.silent >= SILENT_LOOKS:
                raise self._unseen(course)
            wait = pause if not course.silent else max(pause, SILENT_PAUSE_S)
            pause = min(pause * PAUSE_GROWTH, PAUSE_MOST_S)

    async def _settle(self, path: str, course: _Course) -> None:
        """It is unknown whether a power request arrived: poll soon, until it is on. Raises `Retryable` if it
        stays off, because then the request did not arrive.
        """
        wait = SILENT_PAUSE_S
        while course.silent < SILENT_LOOKS + 1:
            await self._sleep(wait, course)
            now = await self._look(path, course)
            if now is not None:
                self._judge(now, course)
            if course.saw_on:
                return
            if course.off >= OFF_LOOKS:
                raise Retryable(
                    "bmc-hanging", f"{self._target.address} did not accept the request to switch on"
                )
            wait *= 2
        raise self._unseen(course)

    def _unseen(self, course: _Course) -> OutcomeUnknown:
        words = f"{self._target.server}: {course.trouble or 'no response'} after power was requested"
        return OutcomeUnknown(course.code, words, "check its feed and its switch")

    async def _sleep(self, wait_s: float, course: _Course) -> None:
        left = self._ends - self._loop.time()
        if left <= 0:
            await self._too_late(course)
        await asyncio.sleep(min(wait_s, left))

    async def _look(self, path: str, course: _Course) -> System | None:
        """None if nothing was reported; counts consecutive ones."""
        try:
            async with self._wire.talk(self._target, self._last) as talk:
                seen = await system.look(talk, path, last=True)
        except Retryable as error:
            course.trouble = error.message
            course.code = "bmc-half-dead" if error.code == "bmc-half-dead" else "bmc-silent"
            if error.code == "bmc-busy":
                course.silent = 0
                await asyncio.sleep(min(error.after_ms / 1_000, max(0.0, self._ends - self._loop.time())))
            else:
                course.silent += 1
            return None
        except Permanent as error:
            raise OutcomeUnknown(error.code, error.message, error.hint) from error
        course.silent = 0
        return seen

    def _judge(self, now: System, course: _Course) -> bool:
        """Whether it is up; adds the observation to the course."""
        course.seen = now
        if now.last_reset:
            course.resets += now.last_reset != course.last_reset
            course.last_reset = now.last_reset
        elif now.progress in _STAGES:  # without a time: an earlier stage means a restart
            stage = _STAGES.index(now.progress)
            course.resets += course.stage < 0 or stage < course.stage
            course.stage = stage
        if now.power in ("on", "rising"):
            course.saw_on, course.off = True, 0
            return is_up(now, self._target, self._loop.time() - course.began)
        course.off += 1
        return False

    async def _arrived(self, now: System, course: _Course, found_on: bool) -> Evidence:
        target = self._target
        if is_wrong_image(now, target):
            await self._give_up("server-wrong-image", f"it calls itself {now.host_name}", course)
        state, why = "up", ""
        if now.health in ("warning", "critical"):
            state, why = "degraded", f"health {now.health}"
        elif not now.health and now.storage_path:
            why = await self._storage(now)
            state = "degraded" if why else "up"
        evidence = evidence_of(now, target) | {"state": state}
        if found_on:
            evidence["found"] = "on"
        else:
            evidence["boot_ms"] = int((self._loop.time() - course.began) * 1_000)
        return evidence | ({"why": why} if why else {})

    async def _storage(self, now: System) -> str:
        try:
            async with self._wire.talk(self._target, self._last) as talk:
                return await healthy_storage(talk, now.storage_path)
        except ActionError:
            return ""

    def _stays_off(self, course: _Course) -> None:
        """Raise `Permanent` for a server that is off long after power was requested."""
        seen, name = course.seen, self._target.server
        assert seen is not None
        if course.saw_on or course.resets or seen.health == "critical":
            raise Permanent("server-power-fault", f"{name}: the power came on, then went off")
        raise Permanent("bmc-lying", f"{name}: its controller reported success, but the server is still off")

    async def _too_late(self, course: _Course) -> None:
        """Raise the error for the time limit."""
        seen = course.seen
        if seen is None or course.silent:
            raise self._unseen(course)
        if course.off:
            self._stays_off(course)
        if course.resets > 1:
            await self._give_up("server-boot-loop", f"it started {course.resets} times", course)
        await self._give_up("server-no-boot", f"it is stuck at {seen.progress or 'an unknown state'}", course)

    async def _give_up(self, code: str, words: str, course: _Course) -> None:
        """Power off what we powered on and will not come up, so that it draws no power. Raises
        `Permanent`.
        """
        seen = course.seen
        if seen is not None and course.ours:
            try:
                async with self._wire.talk(self._target, self._last) as talk:
                    how = choose(seen.quirks.off, seen.reset_types, seen.quirks)
                    if how and seen.reset_path:
                        await switch(talk, seen, how)
            except ActionError as error:
                words = f"{words}; it could not be switched off: {error.message}"
        raise Permanent(code, f"{self._target.server}: {words}")


def on_type(target: RedfishTarget, seen: System) -> str:
    """The request that powers it on. Raises `Permanent` if its controller supports none."""
    how = choose(seen.quirks.on, seen.reset_types, seen.quirks)
    if not how or not seen.reset_path:
        raise Permanent("bmc-unsupported", f"{target.address} has no way to switch {target.server} on")
    return how


def check_identity(target: RedfishTarget, seen: System) -> None:
    """Raise `Permanent` unless it is the machine in the inventory. If it cannot be compared, it is not."""
    if seen.is_server(target.serial):
        return
    found = seen.serial or "no serial number"
    raise Permanent(
        "bmc-wrong-serial", f"{target.address} is {found}, and {target.server} is {target.serial}"
    )


def check_power_told(target: RedfishTarget, seen: System) -> None:
    if not seen.power:
        raise Retryable("bmc-half-dead", f"{target.address} does not say whether {target.server} is on")


def is_up(seen: System, target: RedfishTarget, on_for_s: float) -> bool:
    """On, with its system running. If the controller has no BootProgress: on for as long as a boot takes,
    with a known health.
    """
    if seen.power != "on":
        return False
    if seen.progress and seen.progress != "None":
        return seen.progress == UP or (bool(seen.quirks.progress) and _as_long(seen, target, on_for_s))
    return _as_long(seen, target, on_for_s)


def _as_long(seen: System, target: RedfishTarget, on_for_s: float) -> bool:
    started = not seen.quirks.progress or not seen.progress or seen.progress == "OSBootStarted"
    return started and bool(seen.health) and on_for_s >= (target.boot_ms / 1_000 or UNKNOWN_BOOT_S)


def is_wrong_image(seen: System, target: RedfishTarget) -> bool:
    name = seen.host_name.casefold()
    own = target.server.casefold()
    return bool(name) and name not in (own, own.partition(".")[0]) and name.partition(".")[0] != own


def evidence_of(seen: System, target: RedfishTarget) -> dict[str, str | int | bool]:
    """Evidence from every look at a server."""
    return {
        "power": seen.power,
        "health": seen.health or "unknown",
        "serial": seen.serial,
        "tls": target.access.trust.words,
    }


FIRST_PAUSE_S: Final = 0.25
OFF_PAUSE_MOST_S: Final = 10.0
FORCE_S: Final = 15.0
Find = Callable[[Talk], Awaitable[System]]


async def switch_off(
    wire: Wire,
    target: RedfishTarget,
    action: Action,
    order: Order,
    ends: float,
    find: Find,
    insists: bool = False,
) -> Evidence:
    """insists: by force if it has not shut down gracefully in half of the time."""
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


def _how(target: RedfishTarget, seen: System, forced: bool) -> str:
    how = choose(seen.quirks.off if forced else seen.quirks.graceful, seen.reset_types, seen.quirks)
    if not how or not seen.reset_path:
        words = "force" if forced else "graceful shutdown"
        raise Permanent("bmc-unsupported", f"{target.address} offers no {words}")
    return how


async def _send(talk: Talk, seen: System, how: str) -> None:
    """Send once; without a response, the outcome is observed."""
    try:
        answer = await switch(talk, seen, how)
    except NoBmcAnswer:
        return
    if 300 <= answer.status < 500 or answer.status == 501:
        raise refusal(talk.target.address, answer)


async def _until_off(wire: Wire, target: RedfishTarget, action: Action, path: str, ends: float) -> Evidence:
    loop = asyncio.get_running_loop()
    pause, trouble = FIRST_PAUSE_S, ""
    while (left := ends - loop.time()) > FIRST_PAUSE_S / 2:
        await asyncio.sleep(min(pause, left / 2))
        pause = min(pause * 2, OFF_PAUSE_MOST_S)
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
    raise OutcomeUnknown("bmc-silent" if trouble else "bmc-lying", words, "check the power light")


def observed(action: Action, seen: System, evidence: dict[str, str | int | bool]) -> Observed:
    if seen.power == "off":
        return Observed("done", evidence | parameters.proof_of(action))
    return Observed("absent" if seen.power == "on" else "unclear", evidence)


def _evidence(action: Action, seen: System, target: RedfishTarget) -> dict[str, str | int | bool]:
    return evidence_of(seen, target) | parameters.proof_of(action)
