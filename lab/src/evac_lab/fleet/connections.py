"""HTTP of a fleet: the called controller, connections and requests, and the behaviour of broken controllers.

Everything is bounded: connections, request size, pipelined requests, idle time. A controller checks in the
order of a real service: credentials, path, method, body. An answer of `None` sends nothing and drops the
connection.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol, cast

import httptools
import orjson

from evac_lab.fleet import resources
from evac_lab.fleet.fleet import Fleet
from evac_lab.fleet.ground import FAULTS, NOBODY, is_loopback, server_at
from evac_lab.fleet.machines import BOOT_TARGETS, OVERRIDE_DISABLED, OVERRIDE_ONCE, OVERRIDES, Reset
from evac_lab.fleet.resources import (
    OF_A_SERVER,
    OF_THE_SWITCHGEAR,
    RESET_TARGET,
    RESETS,
    SESSIONS,
    V1,
    Answer,
    Json,
    Request,
    encode,
    information,
    refusals,
    refused,
)

RETRY_AFTER_S: Final = 10
_SYSTEM: Final = f"{V1}/Systems/1"
_FEEDERS: Final = f"{V1}/{resources.FEEDERS}/"
_PUBLIC: Final = frozenset({"/redfish", V1, f"{V1}/"})
_CHALLENGE: Final = (("WWW-Authenticate", 'Basic realm="Redfish"'),)
_HALF: Final = ("/Systems", "/Chassis", "/Managers")
_VENDORS_NO_ROOM: Final = "IDRAC.2.8.RAC0218"
_HOW: Final[Mapping[str, Reset]] = MappingProxyType(
    {
        "On": "on",
        "ForceOn": "on",
        "ForceOff": "off",
        "GracefulShutdown": "graceful-off",
        "GracefulRestart": "graceful-restart",
        "ForceRestart": "restart",
        "PowerCycle": "cycle",
        "Nmi": "restart",
    }
)


class Refusal(Exception):
    """A refused request. answer: why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Controller:
    """Answers for every server of a fleet and for its switchgear (server < 0)."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def answer(self, server: int, request: Request) -> Answer | None:
        """Handles a request at the time of the call."""
        now = self.fleet.now()
        # Normalises paths: no slash at the end, except for the service root.
        path = request.path if request.path == f"{V1}/" else request.path.rstrip("/")
        try:
            if path in _PUBLIC and request.method in ("GET", "HEAD"):
                return Answer(200, self._read(server, path, now))
            if path == SESSIONS and request.method == "POST":
                self._check_faults(server, path, now)
                return self._open_session(server, request, now)
            self._identify(server, request, now)
            self._check_faults(server, path, now)
            return self._permitted(server, path, request, now)
        except Refusal as refusal:
            return refusal.answer

    def _identify(self, server: int, request: Request, now: int) -> None:
        """Raises `Refusal` (401) for unknown callers."""
        accounts, headers = self.fleet.accounts, request.headers
        if token := headers.get("x-auth-token"):
            known = accounts.by_token(server, token, now)
        else:
            known = accounts.basic(server, headers.get("authorization", ""), now, self._is_changed(server))
        if not known:
            self.fleet.stats.unauthorized += 1
            raise Refusal(refused(401, "NoValidSession", headers=_CHALLENGE))

    def _is_changed(self, server: int) -> bool:
        return server >= 0 and self.fleet.machines.has_fault(server, "changed-password")

    def _check_faults(self, server: int, path: str, now: int) -> None:
        """Raises `Refusal` with the answer of a controller that has a fault."""
        machines = self.fleet.machines
        if server < 0 or machines.fault[server] == 0:
            return
        if machines.has_fault(server, "half-dead") and path.startswith(_HALF, len(V1)):
            raise Refusal(refused(500, "InternalError"))
        if machines.has_fault(server, "sessions-full"):
            began = self.fleet.first_call.setdefault(server, now)
            if now - began < self.fleet.settings.busy_ms:
                self.fleet.stats.sessions_refused += 1
                raise Refusal(_no_room())

    def _permitted(self, server: int, path: str, request: Request, now: int) -> Answer | None:
        found, methods = self._read(server, path, now), self._methods(server, path)
        if found is None and not methods:
            return refused(404, "ResourceMissingAtURI", request.path)
        allowed = (*(("GET", "HEAD") if found is not None else ()), *methods)
        if request.method not in allowed:
            return refused(405, "OperationNotAllowed", allow=", ".join(allowed))
        if request.method in ("GET", "HEAD"):
            return Answer(200, found)
        if request.method == "DELETE":
            self.fleet.accounts.close_session(server, path.rpartition("/")[2])
            return Answer(204)
        if server >= 0 and self.fleet.machines.has_fault(server, "read-only"):
            return refused(403, "InsufficientPrivilege")
        if server < 0:
            self._move_breaker(path, request, now)
        elif request.method == "PATCH":
            self._set_boot(server, request)
        else:
            self._reset(server, request, now)
            if self._crashes(server, now):
                return None
        return Answer(204)

    def _read(self, server: int, path: str, now: int) -> Json | None:
        reader = (OF_A_SERVER if server >= 0 else OF_THE_SWITCHGEAR).get(path)
        if reader is not None:
            return reader(self.fleet, server, now)
        top, _, id = path.rpartition("/")
        if top == SESSIONS and id in self.fleet.accounts.sessions(server, now):
            return resources.session(id, self.fleet.accounts.user)
        if server < 0 and f"{top}/" == _FEEDERS and (domain := resources.feed_at(self.fleet, id)) is not None:
            return resources.circuit(self.fleet, id, domain)
        return None

    def _methods(self, server: int, path: str) -> tuple[str, ...]:
        """Methods that change something."""
        if server >= 0 and path == RESET_TARGET:
            return ("POST",)
        if server >= 0 and path == _SYSTEM:
            return ("PATCH",)
        if server < 0 and path.startswith(_FEEDERS) and path.endswith(resources.BREAKER_ACTION):
            return ("POST",)
        if path == SESSIONS:
            return ("POST",)
        return ("DELETE",) if path.startswith(f"{SESSIONS}/") else ()

    def _open_session(self, server: int, request: Request, now: int) -> Answer:
        """The only change whose credentials are in its body."""
        body, accounts = _given(request), self.fleet.accounts
        user, password = body.get("UserName"), body.get("Password")
        if not isinstance(user, str) or not isinstance(password, str):
            raise Refusal(refused(400, "PropertyMissing", "UserName or Password"))
        if not accounts.login(server, user, password, now, self._is_changed(server)):
            self.fleet.stats.unauthorized += 1
            raise Refusal(refused(401, "NoValidSession"))
        opened = accounts.open_session(server, now)
        if opened is None:
            raise Refusal(_no_room())
        made = resources.session(opened.id, user)
        return Answer(201, made, (("Location", made["@odata.id"]), ("X-Auth-Token", opened.token)))

    def _reset(self, server: int, request: Request, now: int) -> None:
        """#ComputerSystem.Reset. A lying controller reports success like any other."""
        kind = _one_of("ComputerSystem.Reset", _given(request), "ResetType", RESETS)
        if kind == "PushPowerButton":
            how: Reset = "graceful-off" if self.fleet.machines.state[server] else "on"
        else:
            how = _HOW[kind]
        self.fleet.machines.reset(server, how, now)

    def _crashes(self, server: int, now: int) -> bool:
        """Whether the controller crashes after this reset; once."""
        machines = self.fleet.machines
        if not machines.has_fault(server, "crashing"):
            return False
        machines.fault[server] = 0
        machines.restart_controller(server, now)
        self.fleet.accounts.forget_sessions(server)
        return True

    def _move_breaker(self, path: str, request: Request, now: int) -> None:
        """#Circuit.BreakerControl."""
        domain = resources.feed_at(self.fleet, path[len(_FEEDERS) :].partition("/")[0])
        if domain is None:
            raise Refusal(refused(404, "ResourceMissingAtURI", request.path))
        states = resources.BREAKER_STATES
        if _one_of("Circuit.BreakerControl", _given(request), "PowerState", states, "On") == "On":
            self.fleet.machines.close(domain, now)
        else:
            self.fleet.machines.open(domain, now)

    def _set_boot(self, server: int, request: Request) -> None:
        """Sets the boot source. The whole body is checked first, and every problem is reported."""
        body = _given(request)
        boot = body.get("Boot", {})
        problems = _unwritable(body, ("Boot",))
        if not isinstance(boot, dict):
            raise Refusal(refused(400, "PropertyValueTypeError", "Boot", "Boot"))
        names = ("BootSourceOverrideEnabled", "BootSourceOverrideTarget", "BootSourceOverrideMode")
        problems += _unwritable(boot, names)
        problems += [
            information("PropertyValueNotInList", str(boot[name])[:80], name)
            for name, allowed in zip(names, (OVERRIDES, BOOT_TARGETS, ("UEFI",)), strict=True)
            if name in boot and boot[name] not in allowed
        ]
        if problems:
            raise Refusal(refusals(400, problems))
        machines = self.fleet.machines
        if "BootSourceOverrideTarget" in boot:
            machines.target[server] = BOOT_TARGETS.index(boot["BootSourceOverrideTarget"])
            if "BootSourceOverrideEnabled" not in boot:
                machines.override[server] = OVERRIDE_ONCE if machines.target[server] else OVERRIDE_DISABLED
        if "BootSourceOverrideEnabled" in boot:
            machines.override[server] = OVERRIDES.index(boot["BootSourceOverrideEnabled"])
            if machines.override[server] == OVERRIDE_DISABLED:
                machines.target[server] = 0


