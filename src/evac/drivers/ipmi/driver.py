"""Controls servers through IPMI, if they have no Redfish: power on, off, and off as a fence.

IPMI does not report when a system is up: a server counts as up when it has been on without a fault for as
long as its boot takes. After a power request, anything unclear is unknown.

A controller is queried with the program `ipmitool`: limited, one request at a time, results as codes. The
password is passed in the environment of that process only, never as an argument. Only known words in the
program's output count.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Final

from evac.drivers import parameters
from evac.drivers.capabilities import BootsServers, Fences, PowerReport
from evac.drivers.credentials import CODE as REFUSED
from evac.drivers.credentials import Credential, Credentials, Places, Refused, Verdict
from evac.drivers.ipmi import DRIVER
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Value, Verb
from evac.drivers.programs import Ended, environment, run_program
from evac.drivers.redfish.settings import (
    ANSWER_S,
    REFUSALS_AT_MOST,
    REQUESTS_AT_ONCE,
    SOURCES,
    address_of,
    one_of,
)
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass

PORT: Final = 623
PROGRAMS_AT_ONCE: Final = 32
"""Concurrent programs of this process, all networks together."""
PRIVILEGES: Final = ("ADMINISTRATOR", "OPERATOR")
SERIALS_MOST: Final = 16
_SERIAL: Final = re.compile(r"^\s*(?:Product|Chassis|Board) Serial\s*:\s*(\S{1,64})\s*$", re.MULTILINE)
_CIPHER: Final = re.compile(r"[0-9]{1,2}")
_REFUSED: Final = ("RAKP 2 HMAC is invalid", "unauthorized name", "password verification failed")
_NOT_ALLOWED: Final = (
    "Insufficient privilege level",
    "unauthorized role requested",
    "set session privilege level",
)
_UNSUPPORTED: Final = ("Invalid command", "Command not supported", "not supported in present state")
_BUSY: Final = ("insufficient resources for session", "Node busy", "Out of space")
_ASIDE: Final = (
    "Error response",
    "Invalid completion code received",
    "Invalid data field received",
)
"""Prefixes of lines that -v adds about unrelated features: PICMG and VSO, which hardly any controller
supports. Their errors are not those of the command (lib/ipmi_picmg.c and lib/ipmi_vita.c of ipmitool 1.8).
"""


@dataclass(frozen=True, slots=True)
class IpmiTarget:
    """One controller and what is known of its server. password: a reference; boot_ms 0: unknown."""

    host: str
    port: str
    server: str
    serial: str
    network: str
    boot_ms: int
    user: str
    password: str
    program: str
    privilege: str
    cipher: str
    boot_source: str
    requests_at_once: int
    refusals_at_most: int
    answer_s: float

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Chassis:
    """power: on, off, or "" if not reported. fault: what it reports as broken."""

    power: str
    fault: str
    drives: str = ""


def read_target(action: Action) -> IpmiTarget:
    """Read the settings. Raises `Permanent` if one is missing or wrong."""
    settings, told = action.settings, action.parameters
    port = parameters.whole(settings, "port", PORT, 65_535)
    address = parameters.text(told, "address", "") or parameters.text(settings, "address")
    host, _, number = address_of(address, port).rpartition(":")
    return IpmiTarget(
        host.strip("[]"),
        number,
        parameters.text(told, "server", action.target),
        parameters.text(told, "serial", "").strip(),
        parameters.text(told, "network", "") or action.at,
        parameters.whole(told, "boot_ms", 0, 86_400_000),
        parameters.text(settings, "user"),
        parameters.text(settings, "password"),
        parameters.text(settings, "program", "ipmitool"),
        one_of(settings, "privilege", PRIVILEGES),
        _cipher(settings),
        one_of(settings, "boot_source", SOURCES),
        max(1, parameters.whole(settings, "requests_at_once", REQUESTS_AT_ONCE, 4_096)),
        max(1, parameters.whole(settings, "refusals_at_most", REFUSALS_AT_MOST, 100)),
        float(max(1, parameters.whole(settings, "answer_s", ANSWER_S, 120))),
    )


def _cipher(settings: Mapping[str, Value]) -> str:
    """A cipher suite, or "" for the best that both support."""
    found = parameters.text(settings, "cipher", "")
    if found and not _CIPHER.fullmatch(found):
        raise Permanent("setting-wrong", "cipher must be the number of a cipher suite")
    return found


class Unanswered(Retryable):
    """The program ended without a response from the controller: the request may have arrived."""


class Asker:
    """Runs the program, one at a time for each controller."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._networks: dict[str, Places] = {}
        self._all = Places(PROGRAMS_AT_ONCE)
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}
        self.credentials = Credentials()

    async def chassis(self, target: IpmiTarget, ends: float) -> Chassis:
        """Power state, and what it reports as broken."""
        words = fields(await self.ask(target, ends, "chassis", "status"))
        power = {"on": "on", "off": "off"}.get(words.get("system power", ""), "")
        if not power:
            raise Retryable(
                "bmc-half-dead", f"{target.address} does not report whether {target.server} is on"
            )
        faults = [
            name
            for name in ("main power fault", "power control fault", "power overload")
            if words.get(name) == "true"
        ]
        drives = "drive fault" if words.get("drive fault") == "true" else ""
        return Chassis(power, ", ".join(faults), drives)

    async def serials(self, target: IpmiTarget, ends: float) -> tuple[str, ...]:
        """All serial numbers in its inventory."""
        return tuple(_SERIAL.findall(await self.ask(target, ends, "fru", "print", "0"))[:SERIALS_MOST])

    async def ask(self, target: IpmiTarget, ends: float, *command: str) -> str:
        """The program's output. Raises `Permanent`, `Retryable`, `Unanswered`."""
        credential = self.credentials.of(target.user, target.password, target.refusals_at_most)
        self._of_this_loop()
        lock = self._turn(target.address)
        network = self._networks.setdefault(target.network, Places(target.requests_at_once))
        try:
            async with asyncio.timeout_at(ends), lock:
                await network.take(weight=target.boot_ms)
                try:
                    await self._all.take()
                    try:
                        return await self._identified(target, credential, ends, command)
                    finally:
                        self._all.give()
                finally:
                    network.give()
        except TimeoutError as error:
            raise Unanswered("bmc-silent", f"{target.address} did not finish answering in time") from error
        except Refused as error:  # does not block other users of this controller or network
            raise await credential.judged(error, ends) from error
        finally:
            self._turn_over(target.address)

    def _of_this_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._networks, self._turns = loop, {}, {}
            self._all = Places(PROGRAMS_AT_ONCE)

    def _turn(self, address: str) -> asyncio.Lock:
        lock, users = self._turns.get(address, (asyncio.Lock(), 0))
        self._turns[address] = (lock, users + 1)
        return lock

    def _turn_over(self, address: str) -> None:
        lock, users = self._turns.pop(address)
        if users > 1:
            self._turns[address] = (lock, users - 1)

    async def _identified(
        self, target: IpmiTarget, credential: Credential, ends: float, command: tuple[str, ...]
    ) -> str:
        await credential.enter(target.address)
        verdict: Verdict = "unknown"
        try:
            left = ends - asyncio.get_running_loop().time()
            ended = await run_program(
                arguments(target, command),
                timeout_s=max(0.0, min(target.answer_s, left)),
                env=environment({"IPMI_PASSWORD": credential.secret.reveal()}),
            )
            verdict = verdict_of(ended)
            return understood(target, ended)
        finally:
            credential.leave(target.address, verdict)


