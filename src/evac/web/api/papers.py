"""What is shown outside the war room: incident documents, as `evac incident` writes them, and the public
status.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.app import incidents
from evac.app.incidents import PaperForm, PaperKind
from evac.app.status_export import URL, About
from evac.incident.components import Language, StatusPage, languages_of
from evac.model.records import dataclass
from evac.views.sheet import Sheet, sheet_data
from evac.views.status_page import status_feed, status_files, status_json
from evac.web.access.port import need
from evac.web.api.incidents import IncidentName, public_names
from evac.web.api.shapes import answers
from evac.web.room import JSON, WarRoom, answer, dump, room_of, tagged

status_router = APIRouter(prefix="/v1", tags=["status"], dependencies=[Depends(need("viewer"))])
RSS = "application/rss+xml"


@status_router.get("/status", responses=answers(None, 304, 503, media=JSON))
async def status(request: Request) -> Response:
    """Show the public status: components, their last 90 days, and published updates. Contains nothing about
    sites, runs or people.
    """
    body = status_json(await public_page(room_of(request))).encode()
    return tagged(request, body)


@status_router.get("/status/feed", responses=answers(None, 304, 422, 503, media=RSS))
async def feed(request: Request, language: Language = "en") -> Response:
    """Get the published updates as RSS. Phases and titles made by evac are in `language`."""
    body = status_feed(await public_page(room_of(request)), URL, language).encode()
    return tagged(request, body, media=RSS)


@dataclass(frozen=True, slots=True)
class StatusFilesTold:
    """The files of the status page, with the overall state and the number of components. others: file name
    -> page or feed in a further language.
    """

    page: str
    feed: str
    document: str
    overall: str
    components: int
    others: dict[str, str]


Title = Annotated[str, Query(max_length=200, description="Title; default: the name of the estate.")]
Address = Annotated[
    str, Query(max_length=500, pattern="^https?://[!-~]+$", description="URL of the page, for its feed.")
]


Languages = Annotated[
    Literal["en", "ko", "en,ko", "ko,en"], Query(description="Languages of the page, its own first.")
]


@status_router.get("/status/files", responses=answers(StatusFilesTold, 304, 422, 503))
async def files(
    request: Request, title: Title = "", url: Address = URL, languages: Languages = "en"
) -> Response:
    """Get the status page, its feed and its JSON document as static files. Host them outside all sites."""
    room = room_of(request)
    names = public_names(room)
    found = await room.office.incidents.public(About(title or room.facts.name, names))
    made = status_files(found, url, languages_of(languages))
    page, rss, document = (made.pop(name) for name in ("index.html", "feed.xml", "status.json"))
    told = StatusFilesTold(page, rss, document, found.overall, len(found.components), made)
    return answer(request, told)


async def public_page(room: WarRoom) -> StatusPage:
    """Raises Unavailable until the estate is loaded."""
    return await room.office.incidents.public(About(room.facts.name, public_names(room)))


router = APIRouter(prefix="/v1/papers", tags=["incidents"], dependencies=[Depends(need("viewer"))])
Form = Annotated[
    PaperForm,
    Query(alias="format", description="sheet: title, lead and parts as data, for other programs to show."),
]
MEDIA: Final = {"json": JSON, "sheet": JSON, "html": "text/html", "markdown": "text/markdown"}


def papers(*problems: int) -> dict[int | str, Any]:
    found = answers(None, *problems)
    found[200]["content"] = {media: {} for media in dict.fromkeys(MEDIA.values())}
    return found


@router.get("/incidents", responses=papers(304, 422, 503))
async def all_incidents(request: Request, form: Form = "json") -> Response:
    """Get the list of all incidents as a document, oldest first."""
    office = room_of(request).office

    def made(store: Any) -> str | Sheet:
        found = asyncio.run(incidents.all_of(store, office.clock.now_ms()))
        return incidents.list_paper(found, form)

    return _answer(request, await room_of(request).office.incidents.reading(made), form)


@router.get("/incidents/{incident}/{paper}", responses=papers(304, 404, 422, 503))
async def one_incident(
    request: Request, incident: IncidentName, paper: PaperKind, form: Form = "json"
) -> Response:
    """Get one document of an incident."""
    office = room_of(request).office
    file = await office.incidents.file(incident)
    now_ms = office.clock.now_ms()
    found = await office.incidents.apart(
        lambda: incidents.paper(file.dossier, file.about, paper, form, now_ms, file.entries)
    )
    return _answer(request, found, form)


def _answer(
    request: Request, found: str | Sheet, form: Literal["json", "markdown", "html", "sheet"]
) -> Response:
    body = found.encode() if isinstance(found, str) else dump(sheet_data(found))
    told = tagged(request, body, media=MEDIA[form] + ("" if MEDIA[form] == JSON else "; charset=utf-8"))
    if form in (
        "html",
        "markdown",
    ):  # a page of its own has styles of its own: it is opened where it was saved
        told.headers["content-disposition"] = (
            f'attachment; filename="incident.{"html" if form == "html" else "md"}"'
        )
    return told
