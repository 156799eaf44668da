"""The pages of incidents: the list, one incident with its timeline, the forms to write, and what is
printed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import quote

from fastapi import Depends, Query, Request, Response
from pydantic import TypeAdapter, ValidationError

from evac.incident.components import LANGUAGES, Language
from evac.incident.records import COMPONENT_STATES, PHASES
from evac.incident.regulator import FACTS
from evac.model.errors import EvacError, InvalidInput
from evac.model.records import dataclass
from evac.office.incidents import IncidentFile
from evac.views.incident_view import runbook_body
from evac.views.status_page import LANGUAGE_NAMES, preview_headline, status_body
from evac.web.access.port import Actor, need
from evac.web.api import incidents as api
from evac.web.api.incidents import IncidentBody, IncidentName, NoteBody, book_of
from evac.web.api.papers import public_page
from evac.web.api.shapes import Digest
from evac.web.pages import frame, incident_view
from evac.web.room import WarRoom, room_of

Word = Literal["note", "command", "update", "state", "fact", "resolved", "reopened", "new"]
Kind = Annotated[Word, Query()]
FIELDS_MOST: Final = 160
COMPONENTS_MOST: Final = 40
"""Maximum number of components whose states one update can change."""
DUES: Final = (
    ("30", "In 30 minutes"),
    ("15", "In 15 minutes"),
    ("60", "In 60 minutes"),
    ("", "Not announced"),
)
_BODIES: Final[TypeAdapter[Any]] = TypeAdapter(NoteBody)
_ASKED: Final[Mapping[str, tuple[str, str]]] = {
    "note": ("Write a note", "An observation, idea or action. Visible to the team in the timeline."),
    "command": (
        "Name the incident commander",
        "One person makes the decisions. If someone else takes over, name them here.",
    ),
    "update": (
        "Tell users",
        "Published updates are immediately visible to everyone on the status page and in "
        "its feed. They cannot be edited; post another update to correct one.",
    ),
    "state": (
        "Set component status",
        "Shown on the public status page until the records show a change or someone sets another status.",
    ),
    "fact": (
        "Add a fact for the report",
        "Something the records cannot show. The report names you as the source; a later fact replaces it.",
    ),
    "resolved": (
        "Resolve incident",
        "This ends the incident. It does not mark anything as operational: services that are down according "
        "to the records stay down, here and on the status page. You can reopen it.",
    ),
    "reopened": (
        "Reopen incident",
        "This reopens the incident. The timeline keeps the earlier resolution.",
    ),
    "new": (
        "Open an incident",
        "You can do this before any run starts. A plan applied under the same name joins it.",
    ),
}
BUTTONS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "update": (("update", "Publish"), ("draft", "Save as draft")),
}
_SAVE: Final[Mapping[str, str]] = {
    "note": "Save",
    "command": "Save",
    "state": "Publish",
    "fact": "Save",
    "resolved": "Resolve incident",
    "reopened": "Reopen incident",
    "new": "Open incident",
}


_DONE: Final[Mapping[str, str]] = {
    "update": "published",
    "state": "published",
    "draft": "draft",
    "resolved": "resolved",
    "reopened": "reopened",
    "new": "opened",
}


@dataclass(frozen=True, slots=True)
class Form:
    """One form. names, values: the choices; empty: free text."""

    incident: str
    kind: str
    title: str
    words: str
    names: tuple[tuple[str, str], ...]
    values: tuple[str, ...]
    buttons: tuple[tuple[str, str], ...]
    grave: bool
    unwell: tuple[dict[str, Any], ...] = ()
    """Services that are down or degraded, in a form that resolves the incident."""
    people: str = ""
    """How many people are without a service now, in words; empty if no one is."""
    monitoring: bool = False
    """The phase Monitoring was published already."""


def form_of(room: WarRoom, incident: str, kind: str, file: IncidentFile | None = None) -> Form:
    title, words = _ASKED[kind]
    names: tuple[tuple[str, str], ...] = ()
    if kind == "state":
        names = tuple((name, name) for name in sorted(set(api.public_names(room).values())))
    elif kind == "fact":
        names = tuple((name, f"{name.replace('_', ' ')} ({FACTS[name]})") for name in FACTS)
    values = COMPONENT_STATES if kind == "state" else ()
    buttons = BUTTONS.get(kind, ((kind, _SAVE.get(kind, "")),))
    unwell, without = incident_view.still_down(file.document) if kind == "resolved" and file else ((), "")
    told = file is not None and any(
        one["name"] == "Monitoring" and one["at_ms"] for one in incident_view.phases(file)
    )
    return Form(
        incident, kind, title, words, names, values, buttons, kind == "resolved", unwell, without, told
    )


def prefilled(
    room: WarRoom,
    file: IncidentFile | None,
    kind: str,
    actor: Actor,
    asked_phase: str = "",
    language: Language = "en",
) -> dict[str, str]:
    """What a form shows when it opens. asked_phase: of an update, instead of the next one. language: of
    its draft.
    """
    names = ("text", "name", "value", "who", "incident", "problem", "basis", "other_name", "other_text")
    fields = dict.fromkeys(names, "")
    if kind == "update" and file is not None:
        pair = _pair(room)
        made = api.draft_of(room, file, pair[0] if pair else language)
        phase = asked_phase or incident_view.next_phase(file)
        fields |= {"name": made.title, "text": made.text, "basis": made.basis, "phase": phase, "due": "30"}
        if pair and (other := api.draft_of(room, file, pair[1])).text != made.text:
            fields |= {"other_name": other.title, "other_text": other.text}
    if kind == "command":
        fields["value"] = actor.name
    return fields | {"key": secrets.token_hex(16)}


def _pair(room: WarRoom) -> tuple[Language, ...]:
    """The two languages of the public status page, its own first; empty if it has one."""
    found = next((one.languages for one in room.office.situation.exports if len(one.languages) > 1), ())
    return tuple(one for name in found for one in LANGUAGES if one == name)


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a form. Raises InvalidInput."""
    names = ("kind", "as", "text", "name", "value", "who", "incident", "key", "basis", "phase", "due")
    told = dict.fromkeys((*names, "other_name", "other_text"), "")
    told |= {
        name: value.replace("\r\n", "\n").strip()
        for name, value in frame.fields_of(body, FIELDS_MOST).items()
    }
    if told["kind"] not in get_args(Word):
        raise InvalidInput("request-invalid", "the form does not say what to write", "go back")
    return told