def arguments(target: IpmiTarget, command: tuple[str, ...]) -> list[str]:
    """-v: without it a refused password looks like a timeout."""
    cipher = ["-C", target.cipher] if target.cipher else []
    return [
        target.program,
        "-v",
        "-I",
        "lanplus",
        "-H",
        target.host,
        "-p",
        target.port,
        "-U",
        target.user,
        "-E",
        "-L",
        target.privilege,
        "-N",
        "1",
        "-R",
        "2",
        *cipher,
        *command,
    ]


def verdict_of(ended: Ended) -> Verdict:
    if ended.code == 0:
        return "accepted"
    return "refused" if _says(ended, _REFUSED) else "unknown"


def understood(target: IpmiTarget, ended: Ended) -> str:
    """The output of a successful call; otherwise raises the matching error."""
    if ended.code == 0:
        return ended.output
    where = target.address
    if ended.code is None:
        raise Unanswered("bmc-silent", f"{where} did not answer in time")
    if _says(ended, _REFUSED):
        raise Refused(REFUSED, f"{where} rejects the user name or password of {target.user}")
    if _says(ended, _NOT_ALLOWED):
        raise Permanent("bmc-not-allowed", f"{where} does not give {target.user} permission for this")
    if _says(ended, _BUSY):
        raise Retryable("bmc-busy", f"{where} is busy", after_ms=10_000)
    if _says(ended, _UNSUPPORTED):
        raise Permanent("bmc-unsupported", f"{where} cannot do this")
    if "Unable to establish" in ended.output:
        raise Retryable("bmc-silent", f"{where} does not answer")
    raise Unanswered("bmc-half-dead", f"{where}: ipmitool ended with {ended.code}")


def _says(ended: Ended, words: tuple[str, ...]) -> bool:
    lines = (line for line in ended.output.splitlines() if not line.startswith(_ASIDE))
    return any(one in line for line in lines for one in words)


def fields(output: str) -> dict[str, str]:
    """Parse `System Power : on` and the like, in lower case."""
    found: dict[str, str] = {}
    for line in output.splitlines()[:200]:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower()[:64], value.strip().lower()[:64])
    return found


VERBS: Final[frozenset[Verb]] = frozenset({"boot", "stop", "fence"})
DEVICES: Final = {"disk": "disk", "pxe": "pxe"}
Plain = str | int | bool
UNKNOWN_BOOT_S: Final = 60.0
PAUSE_S: Final = 2.0
PAUSE_MOST_S: Final = 30.0
SILENT_LOOKS: Final = 3
KEPT_MOST: Final = 65_536
TRUST: Final = "IPMI 2.0: only the shared password"


