"""What an incident is made of: records of journals, what a record proves, and notes of people. Pure.

A note is written once and never changed; a later one corrects it.

    note      something seen, thought or done
    command   who commands from now on; empty text: no one does any more
    draft     a status update that no one has published yet
    update    a status update as it was published; it is public
    state     a component of the status page is in a state from now on, because a person says so
    fact      one field of a regulator's report that no journal can know, by name
    resolved  the incident is over, with the reason; it changes the state of no service and of no component
    reopened  it is not over after all
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from evac.model.errors import InvalidInput
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.run.state import plans_of
from evac.run.values import Event, RunSpec

NoteKind = Literal["note", "command", "draft", "update", "state", "fact", "resolved", "reopened"]
NOTE_KINDS: Final[tuple[NoteKind, ...]] = get_args(NoteKind)
ComponentState = Literal["operational", "degraded", "partial outage", "major outage", "maintenance"]
COMPONENT_STATES: Final[tuple[ComponentState, ...]] = get_args(ComponentState)

Phase = Literal["investigating", "identified", "monitoring", "resolved"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
"""Phases of a published update, as on status pages."""

NAME_MOST: Final = 200
TEXT_MOST: Final = 4_000
NOTES_MOST: Final = 10_000
_VERSION: Final = 1
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_MISLEADING: Final = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069]")
"""Terminal control characters and text direction marks, which show something other than what was written."""
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Note:
    """`name`: for `state` the component, for `fact` the field, for `update` and `draft` the title. `value`:
    for `state` the state, for `fact` the content of the field, for `command` the incident commander, for
    `update` and `draft` the phase or nothing, for `resolved` the name of the incident, typed to confirm.
    """

    id: str
    incident: str
    kind: NoteKind
    who: str
    at_ms: int
    text: str = ""
    name: str = ""
    value: str = ""
    due_ms: int = 0
    """For `update` and `draft`, when the next update is due; 0: none is promised."""
    other_name: str = ""
    other_text: str = ""
    """For `update` and `draft`, title and text in the other language of the status page."""


CONTENT: Final = ("text", "name", "value", "due_ms", "other_name", "other_text")
"""Fields of a note that its author fills in, next to its kind."""


def checked(note: Note) -> Note:
    """The note, unchanged. Raises InvalidInput, with what to do, if it is not valid."""
    for what, words in (("incident", note.incident), ("id", note.id)):
        if not _KEY.fullmatch(words):
            raise _wrong(
                f"the {what} {words[:40]!r} is not a name", "use letters, digits, '.', '_', ':' and '-'"
            )
    if note.kind not in NOTE_KINDS:
        raise _wrong(f"{note.kind[:40]!r} is not a kind of note", f"one of {', '.join(NOTE_KINDS)}")
    if note.at_ms <= 0:
        raise _wrong("a note needs a time", "give the moment in milliseconds since 1970")
    if note.due_ms < 0 or (note.due_ms and note.kind not in ("update", "draft")):
        raise _wrong("only a status update can announce the next one", "leave the moment out")
    if (note.other_name or note.other_text) and note.kind not in ("update", "draft"):
        raise _wrong("only a status update has a second language", "write another note")
    if note.other_name and not note.other_text.strip():
        raise _wrong("the title in the other language has no text", "write its text, or leave both out")
    if not note.who.strip():
        raise _wrong("a note must say who wrote it", "name a person")
    for what, words, most in (
        ("who", note.who, NAME_MOST),
        ("text", note.text, TEXT_MOST),
        ("name", note.name, NAME_MOST),
        ("value", note.value, TEXT_MOST),
        ("the other title", note.other_name, NAME_MOST),
        ("the other text", note.other_text, TEXT_MOST),
    ):
        if len(words) > most:
            raise _wrong(f"{what} has {len(words):,} characters", f"at most {most:,}; write several notes")
        if _CONTROL.search(words):
            raise _wrong(f"{what} contains control characters", "write plain text")
    return _fits(note)


def checked_new(note: Note) -> Note:
    """The same for a note written now. Also raises InvalidInput for misleading characters."""
    for what in ("who", "text", "name", "value", "other_name", "other_text"):
        words = getattr(note, what)
        if _MISLEADING.search(words):
            raise _wrong(f"{what} contains characters that change how text is displayed", "write plain text")
    if note.kind in ("resolved", "reopened") and not note.text.strip():
        raise _wrong(f"an incident can only be {note.kind} with a reason", "give the reason")
    if note.kind == "resolved" and note.value.strip() != note.incident:
        raise _wrong("resolving an incident needs its name", f"type {note.incident} to confirm")
    if note.kind in ("update", "draft") and note.value not in ("", *PHASES):
        raise _wrong(f"{note.value[:40]!r} is not a phase", f"one of {', '.join(PHASES)}")
    return checked(note)


def _fits(note: Note) -> Note:
    """Checks the fields that each kind requires."""
    if note.kind in ("note", "draft", "update") and not note.text.strip():
        raise _wrong(f"a {note.kind} needs text", "give a text")
    if note.kind in ("state", "fact") and not note.name.strip():
        raise _wrong(f"a {note.kind} needs a subject", "give its name")
    if note.kind == "state" and note.value not in COMPONENT_STATES:
        raise _wrong(f"{note.value[:40]!r} is not a state", f"one of {', '.join(COMPONENT_STATES)}")
    if note.kind == "fact" and not note.value.strip():
        raise _wrong("a fact needs a value", "give its value, or leave the fact out")
    return note


def _wrong(message: str, hint: str) -> InvalidInput:
    return InvalidInput("note-invalid", message, hint)


def to_data(note: Note) -> dict[str, Any]:
    """The note as plain values, for a store; its incident and id are its key."""
    row: dict[str, Any] = {"version": _VERSION, "kind": note.kind, "who": note.who, "at_ms": note.at_ms}
    return row | {key: value for key in CONTENT if (value := getattr(note, key))}


def from_data(incident: str, id: str, row: Any) -> Note:
    """Raises InvalidInput if the data is not a note of this version."""
    if not isinstance(row, Mapping) or row.get("version") != _VERSION:
        raise _wrong(f"the note {id[:40]} cannot be read here", "open it with a newer version")
    texts = {key: row.get(key, "") for key in ("kind", "who", *CONTENT) if key != "due_ms"}
    at_ms, due_ms = row.get("at_ms"), row.get("due_ms", 0)
    plain = all(isinstance(value, str) for value in texts.values())
    if not plain or type(at_ms) is not int or type(due_ms) is not int:
        raise _wrong(f"note {id[:40]} is malformed", "leave it out")
    return checked(Note(id, incident, at_ms=at_ms, due_ms=due_ms, **texts))


def in_order(notes: Iterable[Note]) -> tuple[Note, ...]:
    """By time, then id: ids of evac grow with time."""
    return tuple(sorted(notes, key=lambda note: (note.at_ms, note.id)))


def commander(notes: Sequence[Note]) -> tuple[str, int]:
    """The incident commander, and since when; empty and 0 if none was named."""
    last = next((note for note in reversed(in_order(notes)) if note.kind == "command"), None)
    return (last.value, last.at_ms) if last is not None else ("", 0)


def facts(notes: Iterable[Note]) -> dict[str, Note]:
    """Field -> the last note that states it."""
    return {note.name: note for note in in_order(notes) if note.kind == "fact"}


def open_draft(notes: Sequence[Note]) -> Note | None:
    """The newest draft with no published update after it."""
    last = next((n for n in reversed(in_order(notes)) if n.kind in ("draft", "update")), None)
    return last if last is not None and last.kind == "draft" else None


def resolution(notes: Sequence[Note]) -> Note | None:
    """The last note that resolves or reopens the incident; None if there is none."""
    return next((n for n in reversed(in_order(notes)) if n.kind in ("resolved", "reopened")), None)


WATCH: Final = "watch"
"""Name of the stream that holds notices."""

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Notice:
    """One alert from the watch journal. `number`: its place there, from 1. `data`: small plain values."""

    number: int
    kind: str
    at_ms: int
    site: str
    words: str
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of an incident. events: in the order of the journal, whose first record is number 1; others:
    specs of the plans that replaced the first; plans: digest -> plan, of those that are plans of services
    at all.
    """

    spec: RunSpec
    events: Sequence[Event]
    others: Sequence[RunSpec] = ()
    plans: Mapping[str, Plan] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def run(self) -> str:
        return self.spec.run

    @property
    def created_ms(self) -> int:
        return self.events[0].at_ms if self.events else 0

    @property
    def ended_ms(self) -> int | None:
        """When it ended; None while it is open."""
        return next((e.at_ms for e in reversed(self.events) if e.kind == "run_ended"), None)

    @property
    def plan(self) -> Plan | None:
        """The plan that it started with."""
        return self.plans.get(self.spec.plan)

    @property
    def plan_in_force(self) -> str:
        """The digest of its latest plan."""
        return (self.spec.plan, *plans_of(self.events))[-1]


@dataclass(frozen=True, slots=True)
class StoreLoss:
    """The most data that the promotion of a store lost. `most_ms` None: not known."""

    store: str
    most_ms: int | None
    words: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where a statement can be looked up: the stream, and the number of the record in it, from 1. A note is
    one key and has the number 0.
    """

    stream: str
    number: int

    def __str__(self) -> str:
        return f"{self.stream}#{self.number}" if self.number else self.stream


Weight = Literal["main", "detail"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One timeline entry. `weight`: whether a reader who wants the story needs it; `at_ms`: by the writer's
    clock.
    """

    at_ms: int
    kind: str
    words: str
    source: Source
    incident: str = ""
    run: str = ""
    step: str = ""
    weight: Weight = "main"
    service: str = ""
    """The service, if the entry is about one."""
