"""The agent's configuration file (TOML): site, keys, units, fences and TLS certificates.

Certificates are read again when their files change. A connection without a certificate, with an expired one,
or with one from an unknown authority fails in the handshake. A certificate with a name that is not allowed is
refused before the order is read, with a code of its own.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_args

from aiohttp import web

from evac.agent.allowed import Allowed
from evac.drivers.capabilities import Subject
from evac.drivers.port import Verb
from evac.drivers.process.client import address
from evac.drivers.registry import DRIVERS
from evac.drivers.spec import DOES, DriverSpec
from evac.model.errors import EvacError, InvalidInput
from evac.model.records import dataclass
from evac.net.tls import Renewed, TlsFiles, ends_ms, is_here, names_of, server_context, stamp_of

LOOK_S: Final = 5.0
SOON_MS: Final = 30 * 86_400_000
"""An agent warns when its own certificate expires within this time."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = logging.getLogger("evac.agent")


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """TLS settings of an agent. cert, key: references `file:/path` of its own. ca: the authority that signs
    certificates of controllers and witnesses. names: their allowed DNS names, addresses or URIs; empty: all
    that it signed.
    """

    cert: str
    key: str
    ca: str
    names: tuple[str, ...] = ()

    @property
    def problems(self) -> Sequence[str]:
        """Return one sentence for each invalid reference."""
        named = {"cert": self.cert, "key": self.key, "ca": self.ca}
        return [
            f"{name} of [tls] is not a file:/path" for name, one in named.items() if not one.startswith(_FILE)
        ]

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(_path(self.ca), _path(self.cert), _path(self.key))


_FILE: Final = "file:/"


def _path(reference: str) -> Path:
    return Path(reference.removeprefix("file:"))


def check_plain(host: str, tls: TlsConfig | None, allowed: bool) -> str:
    """Why an agent may not listen without TLS at an address; empty if it may."""
    if tls is not None or allowed or is_here(host):
        return ""
    return (
        f"{host} can be reached from other machines, but there is no [tls]; add it, or set allow_plain = true"
    )


class Door:
    """The TLS side of one agent. context: what it listens with. Raises InvalidInput for unusable files."""

    def __init__(self, tls: TlsConfig, wall_ms: Callable[[], int]) -> None:
        self._tls, self._wall_ms = tls, wall_ms
        self._stamp = stamp_of(tls.files)
        self._renewed = Renewed(server_context(tls.files))
        self.context = self._renewed.context
        self.ends_ms, self.problem = ends_ms(tls.files.cert), ""
        self.names = names_of(tls.files.cert)
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look(), name="certificates")

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        told = False
        while True:
            self.read_again()
            soon = self.ends_ms - self._wall_ms() < SOON_MS
            if soon and not told:
                _log.warning(
                    "the certificate of this agent expires in %s", _left(self.ends_ms - self._wall_ms())
                )
            told = soon
            await asyncio.sleep(LOOK_S)

    def read_again(self, always: bool = False) -> None:
        """Reload changed files. Unusable files are reported, and the previous ones stay in use."""
        stamp = stamp_of(self._tls.files)
        if stamp == self._stamp and not always:
            return
        self._stamp = stamp
        try:
            self._renewed.take(server_context(self._tls.files))
            self.ends_ms, self.problem = ends_ms(self._tls.files.cert), ""
            self.names = names_of(self._tls.files.cert)
        except EvacError as error:
            self.problem = f"{error.message} [{error.code}]"
            _log.error("new certificates were not loaded: %s", self.problem)
        else:
            _log.info("certificates were reloaded")

    def report(self) -> dict[str, Any]:
        return {"ends_ms": self.ends_ms, "problem": self.problem}

    @property
    def middleware(self) -> Any:
        """Refuse clients without a certificate or with a name that is not allowed."""

        @web.middleware
        async def checked(request: web.Request, handler: _Handler) -> web.StreamResponse:
            code = self._refused(request)
            if code:
                _log.warning("%s was rejected: %s", request.remote, code)
                return web.json_response({"error": {"code": code}}, status=403)
            return await handler(request)

        return checked

    def _refused(self, request: web.Request) -> str:
        line = request.transport
        shown: Mapping[str, Any] | None = None if line is None else line.get_extra_info("peercert")
        if not shown:  # the context predates the requirement
            return "tls-client-missing"
        if self._tls.names and not set(names_in(shown)) & set(self._tls.names):
            return "tls-client-name"
        return ""


