"""Incidents: the list, one with its timeline, the notes people write, its report, and a plan as a printable
runbook.

Each kind of note has its own body, so that the schema says what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from evac.app.pdf import pdf
from evac.incident.components import Draft, Language, draft
from evac.incident.dora import Classification, classify
from evac.incident.records import CONTENT, NAME_MOST, TEXT_MOST, ComponentState, Note, in_order
from evac.incident.regulator import FACTS, Basics, Duty, basics, duties
from evac.incident.runbook import Runbook
from evac.model.errors import EvacError, InvalidInput, RunError, Unavailable
from evac.office.incidents import IncidentFile
from evac.office.requests import Answer, Asked, NoteTold, body_digest
from evac.views import incident_view as views
from evac.views.incident_document import EntryShown, IncidentShort, IncidentShown, entry_shown
from evac.views.incident_view import runbook_page
from evac.views.sheet import Sheet, sheet_markdown, sheet_page
from evac.views.words import listed, wall_clock_here
from evac.web.access.port import Actor, need
from evac.web.api.requests import answer_of, record, refuse_program
from evac.web.api.shapes import LIMIT, After, AfterNumber, Digest, IdempotencyKey, Limit, answers, paged
from evac.web.room import JSON, WarRoom, answer, listing, room_of, tagged

_PLAIN: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff"
WORDS: Final = rf"^[^{_PLAIN}]*$"
SAID: Final = rf"^[^{_PLAIN}]*[^\s{_PLAIN}][^{_PLAIN}]*$"
KEY: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
Text = Annotated[str, Field(max_length=TEXT_MOST, pattern=WORDS)]
LATEST_MS: Final = 253_402_300_799_000
"""The end of the year 9999: later moments cannot be shown."""
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
    """An observation, a thought or an action."""

    kind: Literal["note"]
    text: Said


class CommandSaid(_Written):
    """Names the incident commander from now on; an empty `value` means that there is none."""

    kind: Literal["command"]
    value: Name
    text: Text = ""


class UpdateSaid(_Written):
    """A status update: an internal draft, or one that is published at once. `name` is its title, `value` its
    phase.
    """

    kind: Literal["draft", "update"]
    name: Name = ""
    value: Literal["", "investigating", "identified", "monitoring", "resolved"] = ""
    text: Said
    due_ms: Annotated[
        int,
        Field(ge=0, le=LATEST_MS, description="When the next update is due; 0: none is promised."),
        BeforeValidator(lambda given: int(given) if given.__class__ is float and given % 1 == 0 else given),
    ] = 0
    other_name: Annotated[Name, Field(description="The title in the other language of the status page.")] = ""
    other_text: Annotated[Text, Field(description="The text in the other language of the status page.")] = ""


class StateSaid(_Written):
    """Sets the state of a status page component by hand, from now on."""

    kind: Literal["state"]
    name: Named
    value: ComponentState
    text: Text = ""


class FactSaid(_Written):
    """A report field that no journal can supply."""

    kind: Literal["fact"]
    name: Annotated[str, Field(json_schema_extra={"enum": sorted(FACTS)}, max_length=NAME_MOST)]
    value: Said
    text: Text = ""


class ResolvedSaid(_Written):
    """Resolves the incident. `text` is the reason; `value` is the name of the incident, typed to confirm. No
    service or component becomes operational: `GET` the incident to see what is still down.
    """

    kind: Literal["resolved"]
    text: Said
    value: Named


class ReopenedSaid(_Written):
    """Reopens the incident. `text` is the reason."""

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
    """An incident opened with its first note, before any run."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"incident": "fire-7", "text": "smoke in hall 2"}]},
    )
    incident: Annotated[str, Field(pattern=KEY, max_length=128)]
    text: Said


def note_of(incident: str, body: _Written) -> Note:
    """The note without its id, author and time."""
    fields = body.model_dump(mode="json", exclude={"who"})
    kept = {key: fields[key] for key in CONTENT if key in fields}
    return Note("", incident, fields["kind"], "", 0, **kept)