async def written(request: Request, actor: Actor, incident: str, fields: Mapping[str, str]) -> str:
    """Write the note and return the incident. Raises EvacError with what is missing or not allowed."""
    key = fields["key"] if fields["key"].isalnum() else ""
    kind = fields["kind"]
    try:
        if kind == "new":
            body = IncidentBody(incident=fields["incident"], text=fields["text"], who=fields["who"])
            await api.begin(request, body, actor, key)
            return body.incident
        text, value = fields["text"], fields["value"]
        if kind == "update":
            value = fields["phase"]
            if fields["as"] == "draft":
                kind = "draft"
            else:
                await _set_components(request, actor, incident, fields, key)
        due_ms = due_of(fields["due"], room_of(request).office.clock.now_ms())
        wanted = {"text": text, "name": fields["name"], "value": value, "kind": kind, "due_ms": due_ms}
        wanted |= {name: fields[name] for name in ("other_name", "other_text")}
        told = {name: wanted[name] for name in _names_of(kind)}
        note = _BODIES.validate_python({**told, "who": fields["who"]})
        await api.write(request, incident, note, actor, key)
    except ValidationError as error:
        raise InvalidInput("request-invalid", _sentence(error, kind in ("resolved", "reopened"))) from error
    return incident


async def _set_components(
    request: Request, actor: Actor, incident: str, fields: Mapping[str, str], key: str
) -> None:
    """Write the states that the person changed in the form of an update. The text is checked first, so
    that nothing is published without it.
    """
    if not fields["text"]:
        raise InvalidInput("request-invalid", "the text is missing")
    for n, (name, state, was) in enumerate(components_in(fields)):
        if state != was:
            note = _BODIES.validate_python(
                {"kind": "state", "name": name, "value": state, "who": fields["who"]}
            )
            await api.write(request, incident, note, actor, f"{key}s{n}" if key else "")