def names_in(certificate: Mapping[str, Any]) -> Sequence[str]:
    """Alternative names of a certificate; the subject's common name only if it has none (RFC 6125, 6.4.4)."""
    found = [str(value) for _, value in certificate.get("subjectAltName", ())]
    if found:
        return found
    parts = (part for row in certificate.get("subject", ()) for part in row)
    return [str(value) for key, value in parts if key == "commonName"]


def _left(left_ms: int) -> str:
    days = left_ms // 86_400_000
    return f"{days} {'day' if days == 1 else 'days'}" if left_ms > 0 else "the past"


MAX_CONFIG_BYTES: Final = 1 << 20
_ANY: Final = frozenset({"", "0.0.0.0", "::"})
"""Wildcard addresses: the agent listens everywhere, so they do not say where to reach it."""
_LIST_HEAD: Final = re.compile(r"\s*\[\[\s*([a-z]+)\s*\]\]")
DEMOTE: Final[Verb] = "demote"
FENCING: Final[tuple[Verb, ...]] = (DEMOTE, "fence", "stop", "scale", "drain")
"""Verbs with which a fence may stop a primary or cut it off."""
_ACTION_KEYS: Final = frozenset({"verb", "driver", "settings", "parameters"})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
_T = TypeVar("_T")

LOCAL_DRIVERS: Final = tuple(sorted(name for name, spec in DRIVERS.items() if spec.agent_may))
"""Drivers enabled by default: none that runs a program contained in an order."""


@dataclass(frozen=True, slots=True)
class UnitConfig:
    """One unit of a service.

    argv: its program, with `{index}` and `{port}` (port + index) filled in for each instance; or systemd: the
    name of its unit, with `{index}`. user: the user it runs as if the agent is root.

    env: variables to set; pass_env: names copied from the agent's environment. check_url or check_argv:
    health check of an instance; without one, a running instance is healthy. count: instances that a plain
    start starts; most: maximum, which is one for a systemd unit without `{index}`. store: the data set that
    it serves, if a fence stops it.
    """

    name: str
    argv: tuple[str, ...] = ()
    systemd: str = ""
    user: str = ""
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    pass_env: tuple[str, ...] = ()
    port: int = 0
    check_url: str = ""
    check_argv: tuple[str, ...] = ()
    check_ms: int = 1_000
    count: int = 1
    most: int = 64
    stop_ms: int = 5_000
    store: str = ""
    resume_alone: bool = False
    """Whether a starting agent may restart it before a leader agrees."""

    @property
    def room(self) -> int:
        """Maximum number of instances."""
        return min(self.most, 1) if self.systemd and "{index}" not in self.systemd else self.most


