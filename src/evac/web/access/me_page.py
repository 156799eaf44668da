"""The page that says who is signed in, as what, and the way out."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from evac.web.access.port import Actor, need
from evac.web.pages import frame
from evac.web.room import room_of

PATH: Final = "/who"
router = APIRouter(include_in_schema=False)


@router.get(PATH)
async def who(request: Request, actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """Made for one person, and kept nowhere."""
    body = frame.render("who.html.j2", PATH, room_of(request).office.clock.now_ms(), actor=actor)
    return Response(body, 200, {"cache-control": "no-store"}, frame.HTML)
