"""One management controller answers one request: who asks, may he, what is there, and what is wrong with it.

Decides in the order in which a real service does: method, path, credentials, rights, ETag, body. Knows no
sockets: `None` for an answer means that nothing is sent and the connection is dropped.
"""

from __future__ import annotations

import zlib
from typing import Final

import orjson

from evac_lab.fleet import changes, circuits, documents, resources
from evac_lab.fleet.accounts import PRIVILEGES, Account
from evac_lab.fleet.answers import Answer, Json, Request, described_by, refused
from evac_lab.fleet.changes import PATCHES, POSTS, Refusal
from evac_lab.fleet.circuits import OF_THE_SWITCHGEAR
from evac_lab.fleet.fleet import Fleet
from evac_lab.fleet.resources import OF_A_SERVER, RESET_TARGET, V1

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
_PUBLIC: Final = frozenset({"/redfish", V1, f"{V1}/", f"{V1}/odata", f"{V1}/$metadata"})
_SESSIONS: Final = f"{V1}/SessionService/Sessions"
_ACCOUNTS: Final = f"{V1}/AccountService/Accounts"
_SUBSCRIPTIONS: Final = f"{V1}/EventService/Subscriptions"
_ROLES: Final = f"{V1}/AccountService/Roles"
_REGISTRY: Final = f"{V1}/Registries/Base/"
_FEEDERS: Final = f"{V1}/{circuits.FEEDERS}/"
_CHALLENGE: Final = (("WWW-Authenticate", 'Basic realm="Redfish"'),)
_HALF: Final = ("/Systems", "/Chassis", "/Managers")
_MEMBERS: Final = (_SESSIONS, _ACCOUNTS, _SUBSCRIPTIONS)