@dataclass(frozen=True, slots=True)
class FenceConfig:
    """How to stop a store's primary in this site when its permit is not renewed.

    Only for stores whose policy chose it. margin_ms: how long before the permit expires the fence starts, so
    that it is complete by then. units are stopped first; then argv is run; then action (a table: verb,
    driver, settings, parameters).
    """

    store: str
    margin_ms: int = 3_000
    timeout_ms: int = 2_500
    again_ms: int = 500
    units: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    action: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Configuration of one agent."""

    site: str
    host: str
    port: int
    state: Path
    """Folder for its state."""
    secret: str | tuple[str, ...]
    """References of the keys that may sign orders; several during a key rotation."""
    units: tuple[UnitConfig, ...] = ()
    fences: tuple[FenceConfig, ...] = ()
    drivers: tuple[str, ...] = LOCAL_DRIVERS
    """Drivers that orders may use."""
    systemctl: tuple[str, ...] = ("systemctl",)
    """The program that controls systemd units."""
    window_ms: int = 30_000
    tls: TlsConfig | None = None
    allow_plain: bool = False
    """Whether it may listen without TLS where others can reach it."""
    addresses: tuple[str, ...] = ()
    """Further `host:port` addresses by which orders may name this agent."""
    allow: Allowed = field(default_factory=Allowed)
    """What orders may name."""
    older_orders: bool = False
    """Whether it accepts orders that name no agent, as earlier versions sign them, during an upgrade of
    controllers.
    """

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise InvalidInput("agent-config", "; ".join(problems), "fix the agent's file")

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.secret,) if isinstance(self.secret, str) else self.secret

    def named(self, names: Iterable[str]) -> Iterable[str]:
        """Every `host:port` that names this agent. names: those in its certificate."""
        yield from (one.lower() for one in self.addresses)
        for host in (self.host, *names):
            if host not in _ANY:
                yield address(host, self.port)


def read_config(path: Path) -> AgentConfig:
    """Read the file. Raises `InvalidInput` if it cannot be read or has an unknown key."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise InvalidInput("agent-config", f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
        values = tomllib.loads(data.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput("agent-config", f"{path} cannot be read: {error}") from error
    reading = _Reading(data.decode("utf-8"))
    given = values.pop("units", [])
    names = (
        [str(one.get("name")) for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    )
    tables = {
        "units": reading.listed(UnitConfig, given, _unit_problems),
        "fences": reading.listed(
            FenceConfig, values.pop("fences", []), lambda fence: _fence_problems(fence, names)
        ),
    }
    values["allow"] = reading.made(Allowed, values.pop("allow", {}), "allow")
    if "tls" in values:
        values["tls"] = reading.made(TlsConfig, values["tls"], "tls")
    if "state" in values:
        values["state"] = (path.parent / str(values["state"])).resolve()
    config = reading.made(AgentConfig, values, "")
    if config is not None and not reading.wrong:
        config = reading.made(AgentConfig, values | tables, "")
    if config is None or reading.wrong:
        raise InvalidInput("agent-config", f"{path}: {'; '.join(reading.wrong)}", "fix the agent's file")
    return config


class _Reading:
    """Values from the tables of a file, and what is wrong with them."""

    def __init__(self, toml: str) -> None:
        self.wrong: list[str] = []
        self._lines = _lines(toml)

    def made(self, kind: type[_T], values: Any, where: str, place: str = "") -> _T | None:
        """One value. None if anything is wrong with it, or with its parts."""
        if not isinstance(values, dict):
            self.wrong.append(f"{where} must be a table{place}")
            return None
        found = _faults(kind, values)
        if not found and None not in values.values():
            try:
                return kind(**with_tuples(values))
            except InvalidInput as error:
                found = [error.message]
            except TypeError as error:
                found = [str(error)]
        if found:
            self.wrong.append(": ".join(filter(None, (where, "; ".join(found)))) + place)
        return None

    def listed(self, kind: type[_T], values: Any, check: Callable[[_T], Iterable[str]]) -> tuple[_T, ...]:
        """A list of tables, each of them checked."""
        name = _LISTS[kind]
        if not isinstance(values, list):
            self.wrong.append(f"{name} must be a list of tables")
            return ()
        lines = self._lines.get(name, [])
        places = [f" (line {line})" for line in lines] if len(lines) == len(values) else [""] * len(values)
        found = []
        for values_of_one, place in zip(values, places, strict=True):
            one = self.made(kind, values_of_one, name, place)
            if one is not None:
                found.append(one)
                self.wrong += [problem + place for problem in check(one)]
        return tuple(found)


def _lines(toml: str) -> dict[str, list[int]]:
    """Name of a list of tables -> the lines on which its tables begin."""
    found: dict[str, list[int]] = {}
    for number, line in enumerate(toml.split("\n"), 1):
        if head := _LIST_HEAD.match(line):
            found.setdefault(head[1], []).append(number)
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) for one in value)


_KINDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "int": (lambda value: type(value) is int and value >= 0, "a whole number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: isinstance(value, str), "text"),
    "tuple[str, ...]": (_is_list, "a list of strings"),
    "str | tuple[str, ...]": (
        lambda value: isinstance(value, str) or _is_list(value),
        "a string, or a list of strings",
    ),
    "Mapping[str, str]": (
        lambda value: isinstance(value, dict) and all(isinstance(one, str) for one in value.values()),
        "a table of strings",
    ),
    "Mapping[str, Any]": (lambda value: isinstance(value, dict), "a table"),
}
"""Type of a field, as written -> what a value of it is like."""


_LISTS: Final[Mapping[type[Any], str]] = {UnitConfig: "units", FenceConfig: "fences"}


