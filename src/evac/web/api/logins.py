"""Logins that are open: a person sees and ends their own, an admin those of everybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.app.access_log import access_log
from evac.model.access import AccessRecord
from evac.model.errors import NotAllowed
from evac.web.access.keeping import Login, LoginRow
from evac.web.access.people import LOG, People
from evac.web.access.port import Actor, need
from evac.web.api.shapes import answers
from evac.web.room import JSON, dump, room_of

router = APIRouter(prefix="/v1", tags=["logins"])
Name = Annotated[str, Query(max_length=512, description="A person. Empty: the caller.")]
Id = Annotated[str, Query(max_length=64, pattern=r"^[0-9a-f]*$", description="One login; empty: all.")]


@dataclass(frozen=True, slots=True)
class Logins:
    items: list[Login]


@dataclass(frozen=True, slots=True)
class LoginsEnded:
    ended: int


@router.get("/logins", responses=answers(Logins, 503))
async def logins(request: Request, actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """Those of everybody for an admin, else one's own."""
    access = room_of(request).access
    rows = await access.logins() if isinstance(access, People) else []
    told = Logins([_shown(one) for one in rows if actor.has("admin") or one.name == actor.name])
    return Response(dump(told), 200, {"cache-control": "no-store"}, JSON)


@router.delete("/logins", responses=answers(LoginsEnded, 422, 503))
async def end(
    request: Request, actor: Annotated[Actor, Depends(need("viewer"))], name: Name = "", id: Id = ""
) -> Response:
    """Ends all logins of a person, or one of them, in every room, within seconds."""
    whose = name or actor.name
    if whose != actor.name and not actor.has("admin"):
        raise NotAllowed("role", f"{actor.name} is {actor.role}; this needs admin", "ask an admin")
    access = room_of(request).access
    count = 0
    if isinstance(access, People):
        count = await access.end_logins(lambda row: row.name == whose and (not id or row.id == id))
        LOG.warning("%s ended %d logins of %s", actor.name, count, whose)
    return Response(dump(LoginsEnded(count)), 200, {"cache-control": "no-store"}, JSON)


def _shown(one: LoginRow) -> Login:
    return Login(one.id, one.name, one.proof, one.acr, one.made_ms, one.seen_ms, one.until_ms)


Since = Annotated[int, Query(ge=0, le=2**53, description="From this time on, in ms since 1970.")]


@dataclass(frozen=True, slots=True)
class AccessLog:
    items: list[AccessRecord]


@router.get("/access-log", responses=answers(AccessLog, 422, 503))
async def log(
    request: Request, actor: Annotated[Actor, Depends(need("admin"))], since_ms: Since = 0
) -> Response:
    """Who signed in, who was refused, what people asked and how they were proven; oldest first."""
    rows = await access_log(room_of(request).office.store, since_ms)
    return Response(dump(AccessLog(list(rows))), 200, {"cache-control": "no-store"}, JSON)
