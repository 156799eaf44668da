"""Asks one management controller through the program `ipmitool`: bounded, one at once, in codes.

The password goes into the environment of the program alone, never among its arguments. Of what the program
writes only words that are known count. Owns the turns; decides nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from evac.drivers import parameters
from evac.drivers.command.driver import Ended, environment, run_program
from evac.drivers.credentials import CODE as REFUSED
from evac.drivers.credentials import Credential, Credentials, Places, Refused, Verdict
from evac.drivers.port import Action, Value
from evac.drivers.redfish.settings import (
    ANSWER_S,
    REFUSALS_AT_MOST,
    REQUESTS_AT_ONCE,
    SOURCES,
    address_of,
    one_of,
)
from evac.model.errors import Permanent, Retryable

PORT: Final = 623
PROGRAMS_AT_ONCE: Final = 32
"""Programs of this process at once, all networks together."""
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
"""How lines begin that -v adds about what nobody asked for: PICMG and VSO, which hardly a controller knows.
Their reasons are none of the command's (lib/ipmi_picmg.c and lib/ipmi_vita.c of ipmitool 1.8)."""


@dataclass(frozen=True, slots=True)
class Target:
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
    """power: on, off, or "" where it is not told. fault: what it says is broken, in its words."""

    power: str
    fault: str
    drives: str = ""


def read_target(action: Action) -> Target:
    """Raises `Permanent` for a setting that is missing or wrong."""
    settings, told = action.settings, action.parameters
    port = parameters.whole(settings, "port", PORT, 65_535)
    address = parameters.text(told, "address", "") or parameters.text(settings, "address")
    host, _, number = address_of(address, port).rpartition(":")
    return Target(
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
    """A cipher suite, or "" for the best that both know."""
    found = parameters.text(settings, "cipher", "")
    if found and not _CIPHER.fullmatch(found):
        raise Permanent("setting-wrong", "cipher must be the number of a cipher suite")
    return found


class Unanswered(Retryable):
    """The program ended without an answer of the controller: what was asked may have arrived."""


class Asker:
    """Runs the program; one at once for each controller."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._networks: dict[str, Places] = {}
        self._all = Places(PROGRAMS_AT_ONCE)
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}
        self.credentials = Credentials()

    async def chassis(self, target: Target, ends: float) -> Chassis:
        """Its power, and what it says is broken."""
        words = fields(await self.ask(target, ends, "chassis", "status"))
        power = {"on": "on", "off": "off"}.get(words.get("system power", ""), "")
        if not power:
            raise Retryable("bmc-half-dead", f"{target.address} does not say whether {target.server} is on")
        faults = [
            name
            for name in ("main power fault", "power control fault", "power overload")
            if words.get(name) == "true"
        ]
        drives = "drive fault" if words.get("drive fault") == "true" else ""
        return Chassis(power, ", ".join(faults), drives)

    async def serials(self, target: Target, ends: float) -> tuple[str, ...]:
        """Every serial number that its inventory names."""
        return tuple(_SERIAL.findall(await self.ask(target, ends, "fru", "print", "0"))[:SERIALS_MOST])

    async def ask(self, target: Target, ends: float, *command: str) -> str:
        """What the program writes. Raises `Permanent`, `Retryable`, `Unanswered`."""
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
            raise Unanswered("bmc-silent", f"{target.address} was not asked to the end in time") from error
        except Refused as error:  # nobody waits for this controller or its network meanwhile
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
        self, target: Target, credential: Credential, ends: float, command: tuple[str, ...]
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


def arguments(target: Target, command: tuple[str, ...]) -> list[str]:
    """-v: without it a refused password looks like silence."""
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


def understood(target: Target, ended: Ended) -> str:
    """Its words when it went well. Raises what they mean else."""
    if ended.code == 0:
        return ended.output
    where = target.address
    if ended.code is None:
        raise Unanswered("bmc-silent", f"{where} did not answer in time")
    if _says(ended, _REFUSED):
        raise Refused(REFUSED, f"{where} refuses user or password of {target.user}")
    if _says(ended, _NOT_ALLOWED):
        raise Permanent("bmc-not-allowed", f"{where} does not allow it to {target.user}")
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
    """`System Power : on` and the like, in small letters."""
    found: dict[str, str] = {}
    for line in output.splitlines()[:200]:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower()[:64], value.strip().lower()[:64])
    return found
