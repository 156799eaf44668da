"""Where a run stands: one mutable aggregate, owned by one caller and changed by events alone.

What it holds follows from its specs and the events applied, in order; `run.state` applies them. Steps are
numbered by their place in the spec and kept as columns, because a run may have a hundred thousand of them.
Invariants: `counts` agrees with `phases`; `waits[i]` is the number of unsettled steps that step i is after;
a step is `pending` exactly while it waits; the limits hold the uses of what is running, unknown or undoing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Final, NamedTuple

from evac.model.errors import RunError
from evac.model.run_policy import Envelope
from evac.model.step_id import plan_id
from evac.run.limits import Limits, Parts, Uses, parted
from evac.run.values import SETTLED, RunPhase, RunSpec, StepPhase
from evac.steps.registry import kind_of

BUSY = frozenset({"running", "unknown", "undoing"})
"""Step phases in which something may be under way in the world."""

PART: Final = 8_192
"""Steps at a time, where whoever lays a large plan out may do something else in between."""

_TO_BEGIN: Final = frozenset({"ready", "pending"})
_NOBODY: Sequence[int] = ()
_SHARED = frozenset({"specs", "index", "dependents", "rank", "ranked", "evidence", "origin"})


class Pause(NamedTuple):
    """Why a run pauses. by: operator, step, gate, pace. back: the phase it returns to."""

    by: str
    who: str
    reason: str
    until_ms: int
    then: str
    back: RunPhase


class StepView(NamedTuple):
    """One step as people see it. failure: (code, message) of the last try. why: what it waits for."""

    id: str
    phase: StepPhase
    attempts: int
    started_ms: int
    ended_ms: int
    evidence: Mapping[str, Any]
    failure: tuple[str, str]
    why: str


class RunView:
    """One run. Read its fields freely; only `run.state` and `run.decide` write them.

    at_ms: of the event that is applied, or was last; phase_ms: since when the run is in its phase; held_ms:
    since when it is on hold; since: of each step, since when it is in its phase. tries: of a step since a
    person last said retry; attempts: of all. booting: in doubt, and known to
    be on their way up when last heard of. rush_ms: of boots, by when the inrush of
    this try began at the latest, if it did: when the controller took the request, or a while after its leader
    was gone. unclear: observations in a row that did not tell. doubtful: unknown
    steps that were looked at often enough to ask a person. undo_wanted: steps a person wants back. in_undo:
    unknown steps of which the undo is in doubt. leftover: unresolved steps that the present plan does not
    know. opened: 1 where what waits for the step was told that it is settled. changed: steps whose phase
    changed since `decide` last looked. names: sites that a person must type; typed: what was typed so far.
    accounted: sites that the newest plan takes as lost, empty for the first. origin: step -> (plan, its id
    there), of steps that do not come from the first plan. keeps: of steps that hold something beyond their
    end: their uses in parts; keeping: which hold it now, since which attempt. capacities: of limits that a
    person changed. refused: steps that failed because credentials are refused, or what evac itself needs is
    wrong; refusing: nobody has said go on since; lacks: what evac needs, in words; misset: boots in a row
    that could not be asked for their settings. given_up: boots that failed for good, or that nobody can tell
    of; quarantined: those that the run goes on without; blind: of whose last try nobody can tell; hung: of
    these, those whose controller answered, and that were not up. turns: how often boots were tried again for
    want of an image, at their boot server; cycled: those of them that are switched off first if they are
    found on. gates: words of gates that the plan does not have. gone: feed -> boots that fell silent or went
    off since the last sign of life there, with the time; signs: of how many trips each was a sign since it
    last came up; fed: feeds behind which a server answered since they were closed; heard: those behind which
    a management controller told anything, and since when; tripped: feeds without power (tripped_ms: when each
    did last), and whether the breaker was seen open; opened_feeds: breakers seen open that nobody has thought
    about yet. stalled: boot server -> boots that do not come up since the last one did; lost_servers: boot
    servers that are given up: by whom they are replaced, and since when; where that one died as well, by the
    next, and since then. served: boots whose last try was not from the boot server of the plan: from which.
    alone: boot servers that nobody replaces: one boot at a time tries them. alone_ms: when each was last
    given up so.
    """

    def __init__(self, spec: RunSpec, others: Sequence[RunSpec] = ()) -> None:
        """others: specs of plans that replace the first during the run."""
        self.specs = {one.plan: one for one in (spec, *others)}
        self.phase: RunPhase = "pending"
        self.events = self.last_ms = self.monitoring_ms = self.token = 0
        self.at_ms = self.phase_ms = self.held_ms = 0
        self.started_ms = -1
        self.owner = self.held = self.end_why = self.cancel_who = self.cancel_why = ""
        self.created = self.asked = self.exceptions = self.rolled_back = self.pace_stopped = False
        self.graceful = True
        self.pause: Pause | None = None
        self.approved_by: dict[str, Envelope] = {}
        self.approvals = 0
        self.lost: tuple[str, ...] = ()
        self.names: tuple[str, ...] = ()
        self.typed: set[str] = set()
        self.accounted: tuple[str, ...] = ()
        self.origin: dict[str, tuple[str, str]] = {}
        self.plans = [spec.plan]
        self.bound = ""
        """SHA-256 of what the steps of the present plan do, as the journal names it; empty in older
        journals.
        """
        self.drift = 0
        self.pace_wait_ms = -1
        self.pace_next: dict[str, int] = {}
        self.past: dict[str, int] = {}
        self.renamed: dict[str, str] = {}
        self.agenda: Any = None
        self.capacities: dict[str, int] = {}
        self.refusing, self.lacks = False, ""
        self.tripped: dict[str, bool] = {}
        self.tripped_ms: dict[str, int] = {}
        self.gone: dict[str, dict[int, int]] = {}
        self.fed: set[str] = set()
        self.heard: dict[str, int] = {}
        self.opened_feeds: set[str] = set()
        self.stalled: dict[str, dict[int, int]] = {}
        self.lost_servers: dict[str, tuple[str, int]] = {}
        self.alone: set[str] = set()
        self.alone_ms: dict[str, int] = {}
        self.lay_out(spec)

    def is_dark(self, i: int) -> bool:
        """Whether step i is of a server whose feeds have all tripped."""
        feeds = self.steps[i].feeds
        return bool(feeds) and all(feed in self.tripped for feed in feeds)

    def was_dark(self, i: int) -> bool:
        """Whether all feeds of step i have tripped since it began."""
        feeds, since = self.steps[i].feeds, self.started[i]
        return bool(feeds) and all(self.tripped_ms.get(feed, -1) >= since for feed in feeds)

    def image_of(self, i: int) -> str:
        """The boot server that step i boots from by now; empty where it has none."""
        server = self.steps[i].boot_server
        return (self.lost_servers[server][0] or server) if server in self.lost_servers else server

    def booted_from(self, i: int) -> str:
        """The boot server that the last try of step i booted from; of one never tried, that of its first."""
        if not self.attempts[i]:
            return self.image_of(i)
        return self.served.get(i, self.steps[i].boot_server)

    def held_by(self, i: int) -> str:
        """The boot server that nobody replaces, where a boot from it takes its turn; empty where none does. A
        person who boots by hand needs none.
        """
        server = self.image_of(i) if self.alone and not self.steps[i].manual else ""
        return server if server in self.alone else ""

    def take_back(self, i: int) -> None:
        """What step i did is gone: it is to be done again. What it keeps it keeps, unless a breaker was seen
        open: silence alone does not say that nothing is drawn.
        """
        if all(self.tripped.get(feed, False) for feed in self.steps[i].feeds):
            self.release(i)
        self.tries[i] = 0
        self.unclear.pop(i, None)
        self.booting.discard(i)
        self.doubtful.discard(i)
        self.given_up.pop(i, None)
        self.quarantined.discard(i)
        self.refused.discard(i)
        self.misset.discard(i)
        self.not_before.pop(i, None)
        begun = [
            j
            for j in self.dependents[i]
            if self.phases[j] == "succeeded" and kind_of(self.steps[j].kind).replicas > 0
        ]
        self.turn(i, "ready")
        for j in begun:
            self.turn(j, "ready")

    def lay_out(self, spec: RunSpec) -> None:
        """Columns for the steps of `spec`, all as at the beginning. Raises RunError for a spec that cannot
        run.
        """
        for _ in self.laying_out(spec):
            pass

    def laying_out(self, spec: RunSpec) -> Iterator[None]:
        """As `lay_out`, in parts: only when the last one is done does everything fit together again."""
        self.spec, self.steps = spec, spec.steps
        number = len(self.steps)
        self.index = {step.id: i for i, step in enumerate(self.steps)}
        if len(self.index) != number:
            raise RunError("step-twice", "two steps of the plan have the same id")
        self.limits = Limits(spec.limits)
        yield from self._use()
        self._part()
        self.attempts, self.tries = [0] * number, [0] * number
        self.started, self.ended, self.since = [0] * number, [0] * number, [0] * number
        yield from self._wire()
        self._rank()
        yield
        self.phases: list[StepPhase] = ["pending" if waits else "ready" for waits in self.waits]
        ready = self.phases.count("ready")
        both = (("ready", ready), ("pending", number - ready))
        self.counts: dict[str, int] = {phase: count for phase, count in both if count}
        self.gates_open: set[int] = set()
        self.manual_running: set[int] = set()
        self.undo_wanted: set[int] = set()
        self.in_undo: set[int] = set()
        self.doubtful: set[int] = set()
        self.stuck: set[int] = set()
        self.leftover: set[int] = set()
        self.undo_broken: set[int] = set()
        self.unclear: dict[int, int] = {}
        self.booting: set[int] = set()
        self.undo_tries: dict[int, int] = {}
        self.not_before: dict[int, int] = {}
        self.evidence: dict[int, Mapping[str, Any]] = {}
        self.failures: dict[int, tuple[str, str]] = {}
        self.whys: dict[int, str] = {}
        self.refused: set[int] = set()
        self.misset: set[int] = set()
        self.given_up: dict[int, int] = {}
        self.quarantined: set[int] = set()
        self.blind: set[int] = set()
        self.hung: set[int] = set()
        self.turns: dict[int, int] = {}
        self.signs: dict[int, int] = {}
        self.cycled: set[int] = set()
        self.served: dict[int, str] = {}
        self.rush_ms: dict[int, int] = {}
        self.gates: dict[int, str] = {}
        self.opened = bytearray(number)
        self.changed: list[int] = []
        self.watched = False

    def _use(self) -> Iterator[None]:
        """What each step uses, by number. Steps that are alike share it."""
        known: dict[tuple[tuple[str, int, int], ...], Uses] = {(): ()}
        self.uses: list[Uses] = []
        for i, step in enumerate(self.steps):
            if i % PART == PART - 1:
                yield
            found = known.get(step.uses)
            if found is None:
                found = known[step.uses] = self.limits.uses(step)
            self.uses.append(found)

    def _part(self) -> None:
        """What outlasts each step, apart from the rest. Steps that are alike share it."""
        self.keeps: dict[int, Parts] = {}
        self.keeping: dict[int, int] = {}
        seen: dict[int, Parts] = {}
        for i, uses in enumerate(self.uses):
            if uses:
                found = seen.get(id(uses))  # those that are alike are one
                if found is None:
                    found = seen[id(uses)] = parted(uses)
                if found.kept:
                    self.keeps[i] = found
        for name, capacity in self.capacities.items():
            if self.limits.knows(name):
                self.limits.change(name, capacity)

    def needs(self, i: int) -> Uses:
        """What a start of step i takes: not again what it keeps."""
        return self.keeps[i].again if i in self.keeping else self.uses[i]

    def undo_needs(self, i: int) -> Uses:
        """What an undo of step i takes; it can only give back what the step keeps."""
        return self.keeps[i].rest if i in self.keeps else self.uses[i]

    def keep(self, i: int, attempt: int) -> None:
        """Step i holds from now on what outlasts it."""
        if i in self.keeps:
            self.keeping.setdefault(i, attempt)

    def release(self, i: int) -> None:
        """Step i holds nothing beyond its end any more."""
        if self.keeping.pop(i, None) is not None:
            self.limits.release(self.keeps[i].kept)

    def reroute(self, i: int) -> None:
        """Step i uses the limits of the boot server that it boots from next."""
        step = self.steps[i]
        uses = self.limits.moved(self.limits.uses(step), step.boot_server, self.image_of(i))
        if uses == self.uses[i]:
            return
        self.uses[i] = uses
        if i in self.keeps:
            self.keeps[i] = parted(uses)
        if self.watched:
            self.changed.append(i)

    def kept_by_step(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """(limit, units) that each step keeps now, by name."""
        names = [limit.id for limit in self.limits.limits]
        return {
            self.steps[i].id: tuple((names[number], units) for number, units, _ in self.keeps[i].kept)
            for i in self.keeping
        }

    def carry_kept(self, kept: Mapping[str, Sequence[tuple[str, int]]], renamed: Mapping[str, str]) -> None:
        """After a new plan: what is on draws on, whether the plan knows the server or not."""
        for name, holds in kept.items():
            i = self.index.get(name, self.index.get(renamed.get(plan_id(name), ""), -1))
            if i >= 0 and i in self.keeps and i not in self.keeping:
                self.keeping[i] = 0
                self.limits.take(self.keeps[i].kept, 0)
                continue
            for limit, units in holds:
                self.limits.hold_apart(limit, units)

    def of_boots(self) -> tuple[Any, ...]:
        """What events of boots determine, for the fingerprint; nothing where there were none."""
        found = (
            sorted(self.keeping.items()),
            self.limits.apart,
            sorted(self.capacities.items()),
            sorted(self.refused),
            self.refusing,
            self.lacks,
            sorted(self.quarantined),
            sorted(self.given_up.items()),
            sorted(self.gates.items()),
            sorted(self.tripped.items()),
            sorted((feed, sorted(boots.items())) for feed, boots in self.gone.items()),
            sorted(self.opened_feeds),
            sorted(self.lost_servers.items()),
            sorted(self.tripped_ms.items()),
            sorted((name, sorted(boots.items())) for name, boots in self.stalled.items()),
            sorted(self.alone),
            sorted(self.alone_ms.items()),
            sorted(self.blind),
            sorted(self.hung),
            sorted(self.turns.items()),
            sorted(self.cycled),
            sorted(self.signs.items()),
            sorted(self.fed),
            sorted(self.heard.items()),
            sorted(self.misset),
            sorted(self.rush_ms.items()),
        )
        return found if any(found) else ()

    def _wire(self) -> Iterator[None]:
        """Who waits for whom."""
        steps, index = self.steps, self.index
        self.waits = [len(step.after) for step in steps]
        self.dependents: list[Sequence[int]] = [_NOBODY] * len(steps)
        for i, step in enumerate(steps):
            if i % PART == PART - 1:
                yield
            for name in step.after:
                j = index.get(name)
                if j is None:
                    raise RunError("step-unknown", f"{step.id} is after {name}, which is no step of the plan")
                found = self.dependents[j]
                if isinstance(found, list):
                    found.append(i)
                else:
                    self.dependents[j] = [i]

    def _rank(self) -> None:
        """The order of starts."""
        steps = self.steps
        self.ranked = sorted(range(len(steps)), key=lambda i: (steps[i].start_ms, steps[i].id))
        self.rank = [0] * len(steps)
        for rank, i in enumerate(self.ranked):
            self.rank[i] = rank

    def fork(self) -> RunView:
        """The same run apart, to play forward; specs, evidence and what never changes are shared."""
        other = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, list | set | dict | bytearray) and name not in _SHARED:
                setattr(other, name, value.copy())
        other.limits = self.limits.fork()
        other.gone = {feed: boots.copy() for feed, boots in self.gone.items()}
        other.stalled = {server: boots.copy() for server, boots in self.stalled.items()}
        other.agenda, other.watched, other.changed = None, False, []
        return other

    def become(self, other: RunView) -> None:
        """All that the other, a fork of this one, holds by now, at once; the other is used up by it."""
        self.__dict__ = other.__dict__

    def gate_of(self, i: int) -> str:
        """What a person must agree to before step i starts; empty where nobody is asked, or one agreed."""
        return "" if i in self.gates_open else self.gates.get(i) or self.steps[i].gate

    def number(self, step: str) -> int:
        """The number of a step. Raises RunError for one that the plan does not have."""
        i = self.index.get(step)
        if i is None:
            raise RunError("step-unknown", f"{step or 'a step without a name'} is no step of this run")
        return i

    def turn(self, i: int, new: StepPhase) -> None:
        """Moves step i to `new`, with what follows from it: counts, what waited for it, what it held."""
        if new == "ready" and self.waits[i]:
            if self.opened[i]:
                self._reopen(i)
            new = "pending"
        old = self.phases[i]
        self.phases[i] = new
        self.since[i] = self.at_ms
        counts = self.counts
        counts[old] -= 1
        counts[new] = counts.get(new, 0) + 1
        if self.watched:
            self.changed.append(i)
        if old in BUSY and new not in BUSY and self.uses[i]:
            self.limits.give_back(self.uses[i])
        if self.lost_servers and new in _TO_BEGIN and self.steps[i].boot_server in self.lost_servers:
            self.reroute(i)
        if self.dependents[i]:
            if new in SETTLED:
                if not self.opened[i]:
                    self._settle(i)
            elif new == "ready" and self.opened[i]:
                self._reopen(i)
        if self.steps[i].manual:
            (self.manual_running.add if new == "running" else self.manual_running.discard)(i)

    def _settle(self, i: int) -> None:
        self.opened[i] = 1
        for j in self.dependents[i]:
            self.waits[j] -= 1
            if not self.waits[j] and self.phases[j] == "pending":
                self.turn(j, "ready")

    def _reopen(self, i: int) -> None:
        """A skipped or undone step is to be done after all: what has not begun waits for it again."""
        self.opened[i] = 0
        for j in self.dependents[i]:
            self.waits[j] += 1
            if self.phases[j] == "ready":
                self.turn(j, "pending")

    @property
    def untyped(self) -> tuple[str, ...]:
        """Sites whose names a person must type before this goes on; all of them, not only the new one."""
        return () if self.typed.issuperset(self.names) else self.names

    def origin_of(self, step: str) -> tuple[str, str]:
        """The plan that a step of the run comes from, and its id there."""
        return self.origin.get(step) or (self.plans[0], step)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do; leftovers that nobody can tell of do not count."""
        counts = self.counts
        done = counts.get("succeeded", 0) + counts.get("skipped", 0) + counts.get("undone", 0)
        open_steps = len(self.phases) - done
        return open_steps == 0 or open_steps == len(self.leftover & self.doubtful)

    @property
    def quiet(self) -> bool:
        """Whether nothing that evac began is under way, except what only a person can tell."""
        counts = self.counts
        busy = counts.get("running", 0) + counts.get("undoing", 0) + counts.get("unknown", 0)
        return busy == len(self.manual_running) + len(self.doubtful)

    def named(self, phase: StepPhase, most: int = 5) -> str:
        """The ids of some steps in a phase, for words to people; walks the plan, so not for every event."""
        names = [self.steps[i].id for i, now in enumerate(self.phases) if now == phase]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return ", ".join(names[:most]) + more

    def step(self, step: str) -> StepView:
        """One step as people see it."""
        i = self.number(step)
        return StepView(
            step,
            self.phases[i],
            self.attempts[i],
            self.started[i],
            self.ended[i],
            self.evidence.get(i, {}),
            self.failures.get(i, ("", "")),
            self.whys.get(i, ""),
        )
