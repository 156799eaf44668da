"""The port of access control: who makes a request, and which roles that person has.

An implementation is passed to `application`. It answers `who` for every request before any route runs.
Routes get the result from `actor_of`, and `need` refuses those who are not allowed. `routers` provides
its own pages and routes, such as a login.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

from markupsafe import Markup
from starlette.requests import HTTPConnection, Request

from evac.model.access import ROLES, Grant, Proven, Role
from evac.model.errors import EvacError, NotAllowed
from evac.model.records import dataclass

if TYPE_CHECKING:
    from fastapi import APIRouter

    from evac.store.port import Store
    from evac.web.access.recording import Recording

STATE: Final = "evac_actor"
SIGN_IN: Final = "/sign-in"
OPEN_PATHS: Final = frozenset(
    {
        "/healthz",
        "/readyz",
        "/",
        "/static/evac.css",
        SIGN_IN,
        f"{SIGN_IN}/oidc",
        f"{SIGN_IN}/oidc/back",
        f"{SIGN_IN}/oidc/logout",
        f"{SIGN_IN}/break-glass",
        f"{SIGN_IN}/certificate",
    }
)
"""What anyone may request: a process supervisor has no login, and the sign-in page needs its style sheet."""

CERTIFICATE: Final = "evac_certificate"
"""In the state of a request: SHA-256 of the certificate that the client presented."""
PROVEN: Final = "evac_proven"
"""In the state of a request: what to call once its caller has authenticated: it keeps the connection."""
CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf"


class Unauthenticated(EvacError):
    """No one is logged in, or what was presented proves nothing."""

    def __init__(
        self,
        message: str = "this needs a login",
        hint: str = "log in, or send a token",
        code: str = "not-authenticated",
    ) -> None:
        super().__init__(code, message, hint)


class TooMany(EvacError):
    """More requests, or more wrong proofs, than the access file allows."""

    def __init__(self, code: str, message: str, wait_ms: int) -> None:
        self.wait_s = max(1, -(-wait_ms // 1_000))
        super().__init__(code, message, f"try again in {self.wait_s} s")


Proof = Literal["machine", "token", "password", "oidc", "certificate", "break-glass"]
"""What someone presented. machine: nothing; only this machine can make requests."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a request. named: whether the name was proven; otherwise the request may state a name in
    `who`. csrf: must come back with every change if a cookie identifies the caller. alive: whether the
    login is still valid, for anything longer than a request. grant: one kind of request that is allowed
    beyond the role.
    """

    name: str
    role: Role
    named: bool = True
    proof: Proof = "token"
    csrf: str = ""
    alive: Callable[[], Awaitable[bool]] | None = None
    grant: Grant | None = None
    acr: str = ""
    """Strength of the proof: `acr` of the identity provider, or `totp` with a second factor."""
    proven_ms: int = 0
    """When it was presented, by the wall clock; 0: with this request."""
    stale: bool = False
    """The login was proven too long ago for sensitive actions."""
    streams: int = 0
    """Maximum simultaneous streams; 0: unlimited."""
    program: bool = False
    """A token that acts for no person: it can neither approve nor attest."""

    def has(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)

    @property
    def proven(self) -> Proven | None:
        """What the caller presented; None if this room does not tell people apart."""
        if self.proof == "machine":
            return None
        return Proven(self.proof, self.acr, self.proven_ms, self.program)

    @property
    def csrf_field(self) -> Markup:
        """For forms on pages made for one person; empty if no cookie identifies the caller."""
        if not self.csrf:
            return Markup("")
        return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, self.csrf)


class Access(Protocol):
    """authenticates: whether people are told apart; a public address requires it."""

    authenticates: bool

    async def who(self, connection: HTTPConnection) -> Actor | None:
        """Who makes a request; None if nothing was presented. Raises Unauthenticated for an invalid proof."""
        ...

    def routers(self) -> Sequence[APIRouter]:
        """Its own routes, such as a login."""
        ...


@runtime_checkable
class KeepsLogins(Protocol):
    """Access control that keeps logins beyond this process, in the room's store, and records who did what."""

    seen: Recording
    used: Mapping[str, int]
    spent: Callable[[Grant], Awaitable[bool]] | None

    def keep_in(self, store: Store) -> None: ...

    def note_use(self, key: str, at_ms: int) -> None: ...


class Loopback:
    """For a room that only its own machine can reach: everyone there is trusted, and acts under the name
    of the process's user or the name that the request states.
    """

    authenticates = False

    def __init__(self, name: str) -> None:
        self._actor = Actor(name, "admin", named=False, proof="machine")

    async def who(self, connection: HTTPConnection) -> Actor | None:
        return self._actor

    def routers(self) -> Sequence[APIRouter]:
        return ()


def actor_of(connection: HTTPConnection) -> Actor:
    """Who makes a request. Raises Unauthenticated."""
    found: Actor | None = connection.scope.get(STATE)
    if found is None:
        raise Unauthenticated
    return found


NEEDED: Final = "evac.needed"
"""In the scope of a request: the role that its route requires, whoever calls it."""
RECORDED: Final = "evac.recorded"
"""In the scope of a request: it is in the access journal already, under its own words."""


class Need:
    """A dependency of routes: the caller must have this role. Raises Unauthenticated, NotAllowed."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, request: Request) -> Actor:  # one that is not would wait for a thread each time
        actor = actor_of(request)
        if not actor.has(self.role):
            raise NotAllowed(
                "role", f"this needs the role {self.role}; {actor.name} is {actor.role}", "ask an admin"
            )
        request.scope[NEEDED] = self.role
        return actor


class NeedToAsk(Need):
    """Like `need("operator")`, but also allows someone with a grant for one kind of request to one run.
    Which one is checked when the request is made.
    """

    def __init__(self) -> None:
        super().__init__("operator")

    async def __call__(self, request: Request) -> Actor:
        actor = actor_of(request)
        return actor if actor.grant is not None else await super().__call__(request)


def need(role: Role) -> Need:
    return Need(role)


def need_to_ask() -> Need:
    return NeedToAsk()


class Declared:
    """A dependency of the application: a route that does not state who may call it is refused to everyone."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    async def __call__(self, request: Request) -> None:
        route = request.scope.get("route")
        known = self._known.get(id(route))
        if known is None:
            known = self._known[id(route)] = declared(route)
        if not known:
            raise NotAllowed("route-undeclared", "no one may call this: it declares no role", "report it")


def declared(route: Any) -> bool:
    """Whether a FastAPI route states the role that it requires, or is open to everyone."""
    if getattr(route, "path", "") in OPEN_PATHS:
        return True
    waiting = [getattr(route, "dependant", None)]
    while waiting:
        found = waiting.pop()
        if found is None:
            continue
        if isinstance(found.call, Need):
            return True
        waiting += found.dependencies
    return False
