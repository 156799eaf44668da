"""One incident as a whole: when it began and ended, by which record, its commander, and who was affected.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from evac.incident import records as people
from evac.incident.records import DAY_MS, HOUR_MS, WATCH, Note, Notice, RunRecord, Source, StoreLoss
from evac.incident.services import Fate, fates, merged
from evac.model.records import dataclass

LOOK_BACK_MS: Final = DAY_MS
"""How long before a run a suspicion about its sites may have begun and still belong to it."""
LOOK_AFTER_MS: Final = HOUR_MS
_TROUBLED: Final = frozenset({"suspect", "isolated", "lost", "unknown"})


@dataclass(frozen=True, slots=True)
class Dossier:
    """Everything known about one incident. notices: the whole watch stream, in order; losses: of the stores
    that its runs promoted.
    """

    incident: str
    runs: tuple[RunRecord, ...] = ()
    notices: Sequence[Notice] = ()
    notes: tuple[Note, ...] = ()
    losses: tuple[StoreLoss, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """begun_ms: time of the first sign, which `begun` proves; detected_ms: when a loss was decided or the run
    was created. ended_ms None: still open. people_least, people_most: it is unknown how many people use
    several services, so the truth is between the largest service and the sum of all; both leave out
    people_unstated, the number of services without a stated number of users.
    """

    incident: str
    title: str
    sites: tuple[str, ...]
    begun_ms: int
    begun: Source
    detected_ms: int
    detected: Source
    ended_ms: int | None
    ended: Source | None
    commander: str
    commander_since_ms: int
    fates: tuple[Fate, ...]
    people_least: int
    people_most: int
    people_unstated: int

    @property
    def state(self) -> str:
        """`over, services down`: a person resolved it, and records leave services down."""
        if self.ended_ms is None:
            return "under way"
        return "over, services down" if self.still_down else "over"

    @property
    def still_down(self) -> tuple[str, ...]:
        """Most important first: by tier, then by people."""
        down = [fate for fate in self.fates if fate.level == "down"]
        return tuple(f.service for f in sorted(down, key=lambda f: (f.tier, -(f.people or 0), f.service)))


def sites_of(dossier: Dossier) -> tuple[str, ...]:
    """The sites that its plans concern and those lost meanwhile; sorted."""
    found: set[str] = set()
    for record in dossier.runs:
        for plan in record.plans.values():
            found |= {domain.partition("/")[0] for domain in plan.scenario.domains}
        for event in record.events:
            if event.kind == "plan_replaced":
                found |= {str(site) for site in event.data.get("lost", ())}
            elif event.kind == "run_created" and isinstance(event.data.get("envelope"), dict):
                found |= {str(site) for site in event.data["envelope"].get("sites", ())}
    return tuple(sorted(found))


def begun(dossier: Dossier) -> tuple[int, Source]:
    """The first sign: the first suspicion about one of its sites that had not cleared before the first run
    was created; else the very first record. (0, no source) if nothing is known.
    """
    first = min(((r.created_ms, Source(r.run, 1)) for r in dossier.runs if r.events), key=_at, default=None)
    if first is None:
        written = people.in_order(dossier.notes)
        return (written[0].at_ms, note_source(written[0])) if written else (0, Source("", 0))
    sites, found = set(sites_of(dossier)), first
    doubts: dict[str, tuple[int, Source]] = {}
    for notice in dossier.notices:
        if notice.kind != "verdict" or notice.site not in sites or notice.at_ms > first[0]:
            continue
        if notice.data.get("state") not in _TROUBLED:
            doubts.pop(notice.site, None)
        elif notice.at_ms >= first[0] - LOOK_BACK_MS:
            doubts.setdefault(notice.site, (notice.at_ms, Source(WATCH, notice.number)))
    return min((*doubts.values(), found), key=_at)


def detected(dossier: Dossier) -> tuple[int, Source]:
    """The first verdict that one of its sites is lost; else the creation of its first run."""
    since = begun(dossier)
    sites = set(sites_of(dossier))
    for notice in dossier.notices:
        lost = notice.kind == "verdict" and notice.data.get("state") == "lost" and notice.site in sites
        if lost and notice.at_ms >= since[0] and belongs(dossier, notice, since[0], None, sites):
            return notice.at_ms, Source(WATCH, notice.number)
    return min(((r.created_ms, Source(r.run, 1)) for r in dossier.runs if r.events), key=_at, default=since)


FatesOf = Callable[[RunRecord, int, Source], tuple[Fate, ...]]
"""Like `services.fates`."""


def summary(dossier: Dossier, fates_of: FatesOf = fates) -> Summary:
    """fates_of: a reader that has read part of a run already. Raises RunError if a journal contradicts
    itself.
    """
    since_ms, proof = begun(dossier)
    rows = merged(fates_of(record, since_ms, proof) for record in dossier.runs)
    ended_ms, ended_by = _end(dossier, rows)
    who, who_ms = people.commander(dossier.notes)
    felt = [fate.people for fate in rows if fate.was_down and fate.people is not None]
    seen_ms, seen = detected(dossier)
    return Summary(
        dossier.incident,
        title_of(dossier),
        sites_of(dossier),
        since_ms,
        proof,
        seen_ms,
        seen,
        ended_ms,
        ended_by,
        who,
        who_ms,
        rows,
        max(felt, default=0),
        sum(felt),
        sum(fate.was_down and fate.people is None for fate in rows),
    )


def title_of(dossier: Dossier) -> str:
    """What the first run responds to, in the words of its plan."""
    for record in dossier.runs:
        words = record.spec.labels.get("scenario") or (record.plan.scenario.title if record.plan else "")
        if words:
            return words
    return "no run yet" if not dossier.runs else "a run"


def _end(dossier: Dossier, rows: Sequence[Fate]) -> tuple[int | None, Source | None]:
    """A person's last statement; else the end of the last run, if every service is up by then."""
    last = people.resolution(dossier.notes)
    if last is not None:
        return (last.at_ms, note_source(last)) if last.kind == "resolved" else (None, None)
    times = [record.ended_ms for record in dossier.runs]
    if not times or None in times or any(fate.level in ("down", "moving") for fate in rows):
        return None, None
    ends = [
        (record.ended_ms or 0, Source(record.run, number))
        for record in dossier.runs
        for number, event in enumerate(record.events, 1)
        if event.kind == "run_ended"
    ]
    return max(ends, key=_at)


def belongs(
    dossier: Dossier, notice: Notice, begun_ms: int, ended_ms: int | None, sites: Collection[str]
) -> bool:
    """Whether a watch record belongs to this incident: it names one of its runs, or it names one of its sites
    (or none at all) during the incident. sites: of the incident.
    """
    runs = {record.run for record in dossier.runs}
    named = notice.data.get("run")
    if named is not None:
        return named in runs
    if notice.at_ms < begun_ms or (ended_ms is not None and notice.at_ms > ended_ms + LOOK_AFTER_MS):
        return False
    return bool(runs) and (not notice.site or notice.site in sites or notice.kind == "leader")


def note_source(note: Note) -> Source:
    return Source(f"note/{note.incident}/{note.id}", 0)


def _at(row: tuple[int, Source]) -> tuple[int, str, int]:
    return row[0], row[1].stream, row[1].number
