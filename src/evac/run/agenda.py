"""What a run could do next: queues that follow its steps, so that no decision walks the whole plan.

Derived from the view and disposable: `Agenda(view, now_ms)` builds it, `follow` updates it for changed steps.
Each step is offered once, until an event answers the offer. Total cost over a run: O((steps + edges) log
steps).

Invariant: no promotion before every fence of its store is done or attested; a skipped one proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Final

from evac.run.boots.rules import BootRules
from evac.run.limits import Uses
from evac.run.patience import INTERRUPTIONS_MOST, look_ms, stuck_ms
from evac.run.view import BUSY, RunView
from evac.steps.registry import kind_of

_WAKE: Final = 0
_OBSERVE: Final = 1
_STUCK: Final = 2

_LOOKED_AT_MOST: Final = 100
_STANDS: Final = BUSY | {"succeeded"}


class Agenda:
    """Invariant: every ready step is offered, in `ready`, parked at a limit without capacity for it, asleep
    until a timer, spent (all its tries are used up, or it crashes controllers), or in `blocked` until a
    person, or a health check, releases it. places: rank of a step -> where it is parked, (number of the
    limit, units); other entries of it in `parked` are stale.
    """

    __slots__ = (
        "asleep",
        "blocked",
        "boots",
        "fences",
        "held",
        "now_ms",
        "observe",
        "offered",
        "optional",
        "parked",
        "places",
        "promised",
        "ready",
        "spent",
        "standing",
        "stands",
        "stuck",
        "timers",
        "trying",
        "undo",
    )

    def __init__(self, view: RunView, now_ms: int) -> None:
        self.now_ms = now_ms
        self.ready: list[int] = []
        self.parked: dict[int, dict[int, list[int]]] = {}
        self.places: dict[int, tuple[int, int]] = {}
        self.timers: list[tuple[int, int, int, int]] = []
        self.observe: list[int] = []
        self.undo: list[tuple[int, int]] = []
        self.asleep: set[int] = set()
        self.stuck: list[int] = []
        self.spent: list[int] = []
        self.offered: dict[int, str] = {}
        self.promised: dict[int, Uses] = {}
        self.boots = BootRules()
        self.blocked: dict[int, str] = {}
        self.trying: dict[str, int] = {}
        self.held: dict[str, list[int]] = {}
        self.fences = fences_of(view)
        self.optional = [i for i, step in enumerate(view.steps) if step.optional]
        self.standing: list[int] | None = None
        self.stands = bytearray()
        view.changed.clear()
        view.watched = True
        view.limits.forget_promises()
        rolling = view.phase == "rolling_back" or (
            view.pause is not None and view.pause.back == "rolling_back"
        )
        if rolling:
            self._count_standing(view)
        dull = {"pending", "skipped", "undone", "failed"}
        if not rolling and not view.undo.wanted:
            dull.add("succeeded")
        phases = view.phases
        for i in view.ranked:
            if phases[i] not in dull:
                self._look(view, i)

    def follow(self, view: RunView, now_ms: int) -> None:
        """Takes in changes and expired timers."""
        self.now_ms = now_ms
        changed = view.changed
        if changed:
            for i in changed:
                self._look(view, i)
            changed.clear()
        view.limits.advance(now_ms)
        timers = self.timers
        while timers and timers[0][0] <= now_ms:
            _, what, i, attempt = heappop(timers)
            self._ring(view, what, i, attempt)
        if self.blocked and not view.pacing.stopped:
            for i in [i for i, why in self.blocked.items() if why == "pace"]:
                self.admit(view, i)
        if self.held or self.trying:
            self._let_go(view)

    def _let_go(self, view: RunView) -> None:
        """After a boot server is given up, lets the next boot try it once the previous one has a result; once
        one came up, lets all.
        """
        for server in sorted({*self.held, *self.trying}):
            i = self.trying.get(server, -1)
            gone = server not in view.boots.unreplaced
            if gone or (i >= 0 and view.phases[i] not in BUSY and i not in self.offered):
                self.trying.pop(server, None)
                i = -1
            held = self.held.get(server, [])
            while held and (gone or i < 0):
                i = view.ranked[heappop(held)]
                if self.blocked.get(i) == "image":
                    self.admit(view, i)
                else:
                    i = -1
            if not held:
                self.held.pop(server, None)

    def _ring(self, view: RunView, what: int, i: int, attempt: int) -> None:
        if view.attempts[i] != attempt:
            return
        if what == _WAKE:
            self.asleep.discard(i)
        if what == _WAKE and view.phases[i] == "ready":
            self.admit(view, i)
        elif what == _OBSERVE and view.phases[i] == "unknown":
            self.observe.append(i)
        elif what == _STUCK and view.phases[i] in BUSY and i not in view.stuck:
            self.stuck.append(i)

    def _look(self, view: RunView, i: int) -> None:
        """Puts step i where its phase belongs."""
        phase = view.phases[i]
        if self.offered and i in self.offered:
            self._answered(view, i, phase)
        if phase == "running" or phase == "undoing":
            stuck = view.started[i] + stuck_ms(view.spec.patience, view.steps[i])
            heappush(self.timers, (stuck, _STUCK, i, view.attempts[i]))
        elif phase == "ready":
            self.blocked.pop(i, None)
            self.admit(view, i)
        elif phase == "unknown":
            self._doubt(view, i)
        elif phase == "succeeded":
            if i in view.undo.wanted:
                self._want_undo(view, i)
            if kind_of(view.steps[i].kind).fences:
                for j in [j for j, why in self.blocked.items() if why == "fence"]:
                    self.admit(view, j)
        if phase != "ready":
            if self.blocked:
                self.blocked.pop(i, None)
            if self.asleep:
                self.asleep.discard(i)
        if self.standing is not None:
            self._stand(view, i, phase)

    def _answered(self, view: RunView, i: int, phase: str) -> None:
        if self.offered.pop(i) == "observe":
            return
        promised = self.promised.pop(i, ())
        if phase in BUSY:
            view.limits.keep(promised)
        else:
            view.limits.withdraw(promised)

    def _doubt(self, view: RunView, i: int) -> None:
        times = view.unclear.get(i, 0)
        if not times and i not in view.boots.booting:
            self.observe.append(i)
            return
        again = view.last_ms + (look_ms(view.spec.patience, view.steps[i], times) if times else 0)
        if i in view.boots.booting:  # like one that is followed: checked when it should be up
            took_ms = view.steps[i].duration_ms
            again = max(again, min(view.started[i], view.last_ms) + took_ms)
        heappush(self.timers, (again, _OBSERVE, i, view.attempts[i]))

    def admit(self, view: RunView, i: int) -> None:
        """Queues a ready step, or makes it wait for its time or for a person."""
        step = view.steps[i]
        self.blocked.pop(i, None)
        wake = view.not_before.get(i, 0) if view.not_before else 0
        if step.lag_ms:
            wake = max(wake, step.lag_ms + max((view.ended[view.index[j]] for j in step.after), default=0))
        if step.paced:
            wake = max(wake, view.pacing.next_ms.get(step.target, 0))
        if view.gate_of(i):
            self.blocked[i] = "gate"
        elif kind_of(step.kind).makes_primary and not is_fenced(view, i, self.fences):
            self.blocked[i] = "fence"
        elif step.paced and view.pacing.stopped:
            self.blocked[i] = "pace"
        elif view.tries[i] >= view.spec.patience.attempts or self._ends_controllers(view, i):
            self.spent.append(i)
        elif wake > self.now_ms:
            self.asleep.add(i)
            heappush(self.timers, (wake, _WAKE, i, view.attempts[i]))
        else:
            heappush(self.ready, view.rank[i])

    def _ends_controllers(self, view: RunView, i: int) -> bool:
        return bool(view.interrupted) and view.interrupted.get(i, 0) >= INTERRUPTIONS_MOST

    def next_start(self, view: RunView) -> int:
        """The next step that may start now, with its limits promised; -1 if there is none."""
        while True:
            if (
                view.limits.freed
            ):  # steps that waited for capacity come before steps that have just become ready
                self._wake_parked(view)
            while self.ready:
                i = view.ranked[heappop(self.ready)]
                uses = view.needs(i) if view.keeping else view.uses[i]
                if self._is_passed_over(view, i):
                    if uses and self.parked:  # the capacity that it was woken for goes to those behind it
                        view.limits.freed.update(number for number, _, _ in uses)
                    continue
                if uses:
                    lacking = view.limits.lacking(uses)
                    if lacking >= 0:
                        self._park(view, i, uses, lacking)
                        continue
                    view.limits.promise(uses)
                    self.promised[i] = uses
                if server := view.boots.queue_of(i):
                    self.trying[server] = i
                self.offered[i] = "start"
                return i
            if not view.limits.freed:
                return -1

    def _is_passed_over(self, view: RunView, i: int) -> bool:
        """Whether step i in the queue must not begin now, regardless of capacity."""
        if view.phases[i] != "ready" or i in self.offered or i in self.blocked:
            return True
        if view.steps[i].paced and self._held_back(view, i):
            return True
        return bool(view.boots.unreplaced) and self._waits_for_image(view, i)

    def _held_back(self, view: RunView, i: int) -> bool:
        """Whether the pace changed while a step was queued."""
        if not view.pacing.stopped and view.pacing.next_ms.get(view.steps[i].target, 0) <= self.now_ms:
            return False
        self.admit(view, i)
        return True

    def _waits_for_image(self, view: RunView, i: int) -> bool:
        """Whether another boot is trying the given-up boot server of step i."""
        server = view.boots.queue_of(i)
        if server not in self.trying:
            return False
        self.blocked[i] = "image"
        heappush(self.held.setdefault(server, []), view.rank[i])
        return True

    def _park(self, view: RunView, i: int, uses: Uses, lacking: int) -> None:
        """Parks step i at the limit without capacity; what it leaves unused goes to those behind it."""
        for number, units, _ in uses:
            if number == lacking:
                rank, place = view.rank[i], (number, units)
                if self.places.get(rank) != place:
                    self.places[rank] = place
                    heappush(self.parked.setdefault(number, {}).setdefault(units, []), rank)
            if view.limits.room(number) > 0:
                view.limits.freed.add(number)

    def _wake_parked(self, view: RunView) -> None:
        """Moves steps that now fit the freed limits back into the queue, in order of rank."""
        freed, view.limits.freed = view.limits.freed, set()
        for number in sorted(freed):
            by_units = self.parked.get(number)
            if not by_units:
                continue
            room = view.limits.room(number)
            while room >= 0:
                units = self._first_parked(view, number, room)
                if units < 0:
                    break
                rank = heappop(by_units[units])
                del self.places[rank]
                heappush(self.ready, rank)
                room -= units

    def _first_parked(self, view: RunView, number: int, room: int) -> int:
        """Units of the first parked step, by rank, that fits the capacity; -1 if none does."""
        best, found = -1, -1
        for units, ranks in self.parked[number].items():
            if units > room:
                continue
            place = number, units
            while ranks and not (self.places.get(ranks[0]) == place and self._waits(view, ranks[0])):
                rank = heappop(ranks)
                if self.places.get(rank) == place:
                    del self.places[rank]
            if ranks and (best < 0 or ranks[0] < best):
                best, found = ranks[0], units
        return found

    def startable(self, view: RunView) -> bool:
        """Whether a queued step has capacity; a paused run's queue is not drained."""
        return any(
            self._waits(view, rank) and view.limits.lacking(view.needs(view.ranked[rank])) < 0
            for rank in self.ready
        )

    def full(self, view: RunView, most: int = 3) -> list[str]:
        """Limits at which steps wait for capacity, for messages."""
        waiting = {
            number
            for number, by_units in self.parked.items()
            if any(
                self.places.get(rank) == (number, units) and self._waits(view, rank)
                for units, ranks in by_units.items()
                for rank in ranks
            )
        }
        for rank in islice(self.ready, _LOOKED_AT_MOST):
            if self._waits(view, rank):
                waiting.add(view.limits.lacking(view.needs(view.ranked[rank])))
        return [view.limits.limits[number].id for number in sorted(waiting - {-1})[:most]]

    def _waits(self, view: RunView, rank: int) -> bool:
        i = view.ranked[rank]
        return view.phases[i] == "ready" and i not in self.offered and i not in self.blocked

    def _count_standing(self, view: RunView) -> None:
        """For a rollback: counts how many steps depend on each, so that whatever a moved store depends on is
        kept.
        """
        number = len(view.steps)
        self.standing, self.stands = [0] * number, bytearray(number)
        for i in range(number):
            if view.phases[i] in _STANDS:
                self.stands[i] = 1
                for name in view.steps[i].after:
                    self.standing[view.index[name]] += 1

    def _stand(self, view: RunView, i: int, phase: str) -> None:
        if self.standing is None:
            return
        if self.stands[i] and phase not in _STANDS:
            self.stands[i] = 0
            for name in view.steps[i].after:
                j = view.index[name]
                self.standing[j] -= 1
                if not self.standing[j]:
                    self._want_undo(view, j)
        elif not self.standing[i]:
            self._want_undo(view, i)

    def _want_undo(self, view: RunView, i: int) -> None:
        if not self.may_undo(view, i):
            return
        if self._ends_controllers(view, i):
            self.spent.append(i)
            return
        later = view.not_before.get(i, 0)
        if later > self.now_ms:
            heappush(self.timers, (later, _WAKE, i, view.attempts[i]))
        heappush(self.undo, (-view.ended[i], view.rank[i]))

    def may_undo(self, view: RunView, i: int) -> bool:
        """Whether evac may undo step i: never a store, and never something that a completed step depends
        on.
        """
        step = view.steps[i]
        if view.phases[i] != "succeeded" or i in view.undo.broken:
            return False
        if step.data_set or kind_of(step.kind).makes_primary:
            return False
        if i in view.undo.wanted:
            return True
        return self.standing is not None and step.safe_undo and not self.standing[i]

    def next_undo(self, view: RunView) -> int:
        """The next step to undo, latest first, with its limits promised; -1: none."""
        later: list[tuple[int, int]] = []
        found = -1
        while self.undo and found < 0:
            entry = heappop(self.undo)
            i = view.ranked[entry[1]]
            if i in self.offered or not self.may_undo(view, i):
                continue
            if view.not_before.get(i, 0) > self.now_ms or view.limits.lacking(view.undo_needs(i)) >= 0:
                later.append(entry)
            else:
                found = i
        if later:
            self.undo = later + self.undo
            heapify(self.undo)
        if found >= 0:
            uses = self.promised[found] = view.undo_needs(found)
            view.limits.promise(uses)
            self.offered[found] = "undo"
        return found

    def undo_due(self, view: RunView) -> bool:
        """Whether a step waits to be undone."""
        return any(self.may_undo(view, view.ranked[rank]) for _, rank in self.undo)


