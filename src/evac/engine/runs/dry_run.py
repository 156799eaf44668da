"""A dry run: what would keep each step of a run from working, given the state that earlier steps leave.

Real systems are queried only about what no earlier step changes. The rest is derived: roles of stores as
observed, changed by each fence and promotion; stored proofs; epochs. Anything on servers that stay dark until
an earlier step is not queried.

It reports what a run would meet: a problem that an earlier step removes does not count, and a fence that
could not be proven now does, whatever its driver can do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from typing import Final

from evac.drivers.port import Action, Checked, Driver, Order
from evac.drivers.registry import acts
from evac.engine.runs.binding import Bound
from evac.engine.runs.live_actions import PREFIX as STANDING
from evac.engine.runs.live_actions import LiveActions, Standing, decode_standing, refuse_old_standing
from evac.engine.runs.ordering import in_order
from evac.engine.stores import datasets
from evac.engine.stores.datasets import PREFIX as EPOCH
from evac.engine.stores.datasets import Epoch
from evac.model.backup import Lacks
from evac.model.errors import EvacError, NotAllowed
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy
from evac.run.values import RunStep
from evac.steps.kind import StepKind
from evac.steps.registry import kind_of
from evac.store.port import Store, all_entries

CHECK_S: Final = 5.0
CHECKS_AT_ONCE: Final = 32
ASKING_TOKEN: Final = 2**52
"""Order number for queries: never remembered, and never refused as too small."""
LEASE: Final = "lease"
"""The driver of permits: only the leader knows the permits granted and until when, and waits for their end.
"""
_COPIES: Final = frozenset({"sync", "async", "detached", "replica"})


@dataclass(frozen=True, slots=True)
class Kept:
    """Stored facts about stores."""

    epochs: Mapping[str, Epoch] = field(default_factory=dict)
    standing: Mapping[str, Standing] = field(default_factory=dict)
    """Proofs by synchronous copies, checked while all was well."""
    lacks: Mapping[str, Lacks] = field(default_factory=dict)
    """Data set -> which of its backups lack something, or may."""


async def read_kept(store: Store) -> Kept:
    """All but what is known of backups. Raises Unavailable. Unreadable facts prove nothing."""
    epochs: dict[str, Epoch] = {}
    for entry in await all_entries(store, EPOCH):
        name = entry.key.removeprefix(EPOCH)
        epochs[name] = datasets.decode(name, entry)
    standing: dict[str, Standing] = {}
    for entry in await all_entries(store, STANDING):
        name = entry.key.removeprefix(STANDING)
        with contextlib.suppress(NotAllowed):
            standing[name] = decode_standing(name, entry.value)
    return Kept(epochs, standing)


@dataclass(frozen=True, slots=True)
class Known:
    """The state before the first step."""

    roles: Mapping[str, Mapping[str, str]]
    """Store -> site -> primary, sync, async, detached, none or unreachable, as observed."""
    kept: Kept
    policy: RunPolicy
    now_ms: Callable[[], int]
    gone: Collection[str] = ()
    """Sites taken as lost: nothing there answers once the run is needed."""


@dataclass(slots=True)
class _Store:
    """The state of one store while its steps are simulated in order."""

    roles: dict[str, str]
    fenced: set[str] = field(default_factory=set)
    """Sites whose primary can no longer write."""
    is_moved: bool = False
    is_led: bool = False
    """Whether the copy follows the primary."""


async def problems_of(
    bound: Bound, driver: Callable[[str], Driver], known: Known
) -> dict[str, tuple[str, ...]]:
    """Step -> what would keep it from working; empty if nothing."""
    return await _DryRun(bound, driver, known).run()


class _DryRun:
    def __init__(self, bound: Bound, driver: Callable[[str], Driver], known: Known) -> None:
        self._bound, self._driver, self._known = bound, driver, known
        self._before = _before(bound.spec.steps)
        self._gate = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._stores: dict[str, _Store] = {}
        self._proofs: dict[str, dict[str, str]] = {}
        self._live = LiveActions(
            lambda step: bound.actions[step],
            lambda fence: self._proofs.get(fence, {}),
            known.kept.standing.get,
            known.now_ms,
        )

    async def run(self) -> dict[str, tuple[str, ...]]:
        """Simulates the steps of a store in order, because they affect each other; queries the rest
        concurrently.
        """
        found: dict[str, tuple[str, ...]] = {}
        others: list[RunStep] = []
        for step in sorted(
            self._bound.spec.steps, key=lambda one: (self._before[one.id].depth, one.start_ms)
        ):
            kind = kind_of(step.kind)
            if kind.claims_epoch or kind.follows:
                found[step.id] = await self._of_store(step)
            else:
                others.append(step)
        answers = await asyncio.gather(*(self._other(step) for step in others))
        return found | {step.id: words for step, words in zip(others, answers, strict=True)}

    async def _other(self, step: RunStep) -> tuple[str, ...]:
        before = self._before[step.id]
        if before.powers:
            return ()
        if kind_of(step.kind).checks and before.changes:
            return ()  # whether a service works is seen once it was started, or has its store back
        answers = await asyncio.gather(*(self._ask(action) for action in self._bound.actions[step.id]))
        return tuple(words for checked in answers for words in checked.problems)

    async def _of_store(self, step: RunStep) -> tuple[str, ...]:
        store = self._stores.setdefault(step.target, _Store(dict(self._known.roles.get(step.target, {}))))
        kind = kind_of(step.kind)
        if self._before[step.id].powers:
            return ()
        if kind.fences:
            return await self._fence(step, store)
        if kind.makes_primary:
            return await self._promote(step, store)
        if kind.protects and (store.is_moved or store.is_led):
            return ()  # whether the copy follows by then is what the step before it does
        store.is_led = store.is_led or kind.follows
        if kind.follows and store.is_moved:
            return await self._follow(step, store)
        return (await self._ask(self._bound.actions[step.id][0])).problems

    async def _fence(self, step: RunStep, store: _Store) -> tuple[str, ...]:
        actions = self._live(step.id)
        given = actions[0].parameters
        old, candidate = str(given.get("old", "")), str(given.get("candidate", "") or actions[0].at)
        epoch = self._known.kept.epochs.get(step.target, Epoch(step.target))
        store.fenced.add(old)
        try:
            for action in actions:
                refuse_old_standing(action, epoch)
            claimed, _ = datasets.claim(
                epoch, holder=old, candidate=candidate, purpose="promote", run=self._bound.spec.run
            )
            proof = str(given.get("proof", ""))
            datasets.prove(claimed, proof, self._known.policy.store(step.target))
        except NotAllowed as error:
            return (error.message,)
        answers = await asyncio.gather(*(self._ask(action) for action in actions))
        problems = tuple(words for checked in answers for words in checked.problems)
        self._proofs[step.id] = {"proof": proof}
        return problems

    async def _promote(self, step: RunStep, store: _Store) -> tuple[str, ...]:
        """A problem that the fence removes does not count; a problem of the fence is reported there."""
        action = self._live(step.id)[0]
        role = store.roles.get(action.at, "")
        problems: tuple[str, ...] = ()
        if role in _COPIES or role == "primary":
            problems = self._rivals(action, store)
        elif acts(action.driver):
            problems = (await self._ask(action)).problems
        store.is_moved = True
        store.roles |= dict.fromkeys([site for site, one in store.roles.items() if one == "primary"], "none")
        store.roles[action.at] = "primary"
        return problems

    def _rivals(self, action: Action, store: _Store) -> tuple[str, ...]:
        """Other members that take writes which no earlier step stops."""
        return tuple(
            f"{site} is a primary that accepts writes, and no step fences it"
            for site, role in sorted(store.roles.items())
            if role == "primary" and site not in {action.at, *store.fenced, *self._known.gone}
        )

    async def _follow(self, step: RunStep, store: _Store) -> tuple[str, ...]:
        """The promotion makes the new primary, so only the copy must answer."""
        action = self._bound.actions[step.id][0]
        role = store.roles.get(action.at, "")
        if role and role != "unreachable":
            return ()
        return (await self._ask(action)).problems if role else ()

    async def _ask(self, action: Action) -> Checked:
        """What the real system reports now; a problem if it does not answer."""
        if action.driver == LEASE:
            return Checked()
        order = Order("dry", action.target, 1, ASKING_TOKEN, 0, "dry run", CHECK_S, "dry", dry_run=True)
        try:
            async with self._gate, asyncio.timeout(CHECK_S + 1):
                return await self._driver(action.driver).check(action, order)
        except TimeoutError:
            return Checked((f"{action.driver} at {action.at} does not answer",))
        except EvacError as error:
            return Checked((error.message,))


@dataclass(frozen=True, slots=True)
class _Before:
    """What precedes a step, directly or indirectly."""

    depth: int = 0
    powers: bool = False
    """A step that restores power: what this step needs may be dark now."""
    changes: bool = False
    """A step that changes the world instead of only observing it."""


def _before(steps: Sequence[RunStep]) -> dict[str, _Before]:
    """Step -> what precedes it. O(steps + arrows). Raises RunError if steps wait for each other."""
    ordered = in_order(steps)
    kinds: dict[str, StepKind] = {step.id: kind_of(step.kind) for step in ordered}
    found: dict[str, _Before] = {}
    for step in ordered:
        own = [one for one in step.after if one in kinds]
        found[step.id] = _Before(
            max((found[one].depth + 1 for one in own), default=0),
            any(kinds[one].powers or found[one].powers for one in own),
            any(not kinds[one].checks or found[one].changes for one in own),
        )
    return found
