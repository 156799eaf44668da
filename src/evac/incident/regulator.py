"""What a regulator asks after an incident, as far as records and people state it; the rest is reported as not
known. Pure.

Nothing is guessed. Each field carries its basis: the record that proves it, a person's fact, or the estate.
What a journal cannot know comes from notes of kind `fact`, named as in `FACTS`.

Also what Korean law requires a provider to tell its users after an interruption, and when it is due.

Telecommunications Business Act, Article 33(2), and its Enforcement Decree, Article 37-13: without delay the
interruption, its cause, the measures taken and a contact; within 30 days after the service resumed or the
cause was removed, who may claim damages, on which basis, and how. Whether an exception of the decree applies
is a legal question and not answered here, nor whether a report to the Ministry of Science and ICT is due
(operators of data centres, and designated operators); the basics of this report contain what such a report
needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal

from evac.incident import records as people
from evac.incident.incident import Dossier, Summary
from evac.incident.records import DAY_MS, Entry, Note, StoreLoss, in_order
from evac.incident.services import Change, Fate
from evac.incident.timeline import timeline
from evac.model.errors import InvalidInput
from evac.model.records import dataclass
from evac.steps.registry import KINDS

FactKind = Literal["text", "count", "yes or no", "moment"]
FACTS: Final[Mapping[str, FactKind]] = MappingProxyType(
    {
        "cause": "text",
        "cause_addressed_at": "moment",
        "resolution": "text",
        "measures": "text",
        "occurred_at": "moment",
        "classified_at": "moment",
        "contact": "text",
        "entity": "text",
        "lei": "text",
        "authority_reference": "text",
        "origin_third_party": "text",
        "critical_services": "yes or no",
        "malicious_access": "yes or no",
        "clients_affected": "count",
        "clients_total": "count",
        "counterparts_affected": "count",
        "counterparts_total": "count",
        "transactions_affected": "count",
        "transactions_daily": "count",
        "transactions_value": "text",
        "relevant_clients": "yes or no",
        "reputation_touched": "yes or no",
        "reputation_words": "text",
        "member_states": "count",
        "member_states_words": "text",
        "data_losses": "yes or no",
        "data_losses_words": "text",
        "costs_eur": "count",
        "recoveries_eur": "count",
        "users_notified_at": "moment",
        "damages_notified_at": "moment",
        "damages_claimants": "text",
        "damages_basis": "text",
        "damages_procedure": "text",
    }
)
"""Names of facts that a person can state, and what each contains."""

ACTIONS_MOST: Final = 500
_ACTING: Final = frozenset(
    {
        "decided",
        "paused",
        "resumed",
        "held",
        "released",
        "cancelled",
        "rolled back",
        "failed",
        "skipped",
        "moved",
        "command taken",
        "published",
        "resolved",
        "reopened",
        "ended",
        *(kind.entry.kind for kind in KINDS if kind.entry.weight == "main"),
    }
)
"""Kinds of timeline entries that a report counts as actions: among them, every step of weight."""


@dataclass(frozen=True, slots=True)
class Stated:
    """One field. `value` None: not known. `basis`: where it comes from, as text."""

    value: str | int | None
    basis: str = ""

    @property
    def known(self) -> bool:
        return self.value is not None


NOT_KNOWN: Final = Stated(None, "not recorded")


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """`down_ms`: time without service, until now if it is still down; `restored_ms` None: no record restores
    it, whether or not a person resolved the incident.
    """

    service: str
    tier: int
    people: int | None
    down_since_ms: int
    restored_ms: int | None
    down_ms: int
    rto_ms: int | None
    basis: str


@dataclass(frozen=True, slots=True)
class Basics:
    """What every regulator asks for. `at_ms`: as of when. All times UTC, milliseconds since 1970."""

    incident: str
    title: str
    at_ms: int
    state: str
    start: Stated
    detected: Stated
    end: Stated
    duration: Stated
    cause: Stated
    people: Stated
    sites: tuple[str, ...]
    services: tuple[ServiceReport, ...]
    losses: tuple[StoreLoss, ...]
    actions: tuple[Entry, ...]
    actions_left_out: int


def check_fact(note: Note) -> Note:
    """The note. Raises InvalidInput for an unknown fact, or an invalid value."""
    kind = FACTS.get(note.name)
    if kind is None:
        raise InvalidInput(
            "fact-unknown", f"{note.name[:40]!r} is not a fact", f"one of {', '.join(sorted(FACTS))}"
        )
    if kind == "count" and not (note.value.isascii() and note.value.isdigit() and len(note.value) <= 15):
        raise InvalidInput("fact-invalid", f"{note.name} must be a whole number", "write digits only")
    if kind == "yes or no" and note.value not in ("yes", "no"):
        raise InvalidInput("fact-invalid", f"{note.name} must be yes or no", "write yes or no")
    if kind == "moment" and moment_of(note.value) is None:
        raise InvalidInput(
            "fact-invalid", f"{note.name} must be a time", "use a value like 2026-11-25T06:30:00Z"
        )
    return note


def moment_of(words: str) -> int | None:
    """Milliseconds since 1970 of an ISO 8601 moment with its offset; None for anything else."""
    try:
        found = datetime.fromisoformat(words)
    except ValueError:
        return None
    return None if found.tzinfo is None else int(found.timestamp() * 1000)


class Said:
    """The facts that people stated, parsed."""

    def __init__(self, notes: Sequence[Note]) -> None:
        self._facts = people.facts(notes)

    def text(self, name: str) -> Stated:
        note = self._facts.get(name)
        return NOT_KNOWN if note is None else Stated(note.value, basis_of(note))

    def count(self, name: str) -> Stated:
        note = self._facts.get(name)
        digits = note is not None and note.value.isascii() and note.value.isdigit()
        return Stated(int(note.value), basis_of(note)) if note is not None and digits else NOT_KNOWN

    def moment(self, name: str) -> Stated:
        note = self._facts.get(name)
        at_ms = moment_of(note.value) if note is not None else None
        return NOT_KNOWN if note is None or at_ms is None else Stated(at_ms, basis_of(note))

    def yes(self, name: str) -> tuple[bool | None, str]:
        """True, False, or None if it is not stated; and the basis."""
        note = self._facts.get(name)
        if note is None or note.value not in ("yes", "no"):
            return None, NOT_KNOWN.basis
        return note.value == "yes", basis_of(note)


def basis_of(note: Note) -> str:
    return f"{note.who} says so (note {note.id})"


def basics(dossier: Dossier, about: Summary, now_ms: int) -> Basics:
    """The report that every regulator's form is filled from."""
    said = Said(dossier.notes)
    end = _end(about)
    until_ms = int(end.value) if end.value is not None else now_ms
    occurred = said.moment("occurred_at")
    begun = Stated(about.begun_ms, f"first sign, {about.begun}") if about.begun_ms else NOT_KNOWN
    start = occurred if occurred.known else begun
    length = NOT_KNOWN
    if start.value is not None:
        lasted = "end minus start" if end.known else "until now; ongoing"
        length = Stated(until_ms - int(start.value), lasted)
    entries = [e for e in timeline(dossier, about) if e.weight == "main" and e.kind in _ACTING]
    return Basics(
        dossier.incident,
        about.title,
        now_ms,
        about.state,
        start,
        Stated(about.detected_ms, str(about.detected)) if about.detected_ms else NOT_KNOWN,
        end,
        length,
        said.text("cause"),
        affected(said, about),
        about.sites,
        tuple(_service(fate, now_ms) for fate in about.fates if fate.was_down),
        dossier.losses,
        tuple(entries[:ACTIONS_MOST]),
        max(0, len(entries) - ACTIONS_MOST),
    )