class IpmiDriver(BootsServers, Fences):
    """Servers of all sites; one instance serves a whole run."""

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
        return Observed("unclear", evidence | {"why": "it is on, but may still be booting"})

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Undo a boot: off again, gracefully in the first half of the time. A fence is not undone."""
        if action.verb != "boot":
            raise Permanent(
                "undo-unsafe", f"{action.verb} of {action.target} is not rolled back automatically"
            )
        target, ends = _read(action), _ends(order)
        try:
            return await self._off(target, action, ends - order.timeout_s / 2, "soft", order.dry_run)
        except OutcomeUnknown:
            return await self._off(target, action, ends, "off", order.dry_run)

    async def look(self, action: Action, within_s: float) -> PowerReport:
        """Current power state of a server. Raises `ActionError`, also for a different machine."""
        target = _read(action)
        seen = await self._seen(target, asyncio.get_running_loop().time() + within_s)
        return PowerReport(action.target, seen.power, health="warning" if seen.fault or seen.drives else "")

    async def close(self) -> None:
        """Nothing to close: no connection outlives a call."""

    async def _seen(self, target: IpmiTarget, ends: float) -> Chassis:
        """The chassis state. Raises unless it is the machine in the inventory and reports its power."""
        if target.serial:
            serials = await self._asker.serials(target, ends)
            if target.serial.casefold() not in (one.casefold() for one in serials):
                found = serials[0] if serials else "no serial number"
                words = f"{target.address} is {found}, and {target.server} is {target.serial}"
                raise Permanent("bmc-wrong-serial", words)
        return await self._asker.chassis(target, ends)

    async def _boot(self, target: IpmiTarget, ends: float, order: Order) -> Evidence:
        seen = await self._seen(target, ends)
        if order.dry_run:
            words = "nothing: it is already on" if seen.power == "on" else "chassis power on"
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
                sure = False  # it may have arrived: the next observation shows it
        evidence = await self._follow(target, ends, sure)
        return {**evidence, "found": "on"} if found_on else evidence

    async def _follow(self, target: IpmiTarget, ends: float, sure: bool) -> Evidence:
        """Follow a boot until the server has been on for as long as one takes. sure: whether the request
        arrived.
        """
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
                    raise OutcomeUnknown(error.code, f"{error.message} after power was requested") from error
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
                raise Retryable("bmc-hanging", f"{target.address} did not act on the request to switch on")
            if off >= SILENT_LOOKS:
                self._stays_off(target, seen)
            wait = min(wait * 2, PAUSE_MOST_S)
        raise OutcomeUnknown("bmc-silent", f"{target.server} did not come up in time", "check it on site")

    def _stays_off(self, target: IpmiTarget, seen: Chassis) -> None:
        if seen.fault or target.address in self._on_since:
            words = seen.fault or "the power came on, then went off"
            raise Permanent("server-power-fault", f"{target.server}: {words}")
        raise Permanent("bmc-lying", f"{target.server}: its controller reported success, but it is still off")

    async def _off(
        self, target: IpmiTarget, action: Action, ends: float, how: str, dry_run: bool
    ) -> Evidence:
        seen = await self._seen(target, ends)
        if dry_run:
            words = "nothing: it is already off" if seen.power == "off" else f"chassis power {how}"
            return _evidence(target, seen) | {"would_send": words}
        if seen.power != "off":
            with contextlib.suppress(Unanswered):  # it may have arrived: the next observation shows it
                await self._asker.ask(target, ends, "chassis", "power", how)
            seen = await self._until_off(target, ends)
        self._on_since.pop(target.address, None)
        return _evidence(target, seen) | parameters.proof_of(action)

    async def _until_off(self, target: IpmiTarget, ends: float) -> Chassis:
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
        raise OutcomeUnknown("bmc-silent" if trouble else "bmc-lying", words, "check the power light")

    def _on_for_s(self, target: IpmiTarget) -> float:
        """How long it has been seen on."""
        now = asyncio.get_running_loop().time()
        if len(self._on_since) > KEPT_MOST:
            self._on_since.clear()
        return now - self._on_since.setdefault(target.address, now)


def _read(action: Action) -> IpmiTarget:
    if action.verb not in VERBS:
        raise Permanent("verb-unknown", f"ipmi cannot {action.verb}")
    parameters.refuse_proof(action, DRIVER.proofs)
    return read_target(action)


def _boot_s(target: IpmiTarget) -> float:
    return target.boot_ms / 1_000 or UNKNOWN_BOOT_S


def _state(seen: Chassis) -> dict[str, Plain]:
    return {"state": "degraded", "why": seen.drives} if seen.drives else {"state": "up"}


def _evidence(target: IpmiTarget, seen: Chassis) -> dict[str, Plain]:
    health = seen.fault or seen.drives or "unknown"
    return {"power": seen.power, "health": health, "serial": target.serial, "tls": TRUST}


def _ends(order: Order) -> float:
    return asyncio.get_running_loop().time() + order.timeout_s