class Controller:
    """Answers for every server of a fleet and for its switchgear (server < 0)."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def answer(self, server: int, request: Request) -> Answer | None:
        """Everything at the moment at which it is called."""
        fleet = self.fleet
        now = fleet.now()
        if request.method not in METHODS:
            return refused(501, "GeneralError")
        if trouble := _protocol_trouble(request):
            return trouble
        path = _canonical(request.path)
        allow = self._allow(server, path, now)
        try:
            if path in _PUBLIC and request.method in ("GET", "HEAD"):
                return self._public(server, path, request, now)
            if request.method == "POST" and path in (_SESSIONS, f"{_SESSIONS}/Members"):
                trouble = self._with_faults(server, path, now)
                return trouble or changes.open_session(fleet, server, request, now)
            user = self._user(server, request, now)
            trouble = self._with_faults(server, path, now)
            if trouble is not None:
                return trouble
            return self._permitted(server, path, request, user, allow, now)
        except Refusal as refusal:
            refusal.answer.allow = allow or refusal.answer.allow
            return refusal.answer

    def _public(self, server: int, path: str, request: Request, now: int) -> Answer:
        if path == f"{V1}/$metadata":
            return Answer(200, documents.metadata(), media="application/xml")
        return self._shown(self._read(server, path, now) or {}, path, request, "GET, HEAD")

    def _user(self, server: int, request: Request, now: int) -> Account:
        """Who asks. Raises `Refusal` (401)."""
        accounts, headers = self.fleet.accounts, request.headers
        found = None
        if token := headers.get("x-auth-token"):
            found = accounts.by_token(server, token, now)
        elif header := headers.get("authorization"):
            changed = server >= 0 and self.fleet.machines.has_fault(server, "changed-password")
            found = accounts.basic(server, header, now, changed)
        if found is None:
            self.fleet.stats.unauthorized += 1
            raise Refusal(refused(401, "NoValidSession", headers=_CHALLENGE))
        return found

    def _with_faults(self, server: int, path: str, now: int) -> Answer | None:
        """What a controller answers that has a fault of its own."""
        machines = self.fleet.machines
        if server < 0 or machines.fault[server] == 0:
            return None
        if machines.has_fault(server, "half-dead") and path.startswith(_HALF, len(V1)):
            return refused(500, "InternalError")
        if machines.has_fault(server, "sessions-full"):
            began = self.fleet.first_call.setdefault(server, now)
            if now - began < self.fleet.settings.busy_ms:
                self.fleet.stats.sessions_refused += 1
                return changes.no_room()
        return None

    def _permitted(
        self, server: int, path: str, request: Request, user: Account, allow: str, now: int
    ) -> Answer | None:
        if not allow:
            return refused(404, "ResourceMissingAtURI", request.path)
        if request.method not in allow.split(", "):
            return refused(405, "OperationNotAllowed", allow=allow)
        own = f"{_ACCOUNTS}/{user.id}"
        if user.must_change and path != own:
            return refused(403, "PasswordChangeRequired", own, allow=allow)
        if request.method in ("GET", "HEAD"):
            return self._shown_at(server, path, request, allow, now)
        answer = self._changed(server, path, request, user, now)
        if answer is not None:
            answer.allow = allow
        return answer

    def _shown_at(self, server: int, path: str, request: Request, allow: str, now: int) -> Answer:
        if path.startswith(_REGISTRY):
            return Answer(200, documents.registry(), allow=allow)
        found = self._read(server, path, now)
        if found is None:
            return refused(404, "ResourceMissingAtURI", request.path)
        return self._shown(found, path, request, allow)

    def _shown(self, found: Json, path: str, request: Request, allow: str) -> Answer:
        content = orjson.dumps(found)
        etag = found.get("@odata.etag", "")
        if not etag and "PATCH" in allow:
            etag = f'"{zlib.crc32(content):08x}"'
        if etag and request.headers.get("if-none-match") == etag:
            return Answer(304, allow=allow, etag=etag)
        return Answer(200, content, allow=allow, etag=etag, link=described_by(found))

    def _read(self, server: int, path: str, now: int) -> Json | None:
        readers = OF_A_SERVER if server >= 0 else OF_THE_SWITCHGEAR
        reader = readers.get(path)
        return reader(self.fleet, server, now) if reader is not None else self._member(server, path, now)

    def _member(self, server: int, path: str, now: int) -> Json | None:
        """A member of a collection that changes, or a circuit."""
        top, _, id = path.rpartition("/")
        fleet = self.fleet
        if top == _SESSIONS and (held := fleet.accounts.sessions(server, now).get(id)):
            return resources.session(id, held.account.user)
        if top == _ACCOUNTS and (one := fleet.accounts.of(server).get(id)):
            return resources.account(one, now)
        if top == _ROLES and id in PRIVILEGES:
            return resources.role(id)
        if (
            top == _SUBSCRIPTIONS
            and server in fleet.kept
            and (given := fleet.kept[server].subscriptions.get(id))
        ):
            return resources.subscription(id, given)
        if server < 0 and f"{top}/" == _FEEDERS and (domain := circuits.feed_at(fleet, id)) is not None:
            return circuits.circuit(fleet, id, domain)
        return None

    def _allow(self, server: int, path: str, now: int) -> str:
        """The methods of a path; empty where there is nothing."""
        readers = OF_A_SERVER if server >= 0 else OF_THE_SWITCHGEAR
        if path in POSTS and (server >= 0 or path != RESET_TARGET):
            return "GET, HEAD, POST" if path in readers else "POST"
        if path in (_SESSIONS, f"{_SESSIONS}/Members"):
            return "GET, HEAD, POST" if path == _SESSIONS else "POST"
        if path in PATCHES and path in readers:
            return "GET, HEAD, PATCH"
        if path in readers or path == f"{V1}/$metadata" or path == f"{_REGISTRY}{documents.REGISTRY_FILE}":
            return "GET, HEAD"
        if server < 0 and path.startswith(_FEEDERS) and path.endswith(circuits.BREAKER_ACTION):
            return "POST"
        if self._member(server, path, now) is None:
            return ""
        top = path.rpartition("/")[0]
        if top == _ACCOUNTS:
            return "GET, HEAD, PATCH, DELETE"
        return "GET, HEAD, DELETE" if top in _MEMBERS else "GET, HEAD"

    def _changed(self, server: int, path: str, request: Request, user: Account, now: int) -> Answer | None:
        fleet, (top, _, id) = self.fleet, path.rpartition("/")
        if request.method == "DELETE":
            return self._deleted(server, top, id, user, now)
        if request.method == "PATCH":
            self._need_current(server, path, request, now)
            if top == _ACCOUNTS:
                return changes.patch_account(fleet, server, id, request, user, now)
            privilege, change = PATCHES[path]
        elif server < 0 and path.startswith(_FEEDERS):
            _need(user, "ConfigureComponents")
            circuit = path[len(_FEEDERS) :].partition("/")[0]
            return changes.move_breaker(fleet, circuit, request, now)
        else:
            privilege, change = POSTS[path]
        _need(user, privilege)
        if server >= 0 and fleet.machines.has_fault(server, "read-only"):
            raise Refusal(refused(403, "InsufficientPrivilege"))
        answer = change(fleet, server, request, now)
        return None if self._crashes(server, path, now) else answer

    def _crashes(self, server: int, path: str, now: int) -> bool:
        """A controller that dies of the reset it has just done; once."""
        machines = self.fleet.machines
        if server < 0 or path != RESET_TARGET or not machines.has_fault(server, "crashing"):
            return False
        machines.fault[server] = 0
        machines.restart_controller(server, now)
        self.fleet.accounts.forget_sessions(server)
        return True

    def _deleted(self, server: int, top: str, id: str, user: Account, now: int) -> Answer:
        fleet = self.fleet
        if top == _SESSIONS:
            held = fleet.accounts.sessions(server, now).get(id)
            if held is not None and held.account.user != user.user:
                _need(user, "ConfigureManager")
            return changes.close_session(fleet, server, id, now)
        if top == _ACCOUNTS:
            _need(user, "ConfigureUsers")
            return changes.delete_account(fleet, server, id, now)
        _need(user, "ConfigureComponents")
        return changes.unsubscribe(fleet, server, id, now)

    def _need_current(self, server: int, path: str, request: Request, now: int) -> None:
        """If-Match, where it is sent, must name the resource as it is. Raises `Refusal` (412)."""
        wanted = request.headers.get("if-match")
        if wanted is None or wanted.strip() == "*":
            return
        found = self._read(server, path, now) or {}
        etag = self._shown(found, path, Request("GET", path), "GET, HEAD, PATCH").etag
        if etag not in [one.strip() for one in wanted.split(",")]:
            raise Refusal(refused(412, "PreconditionFailed"))


def _protocol_trouble(request: Request) -> Answer | None:
    """A version of OData or a query that this service does not speak."""
    if request.headers.get("odata-version", "4.0") != "4.0":
        return refused(412, "HeaderInvalid", "OData-Version")
    if any(word.startswith(("$", "%24")) for word in request.query.split("&")):
        return refused(501, "QueryNotSupportedOnResource")
    return None


def _need(user: Account, privilege: str) -> None:
    if not user.may(privilege):
        raise Refusal(refused(403, "InsufficientPrivilege"))


def _canonical(path: str) -> str:
    """One form of a path: no slash at the end, but for the service root."""
    return path.rstrip("/") if path.endswith("/") and path != f"{V1}/" else path
