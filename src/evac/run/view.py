"""The state of one run: one mutable aggregate, owned by one caller and changed only by events.

It follows from the run's specs and the events applied, in order; `run.state` applies them. Steps are numbered
by their place in the spec and kept as columns, because a run may have a hundred thousand of them. Related
state is grouped: `boots`, `approvals`, `pacing`, `undo`, `replaced`. Invariants: `counts` agrees with
`phases`; `waits[i]` is the number of unsettled steps that step i is after; a step is `pending` exactly while
it waits; the limits hold the uses of what is running, unknown or undoing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from evac.model.errors import RunError
from evac.model.observation import LeavingSite
from evac.model.records import dataclass
from evac.model.step_id import plan_id
from evac.run import values
from evac.run.boots.state import Boots
from evac.run.envelope import Approvals
from evac.run.limits import Limits, Parts, Uses, parted
from evac.run.pacing import Pacing
from evac.steps.registry import kind_of

BUSY = frozenset({"running", "unknown", "undoing"})
"""Step phases in which an effect may be in progress."""

PART: Final = 8_192
"""Steps per part: between two parts of a large plan, the caller can do something else."""

_TO_BEGIN: Final = frozenset({"ready", "pending"})
_NONE: Sequence[int] = ()
_SHARED = frozenset({"specs", "index", "dependents", "rank", "ranked", "evidence"})


class Pause(NamedTuple):
    """Why a run pauses."""

    by: str
    """operator, step, gate or pace."""
    who: str
    reason: str
    until_ms: int
    """When it ends automatically; 0: never."""
    then: str
    """What the run does then: resume, cancel or stay."""
    back: values.RunPhase
    """The phase it returns to."""


class StepView(NamedTuple):
    """One step as shown to people."""

    id: str
    phase: values.StepPhase
    attempts: int
    started_ms: int
    ended_ms: int
    evidence: Mapping[str, Any]
    failure: tuple[str, str]
    """Code and message of the last failed try; empty if none failed."""
    why: str
    """What it waits for."""


@dataclass(slots=True)
class Undo:
    """Steps being rolled back, by number."""

    wanted: set[int] = field(default_factory=set)
    """Requested by people."""
    unclear: set[int] = field(default_factory=set)
    """Unknown steps whose undo, not the step itself, is in doubt."""
    broken: set[int] = field(default_factory=set)
    """Their undo failed for good."""
    tries: dict[int, int] = field(default_factory=dict)

    def carry_over(self, old: Undo, number_of: values.Renumber) -> None:
        """Takes over what was known before another plan renumbered the steps."""
        self.wanted.update(values.renumbered(old.wanted, number_of))
        self.unclear.update(values.renumbered(old.unclear, number_of))
        self.broken.update(values.renumbered(old.broken, number_of))
        self.tries.update(values.renumbered_facts(old.tries, number_of))

    def fork(self) -> Undo:
        return Undo(self.wanted.copy(), self.unclear.copy(), self.broken.copy(), self.tries.copy())


@dataclass(frozen=True, slots=True)
class Replaced:
    """Consequences of plan replacements during the run."""

    origin: Mapping[str, tuple[str, str]] = MappingProxyType({})
    """Steps not from the first plan -> their plan, and their id there."""
    attempts: Mapping[str, int] = MappingProxyType({})
    """Attempts of every step tried under earlier plans, by id."""
    renamed: Mapping[str, str] = MappingProxyType({})
    """Id in a plan -> id in the run, if different."""
    lost: tuple[str, ...] = ()
    """Sites that were lost during the run."""
    accounted: tuple[str, ...] = ()
    """Sites that the newest plan counts as lost."""


class RunView:
    """One run. Read its fields freely; only the package `run` writes them."""

    def __init__(self, spec: values.RunSpec, others: Sequence[values.RunSpec] = ()) -> None:
        """others: specs of plans that replace the first during the run."""
        self.specs = {one.plan: one for one in (spec, *others)}
        """By plan digest."""
        self.plans, self.planned_ms = [spec.plan], list[int]()
        """Digests of the plans so far, the present one last; and when each took effect."""
        self.replaced = Replaced()
        self.proposer = ""
        """Who requested the run. Empty: evac itself, or an older journal."""
        self.seen: tuple[LeavingSite, ...] = ()
        """Sites it leaves as lost, as the leader saw them when a person requested it."""
        self.bound = self.made = ""
        """bound: SHA-256 of what the present plan's steps do and of `made`. made: unique to this run and
        plan. Both are empty in older journals.
        """

        self.created = False
        self.phase: values.RunPhase = "pending"
        self.phase_ms = 0
        """Since when the run has been in its phase."""
        self.events = 0
        """How many were applied."""
        self.at_ms = self.last_ms = 0
        """Time of the event being applied or applied last; the latest of all."""
        self.started_ms = -1
        self.monitoring_ms = 0
        """Since when it has been monitored."""
        self.token, self.owner = 0, ""
        """Fencing token and name of the leader."""

        self.approvals = Approvals()
        self.pacing = Pacing()
        self.pause: Pause | None = None
        self.held, self.held_ms = "", 0
        """Who placed the hold, and since when; empty if there is none."""
        self.cancel_who, self.cancel_why = "", ""
        self.graceful = True
        """The evacuated sites still work: a switchover, not a failover."""
        self.rolled_back = False
        self.exceptions = False
        """Some step was not simply done: it ends with exceptions."""
        self.end_why = ""
        self.left: tuple[values.Left, ...] = ()
        """What an ended run did not restore."""
        self.drift, self.drifted = 0, dict[str, tuple[int, bool]]()
        """How often a completed action was seen undone, or the like. Step that was undone elsewhere -> when
        that was last seen, and whether evac corrected it, the last one last.
        """

        self.marks: set[str] = set()
        """Ids of requests to this run, their signatures by people and rooms, and uses of break-glass
        credentials: none counts twice.
        """
        self.capacities: dict[str, int] = {}
        """Limits that a person changed -> the run's capacity."""
        self.boots = Boots()
        self.agenda: Any = None
        """State that `decide` keeps next to the view; derived from it, not from events."""
        self.lay_out(spec)

    def was_dark(self, i: int) -> bool:
        """Whether all feeds of step i have tripped since it began."""
        feeds, since = self.steps[i].feeds, self.started[i]
        return bool(feeds) and all(self.boots.tripped_ms.get(feed, -1) >= since for feed in feeds)

    def booted_from(self, i: int) -> str:
        """The boot server used in step i's last try; if never tried, the one for its first."""
        if not self.attempts[i]:
            return self.boots.server_of(i)
        return self.boots.served_by.get(i, self.steps[i].boot_server)

    def take_back(self, i: int) -> None:
        """What step i did is undone and must be repeated. It keeps what it holds unless a breaker was seen
        open: silence alone does not prove that nothing is drawn.
        """
        if all(self.boots.tripped.get(feed, False) for feed in self.steps[i].feeds):
            self.release(i)
        self.tries[i] = 0
        self.interrupted.pop(i, None)
        self.unclear.pop(i, None)
        self.doubtful.discard(i)
        self.not_before.pop(i, None)
        self.boots.begins_again(i)
        begun = [
            j
            for j in self.dependents[i]
            if self.phases[j] == "succeeded" and kind_of(self.steps[j].kind).replicas > 0
        ]
        self.turn(i, "ready")
        for j in begun:
            self.turn(j, "ready")

    def lay_out(self, spec: values.RunSpec) -> None:
        """Columns for the steps of `spec`, all in the initial state. Raises RunError for a spec that cannot
        run.
        """
        for _ in self.laying_out(spec):
            pass

    def laying_out(self, spec: values.RunSpec) -> Iterator[None]:
        """`lay_out` in parts: the state is consistent only after the last one."""
        self.spec, self.steps = spec, spec.steps
        """The present plan."""
        number = len(self.steps)
        self.index: dict[str, int] = {step.id: i for i, step in enumerate(self.steps)}
        if len(self.index) != number:
            raise RunError("step-twice", "two steps of the plan have the same id")
        self.limits = Limits(spec.limits)
        yield from self._use()
        self._part()
        self.attempts = [0] * number
        """Steps of all plans."""
        self.tries = [0] * number
        """Tries since a person last asked for a retry, except those whose controller ended."""
        self.started, self.ended = [0] * number, [0] * number
        """Times of the last attempt."""
        self.since = [0] * number
        """Since when each step has been in its phase."""
        yield from self._wire()
        self._rank()
        yield
        self.phases: list[values.StepPhase] = ["pending" if waits else "ready" for waits in self.waits]
        ready = self.phases.count("ready")
        both = (("ready", ready), ("pending", number - ready))
        self.counts: dict[str, int] = {phase: count for phase, count in both if count}
        """Phase -> number of steps."""
        self.opened = bytearray(number)
        """1 for steps that count as settled for their dependents."""
        self.changed: list[int] = []
        """Steps whose phase changed since the last `decide`."""
        self.watched = False
        """Whether `decide` is in use."""

        self._forget()

    def _forget(self) -> None:
        """Resets what is known of steps' effects and problems."""
        self.gates_open: set[int] = set()
        """Approved individually."""
        self.manual_running: set[int] = set()
        self.not_before: dict[int, int] = {}
        """Earliest time a step may begin again."""
        self.stuck: set[int] = set()
        """Running far longer than predicted."""
        self.unclear: dict[int, int] = {}
        """Consecutive observations that did not show what an unknown step did."""
        self.doubtful: set[int] = set()
        """Unknown steps checked often enough: a person is asked."""
        self.leftover: set[int] = set()
        """Steps without a result that the present plan does not have."""
        self.unseen: dict[int, int] = {}
        """Steps in doubt that a person asked to retry -> the attempt that need not see anything first."""
        self.interrupted: dict[int, int] = {}
        """How often the controller ended during a step or its undo, since it was last done or a person asked
        for it.
        """
        self.undo = Undo()
        self.evidence: dict[int, Mapping[str, Any]] = {}
        self.failures: dict[int, tuple[str, str]] = {}
        """Code and message of the last failed try."""
        self.whys, self.asks = dict[int, str](), dict[int, str]()
        """What a step waits for, or why it is in doubt; for people. And why it needs an approval that it did
        not need when the plan was bound.
        """
        self.boots = self.boots.laid_out(self.steps)

    def _use(self) -> Iterator[None]:
        """Uses of each step, by limit number. Similar steps share them."""
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
        """Separates what outlasts each step. Similar steps share it."""
        self.keeps: dict[int, Parts] = {}
        """Steps that hold something beyond their end -> their uses in parts."""
        self.keeping: dict[int, int] = {}
        """Those that hold it now -> since which attempt."""
        seen: dict[int, Parts] = {}
        for i, uses in enumerate(self.uses):
            if uses:
                found = seen.get(id(uses))  # similar ones are shared
                if found is None:
                    found = seen[id(uses)] = parted(uses)
                if found.kept:
                    self.keeps[i] = found
        for name, capacity in self.capacities.items():
            if self.limits.knows(name):
                self.limits.change(name, capacity)

    def needs(self, i: int) -> Uses:
        """What a start of step i takes, without what it already keeps."""
        return self.keeps[i].again if i in self.keeping else self.uses[i]

    def undo_needs(self, i: int) -> Uses:
        """What an undo of step i takes; it can only release what the step keeps."""
        return self.keeps[i].rest if i in self.keeps else self.uses[i]

    def keep(self, i: int, attempt: int) -> None:
        """Step i now holds what outlasts it."""
        if i in self.keeps:
            self.keeping.setdefault(i, attempt)

    def release(self, i: int) -> None:
        """Step i no longer holds anything beyond its end."""
        if self.keeping.pop(i, None) is not None:
            self.limits.release(self.keeps[i].kept)

    def reroute(self, i: int) -> None:
        """Switches step i to the limits of the boot server it uses next."""
        step = self.steps[i]
        uses = self.limits.moved(self.limits.uses(step), step.boot_server, self.boots.server_of(i))
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
        """After a new plan: what is on keeps drawing power, whether or not the plan knows the server."""
        for name, holds in kept.items():
            i = self.index.get(name, self.index.get(renamed.get(plan_id(name), ""), -1))
            if i >= 0 and i in self.keeps and i not in self.keeping:
                self.keeping[i] = 0
                self.limits.take(self.keeps[i].kept, 0)
                continue
            for limit, units in holds:
                self.limits.hold_apart(limit, units)

    def _wire(self) -> Iterator[None]:
        steps, index = self.steps, self.index
        self.waits = [len(step.after) for step in steps]
        """How many unsettled steps each waits for."""
        self.dependents: list[Sequence[int]] = [_NONE] * len(steps)
        """Steps that wait for it."""
        for i, step in enumerate(steps):
            if i % PART == PART - 1:
                yield
            for name in step.after:
                j = index.get(name)
                if j is None:
                    raise RunError(
                        "step-unknown", f"{step.id} depends on {name}, which is not a step of the plan"
                    )
                found = self.dependents[j]
                if isinstance(found, list):
                    found.append(i)
                else:
                    self.dependents[j] = [i]

    def _rank(self) -> None:
        steps = self.steps
        self.ranked = sorted(range(len(steps)), key=lambda i: (steps[i].start_ms, steps[i].id))
        """Steps in start order; `rank` is each one's place in it."""
        self.rank = [0] * len(steps)
        for rank, i in enumerate(self.ranked):
            self.rank[i] = rank

    def fork(self) -> RunView:
        """An independent copy to play forward; specs, evidence and constants are shared."""
        other = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, list | set | dict | bytearray) and name not in _SHARED:
                setattr(other, name, value.copy())
        other.limits, other.boots, other.undo = self.limits.fork(), self.boots.fork(), self.undo.fork()
        other.approvals, other.pacing = self.approvals.fork(), self.pacing.fork()
        other.agenda, other.watched, other.changed = None, False, []
        return other

    def become(self, other: RunView) -> None:
        """Takes over the state of `other`, a fork of this one, at once; `other` is consumed."""
        self.__dict__ = other.__dict__

    def gate_of(self, i: int) -> str:
        """What a person must approve before step i starts; empty if nothing, or already approved."""
        return "" if i in self.gates_open else self.stated_gate(i)

    def stated_gate(self, i: int) -> str:
        """Why step i needs its own approval, whether or not that was given; empty if it needs none."""
        return self.boots.gates.get(i) or self.steps[i].gate or self.asks.get(i, "")

    def may_skip(self, i: int) -> bool:
        """Whether step i is not being executed, or is done by a person. A manual promotion cannot be skipped:
        its store stays claimed until someone says where the primary is.
        """
        by_hand = i in self.manual_running and not kind_of(self.steps[i].kind).makes_primary
        return by_hand or self.phases[i] != "running"

    def may_retry(self, i: int) -> bool:
        """Whether step i, which is in doubt, may be retried: not an undo, and no step of an earlier plan."""
        return i not in self.undo.unclear and i not in self.leftover

    def built_on(self, i: int) -> list[str]:
        """Dependents of step i that are done or running: they are undone before it."""
        return [
            self.steps[j].id
            for j in self.dependents[i]
            if self.phases[j] == "succeeded" or self.phases[j] in BUSY
        ]

    def number(self, step: str) -> int:
        """The number of a step. Raises RunError if the plan does not have it."""
        i = self.index.get(step)
        if i is None:
            raise RunError("step-unknown", f"{step or 'a step without a name'} is not a step of this run")
        return i

    def turn(self, i: int, new: values.StepPhase) -> None:
        """Moves step i to `new` and updates counts, dependents and holds."""
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
        lost = self.boots.lost_servers
        if lost and new in _TO_BEGIN and self.steps[i].boot_server in lost:
            self.reroute(i)
        if self.dependents[i]:
            if new in values.SETTLED:
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
        """A skipped or undone step is to be done after all: dependents that have not begun wait for it
        again.
        """
        self.opened[i] = 0
        for j in self.dependents[i]:
            self.waits[j] += 1
            if self.phases[j] == "ready":
                self.turn(j, "pending")

    def origin_of(self, step: str) -> tuple[str, str]:
        """The plan a step of the run comes from, and its id there."""
        return self.replaced.origin.get(step) or (self.plans[0], step)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do; unclear leftovers do not count."""
        counts = self.counts
        done = counts.get("succeeded", 0) + counts.get("skipped", 0) + counts.get("undone", 0)
        open_steps = len(self.phases) - done
        return open_steps == 0 or open_steps == len(self.leftover & self.doubtful)

    @property
    def quiet(self) -> bool:
        """Whether nothing begun by evac is in progress, except what only a person can settle."""
        counts = self.counts
        busy = counts.get("running", 0) + counts.get("undoing", 0) + counts.get("unknown", 0)
        return busy == len(self.manual_running) + len(self.doubtful)

    def named(self, phase: values.StepPhase, most: int = 5) -> str:
        """Ids of some steps in a phase, for messages; walks the plan, so not for every event."""
        names = [self.steps[i].id for i, now in enumerate(self.phases) if now == phase]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return ", ".join(names[:most]) + more

    def step(self, step: str) -> StepView:
        """One step as shown to people."""
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