def components_in(fields: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (component, chosen state, state that the form showed)."""
    return [
        (fields[f"component-{n}"], fields.get(f"state-{n}", ""), fields.get(f"was-{n}", ""))
        for n in range(COMPONENTS_MOST)
        if fields.get(f"component-{n}")
    ]


def due_of(minutes: str, now_ms: int) -> int:
    """When the next update is promised; 0 if it is not."""
    return now_ms + 60_000 * int(minutes) if minutes in {one for one, _ in DUES if one} else 0


def _names_of(kind: str) -> tuple[str, ...]:
    """The fields of each kind of note."""
    more = {
        "command": ("value",),
        "draft": ("name", "value", "due_ms", "other_name", "other_text"),
        "update": ("name", "value", "due_ms", "other_name", "other_text"),
        "state": ("name", "value"),
        "fact": ("name", "value"),
        "resolved": ("value",),
    }
    return ("kind", "text", *more.get(kind, ()))


def problem_of(error: EvacError) -> str:
    """A problem in the words of the form, which shows the names of facts without underscores."""
    words = frame.sentence(error)
    for name in FACTS:
        shown = name.replace("_", " ")
        words = words.replace(name, shown).replace(name.capitalize(), shown.capitalize())
    return words


def _sentence(error: ValidationError, reasoned: bool) -> str:
    """What is wrong with a field, in the words of the form."""
    first = error.errors()[0]
    where = str(first["loc"][-1]) if first["loc"] else "it"
    words = {
        "text": "the reason" if reasoned else "the text",
        "name": "the name",
        "value": "the name of the incident" if reasoned else "the text",
        "who": "your name",
        "incident": "the name of the incident",
    }.get(where, where)
    if first["type"] in ("string_too_short", "missing") or not str(first.get("input", "")).strip():
        return f"{words} is missing"
    if first["type"] == "string_too_long":
        return f"{words} is too long: at most {first['ctx']['max_length']:,} characters"
    if where == "incident":
        return f"{words} may contain letters, digits, '.', '_', ':' and '-'"
    return f"{words} cannot be used: write plain text"


PAGE: Final = frame.Page("/incidents", "Incidents", icon="incidents", group="Respond", key="i")
ROWS: Final = 25
AGE_MS: Final = 10_000
Begin = Annotated[int, Query(ge=0, le=10_000_000)]


@PAGE.router.get(PAGE.path)
async def incidents(request: Request, begin: Begin = 0) -> Response:
    """Ongoing incidents first, then the others, newest first."""
    room, now_ms = room_of(request), _now_ms(room_of(request))
    desk = room.office.incidents
    names = await desk.names()
    begin = min(begin, max(0, len(names) - 1)) // ROWS * ROWS
    end = min(len(names), begin + ROWS)
    rows = await desk.lines(names[begin:end])

    def make() -> bytes:
        return frame.render(
            "incidents.html.j2",
            PAGE.path,
            now_ms,
            rows=incident_view.list_rows(rows, now_ms),
            total=len(names),
            begin=begin,
            end=end,
            before=begin - ROWS if begin else None,
            after=end if end < len(names) else None,
        )

    return frame.answer(request, f"page incidents {begin}", (tuple(rows), now_ms), make)


@PAGE.router.get(PAGE.path + "/new")
async def new(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """The form that opens an incident before any run exists."""
    room = room_of(request)
    return _form(room, actor, form_of(room, "", "new"), prefilled(room, None, "new", actor))


@PAGE.router.post(PAGE.path + "/new")
async def open_new(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """Open it, through the API's code."""
    return await _write(request, actor, "", fields_of(await request.body()))


@PAGE.router.get(PAGE.path + "/{incident}")
async def incident(
    request: Request, incident: IncidentName, whole: bool = False, begin: Begin = 0
) -> Response:
    """One incident: its state, its timeline, what users see, and what can be printed."""
    room, now_ms = room_of(request), _now_ms(room_of(request))
    file = await room.office.incidents.file(incident)
    made, exports = api.draft_of(room, file), room.office.situation.exports

    def make() -> bytes:
        context = incident_view.context(file, made, whole, begin, now_ms, exports)
        return frame.render("incident.html.j2", PAGE.path, now_ms, **context)

    stamp = (id(file), made, exports, now_ms)
    return frame.answer(request, f"page incident {incident} {whole} {begin}", stamp, make)


@PAGE.router.get("/status")
async def status(request: Request) -> Response:
    """What users see outside, and the state of its export."""
    room, now_ms = room_of(request), _now_ms(room_of(request))
    page, exports = await public_page(room), room.office.situation.exports

    def make() -> bytes:
        return frame.render(
            "status.html.j2",
            "/status",
            now_ms,
            page=page,
            overall=preview_headline(page),
            body=status_body(page),
            exported=incident_view.exported(exports, now_ms),
        )

    return frame.answer(request, "page status", (page, exports, now_ms), make)


@PAGE.router.get(PAGE.path + "/{incident}/write")
async def form(
    request: Request,
    incident: IncidentName,
    kind: Kind,
    actor: Annotated[Actor, Depends(need("operator"))],
    phase: Annotated[Literal["", "investigating", "identified", "monitoring", "resolved"], Query()] = "",
    language: api.DraftLanguage = "en",
) -> Response:
    """The form for one kind of note. phase: preselected, for an update."""
    room = room_of(request)
    file = await room.office.incidents.file(incident)
    name = file.about.incident
    shown = prefilled(room, file, kind, actor, phase, language)
    if kind == "update":
        return _composer(room, actor, name, shown, await _components(room, file))
    return _form(room, actor, form_of(room, name, kind, file), shown)


async def _components(room: WarRoom, file: IncidentFile) -> list[tuple[str, str, str]]:
    """Components that the incident affects or that are not operational, with their states."""
    names = api.public_names(room)
    affected = {names.get(fate.service, "") for fate in file.document.touched}
    try:
        page = await public_page(room)
    except EvacError:
        return []
    chosen = [one for one in page.recorded if one.name in affected or one.state != "operational"]
    return [(one.name, one.state, one.state) for one in chosen[:COMPONENTS_MOST]]


def _composer(
    room: WarRoom,
    actor: Actor,
    incident: str,
    fields: Mapping[str, str],
    components: Sequence[tuple[str, str, str]],
    status: int = 200,
) -> Response:
    """The form of a status update: phase, text, states of components, and when the next one is due."""
    now_ms = room.office.clock.now_ms()
    preview = fields.get("as") == "preview" and not fields["problem"]
    body = frame.render(
        "incident_update.html.j2",
        PAGE.path,
        now_ms,
        wanted=form_of(room, incident, "update"),
        fields=fields,
        actor=actor,
        components=components,
        phases=PHASES,
        pair=_pair(room),
        languages=LANGUAGE_NAMES,
        states=COMPONENT_STATES,
        dues=DUES,
        preview=preview,
        due_ms=due_of(fields["due"], now_ms),
    )
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)


