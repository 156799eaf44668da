"""The runs of one leadership: made once an incident, taken over, carried out, ended, and watched afterwards.

    open/<run>         a run that has not ended (see `in_hand`); whoever leads carries it on
    proposal/<id>      what a person wants to be run (see `proposals`)

A run is created in one transaction with its incident, the register of sites and the key under `open/`; it
ends in one with the register. In between `RunExecution` alone writes its journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import orjson

from evac.drivers.port import Action
from evac.engine.boots.feed_watch import FeedWatch, Mending, Trouble, take_over_plan
from evac.engine.clock import RunClock
from evac.engine.lead.leadership import Leadership, begin
from evac.engine.lead.watch_journal import Notice, of_event
from evac.engine.plans.library import get_plan, put_plan
from evac.engine.runs import proposals, refused_takeovers, requests
from evac.engine.runs.admitting import GuardedAdmission
from evac.engine.runs.desk import Desk, PaceGate, go_on
from evac.engine.runs.drift import DoneSteps
from evac.engine.runs.effects import EFFECTS
from evac.engine.runs.execution import Hooks, RunExecution
from evac.engine.runs.live_actions import LiveActions
from evac.engine.runs.open_runs import (
    AGAIN_S,
    OPEN,
    DoubtedRuns,
    Ending,
    InHand,
    leave,
    made_at,
    must_be_as_made,
    must_be_lost,
    policy_digest,
    read_opened,
)
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run, incident_key, take_over
from evac.engine.stores.guards import Permit, read_register, read_register_as_is
from evac.engine.stores.sightings import LossGuard
from evac.model.errors import (
    Conflict,
    Corrupt,
    EvacError,
    LeaseLost,
    NotAllowed,
    RunError,
    StalePlan,
    Unavailable,
)
from evac.model.observation import LeavingSite
from evac.model.run_policy import SUCCEEDED, RunPolicy
from evac.net.internal_errors import enduring, foreseen, internal
from evac.run import envelope
from evac.run.agenda import lasting_fences
from evac.run.decide import EVAC
from evac.run.replan import ids_of
from evac.run.values import ENDED, Event, RunSpec
from evac.run.view import RunView
from evac.store.journal import Journal
from evac.store.port import Compare, Entry, Lease, Put
from evac.watch.verdict import SiteState

LOOKED_MS: Final = 10_000
"""How long a proposal waits for an observation that covers every run that has ended."""
_Taken = tuple[InHand, Journal, RunView]


class Conductor:
    """All runs under one lease. `run` executes them until cancelled or the lease is lost. state_of: the
    present verdict on a site.
    """

    def __init__(
        self, desk: Desk, leadership: Leadership, state_of: Callable[[str], SiteState] = lambda site: "lost"
    ) -> None:
        self._desk, self._lead, self._state_of = desk, leadership, state_of
        self._runs: dict[str, InHand] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._found, self._in_hand = asyncio.Event(), asyncio.Event()
        self._ending = Ending(desk.store, desk.guards, desk.sets, self.guard, self._trouble)
        self._doubted = DoubtedRuns(desk.store, OPEN.__add__, self._runs.__contains__, self._adopt)
        self._done = DoneSteps(desk, leadership, self._runs, self._tell)

    @property
    def guard(self) -> Lease:
        return self._lead.lease

    @property
    def journals(self) -> tuple[Journal, ...]:
        """Journals of all open runs; their heads are worth anchoring."""
        return tuple(run.journal for run in self._runs.values() if run.journal is not None)

    async def run(self) -> None:
        """Takes over unfinished runs, then serves proposals. Raises `LeaseLost` (in a group)."""
        self._desk.policies.forget()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(enduring("drift", self._done.run, self._trouble))
            found = await self._store_list(OPEN)
            waiting = {entry.key for entry in found}
            self._doubted.taken_over |= waiting
            self._found.set()
            if not waiting:
                self._in_hand.set()
            for entry in found:
                tasks.create_task(self._resume(entry, waiting))
            tasks.create_task(self._serve_proposals())
            desk = self._desk
            vouching = proposals.Vouching(
                desk.store, desk.sets, desk.clock, self.guard, desk.tell, OPEN, desk.vouched
            )
            tasks.create_task(enduring("attestations", vouching.run, self._trouble))

    def lost(self) -> None:
        """The lease has ended: cancels every running effect at once."""
        for run in self._runs.values():
            if run.execution is not None:
                run.execution.lost()

    async def create(self, wanted: proposals.Wanted, proposed: Entry | None = None) -> str:
        """Creates a run together with the answer to its proposal, and starts executing it; returns its id.
        Raises `UnsafePlan` if the checker refuses the plan, `NotAllowed` if a guard does, `Conflict` if the
        incident already has a run, the proposal was withdrawn, or the world changed meanwhile.
        """
        await self._found.wait()  # else a run of ours may be taken for one that was left unfinished
        assert self._tasks is not None
        at, within_ms = (wanted.places, 0) if proposed is None else ((), LOOKED_MS)
        await self._desk.look_first(at, within_ms)
        seen = await self._look_at(wanted) if proposed is not None else ()
        await self._desk.accept_in_time(wanted.plan, wanted.places, within_ms)
        policy, digest = self._desk.policy, await put_plan(self._desk.store, wanted.plan, self.guard)
        name = f"{wanted.incident}-{digest.removeprefix('sha256:')[:8]}"
        bound = await self._desk.bind(wanted.plan, name, wanted.incident, digest)
        approvals = bound.spec.approvals if wanted.approvals is None else wanted.approvals
        spec = replace(bound.spec, approvals=approvals)
        permit = Permit()
        if wanted.leaving and not wanted.names:
            leaving = await self._still_to_leave(wanted)
            permit = await self._desk.guards.may_leave(leaving, wanted.mark, wanted.typed)
        actions = {digest: bound.actions}
        left = (wanted.leaving, wanted.mark, approvals, wanted.halls)
        run = InHand(spec, wanted.ends, actions, policy, *left, made=made_at(self.guard, self._desk.clock))
        clock = run.clock = RunClock(self._desk.clock)
        made, permit = {"run": name, "plan": digest}, permit | proposals.answered(proposed, {"run": name})
        data = {
            "scenario": spec.labels.get("scenario", ""),
            "envelope": envelope.to_data(spec.envelope),
            "mode": wanted.mode,
            "reason": wanted.reason,
            "names": sorted(wanted.names),
            "approvals": approvals,
            "policy": policy_digest(policy),
            "made": run.made,
            **({"bound": bound.digest} if bound.digest else {}),
            **wanted.asked_by,
            **({"seen": [asdict(one) for one in seen]} if seen else {}),
        }
        making = create_run(
            self._desk.store,
            spec,
            self._lead,
            clock,
            data,
            (Compare(incident_key(spec.incident), 0), *permit.compares),
            (
                Put(incident_key(spec.incident), orjson.dumps(made)),
                Put(OPEN + name, run.opened()),
                *permit.changes,
            ),
        )
        journal, view = await self._doubted.making(name, making, self._tasks)
        self._runs[name] = run
        self._desk.policies.keep(name, policy)

        async def made_now() -> _Taken:
            return run, journal, view

        begin(self._tasks, self._carry_on(OPEN + name, made_now))
        return name

    async def _look_at(self, wanted: proposals.Wanted) -> Sequence[LeavingSite]:
        """What is observed of the sites that a person wants to leave as lost. Raises NotAllowed for one that
        lives and was not declared abandoned.
        """
        if self._desk.look is None or wanted.mark != "lost" or not wanted.leaving:
            return ()
        seen = await self._desk.look(wanted.leaving)
        proposals.must_be_abandoned(seen, wanted.abandoned)
        return seen

    async def _still_to_leave(self, wanted: proposals.Wanted) -> tuple[str, ...]:
        """Sites to change in the register. Those left by an earlier run that has ended may be among them, or
        be all of them: then the work which that run did not finish is done. While a run that leaves them is
        open, the guard refuses.
        """
        register = await read_register(self._desk.store)
        new = tuple(site for site in wanted.leaving if register.get(site) == "active")
        return wanted.leaving if self.concerned() is not None else new

    async def _resume(self, entry: Entry, waiting: set[str]) -> None:
        """Takes over a run that an earlier leader left unfinished."""

        async def take() -> _Taken | None:
            try:
                return await self._take_over(entry)
            finally:
                waiting.discard(entry.key)
                if not waiting:
                    asyncio.get_running_loop().call_soon(self._in_hand.set)

        await self._carry_on(entry.key, take)  # what it raises ends the term
        self._doubted.taken_over.discard(entry.key)

    async def _adopt(self, entry: Entry) -> None:
        """Adopts a run of our own whose creation was not confirmed."""
        await self._carry_on(entry.key, lambda: self._take_over(entry))

    async def _carry_on(self, key: str, take: Callable[[], Awaitable[_Taken | None]]) -> None:
        """Executes a run obtained by `take`; after an internal error, resumes it from the store as the next
        leader would.
        """

        async def again() -> _Taken | None:
            entry = await self._patiently(lambda: self._desk.store.get(key))
            return None if entry is None else await self._take_over(entry)

        async def carry() -> None:
            nonlocal take
            now, take = take, again
            taken = await now()
            if taken is not None:
                await self._carry(*taken)

        await enduring(key.removeprefix(OPEN), carry, self._trouble)

    async def _take_over(self, entry: Entry) -> _Taken | None:
        """Takes over a run; None if that is impossible, which was then reported."""
        name = entry.key.removeprefix(OPEN)
        try:
            run = read_opened(name, entry.value, self._desk.policy)
        except (EvacError, ValueError, KeyError, TypeError):
            await self._refuse(name, Corrupt(f"cannot read {entry.key}"))
            return None
        self._desk.policies.keep(name, run.policy)
        clock = run.clock = RunClock(self._desk.clock)

        async def spec_of(digest: str, said: Mapping[str, Any]) -> RunSpec:
            data = await get_plan(self._desk.store, digest)
            bound = await self._desk.as_bound(data, name, run.spec.incident, digest)
            must_be_as_made(name, said, bound.digest, run)
            run.actions[digest] = bound.actions
            return replace(bound.spec, approvals=run.approvals)

        try:
            await self._patiently(lambda: self._desk.compare(name))
            journal, view = await self._patiently(
                lambda: take_over(self._desk.store, name, spec_of, self._lead, clock, self._desk.owner)
            )
            await self._patiently(lambda: refused_takeovers.forget(self._desk.store, name, self.guard))
        except LeaseLost:
            raise
        except EvacError as error:
            await self._refuse(name, error)
            return None
        return run, journal, view

    async def _refuse(self, name: str, error: EvacError) -> None:
        """Says that a run is not taken over, and keeps why for everyone who looks at it."""
        self._tell("trouble", f"cannot take over {name}: {error.message}", {"run": name})
        desk = self._desk
        await refused_takeovers.keep(desk.store, name, error, self.guard, desk.owner, desk.clock.now_ms())

    async def _carry(self, run: InHand, journal: Journal, view: RunView) -> None:
        """Executes one run and ends it."""
        name = view.spec.run
        run.journal = journal
        run.execution = self._execution(run, journal, view)
        self._runs[name] = run
        beside: Sequence[asyncio.Task[None]] = ()
        try:
            self._done.watch_again(run, view)
            beside = self._look_after(run, run.execution)
            phase = view.phase if view.phase in ENDED else await run.execution.run()
            if phase in ENDED:
                kept = await self._left_behind(run, run.execution.view)
                await self._ending.end(run, name, phase in SUCCEEDED, kept)
                self._desk.policies.forget(name)
                with contextlib.suppress(Unavailable, NotAllowed):
                    await self._desk.behind(())  # so that what the run moved is observed at once
        except (LeaseLost, Conflict, Unavailable):
            raise
        except EvacError as error:
            told = {"run": name, "code": error.code}
            self._tell("trouble", f"{name} cannot continue: {error.message}", told)
        finally:
            run.execution = None
            for task in beside:
                task.cancel()

    async def _left_behind(self, run: InHand, view: RunView) -> Sequence[Put]:
        """What the run moved, so that the next plan starts from it."""
        effects, name = self._desk.effects, view.spec.run
        if effects is None:
            return ()
        try:
            value = await self._patiently(lambda: effects(view, lambda step: run.actions_of(view, step)))
        except LeaseLost:
            raise
        except Exception as error:  # a run that is over ends, whatever becomes of the record of it
            why = error if isinstance(error, EvacError) else internal(error)
            words = f"cannot record what {name} moved, so plans do not take it into account: {why.message}"
            self._trouble(words, {"run": name, "code": why.code})
            return ()
        return () if value is None else (Put(EFFECTS + name, value),)

    def _look_after(self, run: InHand, execution: RunExecution) -> Sequence[asyncio.Task[None]]:
        """For a run that boots servers: watches its feeds and has its plan repaired when servers do not come
        up, which needs no further approval.
        """
        desk, spec = self._desk, execution.view.spec
        if not spec.mend_ms:
            return ()
        assert self._tasks is not None

        async def take(data: bytes, trouble: Trouble) -> None:
            digest = await put_plan(desk.store, data, self.guard)
            had = digest in execution.view.plans
            bound = await (desk.as_bound if had else desk.bind)(data, spec.run, spec.incident, digest)
            run.actions[digest] = bound.actions
            await take_over_plan(execution, bound, trouble)

        def tell(words: str) -> None:
            self._tell("run", f"{spec.run}: {words}", {"run": spec.run})

        def actions_of(step: str) -> tuple[Action, ...]:
            return run.actions_of(execution.view, step)

        feeds = FeedWatch(execution, actions_of, desk.driver, self._lead, tell)
        beside = [begin(self._tasks, enduring(f"feeds of {spec.run}", feeds.run, self._trouble))]
        if desk.mend is not None:
            mending = Mending(execution, desk.mend, take, tell)
            beside.append(begin(self._tasks, enduring(f"mending {spec.run}", mending.run, self._trouble)))
        return beside

    def _execution(self, run: InHand, journal: Journal, view: RunView) -> RunExecution:
        desk, name, clock = self._desk, view.spec.run, run.clock or self._desk.clock

        def now() -> RunView:
            return run.execution.view if run.execution is not None else view

        def policy() -> RunPolicy:
            return desk.policies.of(name)

        def evidence(step: str) -> Mapping[str, Any]:
            found = (now().index.get(name, -1) for name in ids_of(step, len(now().plans)))
            return next((now().evidence[i] for i in found if i in now().evidence), {})

        def actions_of(step: str) -> tuple[Action, ...]:
            return run.actions_of(now(), step)

        async def consent(now: RunView, event: Event) -> Permit:
            return await self._consent(now, event)

        actions = LiveActions(actions_of, evidence, desk.standing, desk.clock.now_ms)
        terms = Terms(
            name,
            actions,
            desk.driver,
            self._lead,
            run.policy.patience,
            view.spec.labels.get("scenario", ""),
            yields=lambda step: run.yields_of(now(), step),
            proofs=lambda step: lasting_fences(now(), step),
        )
        return RunExecution(
            desk.store,
            journal,
            view,
            self._lead,
            terms,
            clock,
            admission=GuardedAdmission(
                desk.guards,
                desk.sets,
                policy,
                actions,
                pace=self._pace(run, view, actions),
                loss=LossGuard(now, policy, desk.loss, RunClock(clock, view.last_ms).now_ms),
                seen=desk,
            ),
            request_terms=requests.RequestTerms(run.policy.pause_most_ms, desk.check, desk.learn, desk.gone),
            hooks=Hooks(lambda events: self._heard(run, events), desk.boundary, consent),
        )

    def _pace(self, run: InHand, view: RunView, actions: LiveActions) -> PaceGate | None:
        if self._desk.health is None:
            return None

        def now() -> RunView:
            return run.execution.view if run.execution is not None else view

        async def say(event: Event) -> None:
            if run.execution is None:
                raise RunError("run-over", f"{run.spec.run} is not in progress")
            await run.execution.say(event)

        return PaceGate(now, actions, self._desk.health, say)

    def _resumed(self, run: InHand, event: Event) -> None:
        """A person resumed what a health check had stopped."""
        execution = run.execution
        if event.data.get("who") == EVAC or execution is None or not execution.view.pacing.stopped:
            return
        assert self._tasks is not None
        begin(self._tasks, go_on(execution.view, str(event.data["who"]), execution.say))

    async def ready(self) -> None:
        """Waits until every run that an earlier leader left is taken over or reported as impossible to."""
        await self._in_hand.wait()

    @property
    def asks_names(self) -> bool:
        """Whether a run waits for a person to confirm that sites are lost."""
        return any(_asks(run) for run in self._runs.values())

    def concerned(self, asked: str = "") -> proposals.Concerned | None:
        """The newest open run that another loss concerns. asked: only one that waits for a person to confirm
        that this site is lost.
        """
        for run in reversed(self._runs.values()):
            found = run.concern
            if found is not None and (not asked or asked in _asks(run)):
                return found
        return None

    def runs_in(self, phases: Collection[str]) -> list[RunExecution]:
        """Open runs in one of these phases."""
        runs = [run.execution for run in self._runs.values() if run.execution is not None]
        return [one for one in runs if one.view.phase in phases]

    async def replace_plan(
        self, name: str, data: bytes, why: str, lost: Sequence[str], gone: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Replaces the plan of an open run because these sites are lost; completed steps stay. Returns what a
        person is asked for; empty if the run continues. Raises RunError, NotAllowed, UnsafePlan (the checker
        refuses it), StalePlan (it counts on a site that is left by now, or takes one for lost that is neither
        left nor lost any more).

        What the register says of the sites changes in the same transaction, except of those whose names a
        person must type first. gone: those of them that are lost now, and not only left.
        """
        run = self._runs.get(name)
        execution = None if run is None else run.execution
        if run is None or execution is None:
            raise RunError("run-over", f"{name} is not in progress")
        await self._desk.look_first(lost)
        await self._desk.accept(data)
        digest = await put_plan(self._desk.store, data, self.guard)
        bind = self._desk.as_bound if digest in execution.view.plans else self._desk.bind
        bound = await bind(data, name, run.spec.incident, digest)
        view, (register, same) = execution.view, await read_register_as_is(self._desk.store)
        left = {site for site, mark in register.items() if mark != "active"}
        if left - set(lost) or set(lost) - left - set(gone):
            raise StalePlan("plan-stale", f"the evacuated sites changed while {name} was being replanned")
        together = {*left, *lost} if set(lost) - left else set()
        names = sorted(together) if len(together) > 1 else []
        policy = self._desk.policies.of(name)
        agreed = policy.mode == "act" and envelope.covers(policy.envelope, bound.spec.envelope)
        approvals = 0 if agreed else max(1, view.spec.approvals, policy.approvals)
        run.actions[digest] = bound.actions
        view.specs[digest] = bound.spec
        if run.mark != "lost":
            await execution.say(Event("made_ungraceful", 0, data={"why": why}))
        after = replace(
            run,
            leaving=tuple(sorted({*run.leaving, *lost})),
            mark="lost",
            ends=proposals.ends_after(run.ends, gone),
            made=made_at(self.guard, self._desk.clock),
            left_before=run.since,
        )
        permit = Permit((), (Put(OPEN + name, after.opened()),))
        typed = frozenset(view.approvals.typed)
        permit = permit | await leave(self._desk.guards, register, lost, names, typed, gone) | same
        data_of = {
            "plan": digest,
            "why": why,
            "lost": sorted(lost),
            "approvals": approvals,
            "names": names,
            "made": after.made,
            **({"bound": bound.digest} if bound.digest else {}),
        }
        await execution.say(
            Event("plan_replaced", 0, data=data_of), permit, lambda now: now.approvals.typed == typed
        )
        run.leaving, run.mark, run.ends = after.leaving, after.mark, after.ends
        run.made, run.left_before = after.made, after.left_before
        return proposals.asks_of(execution.view, policy.envelope)

    async def _consent(self, view: RunView, event: Event) -> Permit:
        """A person typed the names of all sites that are left, so the register records them, unless one of
        them lives by now. Raises `NotAllowed` then, `Retryable` while that is unknown.
        """
        if not view.approvals.to_type:
            return Permit()
        register, same = await read_register_as_is(self._desk.store)
        for site in view.approvals.to_type:
            if register.get(site) == "active":
                must_be_lost(site, self._state_of(site))
        typed = {*view.approvals.typed, *event.data.get("typed", ())}
        return (
            await leave(self._desk.guards, register, view.approvals.to_type, view.approvals.to_type, typed)
            | same
        )

    def _heard(self, run: InHand, events: Sequence[Event]) -> None:
        name = run.spec.run
        for event in events:
            if event.kind == "step_started":
                run.epochs[event.step] = int(event.data.get("epoch", 0))
            elif event.kind == "step_succeeded" or (
                event.kind == "step_observed" and event.data["outcome"] == "done"
            ):
                self._done.watch(run, event.step, event.attempt)
            elif event.kind == "resumed":
                self._resumed(run, event)
            if (told := of_event(name, event)) is not None:
                self._tell("run", *told)

    async def _serve_proposals(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                async for _ in self._desk.store.watch(proposals.PROPOSAL):
                    for entry in await self._desk.store.list(proposals.PROPOSAL):
                        await self._propose(entry)
            await asyncio.sleep(AGAIN_S)

    async def _propose(self, entry: Entry) -> None:
        """Creates what was proposed or answers why not; nothing if it was withdrawn meanwhile."""
        desk = self._desk
        try:
            now_ms = desk.clock.now_ms()
            await self.create(
                await proposals.wanted_of(desk.store, entry, now_ms, self._runs, desk.proven), entry
            )
        except (LeaseLost, Unavailable):
            raise
        except Exception as error:
            no = proposals.answered(entry, proposals.refused(foreseen(error, entry.key, self._trouble)))
            with contextlib.suppress(Conflict):
                await self._desk.store.transact(no.compares, no.changes, self.guard)

    async def _patiently(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Retries while the store is away, as long as we lead."""
        while True:
            try:
                return await ask()
            except Unavailable:
                self._lead.check()
                await asyncio.sleep(AGAIN_S)

    async def _store_list(self, prefix: str) -> list[Entry]:
        found: list[Entry] = await self._patiently(lambda: self._desk.store.list(prefix))
        return found

    def _trouble(self, words: str, data: Mapping[str, Any]) -> None:
        self._tell("trouble", words, data)

    def _tell(self, kind: Any, words: str, data: Mapping[str, Any]) -> None:
        self._desk.tell(Notice(kind, self._desk.clock.now_ms(), "", words, data))


def _asks(run: InHand) -> Collection[str]:
    """Sites that a person must still confirm as lost: with a name or, if several names were typed before,
    with an approval.
    """
    if run.execution is None:
        return ()
    view = run.execution.view
    return view.approvals.to_type if view.phase == "awaiting_approval" else view.approvals.untyped