def _given(request: Request) -> Json:
    """The body as an object. Raises `Refusal`."""
    try:
        found = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError as error:
        raise Refusal(refused(400, "MalformedJSON")) from error
    if not isinstance(found, dict):
        raise Refusal(refused(400, "MalformedJSON"))
    return found


def _one_of(action: str, body: Json, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    """A parameter of an action. Raises `Refusal`."""
    if unknown := next((key for key in body if key != name), None):
        raise Refusal(refused(400, "ActionParameterNotSupported", unknown[:80], action))
    value = body.get(name, default)
    if value is None:
        raise Refusal(refused(400, "ActionParameterMissing", action, name))
    if value not in allowed:
        raise Refusal(refused(400, "ActionParameterValueNotInList", str(value)[:80], name, action))
    return str(value)


def _unwritable(body: Json, writable: tuple[str, ...]) -> list[Json]:
    """A message for each read-only property; annotations are ignored."""
    return [
        information("PropertyNotWritable", name[:80])
        for name in body
        if name not in writable and not name.startswith("@")
    ]


def _no_room() -> Answer:
    """The answer of a controller whose eight sessions are in use."""
    entry = information("SessionLimitExceeded")
    headers = (("Retry-After", str(RETRY_AFTER_S)),)
    return refusals(503, [entry, entry | {"MessageId": _VENDORS_NO_ROOM}], headers=headers)


HEADERS_MOST: Final = 16_384
BODY_MOST: Final = 65_536
WAITING_MOST: Final = 16
IDLE_SECONDS: Final = 60.0


class Door(Protocol):
    """Handles calls on a port. Server numbers are those of `addresses`."""

    def enter(self, connection: HttpConnection, address: str) -> int | None:
        """The called server; None: the connection is dropped."""

    def leave(self, connection: HttpConnection) -> None: ...

    def begin(self, server: int) -> float | None:
        """A request has arrived. Seconds until it is answered; None: never."""

    def answer(self, server: int, request: Request) -> Answer | None:
        """None: the connection is dropped without an answer."""

    def end(self, server: int, status: int) -> None:
        """The answer has been sent or (status 0) never will be."""


class HttpConnection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_body",
        "_busy",
        "_door",
        "_ending",
        "_headers",
        "_held",
        "_loop",
        "_parser",
        "_size",
        "_transport",
        "_url",
        "_waiting",
        "server",
        "used_at",
    )

    def __init__(self, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        self._door, self._loop = door, loop
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._busy = self._ending = False
        self._held = 0
        self.server = 0
        self.used_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not a subclass of asyncio's
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        self.used_at = self._loop.time()
        called = transport.get_extra_info("sockname")
        server = self._door.enter(self, called[0] if called else "")
        if server is None:
            self._transport = None
            transport.abort()
            return
        self.server = server
        self._begin_message()
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            for _ in range(self._held):
                self._door.end(self.server, 0)
            self._waiting.clear()
            self._door.leave(self)
            # The parser and this object reference each other: release both now, not at the next garbage
            # collection.
            self._parser = None

    def pause_writing(self) -> None:
        """Stops reading from a client that does not read."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def drop(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def idle(self) -> bool:
        return not self._busy and not self._waiting

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._parser is None or self._ending:
            return
        self.used_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            self._give_up(refused(501, "GeneralError"))
        except httptools.HttpParserError:
            self._give_up(refused(400, "GeneralError"))

    def _give_up(self, answer: Answer) -> None:
        """Answers an invalid request with the reason and ends the connection."""
        if self._transport is not None:
            self._transport.write(encode(answer, head_only=False, keep_alive=False))
            self._end()

    def _end(self) -> None:
        """Stops reading and answering; pending output is still sent."""
        self._ending = True
        if self._transport is not None:
            self._transport.close()

    def _begin_message(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = b""
        self._size = 0

    def on_message_begin(self) -> None:
        self._begin_message()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size <= HEADERS_MOST:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        if len(self._body) <= BODY_MOST:
            self._body += body

    def on_message_complete(self) -> None:
        if self._transport is None or self._parser is None or self._ending:
            return
        path, _, query = self._url.decode("latin-1").partition("?")
        method = self._parser.get_method().decode("latin-1")
        request = Request(method, path, query, self._headers, self._body)
        if self._size > HEADERS_MOST or len(self._body) > BODY_MOST or len(self._waiting) >= WAITING_MOST:
            self._give_up(refused(431 if self._size > HEADERS_MOST else 413, "GeneralError"))
            return
        after = self._door.begin(self.server)
        self._held += 1
        if after is None:
            # It hangs: the request stays pending until the client leaves.
            self._busy = True
            return
        self._waiting.append((request, self._parser.should_keep_alive()))
        if not self._busy:
            self._next(after)

    def _next(self, after: float) -> None:
        self._busy = True
        self._loop.call_later(after, self._answer, after)

    def _answer(self, after: float) -> None:
        if self._transport is None or self._ending or not self._waiting:
            return
        request, keep_alive = self._waiting.popleft()
        answer = self._door.answer(self.server, request)
        self._busy = False
        self._held -= 1
        if answer is None:
            self._door.end(self.server, 0)
            self._transport.abort()
            return
        self._transport.write(encode(answer, request.method == "HEAD", keep_alive))
        self._door.end(self.server, answer.status)
        if not keep_alive:
            self._end()
        elif self._waiting:
            self._next(after)


CONNECTIONS_MOST: Final = 4_096
TLS_CONNECTIONS_MOST: Final = 512
"""Each holds up to 100 KiB, or 6 KiB without TLS."""
_AT_REST_SECONDS: Final = 0.2
_ROOM: Final = 64
_DEAD: Final = FAULTS.index("dead")


class ControllerDoor:
    """A `Door` to all controllers of a fleet."""

    def __init__(self, fleet: Fleet, loop: asyncio.AbstractEventLoop, most: int = CONNECTIONS_MOST) -> None:
        self.fleet, self._loop, self._most = fleet, loop, most
        self._controller = Controller(fleet)
        self._open: set[HttpConnection] = set()

    def enter(self, connection: HttpConnection, address: str) -> int | None:
        stats = self.fleet.stats
        stats.connections_in_all += 1
        if not is_loopback(address):
            stats.nobody += 1
            return None
        server = server_at(address, len(self.fleet.ground))
        if server == NOBODY:
            stats.nobody += 1
            return None
        if len(self._open) >= self._most and not self._make_room():
            stats.connections_refused += 1
            return None
        if server >= 0 and not self._takes_connections(server):
            return None
        self._open.add(connection)
        stats.connections = len(self._open)
        stats.connections_most = max(stats.connections_most, stats.connections)
        return server

    def leave(self, connection: HttpConnection) -> None:
        self._open.discard(connection)
        self.fleet.stats.connections = len(self._open)

    def _takes_connections(self, server: int) -> bool:
        machines, now = self.fleet.machines, self.fleet.now()
        if machines.has_fault(server, "refusing") or not self.hears(server, now):
            return False
        if machines.has_fault(server, "rebooting") and server not in self.fleet.first_call:
            self.fleet.first_call[server] = now
            machines.restart_controller(server, now)
            return False
        return True

    def hears(self, server: int, now: int) -> bool:
        """Whether a controller has power, is alive, and is not starting."""
        machines = self.fleet.machines
        powered = self.fleet.grid.has_power(server) and machines.fault[server] != _DEAD
        return bool(powered and now >= machines.bmc_back_at[server])

    def begin(self, server: int) -> float | None:
        fleet = self.fleet
        fleet.stats.begin(server)
        settings = fleet.settings
        if server < 0:
            return fleet.clock.wall_seconds(settings.latency_ms)
        if fleet.machines.has_fault(server, "hanging") or not self.hears(server, fleet.now()):
            return None
        slow = fleet.machines.has_fault(server, "slow")
        return fleet.clock.wall_seconds(settings.slow_ms if slow else settings.latency_ms)

    def answer(self, server: int, request: Request) -> Answer | None:
        if server >= 0 and not self.hears(server, self.fleet.now()):
            return None
        return self._controller.answer(server, request)

    def end(self, server: int, status: int) -> None:
        self.fleet.stats.end(server)
        if status:
            self.fleet.stats.answered(status)

    def _make_room(self) -> bool:
        """Ends the connections that were idle longest, except those used a moment ago.

        Many at once, because finding them takes time.
        """
        latest = self._loop.time() - _AT_REST_SECONDS
        at_rest = [one for one in self._open if one.idle and one.used_at <= latest]
        for one in heapq.nsmallest(_ROOM, at_rest, key=lambda one: one.used_at):
            one.drop()
        return bool(at_rest)

    def sweep(self) -> None:
        """Ends connections that have been idle for long."""
        old = self._loop.time() - IDLE_SECONDS
        for connection in [one for one in self._open if one.used_at < old]:
            connection.drop()

    def close(self) -> None:
        for connection in list(self._open):
            connection.drop()