def _end(about: Summary) -> Stated:
    """When it was resolved. Resolving restores nothing: while a service is down by the records, the end is
    not known.
    """
    if about.ended_ms is None:
        return Stated(None, "ongoing")
    down = about.still_down
    if down:
        are = "is" if len(down) == 1 else "are"
        return Stated(
            None,
            f"resolved by a person ({about.ended}), but {', '.join(down)} {are} "
            "down according to the records",
        )
    last = _last_restored(about)
    if last is not None and last.at_ms > about.ended_ms:
        return Stated(last.at_ms, str(last.source))
    return Stated(about.ended_ms, str(about.ended))


def _last_restored(about: Summary) -> Change | None:
    """When the last service was restored, by the records; None while one is down, or if none was."""
    found = [fate.restored for fate in about.fates if fate.restored is not None]
    return None if about.still_down else max(found, key=lambda change: change.at_ms, default=None)


def affected(said: Said, about: Summary) -> Stated:
    """Number of people affected; a person's count takes precedence over the number from the estate."""
    told = said.count("clients_affected")
    if told.known:
        return told
    if not any(fate.was_down for fate in about.fates):
        return NOT_KNOWN
    if about.people_unstated:
        more = f"an estimate; {about.people_unstated} more services do not state how many people use them"
        return Stated(f"at least {about.people_least:,}", more) if about.people_least else NOT_KNOWN
    if about.people_least == about.people_most:
        return Stated(about.people_most, "an estimate: people who notice, according to the estate")
    return Stated(
        f"{about.people_least:,} to {about.people_most:,}",
        "an estimate from the estate: at least those of the largest service, at most the sum of all",
    )


