"""An incident as frozen values: the single definition of what people and programs see of it.

The JSON of the command and of the API, text, pages and the OpenAPI document are made of these classes. Times
are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evac.incident.incident import Dossier, Summary
from evac.incident.records import Entry
from evac.incident.services import Fate, first_down_ms, lasted_ms, restored
from evac.model.records import dataclass

_WORST_FIRST: Final[Mapping[str, int]] = {"down": 0, "degraded": 1, "moving": 2, "up": 3}


@dataclass(frozen=True, slots=True)
class IncidentShort:
    """An incident in one line."""

    incident: str
    title: str
    state: str
    sites: tuple[str, ...]
    begun_ms: int
    begun_by: str
    detected_ms: int
    ended_ms: int | None
    ended_by: str | None
    """The record that proves it. People affected: between `people_least` and `people_most`."""
    commander: str
    commander_since_ms: int
    people_least: int
    people_most: int
    people_unstated: int
    still_down: tuple[str, ...]
    services: int
    run: str
    """Empty if people wrote notes and there is no run."""

    def until_ms(self, now_ms: int) -> int:
        """Its end, or the present while it is open."""
        return now_ms if self.ended_ms is None else self.ended_ms


@dataclass(frozen=True, slots=True)
class ChangeShown:
    """The service was at `level` from `at_ms` on; the record `source` proves it."""

    at_ms: int
    level: str
    source: str


@dataclass(frozen=True, slots=True)
class FateShown:
    """What happened to one service."""

    service: str
    tier: int
    people: int | None
    level: str
    rto_ms: int | None
    changes: tuple[ChangeShown, ...]

    @property
    def down_since_ms(self) -> int | None:
        return first_down_ms(self.changes)

    @property
    def restored_ms(self) -> int | None:
        """When it last left `down`; None if it is still down or never was."""
        found = restored(self.changes)
        return None if found is None else found.at_ms

    def down_ms(self, until_ms: int) -> int:
        """How long it was down, up to `until_ms`."""
        return lasted_ms(self.changes, "down", until_ms)


@dataclass(frozen=True, slots=True)
class IncidentCourse:
    """One incident, and what happened to each service."""

    incident: IncidentShort
    touched: tuple[FateShown, ...]
    """Services that were ever not up, up again or not: those that are down first, then by tier and people."""


@dataclass(frozen=True, slots=True)
class IncidentShown(IncidentCourse):
    """One incident. `touched`: services that were ever not up; those that are down come first."""

    notes: int
    entries: int
    plan: str
    """Digest of the plan in force; empty without a run."""


@dataclass(frozen=True, slots=True)
class EntryShown:
    """One timeline entry. `number` counts from 1; `stream` and `record` name the record that proves it."""

    number: int
    at_ms: int
    kind: str
    words: str
    run: str
    step: str
    weight: str
    stream: str
    record: int


def incident_short(dossier: Dossier, about: Summary) -> IncidentShort:
    return IncidentShort(
        incident=about.incident,
        title=about.title,
        state=about.state,
        sites=about.sites,
        begun_ms=about.begun_ms,
        begun_by=str(about.begun),
        detected_ms=about.detected_ms,
        ended_ms=about.ended_ms,
        ended_by=None if about.ended is None else str(about.ended),
        commander=about.commander,
        commander_since_ms=about.commander_since_ms,
        people_least=about.people_least,
        people_most=about.people_most,
        people_unstated=about.people_unstated,
        still_down=about.still_down,
        services=sum(fate.touched for fate in about.fates),
        run=dossier.runs[0].run if dossier.runs else "",
    )


def incident_course(dossier: Dossier, about: Summary) -> IncidentCourse:
    return IncidentCourse(incident_short(dossier, about), _touched(about))


def incident_document(dossier: Dossier, about: Summary, entries: Sequence[Entry]) -> IncidentShown:
    """entries: its whole timeline."""
    return IncidentShown(
        incident_short(dossier, about),
        _touched(about),
        len(dossier.notes),
        len(entries),
        dossier.runs[0].plan_in_force if dossier.runs else "",
    )


def _touched(about: Summary) -> tuple[FateShown, ...]:
    """Those that are down first, then by tier and people."""
    touched = sorted(
        (fate for fate in about.fates if fate.touched),
        key=lambda f: (_WORST_FIRST[f.level], f.tier, -(f.people or 0), f.service),
    )
    return tuple(map(_fate_shown, touched))


def _fate_shown(fate: Fate) -> FateShown:
    changes = tuple(ChangeShown(c.at_ms, c.level, str(c.source)) for c in fate.changes)
    return FateShown(fate.service, fate.tier, fate.people, fate.level, fate.rto_ms, changes)


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
