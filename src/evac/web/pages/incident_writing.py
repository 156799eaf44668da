"""What a person writes down about an incident on a page: a form for each kind of note, and its answer.

It ends in the routes of the API, so that both write alike.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import Query, Request
from pydantic import TypeAdapter, ValidationError

from evac.incident.notes import COMPONENT_STATES
from evac.incident.regulator import FACTS
from evac.model.errors import EvacError, InvalidInput
from evac.office.incidents import IncidentFile
from evac.web import forms
from evac.web.access.port import Actor
from evac.web.api import incidents
from evac.web.api.incident_bodies import IncidentBody, NoteBody
from evac.web.room import WarRoom

Word = Literal["note", "command", "update", "state", "fact", "resolved", "new"]
Kind = Annotated[Word, Query()]
FIELDS_MOST: Final = 16
_BODIES: Final[TypeAdapter[Any]] = TypeAdapter(NoteBody)
_ASKED: Final[Mapping[str, tuple[str, str]]] = {
    "note": ("Write a note", "Something seen, thought or done. People inside read it in the timeline."),
    "command": (
        "Say who commands",
        "One person decides what is done, and says so here; whoever hands over names the next one.",
    ),
    "update": (
        "Tell users",
        "What is published can be read by anybody at once, on the status page and in its feed. "
        "Nothing that is published is ever changed: another update puts it right.",
    ),
    "state": (
        "Say how a component is",
        "It holds on the public status page until the records show a change, or somebody says another.",
    ),
    "fact": (
        "State a fact for the report",
        "What no record can know. The report says that it is known from you; a later fact replaces it.",
    ),
    "resolved": (
        "Say that it is over",
        "Services that the records leave down count as back from now on, and the incident ends now.",
    ),
    "new": (
        "Open an incident",
        "Before any plan is carried out. A plan that is applied under its name joins it.",
    ),
}
BUTTONS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "update": (("update", "Publish"), ("draft", "Keep as a draft")),
}
_SAVE: Final[Mapping[str, str]] = {
    "note": "Write it down",
    "command": "Write it down",
    "state": "Publish",
    "fact": "Write it down",
    "resolved": "It is over",
    "new": "Open it",
}


@dataclass(frozen=True, slots=True)
class Form:
    """One form. names, values: what may be chosen; empty: anything may be written."""

    incident: str
    kind: str
    title: str
    words: str
    names: tuple[tuple[str, str], ...]
    values: tuple[str, ...]
    buttons: tuple[tuple[str, str], ...]
    grave: bool


def form_of(room: WarRoom, incident: str, kind: str) -> Form:
    title, words = _ASKED[kind]
    names: tuple[tuple[str, str], ...] = ()
    if kind == "state":
        names = tuple((name, name) for name in sorted(set(incidents.public_names(room).values())))
    elif kind == "fact":
        names = tuple((name, f"{name.replace('_', ' ')} ({FACTS[name]})") for name in FACTS)
    values = COMPONENT_STATES if kind == "state" else ()
    buttons = BUTTONS.get(kind, ((kind, _SAVE.get(kind, "")),))
    return Form(incident, kind, title, words, names, values, buttons, kind == "resolved")


def prefilled(room: WarRoom, file: IncidentFile | None, kind: str, actor: Actor) -> dict[str, str]:
    """What a form shows when it is opened."""
    fields = dict.fromkeys(("text", "name", "value", "who", "incident", "problem", "basis"), "")
    if kind == "update" and file is not None:
        made = incidents.draft_of(room, file)
        fields |= {"name": made.title, "text": made.text, "basis": made.basis}
    if kind == "command":
        fields["value"] = actor.name
    return fields | {"key": secrets.token_hex(16)}


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a form. Raises InvalidInput."""
    told = dict.fromkeys(("kind", "as", "text", "name", "value", "who", "incident", "key", "basis"), "")
    told |= {
        name: value.replace("\r\n", "\n").strip()
        for name, value in forms.fields_of(body, FIELDS_MOST).items()
    }
    if told["kind"] not in get_args(Word):
        raise InvalidInput("request-invalid", "the form does not say what is written", "go back")
    return told


async def written(request: Request, actor: Actor, incident: str, fields: Mapping[str, str]) -> str:
    """Writes it down; the incident. Raises EvacError with what is missing or not allowed."""
    key = fields["key"] if fields["key"].isalnum() else ""
    kind = fields["kind"]
    try:
        if kind == "new":
            body = IncidentBody(incident=fields["incident"], text=fields["text"], who=fields["who"])
            await incidents.begin(request, body, actor, key)
            return body.incident
        if kind == "update" and fields["as"] == "draft":
            kind = "draft"
        wanted = {"text": fields["text"], "name": fields["name"], "value": fields["value"], "kind": kind}
        told = {name: wanted[name] for name in _names_of(kind)}
        note = _BODIES.validate_python({**told, "who": fields["who"]})
        await incidents.write(request, incident, note, actor, key)
    except ValidationError as error:
        raise InvalidInput("request-invalid", _sentence(error)) from error
    return incident


def _names_of(kind: str) -> tuple[str, ...]:
    """Fields of each kind of note."""
    more = {
        "command": ("value",),
        "draft": ("name",),
        "update": ("name",),
        "state": ("name", "value"),
        "fact": ("name", "value"),
    }
    return ("kind", "text", *more.get(kind, ()))


def problem_of(error: EvacError) -> str:
    """A problem in the words of the form, which shows facts without underscores."""
    words = forms.sentence(error)
    for name in FACTS:
        shown = name.replace("_", " ")
        words = words.replace(name, shown).replace(name.capitalize(), shown.capitalize())
    return words


def _sentence(error: ValidationError) -> str:
    """What is wrong with a field, in words of the form."""
    first = error.errors()[0]
    where = str(first["loc"][-1]) if first["loc"] else "it"
    words = {
        "text": "the text",
        "name": "the name",
        "value": "what you say",
        "who": "your name",
        "incident": "the name of the incident",
    }.get(where, where)
    if first["type"] in ("string_too_short", "missing") or not str(first.get("input", "")).strip():
        return f"{words} is missing"
    if first["type"] == "string_too_long":
        return f"{words} is too long: at most {first['ctx']['max_length']:,} characters"
    if where == "incident":
        return f"{words} is made of letters, digits, '.', '_', ':' and '-'"
    return f"{words} cannot be taken: write plain text"
