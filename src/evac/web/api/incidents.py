"""Incidents: all in a line each, one with its timeline, what people write down, its report, and a plan as a
runbook for paper.

There is one body for each kind of note, so that its shape says what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from evac.incident.components import Draft, draft
from evac.incident.dora import Classification, classify
from evac.incident.records import NAME_MOST, TEXT_MOST, ComponentState, Entry, Note, in_order
from evac.incident.regulator import FACTS, Basics, Duty, basics, duties
from evac.incident.runbook import Runbook
from evac.model.errors import EvacError, InvalidInput, RunError, Unavailable
from evac.office.incidents import IncidentFile, IncidentShort, felt
from evac.office.requests import Answer, Asked, NoteTold, body_digest
from evac.views import incident_view as views
from evac.views.incident_view import runbook_page
from evac.views.sheet import Sheet, sheet_markdown, sheet_page
from evac.views.words import listed, wall_clock_here
from evac.web.access.port import Actor, need
from evac.web.api.requests import answer_of, record, refuse_program
from evac.web.api.shapes import LIMIT, After, AfterNumber, Digest, IdempotencyKey, Limit, answers, paged
from evac.web.room import JSON, WarRoom, dump, room_of, tag_of, tagged

_PLAIN: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff"
WORDS: Final = rf"^[^{_PLAIN}]*$"
SAID: Final = rf"^[^{_PLAIN}]*[^\s{_PLAIN}][^{_PLAIN}]*$"
KEY: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
Text = Annotated[str, Field(max_length=TEXT_MOST, pattern=WORDS)]
Said = Annotated[str, Field(min_length=1, max_length=TEXT_MOST, pattern=SAID)]
Name = Annotated[str, Field(max_length=NAME_MOST, pattern=WORDS)]
Named = Annotated[str, Field(min_length=1, max_length=NAME_MOST, pattern=SAID)]
IncidentName = Annotated[
    str, Path(max_length=512, description="An incident, or the run that responds to it.")
]


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    who: Annotated[Name, Field(description="Author; ignored if the login identifies them.")] = ""


class NoteSaid(_Written):
    """Something seen, thought or done."""

    kind: Literal["note"]
    text: Said


class CommandSaid(_Written):
    """Who commands from now on; an empty value: nobody does any more."""

    kind: Literal["command"]
    value: Name
    text: Text = ""


class UpdateSaid(_Written):
    """A status update: a draft for people inside, or published, which is public at once. name: its title;
    value: its phase.
    """

    kind: Literal["draft", "update"]
    name: Name = ""
    value: Literal["", "investigating", "identified", "monitoring", "resolved"] = ""
    text: Said
    due_ms: Annotated[int, Field(ge=0, description="When the next update is due; 0: none is promised.")] = 0


class StateSaid(_Written):
    """A component of the status page is in a state from now on, because a person says so."""

    kind: Literal["state"]
    name: Named
    value: ComponentState
    text: Text = ""


class FactSaid(_Written):
    """A field of the report that no journal can know."""

    kind: Literal["fact"]
    name: Annotated[str, Field(json_schema_extra={"enum": sorted(FACTS)}, max_length=NAME_MOST)]
    value: Said
    text: Text = ""


class ResolvedSaid(_Written):
    """The incident is over. No service and no component becomes operational by it: `GET` the incident for
    what is still down. text: the reason; value: the name of the incident, typed to confirm.
    """

    kind: Literal["resolved"]
    text: Said
    value: Named


class ReopenedSaid(_Written):
    """The incident is not over after all. text: the reason."""

    kind: Literal["reopened"]
    text: Said


NoteBody = Annotated[
    NoteSaid | CommandSaid | UpdateSaid | StateSaid | FactSaid | ResolvedSaid | ReopenedSaid,
    Field(discriminator="kind"),
]


BY_PEOPLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "update": "publish an update",
        "state": "set the public state of a component",
        "resolved": "resolve an incident",
        "reopened": "reopen an incident",
    }
)
"""Kinds of notes that the public sees, or that say whether it is over: the token of a program writes none."""


class IncidentBody(_Written):
    """An incident that people open by their first note, before anything is carried out."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"incident": "fire-7", "text": "smoke in hall 2"}]},
    )
    incident: Annotated[str, Field(pattern=KEY, max_length=128)]
    text: Said


