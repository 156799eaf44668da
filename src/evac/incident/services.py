"""The fate of each service in a run: down, degraded, moving or up, since when, and by which record. Pure.

A service is up at its base milestone once the journal shows every step of that milestone as done. A step that
a person skipped proves nothing, so the service stays down until a person confirms that it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final, Literal, Protocol, TypeVar

from evac.incident.records import RunRecord, Source
from evac.model.plan import Outcome, Plan
from evac.model.records import dataclass
from evac.model.step_id import StepId
from evac.run.state import apply
from evac.run.values import ENDED, Event
from evac.run.view import RunView
from evac.steps.registry import kind_of

Level = Literal["up", "degraded", "moving", "down"]
PLANNED: Final = frozenset({"evacuate", "failback"})
"""Questions whose services keep serving while they move."""

_TOUCHES_ALL: Final = frozenset({"run_started", "plan_replaced", "feed_tripped", "run_ended"})


@dataclass(frozen=True, slots=True)
class Change:
    """From `at_ms` on the service is at `level`, proved by the record `source`."""

    at_ms: int
    level: Level
    source: Source


@dataclass(frozen=True, slots=True)
class Fate:
    """A service in an incident. changes: in order of time; people: users affected when it is down, as stated
    in the estate when the plan was made; None if not stated.
    """

    service: str
    tier: int
    people: int | None
    rto_ms: int | None
    changes: tuple[Change, ...]

    @property
    def level(self) -> Level:
        return self.changes[-1].level if self.changes else "up"

    @property
    def was_down(self) -> bool:
        return any(change.level == "down" for change in self.changes)

    @property
    def touched(self) -> bool:
        """Whether it was ever not up."""
        return any(change.level != "up" for change in self.changes)

    @property
    def noticed(self) -> bool:
        """Whether its users may have noticed something: a move is announced only while it lasts."""
        return self.level != "up" or any(change.level in ("down", "degraded") for change in self.changes)

    @property
    def down_since_ms(self) -> int | None:
        return first_down_ms(self.changes)

    @property
    def restored(self) -> Change | None:
        """When it last left `down`; None if it is still down or never was."""
        return restored(self.changes)

    def lasted_ms(self, level: Level, until_ms: int) -> int:
        """How long it was at a level, up to `until_ms`."""
        return lasted_ms(self.changes, level, until_ms)


class AtLevel(Protocol):
    """From `at_ms` on something is at `level`."""

    @property
    def at_ms(self) -> int: ...
    @property
    def level(self) -> str: ...


Given = TypeVar("Given", bound=AtLevel)


def first_down_ms(changes: Iterable[AtLevel]) -> int | None:
    return next((change.at_ms for change in changes if change.level == "down"), None)


def restored(changes: Sequence[Given]) -> Given | None:
    """The change with which `down` ended for the last time; None if it lasts or never was."""
    found = None
    for before, after in pairwise(changes):
        if before.level == "down" and after.level != "down":
            found = after
    return None if changes and changes[-1].level == "down" else found


def lasted_ms(changes: Sequence[AtLevel], level: str, until_ms: int) -> int:
    """How long a level lasted, up to `until_ms`."""
    ends = (*(change.at_ms for change in changes[1:]), until_ms)
    return sum(
        max(0, min(end, until_ms) - change.at_ms)
        for change, end in zip(changes, ends, strict=False)
        if change.level == level
    )


def fates(record: RunRecord, begun_ms: int, begun: Source) -> tuple[Fate, ...]:
    """The services that a run concerns, sorted by id. begun_ms: when the incident began, as `begun` proves.

    Raises RunError if the journal contradicts itself.
    """
    walk = Walk(record, begun_ms, begun)
    walk.read_on(record.events)
    return walk.found()


def merged(parts: Iterable[tuple[Fate, ...]]) -> tuple[Fate, ...]:
    """The fates over several runs of one incident, merged in order of time."""
    rows: dict[str, Fate] = {}
    for part in parts:
        for fate in part:
            old = rows.get(fate.service)
            if old is None:
                rows[fate.service] = fate
                continue
            changes = tuple(sorted((*old.changes, *fate.changes), key=lambda change: change.at_ms))
            said = [one.people for one in (old, fate) if one.people is not None]
            rows[fate.service] = replace(old, people=max(said, default=None), changes=changes)
    return tuple(rows[service] for service in sorted(rows))


class Walk:
    """Replays a run and, after each event, updates the services that it affects. record: provides the plans
    from the start; events are applied as `read_on` receives them.
    """

    def __init__(self, record: RunRecord, begun_ms: int, begun: Source) -> None:
        self.since = begun_ms, begun
        self._taken = 0
        self._record = record
        self._view = RunView(record.spec, record.others)
        self._outcomes: dict[str, Outcome] = {}
        self._unstated: set[str] = set()
        self._planned = False
        self._changes: dict[str, list[Change]] = {}
        self._miles = {
            (digest, step.id): step.milestone for digest, plan in record.plans.items() for step in plan.steps
        }
        self._base: dict[str, list[int]] = {}
        self._top: dict[str, list[int]] = {}
        self._shed: dict[str, list[int]] = {}
        self._of_step: dict[int, list[str]] = {}
        self._begin(record.plan)
        self._look(self._outcomes, begun_ms, begun)

    def _begin(self, plan: Plan | None) -> None:
        if plan is None:
            return
        self._planned = plan.scenario.kind in PLANNED
        self._outcomes.update({outcome.service: outcome for outcome in plan.outcomes})
        self._unstated |= plan.unstated
        self._sort_steps()

    def _sort_steps(self) -> None:
        """Finds which steps decide about which service under the present plan."""
        self._base, self._top, self._shed, self._of_step = {}, {}, {}, {}
        for i, step in enumerate(self._view.steps):
            if step.target not in self._outcomes:
                continue
            kind = kind_of(step.kind)
            if kind.frees_capacity:
                self._note(self._shed, step.target, i)
            elif kind.phase:
                self._note(self._top if self._mile(step.id) == "top" else self._base, step.target, i)
        for service, outcome in self._outcomes.items():
            if service not in self._base:
                for name in outcome.critical:
                    i = self._view.index.get(name, -1)
                    if i >= 0:
                        self._note(self._base, service, i)

    def _note(self, rows: dict[str, list[int]], service: str, i: int) -> None:
        rows.setdefault(service, []).append(i)
        self._of_step.setdefault(i, []).append(service)

    def _mile(self, name: str) -> str:
        """The milestone of a step; a share of a shift has the milestone of the whole shift."""
        plan, there = self._view.origin_of(name)
        found = self._miles.get((plan, there))
        whole = str(StepId.parse(there).whole)
        return self._miles.get((plan, whole), "base") if found is None else found

    def read_on(self, events: Sequence[Event]) -> None:
        """Takes all events of the run and skips those already applied."""
        for event in events[self._taken :]:
            self._taken += 1
            self.take(event, Source(self._record.run, self._taken))

    def take(self, event: Event, source: Source) -> None:
        apply(self._view, event)
        if event.kind == "plan_replaced":
            self._begin(self._record.plans.get(self._view.plans[-1]))
            self._sort_steps()
        if event.kind in _TOUCHES_ALL:
            self._look(self._outcomes, event.at_ms, source)
        elif event.step:
            touched = self._of_step.get(self._view.index.get(event.step, -1), ())
            self._look(touched, event.at_ms, source)

    def _look(self, services: Iterable[str], at_ms: int, source: Source) -> None:
        for service in services:
            level = self._level(service, self._outcomes[service])
            rows = self._changes.setdefault(service, [])
            if level != (rows[-1].level if rows else "up"):
                rows.append(Change(max(at_ms, rows[-1].at_ms if rows else at_ms), level, source))

    def _done(self, rows: Mapping[str, list[int]], service: str) -> bool:
        return all(self._view.phases[i] == "succeeded" for i in rows.get(service, ()))

    def _level(self, service: str, outcome: Outcome) -> Level:
        if self._planned:
            moves = service in self._base or service in self._top
            under_way = self._view.started_ms >= 0 and self._view.phase not in ENDED
            return "moving" if moves and under_way else "up"
        if service in self._shed:
            lost = outcome.goes_down and (outcome.base_ms is None or bool(outcome.critical))
            if not lost and not any(self._view.phases[i] == "succeeded" for i in self._shed[service]):
                return "up"
            if service in self._base and self._done(self._base, service):
                return "degraded" if outcome.state == "degraded" else "up"
            away = lost or outcome.state in ("shed", "unplaced") or outcome.base_outage_ms > 0
            return "down" if away else "degraded"
        if not self._done(self._base, service):
            return "down" if outcome.goes_down else "degraded"
        if service not in self._base and outcome.goes_down:
            view = self._view
            is_whole = view.phase == "succeeded_with_exceptions" and not (view.exceptions or view.leftover)
            back = outcome.base_ms is not None and (view.phase == "succeeded" or is_whole)
            return "up" if back else "down"
        if not self._done(self._top, service):
            return "degraded"
        return "degraded" if outcome.state == "degraded" and service not in self._top else "up"

    def found(self) -> tuple[Fate, ...]:
        found = []
        for service, one in sorted(self._outcomes.items()):
            count = None if service in self._unstated else one.people
            if self._changes.get(service):
                found.append(Fate(service, one.tier, count, one.rto_ms, tuple(self._changes[service])))
        return tuple(found)
