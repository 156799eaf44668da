"""Pages of incidents: all of them, one with its timeline, forms, and what is printed: report and runbook."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.model.errors import EvacError
from evac.views.incident_view import runbook_sheet
from evac.views.status_page import OVERALL, component_rows
from evac.web.access.port import Actor, need
from evac.web.api import incidents as api
from evac.web.api.incident_bodies import IncidentName
from evac.web.api.runbooks import book_of
from evac.web.api.shapes import Digest
from evac.web.api.status import public_page
from evac.web.pages import frame, incident_view
from evac.web.pages import incident_writing as writing
from evac.web.room import WarRoom, room_of

PATH: Final = "/incidents"
ROWS: Final = 25
AGE_MS: Final = 10_000
router = APIRouter(dependencies=[Depends(need("viewer"))])
Begin = Annotated[int, Query(ge=0, le=10_000_000)]


@router.get(PATH)
async def incidents(request: Request, begin: Begin = 0) -> Response:
    """Incidents under way first, then the others, newest first."""
    room, now_ms = room_of(request), _now_ms(room_of(request))
    desk = room.office.incidents
    names = await desk.names()
    begin = min(begin, max(0, len(names) - 1)) // ROWS * ROWS
    end = min(len(names), begin + ROWS)
    rows = await desk.lines(names[begin:end])

    def make() -> bytes:
        return frame.render(
            "incidents.html.j2",
            PATH,
            now_ms,
            rows=incident_view.list_rows(rows, now_ms),
            total=len(names),
            begin=begin,
            end=end,
            before=begin - ROWS if begin else None,
            after=end if end < len(names) else None,
        )

    return room.shelf.answer(request, f"page incidents {begin}", (tuple(rows), now_ms), make, frame.HTML)


@router.get(PATH + "/new")
async def new(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """The form that opens an incident before any plan is carried out."""
    room = room_of(request)
    return _form(room, actor, writing.form_of(room, "", "new"), writing.prefilled(room, None, "new", actor))


@router.post(PATH + "/new")
async def open_new(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """Opens it, by the code of the API."""
    return await _write(request, actor, "", writing.fields_of(await request.body()))


@router.get(PATH + "/{incident}")
async def incident(
    request: Request, incident: IncidentName, whole: bool = False, begin: Begin = 0
) -> Response:
    """One incident: where it stands, its timeline, what users are told, and what is printed."""
    room, now_ms = room_of(request), _now_ms(room_of(request))
    file = await room.office.incidents.file(incident)
    made, exports = api.draft_of(room, file), room.office.situation.exports

    def make() -> bytes:
        context = incident_view.context(file, made, whole, begin, now_ms, exports)
        return frame.render("incident.html.j2", PATH, now_ms, **context)

    stamp = (id(file), made, exports, now_ms)
    return room.shelf.answer(request, f"page incident {incident} {whole} {begin}", stamp, make, frame.HTML)


@router.get("/status")
async def status(request: Request) -> Response:
    """What users see outside, and how its export stands."""
    room, now_ms = room_of(request), _now_ms(room_of(request))
    page, exports = await public_page(room), room.office.situation.exports

    def make() -> bytes:
        return frame.render(
            "status.html.j2",
            PATH,
            now_ms,
            page=page,
            overall=OVERALL[page.overall],
            components=component_rows(page),
            exported=incident_view.exported(exports, now_ms),
        )

    return room.shelf.answer(request, "page status", (page, exports, now_ms), make, frame.HTML)


@router.get(PATH + "/{incident}/write")
async def form(
    request: Request,
    incident: IncidentName,
    kind: writing.Kind,
    actor: Annotated[Actor, Depends(need("operator"))],
) -> Response:
    """The form for one kind of note."""
    room = room_of(request)
    file = await room.office.incidents.file(incident)
    name = file.about.incident
    return _form(room, actor, writing.form_of(room, name, kind), writing.prefilled(room, file, kind, actor))


@router.post(PATH + "/{incident}/write")
async def write(
    request: Request, incident: IncidentName, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """Writes it down, by the code of the API. What is missing is said in the form."""
    fields = writing.fields_of(await request.body())
    name = await room_of(request).office.incidents.check_known(incident)
    return await _write(request, actor, name, fields)


async def _write(request: Request, actor: Actor, incident: str, fields: dict[str, str]) -> Response:
    room = room_of(request)
    try:
        found = await writing.written(request, actor, incident, fields)
    except EvacError as error:
        empty = writing.prefilled(room, None, fields["kind"], actor)
        again = {**empty, **fields, "problem": writing.problem_of(error)}
        return _form(room, actor, writing.form_of(room, incident, fields["kind"]), again, 422)
    return Response(None, 303, {"location": f"{PATH}/{quote(found)}#main", "cache-control": "no-store"})


def _form(
    room: WarRoom, actor: Actor, wanted: writing.Form, fields: dict[str, str], status: int = 200
) -> Response:
    context: dict[str, Any] = {"wanted": wanted, "fields": fields, "actor": actor}
    body = frame.render("incident_write.html.j2", PATH, _now_ms(room), **context)
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)


@router.get(PATH + "/{incident}/report")
async def report(request: Request, incident: IncidentName) -> Response:
    """What a regulator asks, to read and to print."""
    room = room_of(request)
    file = await room.office.incidents.file(incident)
    at_ms = room.office.clock.now_ms()
    name = quote(file.about.incident)
    where = {"back": f"{PATH}/{name}", "back_words": "the incident", "document": f"/v1{PATH}/{name}/report"}
    return _paper(
        await room.office.incidents.apart(
            lambda: frame.render("paper.html.j2", PATH, at_ms, sheet=api.report_sheet(file, at_ms), **where)
        )
    )


@router.get("/plans/{digest}/runbook")
async def runbook(request: Request, digest: Digest) -> Response:
    """A plan for paper: the same ids of steps, with room to write down when each was done."""
    room = room_of(request)
    made, now_ms = await book_of(room, digest), _now_ms(room)
    plan = f"/plans/{digest}"
    where = {"back": plan, "back_words": "the plan", "document": f"/v1{plan}/runbook"}
    return _paper(
        await asyncio.to_thread(
            lambda: frame.render("paper.html.j2", "/plans", now_ms, sheet=runbook_sheet(made), **where)
        )
    )


def _paper(body: bytes) -> Response:
    """What is printed is made off the loop: it may have thousands of rows."""
    return Response(body, 200, {"cache-control": "no-cache"}, frame.HTML)


def _now_ms(room: WarRoom) -> int:
    return room.office.clock.now_ms() // AGE_MS * AGE_MS
