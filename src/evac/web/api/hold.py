"""The hold: everything stops before its next effect, until somebody ends it."""

from __future__ import annotations

import contextlib
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from evac.model.errors import Conflict, EvacError, Unavailable
from evac.office.values import HoldSeen
from evac.web.access.port import Actor, need
from evac.web.answering import check_match, dump, tagged
from evac.web.api.bodies import Body, Hold
from evac.web.api.requests import answer_of, asked_of
from evac.web.api.shapes import IdempotencyKey, answers
from evac.web.room import WarRoom, room_of

router = APIRouter(prefix="/v1", tags=["hold"])


class HoldTold(BaseModel):
    """Who holds, and why."""

    who: str
    reason: str
    at_ms: int


class Released(BaseModel):
    """Who ended the hold, and why."""

    released: bool
    who: str
    reason: str
    at_ms: int


def _tag(hold: HoldSeen) -> str:
    return f'"hold-{hold.revision}"'


@router.get("/hold", responses=answers(HoldSeen, 304, 404, 503), dependencies=[Depends(need("viewer"))])
async def hold(request: Request) -> Response:
    """Who holds everything, and why; 404 where nobody does."""
    found = await _standing(room_of(request))
    return tagged(request, dump(found), _tag(found))


@router.post("/hold", status_code=201, responses=answers(HoldTold, 409, 400, 413, 422, 503, status=201))
async def begin(
    request: Request, body: Hold, actor: Annotated[Actor, Depends(need("operator"))], key: IdempotencyKey = ""
) -> Response:
    """Stops everything before its next effect. 409 where a hold stands already."""
    room = room_of(request)
    try:
        given = await room.counter.hold(asked_of(actor, body, key, "hold"))
    except Conflict as error:
        raise Conflict(error.key, "a hold stands already") from error
    await _look(room)
    return answer_of(given, dict(given.told))


@router.delete("/hold", responses=answers(Released, 404, 409, 412, 422, 503))
async def end(
    request: Request,
    actor: Annotated[Actor, Depends(need("operator"))],
    reason: Annotated[str, Query(min_length=1, max_length=2_000, pattern=r"\S")],
    who: Annotated[str, Query(max_length=512)] = "",
    key: IdempotencyKey = "",
) -> Response:
    """Ends the hold. `If-Match` ends only the one that was read."""
    room = room_of(request)
    asked = asked_of(actor, Body(reason=reason, who=who), key, "release")
    known = await room.counter.known(asked)
    if known is None:
        standing = await _standing(room)
        check_match(request, _tag(standing), "the hold")
        known = await room.counter.release(asked, standing.revision)
    await _look(room)
    return answer_of(known, dict(known.told))


async def _standing(room: WarRoom) -> HoldSeen:
    """The hold as the store has it now. Raises EvacError where there is none."""
    found = await room.office.standing_hold()
    if found is None:
        raise EvacError("no-hold", "nobody holds", "nothing needs to be done")
    return found


async def _look(room: WarRoom) -> None:
    """What was just done is seen at once."""
    with contextlib.suppress(Unavailable):
        await room.office.look()
        room.office.refresh()