def note_of(incident: str, body: _Written) -> Note:
    """The note without its id, its writer and its moment."""
    fields = body.model_dump(mode="json", exclude={"who"})
    kept = {key: fields[key] for key in ("text", "name", "value", "due_ms") if key in fields}
    return Note("", incident, fields["kind"], "", 0, **kept)


router = APIRouter(prefix="/v1", tags=["incidents"])
READ: Final = [Depends(need("viewer"))]
MEDIA: Final = {"json": JSON, "html": "text/html", "markdown": "text/markdown"}
ENDINGS: Final = {"json": "json", "html": "html", "markdown": "md"}
Form = Annotated[
    Literal["json", "html", "markdown"], Query(description="Format of the document.", alias="format")
]


@dataclass(frozen=True, slots=True)
class ChangeShown:
    """From `at_ms` on the service was at a level, as the record `source` proves."""

    at_ms: int
    level: str
    source: str


@dataclass(frozen=True, slots=True)
class FateShown:
    """What became of one service."""

    service: str
    tier: int
    people: int | None
    level: str
    rto_ms: int | None
    changes: tuple[ChangeShown, ...]


@dataclass(frozen=True, slots=True)
class IncidentShown:
    """One incident. touched: services that were not up all the time, down ones first."""

    incident: IncidentShort
    touched: tuple[FateShown, ...]
    notes: int
    entries: int
    plan: str


@dataclass(frozen=True, slots=True)
class EntryShown:
    """One line of a timeline. number: its place, from 1; stream and record: what proves it."""

    number: int
    at_ms: int
    kind: str
    words: str
    run: str
    step: str
    weight: str
    stream: str
    record: int


@router.get("/incidents", dependencies=READ, responses=answers(paged(IncidentShort), 304, 404, 422, 503))
async def incidents(request: Request, after: After = "", limit: Limit = LIMIT) -> Response:
    """Incidents under way first, then the others, newest first."""
    desk = room_of(request).office.incidents
    names = await desk.names()
    begin = 0
    if after:
        await desk.check_known(after)
        begin = names.index(after) + 1 if after in names else len(names)
    rows = await desk.lines(names[begin : begin + limit])
    following = names[begin + limit - 1] if begin + limit < len(names) else None
    body = dump({"items": rows, "total": len(names), "next": following})
    return tagged(request, body, tag_of(body))


@router.post("/incidents", status_code=201, responses=answers(NoteTold, 400, 409, 413, 422, 503, status=201))
async def begin(
    request: Request,
    body: IncidentBody,
    actor: Annotated[Actor, Depends(need("operator"))],
    key: IdempotencyKey = "",
) -> Response:
    """Opens an incident by its first note, before any plan is carried out. 409 where there is one already."""
    room = room_of(request)
    asked = _asked(actor, body.who, key, "incident", body.model_dump(mode="json"))
    note = Note("", body.incident, "note", "", 0, body.text)
    return answer_of(given := await room.counter.note(asked, note, begins=True), await _seen(room, given))


@router.get("/incidents/{incident}", dependencies=READ, responses=answers(IncidentShown, 304, 404, 422, 503))
async def incident(request: Request, incident: IncidentName) -> Response:
    """Where an incident stands: since when, who commands, what it took, and by which records."""
    body = dump(shown(await room_of(request).office.incidents.file(incident)))
    return tagged(request, body, tag_of(body))


def shown(file: IncidentFile) -> IncidentShown:
    fates = tuple(
        FateShown(
            fate.service,
            fate.tier,
            fate.people,
            fate.level,
            fate.rto_ms,
            tuple(ChangeShown(c.at_ms, c.level, str(c.source)) for c in fate.changes),
        )
        for fate in felt(file.about)
    )
    return IncidentShown(file.short, fates, len(file.dossier.notes), len(file.entries), file.digest)