router = APIRouter(prefix="/v1", tags=["incidents"])
READ: Final = [Depends(need("viewer"))]
MEDIA: Final = {"json": JSON, "html": "text/html", "markdown": "text/markdown", "pdf": "application/pdf"}
ENDINGS: Final = {"json": "json", "html": "html", "markdown": "md", "pdf": "pdf"}
DraftLanguage = Annotated[
    Language, Query(description="Language of a draft that evac writes from the records.")
]
Form = Annotated[
    Literal["json", "html", "markdown", "pdf"], Query(description="Format of the document.", alias="format")
]


@router.get("/incidents", dependencies=READ, responses=answers(paged(IncidentShort), 304, 404, 422, 503))
async def incidents(request: Request, after: After = "", limit: Limit = LIMIT) -> Response:
    """List incidents: open ones first, then the rest, newest first."""
    desk = room_of(request).office.incidents
    names = await desk.names()
    begin = 0
    if after:
        await desk.check_known(after)
        begin = names.index(after) + 1 if after in names else len(names)
    rows = await desk.lines(names[begin : begin + limit])
    following = names[begin + limit - 1] if begin + limit < len(names) else None
    return listing(request, rows, len(names), following)


@router.post("/incidents", status_code=201, responses=answers(NoteTold, 400, 409, 413, 422, 503, status=201))
async def begin(
    request: Request,
    body: IncidentBody,
    actor: Annotated[Actor, Depends(need("operator"))],
    key: IdempotencyKey = "",
) -> Response:
    """Open an incident with its first note. No plan needs to run yet. 409 if the incident already exists."""
    room = room_of(request)
    asked = _asked(actor, body.who, key, "incident", body.model_dump(mode="json"))
    note = Note("", body.incident, "note", "", 0, body.text)
    return answer_of(given := await room.counter.note(asked, note, begins=True), await _seen(room, given))


@router.get("/incidents/{incident}", dependencies=READ, responses=answers(IncidentShown, 304, 404, 422, 503))
async def incident(request: Request, incident: IncidentName) -> Response:
    """Show an incident. Says when it started, who is the incident commander, which services it affected, and
    which records prove it.
    """
    return answer(request, (await room_of(request).office.incidents.file(incident)).document)


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
    """Show the timeline of an incident; each entry names the record that proves it."""
    file = await room_of(request).office.incidents.file(incident)
    rows = [e for e in file.entries if whole or e.weight == "main"]
    end = after + limit
    items = [entry_shown(n, e) for n, e in enumerate(rows[after:end], after + 1)]
    return listing(request, items, len(rows), str(end) if end < len(rows) else None)


@router.get(
    "/incidents/{incident}/notes", dependencies=READ, responses=answers(paged(Note), 304, 404, 422, 503)
)
async def notes(
    request: Request, incident: IncidentName, after: AfterNumber = 0, limit: Limit = LIMIT
) -> Response:
    """List the notes of an incident, oldest first."""
    rows = in_order((await room_of(request).office.incidents.file(incident)).dossier.notes)
    end = after + limit
    return listing(request, rows[after:end], len(rows), str(end) if end < len(rows) else None)


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
    new: Annotated[bool, Query(description="The incident need not exist yet.")] = False,
) -> Response:
    """Add a note to an incident. A note can also name the incident commander, draft or publish an update, set
    the state of a component, supply a fact for the report, or resolve or reopen the incident. Notes never
    change; correct one with a later one.
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
    """The name of the incident. Raises RunError if it is unknown and `new` is not set, or is not a valid
    name.
    """
    try:
        return await room.office.incidents.check_known(incident)
    except RunError:
        if not new or not re.fullmatch(KEY, incident):
            raise
        return incident


def _check_component(room: WarRoom, name: str) -> None:
    """Raises InvalidInput for a component that is not on the status page, Unavailable until the estate is
    loaded.
    """
    known = sorted({one.public_name for one in room.facts.services if one.public_name})
    if name not in known:
        raise InvalidInput(
            "component-unknown",
            f"the status page shows no component {name[:80]!r}",
            f"use one of: {listed(known, 20)}" if known else "give a service of the estate a public_name",
        )


def _asked(actor: Actor, who: str, key: str, *about: object) -> Asked:
    """In the name of the login if there is one, else of `who` in the body, else of this process's user."""
    return Asked(actor.name if actor.named or not who.strip() else who.strip(), "", key, body_digest(*about))


