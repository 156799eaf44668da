"""The public status as users see it: what the export writes outside, made of the store as it is now."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from evac.app.public_status import URL, About
from evac.incident.components import StatusPage
from evac.report.status_feed import status_feed
from evac.report.status_page import status_json
from evac.web.access.port import need
from evac.web.answering import JSON, tag_of, tagged
from evac.web.api.incidents import public_names
from evac.web.api.shapes import answers
from evac.web.room import WarRoom, room_of

router = APIRouter(prefix="/v1", tags=["status"], dependencies=[Depends(need("viewer"))])
RSS = "application/rss+xml"


@router.get("/status", responses=answers(None, 304, 503, media=JSON))
async def status(request: Request) -> Response:
    """Components, 90 days of them, and published updates; nothing of sites, runs or people."""
    body = status_json(await public_page(room_of(request))).encode()
    return tagged(request, body, tag_of(body))


@router.get("/status/feed", responses=answers(None, 304, 503, media=RSS))
async def feed(request: Request) -> Response:
    """Published updates as RSS."""
    body = status_feed(await public_page(room_of(request)), URL).encode()
    return tagged(request, body, tag_of(body), RSS)


async def public_page(room: WarRoom) -> StatusPage:
    """Raises Unavailable until the estate was read."""
    return await room.office.incidents.public(About(room.facts.name, public_names(room)))
