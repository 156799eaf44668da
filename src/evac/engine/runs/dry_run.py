"""A dry run: what would keep each step of a run from working, on the state that the steps before it leave.

Only what no earlier step changes is asked of the real systems as it is. The rest is judged by what is known:
roles of stores as observed, changed by each fence and promotion; proofs that the controller keeps; epochs.
What runs on servers that are dark until an earlier step switches them on is not asked at all.

It says what a run would meet, so it errs on neither side: a problem that an earlier step removes is none, and
a fence that would not be proven now is one, whatever its driver can do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from evac.drivers.port import Action, Checked, Driver, Order
from evac.drivers.registry import acts
from evac.engine.runs.binding import Bound
from evac.engine.runs.live_actions import PREFIX as STANDING
from evac.engine.runs.live_actions import LiveActions, Standing, decode_standing, refuse_old_standing
from evac.engine.stores import datasets
from evac.engine.stores.datasets import PREFIX as EPOCH
from evac.engine.stores.datasets import Epoch
from evac.model.errors import EvacError, NotAllowed
from evac.model.run_policy import RunPolicy
from evac.run.values import RunStep
from evac.steps.registry import kind_of
from evac.store.port import Store, all_entries

CHECK_S: Final = 5.0
CHECKS_AT_ONCE: Final = 32
ASKING_TOKEN: Final = 2**52
"""Of orders that only ask: nobody remembers it, and nobody finds it too small."""
LEASE: Final = "lease"
"""The driver of permits: only the leader knows who was permitted until when, and it waits for the end."""
_COPIES: Final = frozenset({"sync", "async", "detached", "replica"})


@dataclass(frozen=True, slots=True)
class Kept:
    """What the controller keeps of stores."""

    epochs: Mapping[str, Epoch] = field(default_factory=dict)
    standing: Mapping[str, Standing] = field(default_factory=dict)
    """Proofs by synchronous copies that were checked while all was well."""


async def read_kept(store: Store) -> Kept:
    """Raises Unavailable. What cannot be read proves nothing."""
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
    """What is known before the first step."""

    roles: Mapping[str, Mapping[str, str]]
    """Store -> site -> primary, sync, async, detached, none or unreachable, as observed."""
    kept: Kept
    policy: RunPolicy
    now_ms: Callable[[], int]
    gone: Collection[str] = ()
    """Sites that are taken for lost: nothing there answers once the run is needed."""


@dataclass(slots=True)
class _Store:
    """One store while steps are counted one after the other."""

    roles: dict[str, str]
    fenced: set[str] = field(default_factory=set)
    """Sites whose primary can write no more."""
    is_moved: bool = False
    is_led: bool = False
    """Whether a copy was led to the primary."""


async def problems_of(
    bound: Bound, driver: Callable[[str], Driver], known: Known
) -> dict[str, tuple[str, ...]]:
    """Step -> what would keep it from working; empty if nothing would."""
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
        """Stores one step after the other, as they change each other; the rest all at once."""
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
        """What the fence takes care of is no problem; where the fence has one, that is said of the fence."""
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
        """Other members that take writes, and whose writes no step before this ends."""
        return tuple(
            f"{site} is a primary that accepts writes, and no step fences it"
            for site, role in sorted(store.roles.items())
            if role == "primary" and site not in {action.at, *store.fenced, *self._known.gone}
        )

    async def _follow(self, step: RunStep, store: _Store) -> tuple[str, ...]:
        """The primary is new: that it is one is what the promotion does. The copy has to answer."""
        action = self._bound.actions[step.id][0]
        role = store.roles.get(action.at, "")
        if role and role != "unreachable":
            return ()
        return (await self._ask(action)).problems if role else ()

    async def _ask(self, action: Action) -> Checked:
        """What the real system says now; a problem where it does not answer."""
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
    """What comes before a step, through any chain."""

    depth: int = 0
    powers: bool = False
    """Something that gives power: what the step needs may be dark now."""
    changes: bool = False
    """Something that changes the world, and does not only look at it."""


def _before(steps: Sequence[RunStep]) -> dict[str, _Before]:
    """Step -> what comes before it. O(steps + arrows)."""
    by_id: dict[str, RunStep] = {step.id: step for step in steps}
    found: dict[str, _Before] = {}
    for first in by_id:
        waiting = [first]
        while waiting:
            name = waiting[-1]
            own = [one for one in by_id[name].after if one in by_id]
            missing = [one for one in own if one not in found]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            kinds = [kind_of(by_id[one].kind) for one in own]
            found[name] = _Before(
                max((found[one].depth + 1 for one in own), default=0),
                any(kind.powers for kind in kinds) or any(found[one].powers for one in own),
                any(not kind.checks for kind in kinds) or any(found[one].changes for one in own),
            )
    return found
