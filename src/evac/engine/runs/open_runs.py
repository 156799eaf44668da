"""An open run as the leader holds it, and its state in the store until it ends.

open/<run> {"incident", "plan", "approvals", "ends", "leaving", "mark", "policy"}

When a run ends, the register changes in the same transaction that closes the run.

Sites that a run leaves midway enter the register only if they are lost by now and, where more than one is
left, a person typed their names.

Whether a run was created can be unknown: the store did not answer, or it answered that a run exists, which
may be this one from a duplicated request. Such a run is looked for and executed as soon as it is found;
otherwise it would stay open without a leader until someone else leads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, TypeVar

import orjson

from evac.drivers.port import Action
from evac.engine.clock import Clock
from evac.engine.lead import policies
from evac.engine.lead.leadership import begin
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.proposals import REPLACEABLE, Concerned, how_to_vouch, places_of
from evac.engine.runs.step_actions import old_of
from evac.engine.stores import datasets
from evac.engine.stores.datasets import DataSets
from evac.engine.stores.guards import Guards, Mark, Permit
from evac.model.digest import canonical_json
from evac.model.errors import Conflict, Corrupt, NotAllowed, Retryable, Unavailable
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.run.values import RunSpec, made_ms
from evac.run.view import RunView
from evac.store.journal import Journal
from evac.store.port import Delete, Entry, Lease, Put, Store
from evac.watch.verdict import SiteState

T = TypeVar("T")
LOOKS_MOST: Final = 60
PAUSE_S: Final = 0.2
PAUSE_MOST_S: Final = 5.0


class DoubtedRuns:
    """key_of: the key of an open run. in_hand: whether it is executed here. adopt: takes it over.

    taken_over: keys of runs that an earlier leader left, while they are being taken over here: a request for
    one of these is answered that it exists, and it must not be taken over twice.
    """

    def __init__(
        self,
        store: Store,
        key_of: Callable[[str], str],
        in_hand: Callable[[str], bool],
        adopt: Callable[[Entry], Awaitable[None]],
    ) -> None:
        self._store, self._key_of, self._in_hand, self._adopt = store, key_of, in_hand, adopt
        self._making: Counter[str] = Counter()
        self._looking: set[str] = set()
        self.taken_over: set[str] = set()

    async def making(self, name: str, work: Awaitable[T], tasks: asyncio.TaskGroup) -> T:
        """Creates a run. If the store does not answer, or raises that a run exists, looks for the run from
        then on, as long as we lead.
        """
        self._making[name] += 1  # a lost site and hanging commits may ask for the same run at once
        try:
            return await work
        except (Unavailable, Conflict) as error:
            if name not in self._looking:
                self._looking.add(name)
                begin(tasks, self._look_for(name, isinstance(error, Conflict)), f"outcome unknown: {name}")
            raise
        finally:
            self._making[name] -= 1

    async def _look_for(self, name: str, now: bool) -> None:
        """Until it is held, or no message can be on its way any more. now: it is there now or never."""
        pause_s = PAUSE_S
        try:
            for _ in range(LOOKS_MOST):
                if self._in_hand(name):
                    return
                if (found := await self._adopted(name)) or (now and found is not None):
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_MOST_S, pause_s * 1.5)
        finally:
            self._looking.discard(name)

    async def _adopted(self, name: str) -> bool | None:
        """None if the store does not answer whether it is there."""
        key = self._key_of(name)
        try:
            entry = await self._store.get(key)
        except Unavailable:
            return None
        if entry is None or self._making[name] or key in self.taken_over or self._in_hand(name):
            return False
        await self._adopt(entry)
        return True


async def leave(
    guards: Guards,
    register: Mapping[str, Mark],
    lost: Sequence[str],
    names: Sequence[str],
    typed: Collection[str],
    gone: Collection[str] = (),
) -> Permit:
    """What the register records for the sites `lost` from now on. names: all sites left together; gone: those
    lost now although a planned evacuation had begun.
    """
    new = [site for site in lost if register.get(site) == "active"]
    if new and len(names) > 1 and not set(names) <= set(typed):
        return Permit()
    if new:
        return await guards.may_leave(new, "lost", tuple(typed))
    ended = [site for site in gone if register.get(site) == "evacuating"]
    return await guards.may_mark(ended, "lost") if ended else Permit()


def must_be_lost(site: str, state: SiteState) -> None:
    """Checked before a person's word marks a site as lost; a suspect site is enough.

    Raises `NotAllowed` for a live site; `Retryable` until there is a verdict, because a new leader knows
    nothing yet.
    """
    if state == "unknown":
        raise Retryable("not-judged", f"it is currently unknown whether {site} is lost")
    if state in ("healthy", "isolated"):
        raise NotAllowed(
            "site-back",
            f"{site} is {state}, so it is not treated as a lost site",
            "approve the plan that brings the site back into use, or cancel the run",
        )


OPEN: Final = "open/"


@dataclass(slots=True)
class InHand:
    """An open run as its leader holds it."""

    spec: RunSpec
    ends: Mapping[str, Mark]
    actions: dict[str, Mapping[str, tuple[Action, ...]]]
    """Plan -> step -> actions."""
    policy: RunPolicy
    """The policy it was made under."""
    leaving: tuple[str, ...] = ()
    """Sites that it leaves."""
    mark: Mark = "lost"
    """Their marks in the register meanwhile."""
    approvals: int = 1
    halls: tuple[str, ...] = ()
    """Halls taken as lost, at sites that it does not leave."""
    epochs: dict[str, int] = field(default_factory=dict)
    clock: Clock | None = None
    """Time since we hold it, unaffected by clock jumps."""
    execution: RunExecution | None = None
    journal: Journal | None = None
    made: str = ""
    """As in the journal (`RunView.made`); requests repeat it."""
    left_before: Mapping[str, int] = field(default_factory=dict)
    """Sites it already left before its present form -> since when."""

    @property
    def since(self) -> dict[str, int]:
        """Site that it leaves -> since when."""
        return {**dict.fromkeys(self.leaving, made_ms(self.made)), **self.left_before}

    @property
    def concern(self) -> Concerned | None:
        """The run as another loss sees it; None if that does not concern it: it leaves no site or hall and
        restores no site, or it has ended.
        """
        moves = bool(self.leaving or self.halls) or "active" in self.ends.values()
        view = None if self.execution is None else self.execution.view
        if not moves or view is None or view.phase not in REPLACEABLE:
            return None
        places, untyped = places_of(view, self.actions_of), view.approvals.untyped
        name, plans = self.spec.run, len(view.plans)
        return Concerned(name, self.accounted, self.leaving, untyped, places, plans, self.halls)

    @property
    def accounted(self) -> frozenset[str]:
        """Sites that its present plan counts as lost."""
        view = None if self.execution is None else self.execution.view
        if view is not None and view.replaced.accounted:
            return frozenset(view.replaced.accounted)
        return frozenset(self.leaving if self.mark == "lost" else ())

    def actions_of(self, view: RunView, step: str) -> tuple[Action, ...]:
        plan, name = view.origin_of(step)
        return self.actions.get(plan, {}).get(name, ())

    def yields_of(self, view: RunView, step: str) -> tuple[Action, ...]:
        """Actions by which the old primary of a promotion gives up its role."""
        plan, name = view.origin_of(step)
        return self.actions.get(plan, {}).get(old_of(name), ())

    def opened(self) -> bytes:
        """The value under `open/`."""
        return orjson.dumps(
            {
                "incident": self.spec.incident,
                "plan": self.spec.plan,
                "approvals": self.approvals,
                "ends": dict(self.ends),
                "leaving": list(self.leaving),
                **({"halls": list(self.halls)} if self.halls else {}),
                "mark": self.mark,
                "made": self.made,
                "since": self.since,
                "policy": policies.to_data(self.policy),
            }
        )


def made_at(guard: Lease, clock: Clock) -> str:
    """When a run and plan are made: unique, because leader tokens only grow, and so does time within a
    term.
    """
    return f"{guard.token}.{clock.now_ms()}"


def made_in(opened: bytes) -> str:
    """What a request to an open run repeats, from the value under `open/`; empty if missing."""
    try:
        return str(orjson.loads(opened).get("made", ""))
    except (ValueError, AttributeError):
        return ""


def policy_digest(policy: RunPolicy) -> str:
    """SHA-256 of the policy that a run was made under, as its journal names it."""
    data = canonical_json(policies.to_data(policy))
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def must_be_as_made(name: str, said: Mapping[str, Any], bound: str, run: InHand) -> None:
    """Compares the stored run with its journal. said: the data of `run_created` or `plan_replaced`; journals
    of older versions lack these. Raises Corrupt.
    """
    if said.get("bound", bound) != bound:
        raise Corrupt(f"the actions of {name} were changed in the store after the run was created")
    if said.get("policy", policy_digest(run.policy)) != policy_digest(run.policy):
        raise Corrupt(f"the policy of {name} was changed in the store after the run was created")
    if "policy" in said and said.get("approvals", run.approvals) != run.approvals:
        raise Corrupt(f"the approvals {name} needs were changed in the store after the run was created")


def read_opened(name: str, value: bytes, policy: RunPolicy) -> InHand:
    """A run without its actions. policy: used if none is stored with it, because an older version made it.
    Raises ValueError, KeyError, TypeError for unreadable data.
    """
    told: dict[str, Any] = orjson.loads(value)
    spec = RunSpec(name, told["incident"], told["plan"], ())
    made = policies.from_data(told["policy"]) if "policy" in told else policy
    return InHand(
        spec,
        told["ends"],
        {},
        made,
        tuple(told.get("leaving", ())),
        told.get("mark", "lost"),
        int(told["approvals"]),
        tuple(told.get("halls", ())),
        made=str(told.get("made", "")),
        left_before={str(site): int(at_ms) for site, at_ms in told.get("since", {}).items()},
    )


AGAIN_S: Final = 0.2
Say = Callable[[str, Mapping[str, Any]], None]


class Ending:
    """Ends the runs of one term. trouble: reports what a person must know."""

    def __init__(self, store: Store, guards: Guards, sets: DataSets, guard: Lease, trouble: Say) -> None:
        self._store, self._guards, self._sets = store, guards, sets
        self._guard, self._trouble = guard, trouble

    async def end(self, run: InHand, name: str, succeeded: bool, left_behind: Sequence[Put] = ()) -> None:
        """Retries while the store is away or changes meanwhile. Raises LeaseLost. left_behind: what the run
        moved, stored in the same transaction.
        """
        reported: set[str] = set()
        while True:
            try:
                permit = await self._marks(run.ends) if succeeded and run.ends else Permit()
                permit = permit | await self._give_up_claims(name, reported)
                changes = (*permit.changes, *left_behind, Delete(OPEN + name))
                await self._store.transact(permit.compares, changes, self._guard)
                return
            except NotAllowed as error:
                self._trouble(f"the end of {name}: {error.message}", {"run": name})
                run.ends = {}
            except (Conflict, Unavailable):
                await asyncio.sleep(AGAIN_S)

    async def _marks(self, ends: Mapping[str, Mark]) -> Permit:
        marks = set(ends.values())
        assert len(marks) == 1
        return await self._guards.may_mark(tuple(ends), marks.pop())

    async def _give_up_claims(self, name: str, reported: set[str]) -> Permit:
        """Frees epochs that the run claimed and never began. One in doubt or unreadable stays as it is and is
        reported, unless it was before. reported: what was reported before.
        """
        permit, doubts = Permit(), list[tuple[str, Mapping[str, Any]]]()
        epochs = await self._sets.read_all()
        for store, error in sorted(epochs.unreadable.items()):
            data = {"run": name, "code": error.code, "store": store, "hint": error.hint}
            doubts.append((f"{name} ended; {error.message}", data))
        for epoch in epochs.known.values():
            if epoch.settled or epoch.run != name:
                continue
            if epoch.begun:
                words = f"{name} ended; the state of {epoch.store} at {epoch.candidate} is unknown"
                doubts.append((f"{words}: {how_to_vouch(epoch)}", {"run": name}))
            else:
                permit = permit | datasets.settle(epoch, done=False)[1]
        for words, told in doubts:
            if words not in reported:
                self._trouble(words, told)
                reported.add(words)
        return permit
