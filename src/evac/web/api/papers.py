"""Papers of incidents, as `evac incident` writes them: to keep, or as a sheet that is shown elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.app import incidents
from evac.app.incidents import PaperForm, PaperKind
from evac.views.sheet import Sheet, sheet_data
from evac.web.access.port import need
from evac.web.answering import JSON, dump, tag_of, tagged
from evac.web.api.incident_bodies import IncidentName
from evac.web.api.shapes import answers
from evac.web.room import WarRoom, room_of

router = APIRouter(prefix="/v1/papers", tags=["incidents"], dependencies=[Depends(need("viewer"))])
Form = Annotated[
    PaperForm,
    Query(alias="format", description="sheet: title, lead and parts as data, to be shown elsewhere."),
]
MEDIA: Final = {"json": JSON, "sheet": JSON, "html": "text/html", "markdown": "text/markdown"}


def papers(*problems: int) -> dict[int | str, Any]:
    found = answers(None, *problems)
    found[200]["content"] = {media: {} for media in dict.fromkeys(MEDIA.values())}
    return found


@router.get("/incidents", responses=papers(304, 422, 503))
async def all_incidents(request: Request, form: Form = "json") -> Response:
    """All incidents, oldest first."""
    office = room_of(request).office

    def made(store: Any) -> str | Sheet:
        found = asyncio.run(incidents.all_of(store, office.clock.now_ms()))
        return incidents.list_paper([about for _, about in found], form)

    return _answer(request, await _apart(room_of(request), made), form)


async def _apart(room: WarRoom, work: Callable[[Any], str | Sheet]) -> str | Sheet:
    return await room.office.incidents.reading(work)


@router.get("/incidents/{incident}/{paper}", responses=papers(304, 404, 422, 503))
async def one_incident(
    request: Request, incident: IncidentName, paper: PaperKind, form: Form = "json"
) -> Response:
    """One paper of one incident."""
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
    told = tagged(
        request, body, tag_of(body), MEDIA[form] + ("" if MEDIA[form] == JSON else "; charset=utf-8")
    )
    if form in (
        "html",
        "markdown",
    ):  # a page of its own has styles of its own: it is opened where it was saved
        told.headers["content-disposition"] = (
            f'attachment; filename="incident.{"html" if form == "html" else "md"}"'
        )
    return told
