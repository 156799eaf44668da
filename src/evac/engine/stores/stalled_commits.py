"""Commits that hang because a synchronous copy is gone: a small run a store, under its next epoch.

    withdrawn/<store>     {"epoch", "times"}: how often a run that waited for a person was withdrawn since the
                          epoch stands, so that the next time its copy is gone it gets a run of its own

Where the run waits for a person, to approve it or because its step failed, and commits go on by themselves
meanwhile, it is withdrawn: later it would change a store in which nothing is wrong. A copy that a run under
way is bringing back to a new primary is waited for, and then looked at again: until then nothing else could
change the roles anyway. A copy that could not confirm may be able to later: as long as commits hang, what
failed is tried again, after the longest wait between tries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, get_args

import orjson

from evac.engine.plans.library import digest_of
from evac.engine.runs.conductor import Conductor
from evac.engine.runs.desk import Desk
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.proposals import Wanted
from evac.engine.runs.reading import incident_key
from evac.engine.stores.datasets import Epoch
from evac.engine.stores.guards import Permit, check_mode, read_register
from evac.engine.stores.sync_standby import Roles
from evac.model.errors import Conflict, EvacError, LeaseLost, RunError, StalePlan, Unavailable
from evac.run.decide import EVAC
from evac.run.values import ENDED, Event, RunPhase
from evac.run.view import RunView
from evac.steps.registry import kind_of
from evac.store.port import Compare, Put

Protections = Callable[[Sequence[str], Mapping[str, Roles], Collection[str]], Awaitable[Mapping[str, bytes]]]
"""Lost sites, the roles that changed since the estate was written, and sites that are left, whose copies are
no choice -> plans of stores to protect."""

Hangs = Callable[[], Mapping[str, Sequence[str]]]
"""Stores -> sites of synchronous copies that have not followed for too long, though the sites may live."""

Say = Callable[[Any, str, str, Mapping[str, Any]], None]
"""Kind of notice, site, words, data."""

WITHDRAWN: Final = "withdrawn/"
ASKING: Final = ("pending", "awaiting_approval", "paused")
_MOVING: Final = ("running",)
_NOT_ENDED: Final = frozenset(get_args(RunPhase)) - ENDED
_SEEN_AGAIN_MOST_MS: Final = 10_000
_TO_COME: Final = ("pending", "ready", "running", "unknown")


class Hanging:
    """Of one leadership. voters: how many sites vote; lost: which of them are lost now."""

    def __init__(
        self,
        desk: Desk,
        voters: int,
        conductor: Conductor,
        protections: Protections | None,
        lost: Callable[[], Collection[str]],
        say: Say,
    ) -> None:
        self._desk, self._voters, self._conductor = desk, voters, conductor
        self._protections, self._lost, self._say = protections, lost, say
        self._answered: dict[str, int] = {}
        self._failed_ms: dict[str, int] = {}

    async def protect(
        self, site: str, silent: Sequence[str] = (), only: Collection[str] | None = None
    ) -> None:
        """Stores that lost their synchronous replica with the site. silent: sites that live, but whose copies
        of the stores `only` do not follow.
        """
        if self._protections is None:
            return
        epochs = await self._desk.sets.read_all()
        roles = {e.store: Roles(e.holder, e.synchronous) for e in epochs.values() if e.settled}
        register = await read_register(self._desk.store)
        left = sorted(site for site, mark in register.items() if mark != "active")
        found = await self._protections(sorted({*self._lost(), *silent}), roles, left)
        for store in sorted(found if only is None else {*found} & {*only}):
            words = f"{store} lost its synchronous replica in {site}"
            if self._desk.policy.mode == "advise":
                self._say("loss", site, f"{words}; its commits wait", {})
                continue
            epoch = epochs.get(store, Epoch(store))
            if epoch.settled:  # else a promotion is under way, and says itself who confirms
                await self._protect_store(site, epoch, found[store], words)

    async def _protect_store(self, site: str, epoch: Epoch, data: bytes, words: str) -> None:
        """The next epoch names the incident, so that two leaders make one run of it. Every try of its step is
        an epoch: nobody is asked for the same a second time while the first is open.
        """
        await self._conductor.ready()
        if digest_of(data) in {run.view.spec.plan for run in self._conductor.runs_in(_NOT_ENDED)}:
            return
        mode = self._desk.policy.mode
        check_mode(mode, self._desk.store.quorum, self._voters)
        times, _ = await self._withdrawn(epoch)
        incident = f"{epoch.store}-protect-{epoch.number + 1}{f'-{times + 1}' if times else ''}"
        approvals = None if mode == "act" else self._desk.policy.approvals
        try:
            run = await self._conductor.create(Wanted(incident, data, words, mode, approvals=approvals))
        except Conflict as error:
            if error.key != incident_key(incident):
                raise
            return
        self._say("loss", site, f"{words}: {run}", {"run": run})

    async def watch(self, hangs: Hangs, commits_go_on: Callable[[], Collection[str]] | None) -> None:
        """A replica that died alone gives no verdict of its site, and hangs every commit as well. Once an
        epoch: what was decided in it is not decided again, unless it was withdrawn.

        commits_go_on: stores whose commits were seen to wait for nobody, for as long as it takes to believe
        that they hang.
        """
        profile, clock = self._desk.policy.profile, self._desk.clock
        seen_again_ms = min(2 * (profile.suspect_ms + profile.confirm_ms), _SEEN_AGAIN_MOST_MS)
        brought_ms: dict[str, int] = {}
        while True:
            for store, sites in hangs().items():
                with contextlib.suppress(Conflict, Unavailable):
                    await self._try_again(store)
                    epoch = await self._desk.sets.read(store)
                    if not epoch.settled or self._answered.get(store) == epoch.number:
                        continue
                    if any(_brings_back(run.view, store) for run in self._conductor.runs_in(_MOVING)):
                        brought_ms[store] = clock.monotonic_ms()
                    if clock.monotonic_ms() - brought_ms.get(store, -seen_again_ms) < seen_again_ms:
                        continue
                    await self._try_protect(store, sites)
                    self._answered[store] = epoch.number
            if commits_go_on is not None and (asking := self._asking()):
                for store in sorted(asking.keys() & set(commits_go_on())):
                    with contextlib.suppress(Conflict, Unavailable, RunError, StalePlan):
                        await self._withdraw(store, asking[store])
            await asyncio.sleep(profile.period_ms / 1_000)

    def _asking(self) -> dict[str, RunExecution]:
        """Store -> its run that waits for a person."""
        runs = [run for run in self._conductor.runs_in(ASKING) if _asks(run.view)]
        return {run.view.steps[0].data_set: run for run in runs}

    async def _try_again(self, store: str) -> None:
        """The step of its run that failed, once that is long enough ago. Raises Conflict, Unavailable."""
        execution = self._asking().get(store)
        if execution is None or not _failed(execution.view):
            self._failed_ms.pop(store, None)
            return
        now_ms = self._desk.clock.monotonic_ms()
        since_ms = self._failed_ms.setdefault(store, now_ms)
        if now_ms - since_ms < execution.view.spec.patience.backoff_most_ms:
            return
        step, data = execution.view.steps[0].id, {"who": EVAC, "reason": f"the commits of {store} still hang"}
        with contextlib.suppress(RunError, StalePlan):  # a person was quicker
            await execution.say(Event("step_retried", 0, step, data=data), fits=_failed)
        self._failed_ms.pop(store, None)

    async def _try_protect(self, store: str, sites: Sequence[str]) -> None:
        """Raises LeaseLost, Conflict, Unavailable; what else stands against it is said."""
        where = ", ".join(sites)
        try:
            await self.protect(where, sites, (store,))
        except (LeaseLost, Conflict, Unavailable):
            raise
        except EvacError as error:
            words = f"the commits of {store} wait for {where}: {error.message}"
            self._say("trouble", where, words, {"code": error.code})

    async def _withdraw(self, store: str, execution: RunExecution) -> None:
        """Nobody is asked any more: unless somebody has just agreed. Raises StalePlan then, RunError where it
        has ended, Conflict, Unavailable.
        """
        run = execution.view.spec.run
        epoch = await self._desk.sets.read(store)
        times, written = await self._withdrawn(epoch)
        value = orjson.dumps({"epoch": epoch.number, "times": times + 1})
        permit = Permit((written,), (Put(written.key, value),))
        words = f"the commits of {store} go on by themselves"
        await execution.say(Event("cancelled", 0, data={"who": EVAC, "reason": words}), permit, _asks)
        self._answered.pop(store, None)
        self._say("run", "", f"{words}; {run} is withdrawn", {"run": run})

    async def _withdrawn(self, epoch: Epoch) -> tuple[int, Compare]:
        """How often one was withdrawn in this epoch, and that it was read so."""
        key = WITHDRAWN + epoch.store
        entry = await self._desk.store.get(key)
        if entry is None:
            return 0, Compare(key, 0)
        times = 0
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told: dict[str, int] = orjson.loads(entry.value)
            times = int(told["times"]) if told["epoch"] == epoch.number else 0
        return times, Compare(key, entry.revision)


def _asks(view: RunView) -> bool:
    """Whether the one step of it waits for a person, and nothing that it began may still happen."""
    if len(view.steps) != 1 or not kind_of(view.steps[0].kind).protects:
        return False
    return _failed(view) if view.phase == "paused" else view.phase in ASKING


def _failed(view: RunView) -> bool:
    """Whether it pauses by itself, because its one step failed."""
    return view.pause is not None and view.pause.by == "step" and view.phases[0] == "failed"


def _brings_back(view: RunView, store: str) -> bool:
    """Whether a copy is yet to follow again, by a step that has not failed."""
    steps = enumerate(view.steps)
    return any(
        kind_of(step.kind).joins_epoch and step.data_set == store and view.phases[i] in _TO_COME
        for i, step in steps
    )