@PAGE.router.post(PAGE.path + "/{incident}/write")
async def write(
    request: Request, incident: IncidentName, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """Write the note, through the API's code. The form shows what is missing."""
    fields = fields_of(await request.body())
    name = await room_of(request).office.incidents.check_known(incident)
    if fields["kind"] == "update" and fields["as"] == "preview":
        shown = {"problem": "", **fields}
        return _composer(room_of(request), actor, name, shown, components_in(fields))
    return await _write(request, actor, name, fields)


async def _write(request: Request, actor: Actor, incident: str, fields: dict[str, str]) -> Response:
    room = room_of(request)
    try:
        found = await written(request, actor, incident, fields)
    except EvacError as error:
        empty = prefilled(room, None, fields["kind"], actor)
        again = {**empty, **fields, "problem": problem_of(error)}
        if fields["kind"] == "update":
            return _composer(room, actor, incident, again, components_in(fields), 422)
        file = await room.office.incidents.file(incident) if fields["kind"] == "resolved" else None
        return _form(room, actor, form_of(room, incident, fields["kind"], file), again, 422)
    kind = "draft" if fields["kind"] == "update" and fields["as"] == "draft" else fields["kind"]
    return frame.back_to(f"{PAGE.path}/{quote(found)}#main", _DONE.get(kind, "noted"))


def _form(room: WarRoom, actor: Actor, wanted: Form, fields: dict[str, str], status: int = 200) -> Response:
    context: dict[str, Any] = {"wanted": wanted, "fields": fields, "actor": actor}
    body = frame.render("incident_write.html.j2", PAGE.path, _now_ms(room), **context)
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)


@PAGE.router.get(PAGE.path + "/{incident}/report")
async def report(request: Request, incident: IncidentName) -> Response:
    """What a regulator asks for, to read and to print."""
    room = room_of(request)
    file = await room.office.incidents.file(incident)
    at_ms = room.office.clock.now_ms()
    name = quote(file.about.incident)
    where = {
        "back": f"{PAGE.path}/{name}",
        "back_words": file.about.incident,
        "document": f"/v1{PAGE.path}/{name}/report",
    }
    return _paper(
        await room.office.incidents.apart(
            lambda: frame.render(
                "paper.html.j2", PAGE.path, at_ms, sheet=api.report_sheet(file, at_ms), **where
            )
        )
    )


@PAGE.router.get("/plans/{digest}/runbook")
async def runbook(request: Request, digest: Digest) -> Response:
    """A plan on paper: the same step IDs, with space to write down when each was done."""
    room = room_of(request)
    made, now_ms = await book_of(room, digest), _now_ms(room)
    context = {"book": made, "plan": f"/plans/{digest}"}

    def body() -> bytes:
        return frame.render("runbook.html.j2", "/plans", now_ms, body=runbook_body(made, True), **context)

    return _paper(await asyncio.to_thread(body))


def _paper(body: bytes) -> Response:
    """Render what is printed outside the event loop: it may have thousands of rows."""
    return Response(body, 200, {"cache-control": "no-cache"}, frame.HTML)


def _now_ms(room: WarRoom) -> int:
    return room.office.clock.now_ms() // AGE_MS * AGE_MS
