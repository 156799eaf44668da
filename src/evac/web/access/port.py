"""The port of access control: who asks, and which roles that person has.

An implementation is given to `application`. It answers `who` for every request before any route runs; what
it returns is found by routes with `actor_of`, and `need` refuses those who may not. Its own pages and routes
(a login) come from `routers`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from starlette.requests import HTTPConnection, Request

from evac.model.errors import EvacError, NotAllowed

if TYPE_CHECKING:
    from fastapi import APIRouter

Role = Literal["viewer", "operator", "approver", "admin"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "approver", "admin")
"""Each may do what those before it may."""

STATE: Final = "evac_actor"
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""What anybody may ask, because whoever restarts a process has no login."""


class Unauthenticated(EvacError):
    """Nobody is logged in, or what was shown proves nothing."""

    def __init__(self, message: str = "this needs a login", hint: str = "log in, or send a token") -> None:
        super().__init__("not-authenticated", message, hint)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. named: whether the name was proven; else whoever asks may say a name in `who`."""

    name: str
    role: Role
    named: bool = True
    details: dict[str, Any] = field(default_factory=dict)

    def has(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


class Access(Protocol):
    """authenticates: whether people are told apart; a public address needs it."""

    authenticates: bool

    async def who(self, connection: HTTPConnection) -> Actor | None:
        """Who asks; None where nobody proved anything. Raises Unauthenticated for a false proof."""
        ...

    def routers(self) -> Sequence[APIRouter]:
        """Routes of its own, such as a login."""
        ...


class Loopback:
    """Of a room that only its own machine can reach: whoever is there is trusted, and signs by the name of
    the process's user, or by the name that the request says.
    """

    authenticates = False

    def __init__(self, name: str) -> None:
        self._actor = Actor(name, "admin", named=False)

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


def need(role: Role) -> Callable[[Request], Awaitable[Actor]]:
    """A dependency of routes: whoever asks has this role. Raises Unauthenticated, NotAllowed."""

    async def check(request: Request) -> Actor:  # one that is not would wait for a thread at each request
        actor = actor_of(request)
        if not actor.has(role):
            raise NotAllowed("role", f"{actor.name} is {actor.role}; this needs {role}", "ask an admin")
        return actor

    return check
