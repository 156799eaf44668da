"""Controls servers and breakers through Redfish: power on and follow until up, off, fence, circuits of feeds.

`settings` reads whom to call, `calls` sends requests, `system` reads responses, and `boot` controls servers.
A tripped breaker is closed like an open one: whoever requests it has decided that this is allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from evac.drivers import parameters
from evac.drivers.capabilities import BootsServers, Fences, PowerReport, SwitchesPower
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.redfish import DRIVER, boot, system
from evac.drivers.redfish.boot import (
    Boot,
    check_identity,
    check_power_told,
    evidence_of,
    is_up,
    is_wrong_image,
    on_type,
)
from evac.drivers.redfish.calls import Talk, Wire, refusal
from evac.drivers.redfish.settings import BUTTON, Access, Reader, RedfishTarget, is_own_path
from evac.drivers.redfish.system import UP, System, text, words_of
from evac.model.boot_codes import BOOTING
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass

BREAKER: Final = "#Circuit.BreakerControl"
POWER: Final = "#Circuit.PowerControl"
LOOK_PAUSE_S: Final = 0.5
_WANTED: Final[Mapping[str, str]] = {"start": "On", "stop": "Off"}
Fresh = Callable[[], "Circuit | None"]


@dataclass(frozen=True, slots=True)
class Circuit:
    """power: On, Off, or "" if not reported. breaker: Normal, Tripped, Off, or ""."""

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


async def look(wire: Wire, target: RedfishTarget, ends: float) -> Circuit:
    async with wire.talk(target, ends) as talk:
        return await see(talk, target.circuit)


async def move(
    wire: Wire, target: RedfishTarget, action: Action, order: Order, ends: float, fresh: Fresh
) -> Evidence:
    """Close or open the breaker, once, and poll until it is. fresh: a very recent observation. Raises
    `Permanent`, `Retryable`, or `OutcomeUnknown`.
    """
    wanted = _WANTED[action.verb]
    async with wire.talk(target, ends, goes_on=True) as talk:
        seen = fresh() or await see(talk, target.circuit)
        check_movable(target, action, seen)
        if order.dry_run:
            return circuit_evidence(seen, target) | {"would_send": f"PowerState {wanted}"}
        if is_as_wanted(action, seen):
            return circuit_evidence(seen, target)
        unheard = await _told(talk, seen, wanted)
        if unheard is None or unheard.code != "bmc-busy":  # do not query a controller that asked for a pause
            with contextlib.suppress(Retryable):
                seen = await see(talk, target.circuit)
                if is_as_wanted(action, seen):
                    return circuit_evidence(seen, target)
    if unheard is not None:
        raise OutcomeUnknown(unheard.code, unheard.message, "check the breaker") from unheard
    return await _until(wire, target, action, ends)


async def _told(talk: Talk, seen: Circuit, wanted: str) -> Retryable | None:
    """Send it. Returns the error if it is unknown whether it arrived; None if it was accepted."""
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


async def _until(wire: Wire, target: RedfishTarget, action: Action, ends: float) -> Evidence:
    loop = asyncio.get_running_loop()
    while loop.time() < ends - LOOK_PAUSE_S:
        try:
            seen = await look(wire, target, ends)
        except Retryable as error:
            raise OutcomeUnknown(error.code, error.message, "check the breaker") from error
        if is_as_wanted(action, seen):
            return circuit_evidence(seen, target)
        if action.verb == "start" and seen.breaker == "Tripped":
            raise Permanent("feed-tripped", f"{action.target} tripped when it was closed")
        await asyncio.sleep(LOOK_PAUSE_S)
    raise OutcomeUnknown(
        "bmc-lying", f"the breaker of {action.target} did not change state", "check the breaker"
    )


def check_movable(target: RedfishTarget, action: Action, seen: Circuit) -> None:
    """Raise `Permanent` if the circuit cannot be switched, or belongs to another feed."""
    if not seen.action_path or (seen.allowed and _WANTED[action.verb] not in seen.allowed):
        raise Permanent("bmc-unsupported", f"{target.address} cannot {action.verb} {target.circuit}")
    label = action.settings.get("label")
    if label and seen.label != label:
        raise Permanent("circuit-wrong", f"{target.circuit} is {seen.label or 'without a name'}, not {label}")


def observed(action: Action, seen: Circuit, target: RedfishTarget) -> Observed:
    evidence = circuit_evidence(seen, target)
    if is_as_wanted(action, seen):
        return Observed("done", evidence)
    told = seen.closed or seen.open or seen.breaker == "Tripped"
    return Observed("absent" if told else "unclear", evidence)


def is_as_wanted(action: Action, seen: Circuit) -> bool:
    return seen.closed if action.verb == "start" else seen.open


def circuit_evidence(seen: Circuit, target: RedfishTarget) -> dict[str, str | int | bool]:
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


_T = TypeVar("_T")
VERBS: Final[frozenset[Verb]] = frozenset({"boot", "start", "stop", "fence"})
FRESH_S: Final = 1.0
"""How long an observation is valid for the next call: check, then execute; execute, then observe."""
KEPT_MOST: Final = 65_536


class RedfishDriver(BootsServers, SwitchesPower, Fences):
    """Servers and circuits of all sites; one instance serves a whole run."""

    name = "redfish"
    verbs = VERBS

    def __init__(self) -> None:
        self._wire = Wire()
        self._reader = Reader()
        self._paths: dict[int, tuple[Access, str]] = {}
        self._looks: dict[str, tuple[float, System]] = {}
        self._circuits: dict[str, tuple[float, Circuit]] = {}
        self._done: dict[str, tuple[float, Evidence]] = {}
        self._on_since: dict[str, float] = {}

    async def check(self, action: Action, order: Order) -> Checked:
        try:
            target = self._read(action)
            ends = _ends(order)
            if target.circuit:
                circuit = await look(self._wire, target, ends)
                check_movable(target, action, circuit)
                self._keep(self._circuits, order.key, circuit)
                return Checked((), circuit_evidence(circuit, target))
            async with self._wire.talk(target, ends) as talk:
                seen = await self._find(talk)
            _check_server(action, target, seen)
        except ActionError as error:
            return Checked((error.message,), {"code": error.code}, error)
        self._keep(self._looks, order.key, seen)
        return Checked((), evidence_of(seen, target))

    async def execute(self, action: Action, order: Order) -> Evidence:
        target, ends = self._read(action), _ends(order)
        if target.circuit:
            fresh = partial(self._fresh_of, self._circuits, order.key)
            evidence = await move(self._wire, target, action, order, ends, fresh)
        elif action.verb == "boot":
            evidence = await self._boot(action, target, order, ends)
        else:
            evidence = await boot.switch_off(self._wire, target, action, order, ends, self._find)
        if not order.dry_run:
            self._keep(self._done, order.key, evidence)
        return evidence

    async def _boot(self, action: Action, target: RedfishTarget, order: Order, ends: float) -> Evidence:
        boot = Boot(self._wire, target, ends, order)
        async with self._wire.talk(target, ends) as talk:
            seen = self._fresh(order.key) or await self._find(talk)
            _check_server(action, target, seen)
            if order.dry_run:
                return evidence_of(seen, target) | _would(target, seen)
            begun = await boot.begin(talk, seen)
        return await boot.follow(seen, begun)

    def _fresh(self, key: str) -> System | None:
        """What check has just observed. Never used to press a button, because that toggles."""
        seen = self._fresh_of(self._looks, key)
        pressed = seen is not None and BUTTON in seen.reset_types and "On" not in seen.reset_types
        return None if pressed else seen

    def _fresh_of(self, kept: dict[str, tuple[float, _T]], key: str) -> _T | None:
        at, seen = kept.pop(key, (0.0, None))
        return None if asyncio.get_running_loop().time() - at > FRESH_S else seen

    async def observe(self, action: Action, order: Order) -> Observed:
        if (evidence := self._fresh_of(self._done, order.key)) is not None:
            return Observed("done", evidence)
        try:
            target, ends = self._read(action), _ends(order)
            if target.circuit:
                circuit = await look(self._wire, target, ends)
                return observed(action, circuit, target)
            async with self._wire.talk(target, ends) as talk:
                seen = await self._find(talk)
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200], "code": error.code})
        return self._judged(action, target, seen)

    def _judged(self, action: Action, target: RedfishTarget, seen: System) -> Observed:
        evidence = evidence_of(seen, target)
        if not seen.is_server(target.serial):
            return Observed("unclear", evidence | {"why": "another machine answers at this address"})
        if action.verb != "boot":
            return boot.observed(action, seen, evidence)
        if seen.power == "off":
            self._on_since.pop(target.address, None)
            return Observed("absent", evidence)
        if is_wrong_image(seen, target):
            return Observed("unclear", evidence | {"why": f"it calls itself {seen.host_name}"})
        if is_up(seen, target, self._on_for_s(target)):
            degraded = seen.health in ("warning", "critical")
            return Observed("done", evidence | {"state": "degraded" if degraded else "up"})
        evidence = evidence | {"why": f"it is booting: {seen.progress or 'it reports no state'}"}
        told = bool(seen.progress) and seen.progress not in ("None", UP)
        return Observed("unclear", evidence | ({"state": BOOTING} if told else {}))

    def _on_for_s(self, target: RedfishTarget) -> float:
        """How long it has been seen on: for controllers that do not report when a system is up."""
        now = asyncio.get_running_loop().time()
        if len(self._on_since) > KEPT_MOST:
            self._on_since.clear()
        return now - self._on_since.setdefault(target.address, now)

    async def look(self, action: Action, within_s: float) -> PowerReport:
        """Current power state of a server. Raises `ActionError`, also for a different machine."""
        target = self._read(action)
        async with self._wire.talk(target, asyncio.get_running_loop().time() + within_s) as talk:
            seen = await self._find(talk, last=True)
        check_identity(target, seen)
        check_power_told(target, seen)
        return PowerReport(action.target, seen.power, seen.progress, seen.health)

    @property
    def requests_sent(self) -> int:
        return self._wire.sent

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Undo a boot: off again, gracefully if the system reacts. A feed or a fence is not undone."""
        if action.verb != "boot":
            raise Permanent(
                "undo-unsafe", f"{action.verb} of {action.target} is not rolled back automatically"
            )
        self._done.pop(order.key, None)
        target = self._read(action)
        off = Action("stop", action.target, action.driver, action.at, action.settings, action.parameters)
        return await boot.switch_off(self._wire, target, off, order, _ends(order), self._find, insists=True)

    async def close(self) -> None:
        await self._wire.close()

    def _read(self, action: Action) -> RedfishTarget:
        if action.verb not in VERBS:
            raise Permanent("verb-unknown", f"redfish cannot {action.verb}")
        parameters.refuse_proof(action, DRIVER.proofs)
        target = self._reader.target(action)
        if action.verb == "start" and not target.circuit:
            raise Permanent(
                "setting-missing", f"{action.target} has no circuit", "to boot a server, use the verb boot"
            )
        return target

    async def _find(self, talk: Talk, last: bool = False) -> System:
        """The system; first tries the path where other controllers of the same endpoint had theirs."""
        access = talk.target.access
        known = self._paths.get(id(access))
        seen, hit = await system.find(talk, known[1] if known else "", last)
        if not hit:
            self._paths[id(access)] = (access, seen.path)
        return seen

    def _keep(self, kept: dict[str, tuple[float, _T]], key: str, value: _T) -> None:
        if len(kept) >= KEPT_MOST:
            kept.clear()
        kept[key] = (asyncio.get_running_loop().time(), value)


def _check_server(action: Action, target: RedfishTarget, seen: System) -> None:
    """Raise unless it is the right machine, and can be switched as requested."""
    check_identity(target, seen)
    check_power_told(target, seen)
    if action.verb == "boot" and seen.power == "off":
        on_type(target, seen)


def _would(target: RedfishTarget, seen: System) -> dict[str, str | int | bool]:
    if seen.power in ("on", "rising"):
        return {"found": "on", "would_send": "nothing: it is already on"}
    source = target.access.boot_source
    first = f"boot once from {source}; " if source else ""
    return {"would_send": f"{first}Reset {on_type(target, seen)}"}


def _ends(order: Order) -> float:
    return asyncio.get_running_loop().time() + order.timeout_s