@router.get(
    "/incidents/{incident}/timeline",
    dependencies=READ,
    responses=answers(paged(EntryShown), 304, 404, 422, 503),
)
async def timeline(
    request: Request,
    incident: IncidentName,
    after: AfterNumber = 0,
    limit: Limit = LIMIT,
    whole: Annotated[bool, Query(description="Every record, not only the important ones.")] = False,
) -> Response:
    """What happened, in order; each line names the record that proves it."""
    file = await room_of(request).office.incidents.file(incident)
    rows = [e for e in file.entries if whole or e.weight == "main"]
    end = after + limit
    items = [entry_shown(n, e) for n, e in enumerate(rows[after:end], after + 1)]
    body = dump({"items": items, "total": len(rows), "next": str(end) if end < len(rows) else None})
    return tagged(request, body, tag_of(body))


def entry_shown(number: int, entry: Entry) -> EntryShown:
    return EntryShown(
        number,
        entry.at_ms,
        entry.kind,
        entry.words,
        entry.run,
        entry.step,
        entry.weight,
        entry.source.stream,
        entry.source.number,
    )


@router.get(
    "/incidents/{incident}/notes", dependencies=READ, responses=answers(paged(Note), 304, 404, 422, 503)
)
async def notes(
    request: Request, incident: IncidentName, after: AfterNumber = 0, limit: Limit = LIMIT
) -> Response:
    """What people wrote down, oldest first."""
    rows = in_order((await room_of(request).office.incidents.file(incident)).dossier.notes)
    end = after + limit
    body = dump({"items": rows[after:end], "total": len(rows), "next": str(end) if end < len(rows) else None})
    return tagged(request, body, tag_of(body))


@router.post(
    "/incidents/{incident}/notes",
    status_code=201,
    responses=answers(NoteTold, 400, 404, 409, 413, 422, 503, status=201),
)
async def write(
    request: Request,
    incident: IncidentName,
    body: NoteBody,
    actor: Annotated[Actor, Depends(need("operator"))],
    key: IdempotencyKey = "",
    new: Annotated[bool, Query(description="The incident may not exist yet.")] = False,
) -> Response:
    """Writes something down: a note, who commands, a draft or a published update, the state of a component, a
    fact for the report, that it is over, or that it is reopened. It is never changed; a later one puts right
    what was wrong.
    """
    if body.kind in BY_PEOPLE:
        refuse_program(actor, BY_PEOPLE[body.kind])
    room = room_of(request)
    name = await _known(room, incident, new)
    if isinstance(body, StateSaid):
        _check_component(room, body.name)
    asked = _asked(actor, body.who, key, name, body.model_dump(mode="json"))
    given = await room.counter.note(asked, note_of(name, body), new)
    record(request, actor, "asked", f"{body.kind} of {name}")
    return answer_of(given, await _seen(room, given))


async def _known(room: WarRoom, incident: str, new: bool) -> str:
    """The name of the incident. Raises RunError for one that nobody knows, or that cannot be one."""
    try:
        return await room.office.incidents.check_known(incident)
    except RunError:
        if not new or not re.fullmatch(KEY, incident):
            raise
        return incident


def _check_component(room: WarRoom, name: str) -> None:
    """Raises InvalidInput for a component that users do not see, Unavailable until the estate was read."""
    known = sorted({one.public_name for one in room.facts.services if one.public_name})
    if name not in known:
        raise InvalidInput(
            "component-unknown",
            f"the status page shows no component {name[:80]!r}",
            f"use one of: {listed(known, 20)}" if known else "give a service of the estate a public_name",
        )


def _asked(actor: Actor, who: str, key: str, *about: object) -> Asked:
    """By the login where there is one, else as the body says, else the user of this process."""
    return Asked(actor.name if actor.named or not who.strip() else who.strip(), "", key, body_digest(*about))


