"""What evac can do for each service and store, as all systems answered when somebody last asked them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from evac.office.doctor import DoctorSeen
from evac.web.access.port import Actor, need
from evac.web.api.shapes import answers
from evac.web.room import JSON, dump, room_of, tag_of, tagged

router = APIRouter(prefix="/v1", tags=["estate"])


@router.get("/doctor", dependencies=[Depends(need("viewer"))], responses=answers(DoctorSeen, 304))
async def seen(request: Request) -> Response:
    """The last answer of all systems, as `evac doctor` gives it, and whether they are being asked now."""
    body = dump(room_of(request).office.doctor.seen)
    return tagged(request, body, tag_of(body))


@router.post("/doctor", status_code=202, responses=answers(DoctorSeen, 409, status=202))
async def ask(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """Asks every system, without changing anything, what it can do; the answer is there within two minutes.
    While they are being asked, asking again changes nothing. 409 (`no-systems`) in a room that reaches none.
    """
    desk = room_of(request).office.doctor
    desk.begin(actor.name)
    return Response(dump(desk.seen), 202, {"cache-control": "no-store"}, JSON)
