"""One management controller answers one request: who asks, what is there, what is changed or wrong.

Decides in the order in which a real service does: credentials, path, method, body. Knows no sockets: `None`
for an answer means that nothing is sent and the connection is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import orjson

from evac_lab.fleet import resources
from evac_lab.fleet.fleet import Fleet
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
    """A request that is not granted. answer: why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Controller:
    """Answers for every server of a fleet and for its switchgear (server < 0)."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def answer(self, server: int, request: Request) -> Answer | None:
        """Everything at the moment at which it is called."""
        now = self.fleet.now()
        # One form of a path: no slash at the end, but for the service root.
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
        """Raises `Refusal` (401) for those who are not known."""
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
        """Raises `Refusal` with what a controller answers that has a fault of its own."""
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
        """Those that change something."""
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
        """The only change that needs no credentials but those in its body."""
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
        """#ComputerSystem.Reset. A liar says done as anybody."""
        kind = _one_of("ComputerSystem.Reset", _given(request), "ResetType", RESETS)
        if kind == "PushPowerButton":
            how: Reset = "graceful-off" if self.fleet.machines.state[server] else "on"
        else:
            how = _HOW[kind]
        self.fleet.machines.reset(server, how, now)

    def _crashes(self, server: int, now: int) -> bool:
        """A controller that dies of the reset it has just done; once."""
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
        """The boot source. The body is checked whole before anything is done, and every problem is said."""
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
    """A message for each property that cannot be written; annotations are passed over."""
    return [
        information("PropertyNotWritable", name[:80])
        for name in body
        if name not in writable and not name.startswith("@")
    ]


def _no_room() -> Answer:
    """As a controller says it whose eight sessions are taken."""
    entry = information("SessionLimitExceeded")
    headers = (("Retry-After", str(RETRY_AFTER_S)),)
    return refusals(503, [entry, entry | {"MessageId": _VENDORS_NO_ROOM}], headers=headers)
