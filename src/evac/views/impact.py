"""How many people are without a service because of a loss: as planned, as it was, and as is expected. Pure.

People of several services are counted once for each, because no one knows how many use several: every
figure is an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evac.model.plan import Outcome

Line = tuple[tuple[int, int], ...]
"""(moment, people from then on), in order of time."""


@dataclass(frozen=True, slots=True)
class Downtime:
    """One service that is down because of the loss, or was. Moments are of the wall clock, 0 for never."""

    service: str
    people: int | None
    """None where nobody states it; sums leave it out, and say so."""
    tier: int
    since_ms: int
    planned_ms: int
    """When the plan has it back."""
    back_ms: int
    """When it was."""
    expected_ms: int
    """When it will be, if nothing changes and what waits for a person is done now."""
    limit_ms: int
    """Until when it was promised; 0: nothing is promised."""

    @property
    def is_down(self) -> bool:
        return not self.back_ms


@dataclass(frozen=True, slots=True)
class Impact:
    """A loss and the services that it took down, those that are down first."""

    lost_ms: int
    now_ms: int
    services: tuple[Downtime, ...]

    @property
    def down(self) -> tuple[Downtime, ...]:
        return tuple(one for one in self.services if one.is_down)

    @property
    def people_now(self) -> int:
        return sum(one.people or 0 for one in self.down)

    @property
    def unstated_now(self) -> int:
        """Services that are down and not in it."""
        return sum(one.people is None for one in self.down)

    @property
    def unstated(self) -> int:
        """Services that are in no figure."""
        return sum(one.people is None for one in self.services)

    @property
    def people_left(self) -> int:
        """For whom this run restores nothing."""
        return sum(one.people or 0 for one in self.down if not one.expected_ms)

    @property
    def peak(self) -> int:
        return max((people for _, people in self.actual), default=0)

    @property
    def end_ms(self) -> int:
        """When the last service is back that comes back; 0 if none does."""
        return max((one.expected_ms or one.back_ms for one in self.services), default=0)

    @property
    def planned(self) -> Line:
        return _line((one.since_ms, one.planned_ms, one.people or 0) for one in self.services)

    @property
    def actual(self) -> Line:
        """Up to now."""
        return _line((one.since_ms, one.back_ms, one.people or 0) for one in self.services)

    @property
    def expected(self) -> Line:
        """From now on."""
        line = _line((self.now_ms, one.expected_ms, one.people or 0) for one in self.down)
        return line or ((self.now_ms, 0),)


def _line(spans: Iterable[tuple[int, int, int]]) -> Line:
    """spans: (from, until, people); an until of 0 never comes."""
    changes: dict[int, int] = {}
    for begin, end, people in spans:
        changes[begin] = changes.get(begin, 0) + people
        if end:
            end = max(begin, end)
            changes[end] = changes.get(end, 0) - people
    found, people = [], 0
    for at_ms in sorted(changes):
        people += changes[at_ms]
        found.append((at_ms, people))
    return tuple(found)


def impact_of(
    outcomes: Iterable[Outcome],
    unstated: frozenset[str],
    lost_ms: int,
    begun_ms: int,
    back: Mapping[str, int],
    coming: Mapping[str, int],
    now_ms: int,
) -> Impact:
    """unstated: services of which nobody states how many use them. back, coming: service -> when it was
    restored, and when it is expected to be. begun_ms: when the run began, 0 before that; a service that is
    shed is down from then on.
    """
    rows = []
    for one in outcomes:
        lost = one.base_ms is None or one.state in ("shed", "unplaced")
        if one.state in ("running", "unknown") or not (lost or one.goes_down):
            continue
        since = begun_ms if one.state == "shed" else lost_ms
        planned = 0
        if one.base_ms is not None and not lost:
            planned = begun_ms + one.base_ms if begun_ms else coming.get(one.service, 0)
        limit = lost_ms + one.rto_ms if one.rto_ms is not None else 0
        at, expected = (0, 0) if lost else (back.get(one.service, 0), coming.get(one.service, 0))
        if since:
            count, expected = None if one.service in unstated else one.people, 0 if at else expected
            rows.append(Downtime(one.service, count, one.tier, since, planned, at, expected, limit))
    rows.sort(key=_urgency)
    return Impact(lost_ms, now_ms, tuple(rows))


def _urgency(one: Downtime) -> tuple[bool, bool, int, int, str]:
    return (bool(one.back_ms), not one.expected_ms, one.expected_ms, one.tier, one.service)