async def _seen(room: WarRoom, given: Answer) -> dict[str, Any]:
    """Refreshes, so that the new note is visible at once."""
    with contextlib.suppress(Unavailable):
        await room.office.incidents.look()
        room.office.refresh()
    return dict(given.told)


@router.get("/incidents/{incident}/draft", dependencies=READ, responses=answers(Draft, 304, 404, 422, 503))
async def drafted(request: Request, incident: IncidentName, language: DraftLanguage = "en") -> Response:
    """Show a draft status update to edit and publish. It is the draft someone wrote; failing that, one
    generated from the records.
    """
    room = room_of(request)
    return answer(request, draft_of(room, await room.office.incidents.file(incident), language))


def draft_of(room: WarRoom, file: IncidentFile, language: Language = "en") -> Draft:
    now_ms, wall = room.office.clock.now_ms(), wall_clock_here()
    return draft(file.dossier, file.about, public_names(room), now_ms, wall, language)


def public_names(room: WarRoom) -> dict[str, str]:
    """Service -> its public name; empty until the estate is loaded."""
    facts = room.office.facts
    return {one.id: one.public_name for one in facts.services if one.public_name} if facts else {}


def documents(*problems: int) -> dict[int | str, Any]:
    found = answers(None, *problems)
    found[200]["content"] = {media: {} for media in MEDIA.values()}
    return found


@router.get("/incidents/{incident}/report", dependencies=READ, responses=documents(304, 404, 422, 503))
async def report(request: Request, incident: IncidentName, form: Form = "json") -> Response:
    """Download the incident report for a regulator. Covers start, cause, services, people, duration and
    actions, with what Korean law and EU DORA require. Unknown facts are marked as unknown.
    """
    room = room_of(request)
    file = await room.office.incidents.file(incident)
    at_ms = room.office.clock.now_ms()
    body = await room.office.incidents.apart(lambda: _report(file, form, at_ms))
    return await document(request, body, form, f"report-{file.about.incident}")


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
    make: Callable[[Sheet], str] = sheet_markdown if form == "markdown" else sheet_page
    return make(sheet).encode()


async def document(request: Request, body: bytes, form: str, name: str) -> Response:
    """A download: a standalone page has its own styles, so it is opened from where it was saved. For a PDF,
    body is the page it is made from.
    """
    if form == "pdf":
        body = await asyncio.to_thread(pdf, body.decode())
    found = tagged(
        request, body, media=MEDIA[form] + ("; charset=utf-8" if form in ("html", "markdown") else "")
    )
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name if c.isascii())
    found.headers["content-disposition"] = f'attachment; filename="{safe}.{ENDINGS[form]}"'
    return found


runbooks_router = APIRouter(prefix="/v1", tags=["plans"], dependencies=[Depends(need("viewer"))])


@runbooks_router.get("/plans/{digest}/runbook", responses=documents(304, 404, 422, 503))
async def runbook(request: Request, digest: Digest, form: Form = "json") -> Response:
    """Download a plan as a printable runbook. Lists who does what and in which order, with space to write
    down the times.
    """
    made = await book_of(room_of(request), digest)

    def body() -> bytes:
        if form == "json":
            return views.runbook_json(made).encode()
        if form in ("html", "pdf"):
            return runbook_page(made).encode()
        return written(views.runbook_sheet(made), form)

    return await document(request, await asyncio.to_thread(body), form, f"runbook-{digest[7:19]}")


async def book_of(room: WarRoom, digest: str) -> Runbook:
    """Raises EvacError if the plan is not stored, and InvalidInput if it is too large to print."""
    office = room.office
    if not await office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError("plan-unknown", f"no such plan: {digest[:19]}", "GET /v1/plans lists standby plans")
    return await office.runbook(digest)