def _faults(kind: type[Any], values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the keys of a table and the types of its values."""
    known = {one.name: str(one.type) for one in fields(kind)}
    unknown = sorted(values.keys() - known.keys())
    found = [f"unknown: {', '.join(unknown)}"] if unknown else []
    known_values = [(known.get(key, ""), key, value) for key, value in with_tuples(values).items()]
    kinds = [(key, value, _KINDS[kind]) for kind, key, value in known_values if kind in _KINDS]
    return found + [f"{key} must be {words}" for key, value, (fits, words) in kinds if not fits(value)]


def with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """A table with its lists as tuples, as actions and configurations have them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _problems(config: AgentConfig) -> Iterable[str]:
    names = [unit.name for unit in config.units]
    if len(set(names)) != len(names):
        yield "two units have the same name"
    for unit in config.units:
        yield from _unit_problems(unit)
    for fence in config.fences:
        yield from _fence_problems(fence, names)
    problem = check_plain(config.host, config.tls, config.allow_plain)
    if problem:
        yield problem
    if config.tls is not None:
        yield from config.tls.problems
    elif config.host in _ANY and not config.addresses:
        yield f"{config.host} has no address: list this agent's host:port under addresses"
    yield from config.allow.problems
    if not _NAME.fullmatch(config.site):
        yield f"{config.site!r} is not a valid site name"


def _unit_problems(unit: UnitConfig) -> Iterable[str]:
    if not _NAME.fullmatch(unit.name):
        yield f"{unit.name!r} is not a valid unit name"
    if bool(unit.argv) == bool(unit.systemd):
        yield f"{unit.name} needs either argv or systemd"
    if not 0 <= unit.count <= unit.most:
        yield f"{unit.name}: count must be between 0 and most"
    elif unit.count > unit.room:
        yield f"{unit.name}: {unit.systemd} is a single instance; put {{index}} in its name to run more"
    if unit.check_url and unit.check_argv:
        yield f"{unit.name} has two checks"
    if unit.resume_alone and unit.store:
        yield f"{unit.name} serves {unit.store}, so only a leader may restart it: remove resume_alone"


def _fence_problems(fence: FenceConfig, units: list[str]) -> Iterable[str]:
    if not (fence.units or fence.argv or fence.action):
        yield f"the fence of {fence.store} does nothing: give it units, argv or action"
    if fence.timeout_ms > fence.margin_ms:
        yield f"the fence of {fence.store} may take longer than its margin"
    for name in fence.units:
        if name not in units:
            yield f"the fence of {fence.store} stops {name}, which is not a unit"
    for problem in _action_problems(fence.action):
        yield f"the fence of {fence.store}: {problem}"


def _action_problems(action: Mapping[str, Any]) -> Iterable[str]:
    """What would make a fence's action fail at the moment when it is needed."""
    if not action:
        return
    for key in sorted(action.keys() - _ACTION_KEYS):
        yield f"action has no key {key}{_near(key, _ACTION_KEYS)}"
    verb, driver = action.get("verb", DEMOTE), action.get("driver", "")
    spec = DRIVERS.get(driver) if isinstance(driver, str) else None
    able = [name for name, one in DRIVERS.items() if one.does(verb)] if verb in FENCING else []
    if verb not in FENCING:
        yield f"action cannot {verb} a primary: use {', '.join(FENCING)}"
    elif driver not in able:
        yield f"{driver or 'no driver'} cannot {verb}: use {', '.join(able)}"
    for table in ("settings", "parameters"):
        values = action.get(table, {})
        if not isinstance(values, dict):
            yield f"{table} must be a table"
        elif wrong := sorted(key for key, value in values.items() if not _is_simple(value)):
            yield f"{table}: {', '.join(wrong)} must be text, a number, true, false or a list of strings"
        elif table == "settings" and spec is not None:
            yield from _setting_problems(spec, with_tuples(values))


def _setting_problems(spec: DriverSpec, settings: Mapping[str, Any]) -> Iterable[str]:
    known = {one.key: one for one in spec.all_settings}
    needed = {need for one in spec.settings for need in one.needed}
    subjects: tuple[Subject, ...] = get_args(Subject)
    lacking = [
        {one.key for one in spec.missing(subject, settings)} for subject in subjects if subject in needed
    ]
    for key in sorted(set.intersection(*lacking) - {DOES}) if lacking else ():
        yield f"{spec.name} needs the setting {key}: {known[key].meaning}"
    for key, value in sorted(settings.items()):
        if key not in known:
            yield f"{spec.name} has no setting {key}{_near(key, known)}"
        elif known[key].kind == "secret" and not str(value).startswith(("env:", "file:")):
            yield f"{key} is written in plain text: write env:NAME or file:/path, and change the secret"
        elif problem := known[key].problem(value):
            yield f"{key} {problem}"


def _is_simple(value: Any) -> bool:
    return isinstance(value, str | int | bool) or (
        isinstance(value, list) and all(isinstance(one, str) for one in value)
    )


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:64], list(known), 1, 0.6)
    return f", did you mean {near[0]}?" if near else ""