def _service(fate: Fate, until_ms: int) -> ServiceReport:
    back = fate.restored
    first = next(change for change in fate.changes if change.level == "down")
    basis = f"down: {first.source}; " + (f"back: {back.source}" if back is not None else "not back")
    return ServiceReport(
        fate.service,
        fate.tier,
        fate.people,
        first.at_ms,
        back.at_ms if back is not None else None,
        fate.lasted_ms("down", until_ms),
        fate.rto_ms,
        basis,
    )


DAMAGES_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing to report. told: when it was reported, by the records; due_ms None: no date can be named
    yet.
    """

    law: str
    words: str
    due: str
    due_ms: int | None
    told: Stated
    content: tuple[tuple[str, Stated], ...]


def duties(dossier: Dossier, about: Summary, report: Basics) -> tuple[Duty, ...]:
    said = Said(dossier.notes)
    published = next((note for note in in_order(dossier.notes) if note.kind == "update"), None)
    told = said.moment("users_notified_at")
    if not told.known and published is not None:
        told = Stated(published.at_ms, f"first published update (note {published.id})")
    measures = said.text("measures")
    if not measures.known and report.actions:
        measures = Stated(f"{len(report.actions)} actions, listed below", "the journal")
    last = _last_restored(about)
    resumed_ms = last.at_ms if last is not None else about.ended_ms
    goes_on = about.ended_ms is None or bool(about.still_down)
    due_ms = None if goes_on or resumed_ms is None else resumed_ms + DAMAGES_DAYS * DAY_MS
    return (
        Duty(
            "Telecommunications Business Act, Article 33(2); Enforcement Decree, Article 37-13",
            "inform users of the interruption",
            "without delay",
            about.detected_ms or None,
            told,
            (
                ("that the service is interrupted", report.start),
                ("cause", report.cause),
                ("what is being done about it", measures),
                ("where to ask", said.text("contact")),
            ),
        ),
        Duty(
            "Telecommunications Business Act, Article 33(2); Enforcement Decree, Article 37-13",
            "inform users of damages",
            f"within {DAMAGES_DAYS} days after the service resumed or the cause of the interruption was "
            "removed",
            due_ms,
            said.moment("damages_notified_at"),
            (
                ("who may claim", said.text("damages_claimants")),
                ("basis", said.text("damages_basis")),
                ("procedure", said.text("damages_procedure")),
            ),
        ),
    )