if TYPE_CHECKING:
    from evac.run.view import RunView


def fences_of(view: RunView) -> dict[str, list[int]]:
    """Data set -> numbers of its fences in the present plan. A fence that a newer plan does by other means
    belongs to an earlier plan, so a skipped one is no longer required.
    """
    newest: dict[tuple[str, str], tuple[int, int]] = {}
    for i, step in enumerate(view.steps):
        if kind_of(step.kind).fences and i not in view.leftover:
            key, turn = (step.data_set or step.target, str(step.id.in_plan)), (step.id.turn, i)
            newest[key] = max(newest.get(key, turn), turn)
    found: dict[str, list[int]] = {}
    for (data_set, _), (_, i) in newest.items():
        found.setdefault(data_set, []).append(i)
    return found


LASTING: Final[frozenset[str]] = frozenset({"network", "power"})
"""Proofs that hold only while a device stays as it was set: someone may switch it back."""


def lasting_fences(view: RunView, step: str) -> list[str]:
    """Fences of the store that a step promotes which rely on a device, not on a person's word."""
    mine = view.steps[view.number(step)]
    fences = fences_of(view) if view.agenda is None else view.agenda.fences
    return [
        view.steps[i].id
        for i in fences.get(mine.data_set or mine.target, [])
        if view.phases[i] == "succeeded"
        and view.evidence.get(i, {}).get("proof") in LASTING
        and "attested_by" not in view.evidence[i]
    ]


def is_fenced(view: RunView, i: int, fences: Mapping[str, list[int]]) -> bool:
    """Whether every fence of the store that step i promotes is done or attested; a skipped one is not."""
    step = view.steps[i]
    mine = fences.get(step.data_set or step.target, [])
    return bool(mine) and all(view.phases[j] == "succeeded" for j in mine)