async def _seen(room: WarRoom, given: Answer) -> dict[str, Any]:
    """What was just written is seen at once."""
    with contextlib.suppress(Unavailable):
        await room.office.incidents.look()
        room.office.refresh()
    return dict(given.told)


@router.get("/incidents/{incident}/draft", dependencies=READ, responses=answers(Draft, 304, 404, 422, 503))
async def drafted(request: Request, incident: IncidentName) -> Response:
    """A status update to edit and to publish: what somebody drafted, else one made of the records."""
    room = room_of(request)
    body = dump(draft_of(room, await room.office.incidents.file(incident)))
    return tagged(request, body, tag_of(body))


def draft_of(room: WarRoom, file: IncidentFile) -> Draft:
    return draft(file.dossier, file.about, public_names(room), room.office.clock.now_ms(), wall_clock_here())


def public_names(room: WarRoom) -> dict[str, str]:
    """Service -> what users call it; empty until the estate was read."""
    facts = room.office.facts
    return {one.id: one.public_name for one in facts.services if one.public_name} if facts else {}


def documents(*problems: int) -> dict[int | str, Any]:
    found = answers(None, *problems)
    found[200]["content"] = {media: {} for media in MEDIA.values()}
    return found


@router.get("/incidents/{incident}/report", dependencies=READ, responses=documents(304, 404, 422, 503))
async def report(request: Request, incident: IncidentName, form: Form = "json") -> Response:
    """For a regulator: start, cause, services, people, duration, actions, what Korean law and EU DORA ask. A
    file to keep; what nobody knows is said so.
    """
    room = room_of(request)
    file = await room.office.incidents.file(incident)
    at_ms = room.office.clock.now_ms()
    body = await room.office.incidents.apart(lambda: _report(file, form, at_ms))
    return document(request, body, form, f"report-{file.about.incident}")


def _report(file: IncidentFile, form: str, at_ms: int) -> bytes:
    if form == "json":
        return views.report_json(*_reported(file, at_ms)).encode()
    return written(report_sheet(file, at_ms), form)


def report_sheet(file: IncidentFile, at_ms: int) -> Sheet:
    return views.report_sheet(*_reported(file, at_ms))


def _reported(file: IncidentFile, at_ms: int) -> tuple[Basics, Classification, tuple[Duty, ...]]:
    told = basics(file.dossier, file.about, at_ms)
    return told, classify(file.dossier, file.about, told), tuple(duties(file.dossier, file.about, told))


def written(sheet: Sheet, form: str) -> bytes:
    make: Callable[[Sheet], str] = sheet_page if form == "html" else sheet_markdown
    return make(sheet).encode()


def document(request: Request, body: bytes, form: str, name: str) -> Response:
    """A file to keep: a page of its own has styles of its own, so it is opened from where it was saved."""
    found = tagged(request, body, tag_of(body), MEDIA[form] + ("" if form == "json" else "; charset=utf-8"))
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name if c.isascii())
    found.headers["content-disposition"] = f'attachment; filename="{safe}.{ENDINGS[form]}"'
    return found


runbooks_router = APIRouter(prefix="/v1", tags=["plans"], dependencies=[Depends(need("viewer"))])


@runbooks_router.get("/plans/{digest}/runbook", responses=documents(304, 404, 422, 503))
async def runbook(request: Request, digest: Digest, form: Form = "json") -> Response:
    """A plan as a list for paper: who does what, after what, with room to write down when it was done."""
    made = await book_of(room_of(request), digest)

    def body() -> bytes:
        if form == "json":
            return views.runbook_json(made).encode()
        if form == "html":
            return runbook_page(made).encode()
        return written(views.runbook_sheet(made), form)

    return document(request, await asyncio.to_thread(body), form, f"runbook-{digest[7:19]}")


async def book_of(room: WarRoom, digest: str) -> Runbook:
    """Raises EvacError for a plan that is not kept, and InvalidInput for one that no paper holds."""
    office = room.office
    if not await office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError("plan-unknown", f"no such plan: {digest[:19]}", "GET /v1/plans lists standby plans")
    return await office.runbook(digest)
