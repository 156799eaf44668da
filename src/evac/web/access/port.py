"""The port of access control: who asks, and which roles that person has.

An implementation is given to `application`. It answers `who` for every request before any route runs; what
it returns is found by routes with `actor_of`, and `need` refuses those who may not. Its own pages and routes
(a login) come from `routers`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

from markupsafe import Markup
from starlette.requests import HTTPConnection, Request

from evac.model.access import ROLES, Grant, Proven, Role
from evac.model.errors import EvacError, NotAllowed

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
"""What anybody may ask: whoever restarts a process has no login, and the sign-in page has a style."""

CERTIFICATE: Final = "evac_certificate"
"""Of the state of a request: SHA-256 of the certificate that the client showed."""
CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf"


class Unauthenticated(EvacError):
    """Nobody is logged in, or what was shown proves nothing."""

    def __init__(
        self,
        message: str = "this needs a login",
        hint: str = "log in, or send a token",
        code: str = "not-authenticated",
    ) -> None:
        super().__init__(code, message, hint)


class TooMany(EvacError):
    """More often than the access file allows, or prove wrongly who he is."""

    def __init__(self, code: str, message: str, wait_ms: int) -> None:
        self.wait_s = max(1, -(-wait_ms // 1_000))
        super().__init__(code, message, f"try again in {self.wait_s} s")


Proof = Literal["machine", "token", "password", "oidc", "certificate", "break-glass"]
"""What somebody showed. machine: nothing; only this machine can ask."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. named: whether the name was proven; else whoever asks may say a name in `who`.

    csrf: must come back with every change, where a cookie says who asks. alive: whether the login still
    stands, for what goes on longer than a request. grant: one thing that somebody may ask beyond the role.
    """

    name: str
    role: Role
    named: bool = True
    proof: Proof = "token"
    csrf: str = ""
    alive: Callable[[], Awaitable[bool]] | None = None
    grant: Grant | None = None
    acr: str = ""
    """How strong the proof was: `acr` of the identity provider, `totp` with a second factor."""
    proven_ms: int = 0
    """When it was shown, by the wall clock; 0: with this request."""
    stale: bool = False
    """The login was proven too long ago for grave acts."""
    streams: int = 0
    """How many streams at once; 0: no bound."""
    program: bool = False
    """A token that acts for no person: it neither approves nor attests."""

    def has(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)

    @property
    def proven(self) -> Proven | None:
        """What the person who asks showed; None where this room tells nobody apart."""
        if self.proof == "machine":
            return None
        return Proven(self.proof, self.acr, self.proven_ms, self.program)

    @property
    def csrf_field(self) -> Markup:
        """For forms of pages that are made for one person; empty where no cookie says who asks."""
        if not self.csrf:
            return Markup("")
        return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, self.csrf)


class Access(Protocol):
    """authenticates: whether people are told apart; a public address needs it."""

    authenticates: bool

    async def who(self, connection: HTTPConnection) -> Actor | None:
        """Who asks; None where nobody proved anything. Raises Unauthenticated for a false proof."""
        ...

    def routers(self) -> Sequence[APIRouter]:
        """Routes of its own, such as a login."""
        ...


@runtime_checkable
class KeepsLogins(Protocol):
    """An access that keeps logins beyond this process, in the store of the room, and records who did what."""

    seen: Recording

    def keep_in(self, store: Store) -> None: ...


class Loopback:
    """Of a room that only its own machine can reach: whoever is there is trusted, and signs by the name of
    the process's user, or by the name that the request says.
    """

    authenticates = False

    def __init__(self, name: str) -> None:
        self._actor = Actor(name, "admin", named=False, proof="machine")

    async def who(self, connection: HTTPConnection) -> Actor | None:
        return self._actor

    def routers(self) -> Sequence[APIRouter]:
        return ()


def actor_of(connection: HTTPConnection) -> Actor:
    """Who asks. Raises Unauthenticated."""
    found: Actor | None = connection.scope.get(STATE)
    if found is None:
        raise Unauthenticated
    return found


NEEDED: Final = "evac.needed"
"""In the scope of a request: the role that its route needs, of whoever has it."""
RECORDED: Final = "evac.recorded"
"""In the scope of a request that is in the journal of access, in words of its own."""


class Need:
    """A dependency of routes: whoever asks has this role. Raises Unauthenticated, NotAllowed."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, request: Request) -> Actor:  # one that is not would wait for a thread each time
        actor = actor_of(request)
        if not actor.has(self.role):
            raise NotAllowed("role", f"{actor.name} is {actor.role}; this needs {self.role}", "ask an admin")
        request.scope[NEEDED] = self.role
        return actor


class NeedToAsk(Need):
    """As `need("operator")`, and whoever was granted to ask one thing of one run; which, is checked when it
    is asked.
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
    """A dependency of the application: a route that does not say who may ask is refused to everybody."""

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
    """Whether a route of FastAPI names the role that it needs, or is open to everybody."""
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
