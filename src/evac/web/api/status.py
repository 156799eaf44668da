"""The public status as users see it: what the export writes outside, made of the store as it is now."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from evac.app.status_export import URL, About
from evac.incident.components import StatusPage
from evac.views.status_feed import status_feed
from evac.views.status_files import status_files
from evac.views.status_page import status_json
from evac.web.access.port import need
from evac.web.answering import JSON, dump, tag_of, tagged
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


class StatusFilesTold(BaseModel):
    """The three files of the page, and what it says in short."""

    page: str
    feed: str
    document: str
    overall: str
    components: int


Title = Annotated[str, Query(max_length=200, description="Whose page it is; the name of the estate.")]
Address = Annotated[str, Query(max_length=500, pattern="^https?://[!-~]+$", description="Of the page.")]


@router.get("/status/files", responses=answers(StatusFilesTold, 304, 422, 503))
async def files(request: Request, title: Title = "", url: Address = URL) -> Response:
    """The page, its feed and its document as static files, to be put outside all sites."""
    room = room_of(request)
    names = public_names(room)
    found = await room.office.incidents.public(About(title or room.facts.name, names))
    page, rss, document = status_files(found, url)
    body = dump(
        {
            "page": page,
            "feed": rss,
            "document": document,
            "overall": found.overall,
            "components": len(found.components),
        }
    )
    return tagged(request, body, tag_of(body))


async def public_page(room: WarRoom) -> StatusPage:
    """Raises Unavailable until the estate was read."""
    return await room.office.incidents.public(About(room.facts.name, public_names(room)))
