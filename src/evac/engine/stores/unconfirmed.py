"""Stores where a copy should confirm every commit, and none does: reported, and protected again.

What counts is the present state, not how it came about: a copy may be back without a restore, after its
server or its network was down, and a new leader sees the same as the one before. A small run per store, under
its next epoch, makes a copy confirm that has followed for a while. Only where evac itself set who confirms:
what a person switched off is reported, and changed only if people approve it.

Any open run that still has to change the roles of the store comes first; nothing is reported only while a
step of it is under way. A site that was left comes back by its restore. A run that waits for a person is
withdrawn once a copy confirms.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Protocol

from evac.engine.runs.conductor import Conductor
from evac.engine.runs.desk import Desk
from evac.engine.runs.execution import RunExecution
from evac.engine.stores.datasets import Epoch
from evac.engine.stores.guards import read_register
from evac.engine.stores.refusals import Refusals, Say
from evac.engine.stores.stalled_commits import NOT_ENDED, UNDER_WAY, Hanging
from evac.model.errors import RunError, StalePlan
from evac.model.records import dataclass
from evac.run.values import SETTLED, StepPhase
from evac.steps.registry import kind_of

CODE: Final = "unconfirmed"
_BEGUN: Final = UNDER_WAY - {"ready"}


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """A store where no copy confirms commits although one should."""

    store: str
    at: str
    """Site of its primary."""
    rpo_ms: int | None
    seen_ms: int
    """When that was last observed, by the monotonic clock."""
    copies: Mapping[str, bytes]
    """Site of each copy that has followed for a while -> plan that makes it confirm, best first."""


class SeenCommits(Protocol):
    """What the leader sees of commits."""

    def unconfirmed(self) -> Mapping[str, Unconfirmed]: ...

    def confirmed(self) -> Collection[str]:
        """Stores where a copy confirms every commit."""
        ...


class Protecting:
    """One term. lost: sites that are lost now."""

    def __init__(
        self,
        desk: Desk,
        conductor: Conductor,
        hanging: Hanging,
        lost: Callable[[], Collection[str]],
        say: Say,
    ) -> None:
        self._desk, self._conductor, self._hanging = desk, conductor, hanging
        self._lost, self._say = lost, say
        self._refusals = Refusals(say)
        self._reported: set[str] = set()
        self._answered: dict[str, int] = {}
        self._epochs: dict[str, tuple[int, int]] = {}
        """Store -> its epoch, and when that was first seen, by the monotonic clock."""

    async def watch(self, commits: SeenCommits) -> None:
        """Continues until cancelled."""
        await self._conductor.ready()
        while True:
            found = commits.unconfirmed()
            for _, one in sorted(found.items()):
                with self._refusals.of(one.store, f"no replica is known to confirm commits of {one.store}"):
                    await self._answer(one)
            for store in sorted(set(commits.confirmed()) - found.keys()):
                with self._refusals.of(store, f"a replica confirms commits of {store} again"):
                    await self._end(store)
            await asyncio.sleep(self._desk.policy.profile.period_ms / 1_000)

    async def _answer(self, one: Unconfirmed) -> None:
        store = one.store
        why = f"no replica is known to confirm commits of {store}"
        await self._hanging.try_again(store, self._hanging.asking(again=True), why)
        epoch = await self._desk.sets.read(store)
        if (
            not epoch.settled
            or epoch.holder not in ("", one.at)
            or not self._is_seen_since(one, epoch.number)
        ):
            return
        changing = self._changes(store)
        if not changing:
            self._report(one)
        may_act = self._desk.policy.mode != "advise" and epoch.number
        if changing or not may_act or self._answered.get(store) == epoch.number:
            return
        if self._open_steps(store) <= SETTLED:
            await self._protect(one, epoch)

    async def _protect(self, one: Unconfirmed, epoch: Epoch) -> None:
        """A refused attempt is repeated."""
        register, lost = await read_register(self._desk.store), self._lost()
        there = (site for site in one.copies if register.get(site) == "active" and site not in lost)
        copy = next(there, "")
        if not copy:
            return
        words = f"{one.store} is not protected, and its replica at {copy} follows"
        plan, by_people = one.copies[copy], bool(epoch.synchronous)
        with self._refusals.of(one.store, words, one.at):
            run = await self._hanging.create(epoch, "confirm", plan, words, by_people=by_people)
            if run:
                self._say("run", copy, f"{words}: {run}", {"run": run})
            self._answered[one.store] = epoch.number

    def _is_seen_since(self, one: Unconfirmed, number: int) -> bool:
        """Whether that was observed long enough after roles last changed: before, it may have been so."""
        now_ms, profile = self._desk.clock.monotonic_ms(), self._desk.policy.profile
        known, since_ms = self._epochs.get(one.store, (-1, 0))
        if known != number:
            self._epochs[one.store] = number, now_ms
            return False
        return one.seen_ms - since_ms >= max(profile.suspect_ms + profile.confirm_ms, profile.clear_ms)

    def _report(self, one: Unconfirmed) -> None:
        """Once, until a copy confirms."""
        if one.store in self._reported:
            return
        self._reported.add(one.store)
        lossless = one.rpo_ms == 0
        why = "although it may lose no data" if lossless else "although the estate has a synchronous replica"
        words = f"{one.store}: no replica is known to confirm commits of its primary at {one.at}, {why}"
        hint = "see which replicas follow: evac observe ESTATE"
        self._say("trouble", one.at, words, {"code": CODE, "store": one.store, "hint": hint})

    async def _end(self, store: str) -> None:
        """A copy confirms commits of the store."""
        self._answered.pop(store, None)
        words = f"a replica confirms commits of {store} again"
        if store in self._reported:
            self._reported.discard(store)
            self._say("trouble", "", f"{store}: {words}", {"code": CODE, "store": store})
        if (run := self._hanging.asking(again=True).get(store)) is not None:
            with contextlib.suppress(RunError, StalePlan):
                await self._hanging.withdraw(run, words)

    def _changes(self, store: str) -> bool:
        """Whether an open run is changing the roles of the store. One that waits for a person changes nothing
        that it has not begun.
        """
        moving = _steps_of(store, self._conductor.runs_in(("running",)))
        return not UNDER_WAY.isdisjoint(moving) or not _BEGUN.isdisjoint(self._open_steps(store))

    def _open_steps(self, store: str) -> set[StepPhase]:
        """Phases of steps in open runs that change the roles of the store."""
        return _steps_of(store, self._conductor.runs_in(NOT_ENDED))


def _steps_of(store: str, runs: Iterable[RunExecution]) -> set[StepPhase]:
    return {
        run.view.phases[i]
        for run in runs
        for i, step in enumerate(run.view.steps)
        if step.target == store and (kind_of(step.kind).claims_epoch or kind_of(step.kind).follows)
    }
