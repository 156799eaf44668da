"""Admits delicate steps: the guards against forbidden states, and the lease and epoch of the data set.

    fence      claims the next epoch of its store for the candidate; its result records the proof
    promote    begins what was claimed, if the proof is there; its result settles the epoch; restore alike
    protect    claims and begins an epoch that changes the synchronous set; its result settles it
    rejoin     goes under the epoch of its store as it stands
    traffic    never to a site that is left, and never nowhere

Store steps hold the lease of their data set from before their start is written until their result is.

A delicate step runs in a task of its own. Its start and its result are written in one transaction with the
admission's compares and changes, so that nothing can slip in between a check and its event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal, Protocol, TypeVar, cast

from evac.drivers.port import Action
from evac.engine.runs.live_actions import PREFIX as STANDING
from evac.engine.runs.live_actions import refuse_old_standing
from evac.engine.runs.performing import Outcome, Try, words_of
from evac.engine.stores import datasets
from evac.engine.stores.datasets import RUNGS, DataSets, Epoch, HeldSet
from evac.engine.stores.guards import Guards, Permit
from evac.engine.stores.sightings import LOSS_GROWN
from evac.model.errors import (
    Conflict,
    EvacError,
    LeaseLost,
    NotAllowed,
    Retryable,
    RunError,
    Unavailable,
)
from evac.model.run_policy import RunPolicy
from evac.run.patience import NO_MORE, deadline_ms
from evac.run.values import Event, RunStep
from evac.run.view import RunView
from evac.steps.kind import StepKind
from evac.steps.registry import kind_of
from evac.store.port import Delete

T = TypeVar("T")
Doing = Literal["start", "observe", "undo"]


class Admitted(Protocol):
    """One delicate step, admitted."""

    epoch: int
    """The epoch of its data set."""
    permit: Permit
    """Written in one transaction with the start event."""

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits the work while holding what must be held. Raises `LeaseLost` when that is lost."""
        ...

    async def conclude(self, event: Event) -> Permit:
        """What is written with the result event. Raises `NotAllowed` when the result cannot be accepted."""
        ...


class Admission(Protocol):
    """Raises from `enter`: `Retryable` (not now), `NotAllowed` (a person must change something first)."""

    def concerns(self, step: RunStep) -> bool:
        """Whether this step must be admitted. Called for every step, so it is fast."""
        ...

    def enter(
        self, run: str, step: RunStep, attempt: int, doing: Doing
    ) -> AbstractAsyncContextManager[Admitted]: ...


class FreeAdmission:
    """Concerns no step, so admits everything."""

    def concerns(self, step: RunStep) -> bool:
        return False

    def enter(
        self, run: str, step: RunStep, attempt: int, doing: Doing
    ) -> AbstractAsyncContextManager[Admitted]:
        raise AssertionError("no step needs to be admitted")


SET_TTL_MS: Final = 5_000

Happened = Literal["done", "absent", "unclear"]


class StoresSeen(Protocol):
    """What was observed of stores; `Desk` says what each of these returns."""

    @property
    def obeyed(self) -> Callable[[str], int]: ...

    @property
    def commits_wait(self) -> Callable[[str, Collection[str]], str]: ...


class GuardedAdmission:
    """The admission of one run. policy: what applies to it now. actions: by step id in the run. pace: raises
    Retryable while a share of traffic must wait. loss: raises Retryable while a promotion would lose more
    than was agreed. seen: what was observed of stores.
    """

    def __init__(
        self,
        guards: Guards,
        sets: DataSets,
        policy: Callable[[], RunPolicy],
        actions: Callable[[str], Sequence[Action]],
        set_ttl_ms: int = SET_TTL_MS,
        pace: Callable[[RunStep], Awaitable[None]] | None = None,
        loss: Callable[[RunStep, Sequence[Action]], None] = lambda step, actions: None,
        seen: StoresSeen | None = None,
    ) -> None:
        self._seen, self._waited = seen, Counter[str]()
        self._guards, self._sets, self._policy = guards, sets, policy
        self._actions, self._set_ttl_ms, self._pace = actions, set_ttl_ms, pace
        self._loss, self._obeyed = loss, (lambda store: 0) if seen is None else seen.obeyed

    def concerns(self, step: RunStep) -> bool:
        """Delicate kinds, and every step while its site is in a maintenance window."""
        kind = kind_of(step.kind)
        delicate = kind.claims_epoch or kind.joins_epoch or kind.moves_traffic or kind.awaits_commits
        windows = self._policy().windows
        return delicate or (bool(windows) and self._guards.in_window((step.site,), windows))

    def enter(
        self, run: str, step: RunStep, attempt: int, doing: Doing
    ) -> AbstractAsyncContextManager[Admitted]:
        if kind_of(step.kind).claims_epoch:
            return self._enter_store(run, step, doing)
        return self._enter_plain(step, doing)

    @asynccontextmanager
    async def _enter_plain(self, step: RunStep, doing: Doing) -> AsyncIterator[Admitted]:
        actions = self._actions(step.id)
        if self._pace is not None and step.paced and doing == "start":
            await self._pace(step)
        if kind_of(step.kind).awaits_commits and doing == "start":
            self._must_go_on(step, actions)
        if not kind_of(step.kind).joins_epoch:
            yield _PlainAdmission(0, await self._guard(step, actions, doing))
            return
        permit, epoch = await _both(self._guard(step, actions, doing), self._sets.read(step.target))
        yield _PlainAdmission(epoch.number, permit | datasets.stay(epoch))

    def _must_go_on(self, step: RunStep, actions: Sequence[Action]) -> None:
        """Raises Retryable while commits wait: another run, a person or the store itself lets them go on."""
        gone = [site for action in actions for site in str(action.parameters.get("without", "")).split()]
        why = self._seen.commits_wait(step.target, gone) if gone and self._seen is not None else ""
        if why:
            self._waited[step.id] += 1
            again_ms = min(OTHERWISE_AGAIN_MS, CONFLICT_AGAIN_MS * self._waited[step.id])
            raise Retryable("commits-wait", why, "see what releases them: evac run list", again_ms)

    @asynccontextmanager
    async def _enter_store(self, run: str, step: RunStep, doing: Doing) -> AsyncIterator[Admitted]:
        """Checks the guards, takes the lease and reads the epoch concurrently, because the store may be far
        away. The order does not matter: the permit compares all of it in the transaction of the start.
        """
        actions = self._actions(step.id)
        store, kind = step.data_set or step.target, kind_of(step.kind)
        if kind.makes_primary and doing == "start":
            self._loss(step, actions)
        async with AsyncExitStack() as stack:
            permit, before, held = await _all_of(
                self._guard(step, actions, doing),
                self._sets.read(store),
                stack.enter_async_context(self._sets.hold(store, self._set_ttl_ms)),
            )
            epoch, change = self._open(before, run, step, actions, doing)
            work = _StoreWork(self._sets, self._policy, run, kind, actions, held, self._obeyed(store))
            forget = _forget(store) if doing == "start" and kind.protects else Permit()
            work.epoch, work.permit = epoch.number, permit | change | forget
            yield work

    async def _guard(self, step: RunStep, actions: Sequence[Action], doing: Doing) -> Permit:
        if doing == "start":
            return await self._guards.may_act([(step.site, actions)], self._policy().windows)
        if doing == "undo":
            return await self._guards.may_take_back([(step.site, actions)])
        return Permit()

    def _open(
        self, before: Epoch, run: str, step: RunStep, actions: Sequence[Action], doing: Doing
    ) -> tuple[Epoch, Permit]:
        """The epoch that it runs under, and what its start writes."""
        kind = kind_of(step.kind)
        if doing != "start":
            if doing == "undo" and (not kind.fences or before.begun):
                raise NotAllowed(
                    "undo-store",
                    f"changes to {before.store} are not rolled back: a store stays where it moved",
                    "plan the failback: evac plan --failback",
                )
            return before, datasets.stay(before)
        old, candidate = _ends(actions)
        policy = self._policy().store(before.store)
        if kind.fences:
            for action in actions:
                refuse_old_standing(action, before)
            return datasets.claim(
                before,
                holder=old,
                candidate=candidate,
                purpose="promote",
                run=run,
                obeyed=self._obeyed(before.store),
            )
        if kind.makes_primary:
            return datasets.begin(before, candidate, run, policy)
        claimed, _ = datasets.claim(
            before,
            holder=candidate,
            candidate=candidate,
            purpose="protect",
            run=run,
            obeyed=self._obeyed(before.store),
        )
        return datasets.begin(claimed, candidate, run, policy)


class _PlainAdmission:
    def __init__(self, epoch: int, permit: Permit) -> None:
        self.epoch, self.permit = epoch, permit

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        return await work

    async def conclude(self, event: Event) -> Permit:
        return Permit()


class _StoreWork:
    epoch: int
    permit: Permit

    def __init__(
        self,
        sets: DataSets,
        policy: Callable[[], RunPolicy],
        run: str,
        kind: StepKind,
        actions: Sequence[Action],
        held: HeldSet,
        obeyed: int = 0,
    ) -> None:
        self._sets, self._policy, self._run, self._obeyed = sets, policy, run, obeyed
        self._kind, self._actions, self._held = kind, actions, held
        self._ahead: asyncio.Future[Epoch] | None = None

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Reads the epoch meanwhile; the permit's compare finds any later change."""
        self._ahead = asyncio.ensure_future(self._sets.read(self._held.store))
        try:
            return await self._held.during(work)
        except BaseException:
            self._ahead.cancel()
            raise

    async def _epoch(self) -> Epoch:
        """The epoch read ahead, once; after that, the present one."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with contextlib.suppress(Unavailable, asyncio.CancelledError):
                if ahead.done() and not ahead.cancelled():
                    return ahead.result()
            ahead.cancel()
        return await self._sets.read(self._held.store)

    async def conclude(self, event: Event) -> Permit:
        """What the result does to the epoch. Raises `NotAllowed` for a proof that policy does not accept."""
        epoch = await self._epoch()
        happened = _happened(event)
        if self._kind.makes_primary and epoch.run == self._run and epoch.candidate in _fenced(event):
            return datasets.not_done(epoch)[1]
        if (epoch.candidate, epoch.run) != (_ends(self._actions)[1], self._run):
            return self._not_ours(epoch, event, happened)
        if event.kind == "undo_done":
            return datasets.settle(epoch, done=False)[1]
        if self._kind.fences:
            if happened != "done":
                return datasets.stay(epoch)
            rung = _rung(event, self._actions)
            return datasets.prove(epoch, rung, self._policy().store(epoch.store))[1]
        if happened == "done":
            return datasets.settle(epoch, True, _synchronous(self._actions))[1] | _forget(epoch.store)
        if happened == "absent":
            gone = datasets.not_done if self._kind.makes_primary else _settle_undone
            return gone(epoch)[1]
        return datasets.stay(epoch)

    def _not_ours(self, epoch: Epoch, event: Event, happened: Happened) -> Permit:
        """The epoch is settled or belongs to another run: this step's result proves nothing for it. A person
        who attests a fence that was not begun claims the epoch with it.
        """
        if self._kind.fences and event.kind == "step_attested":
            old, candidate = _ends(self._actions)
            claimed, _ = datasets.claim(
                epoch,
                holder=old,
                candidate=candidate,
                purpose="promote",
                run=self._run,
                fenced=" ".join(_fenced(event)),
                obeyed=self._obeyed,
            )
            return datasets.prove(claimed, "attest", self._policy().store(epoch.store))[1]
        if self._kind.fences and happened == "done" and not epoch.settled:
            raise NotAllowed(
                "overtaken",
                f"{epoch.store}: {epoch.candidate} claimed epoch {epoch.number} in the meantime",
                "see: evac run show " + epoch.run,
            )
        return datasets.stay(epoch)


A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


async def _both(one: Awaitable[A], other: Awaitable[B]) -> tuple[A, B]:
    """Both results. If one fails, raises the first error once the other has ended too."""
    return cast(tuple[A, B], await _answers(one, other))


async def _all_of(one: Awaitable[A], other: Awaitable[B], third: Awaitable[C]) -> tuple[A, B, C]:
    """Like `_both`. Neither is cancelled midway: a lease just granted must be known to be released."""
    return cast(tuple[A, B, C], await _answers(one, other, third))


async def _answers(*calls: Awaitable[Any]) -> tuple[Any, ...]:
    found = await asyncio.gather(*calls, return_exceptions=True)
    for answer in found:
        if isinstance(answer, BaseException):
            raise answer
    return tuple(found)


def _fenced(event: Event) -> frozenset[str]:
    """Sites where a person attests that nothing can write."""
    if event.kind != "step_attested":
        return frozenset()
    return datasets.names_in(str(event.data.get("evidence", {}).get("fenced", "")))


def _forget(store: str) -> Permit:
    """Drops what was known of who confirms every commit: it is changing and must be checked again."""
    return Permit((), (Delete(STANDING + store),))


def _settle_undone(epoch: Epoch) -> tuple[Epoch, Permit]:
    return datasets.settle(epoch, done=False)


def _happened(event: Event) -> Happened:
    """What an event proves. A step that failed certainly did not happen; otherwise the outcome is unknown."""
    if event.kind in ("step_succeeded", "step_attested"):
        return "done"
    if event.kind == "step_failed":
        return "absent"
    if event.kind == "step_observed":
        outcome: Happened = event.data["outcome"]
        return outcome
    return "unclear"


def _rung(event: Event, actions: Sequence[Action]) -> str:
    """The proof that a fence gave: a person's word, what the driver names, or what the action requested."""
    if event.kind == "step_attested":
        return "attest"
    if any(action.verb == "demote" for action in actions):
        return "demote"
    asked = next((str(a.parameters["proof"]) for a in actions if "proof" in a.parameters), "")
    seen = event.data.get("evidence", {}).get("proof", asked)
    return seen if seen in RUNGS and seen == asked else ""


def _ends(actions: Sequence[Action]) -> tuple[str, str]:
    """The sites of the old primary and of the candidate."""
    first = actions[0]
    candidate = str(first.parameters.get("candidate", "") or first.at)
    return str(first.parameters.get("old", "")), candidate


def _synchronous(actions: Sequence[Action]) -> tuple[str, ...] | None:
    """The members that are to confirm commits from now on; None if the action does not say."""
    found = actions[0].parameters.get("synchronous")
    return tuple(found) if isinstance(found, tuple) else None


OTHERWISE_AGAIN_MS: Final = 5_000
CONFLICT_AGAIN_MS: Final = 200
CONCLUDE_TRIES: Final = 5


class Bench(Protocol):
    """What delicate steps are executed with."""

    view: RunView

    async def ask(
        self,
        kind: str,
        step: RunStep,
        attempt: int,
        data: dict[str, Any],
        permit: Permit,
        under_way: bool = False,
    ) -> None: ...

    def try_of(self, doing: str, i: int, epoch: int) -> Try: ...

    async def perform(self, doing: str, one: Try) -> Outcome: ...

    def landed(self, step: str) -> None: ...


async def carry_out(bench: Bench, admission: Admission, kind: str, step: RunStep, attempt: int) -> None:
    """Performs one delicate step from start to finish. Anything that keeps it from beginning is recorded as a
    wait. The look at a controller-held store whose holder is gone follows right after its lease and says
    nothing about the store before that.
    """
    doing = cast(Doing, kind)
    begun = False
    try:
        async with admission.enter(bench.view.spec.run, step, attempt, doing) as admitted:
            await _begin(bench, admitted, doing, step, attempt)
            begun = True
            if not step.manual or doing != "start":
                await _go(bench, admitted, doing, step, attempt)
    except EvacError as error:
        if begun or isinstance(error, LeaseLost):
            raise
        if doing == "observe" and error.code == datasets.HELD:
            await asyncio.sleep(CONFLICT_AGAIN_MS / 1_000)
        else:
            await _wait(bench, doing, step, attempt, error)
    finally:
        bench.landed(step.id)


async def _begin(bench: Bench, admitted: Admitted, doing: Doing, step: RunStep, attempt: int) -> None:
    if doing == "start":
        limit_ms = deadline_ms(bench.view.spec.patience, step)
        data = {"token": bench.view.token, "epoch": admitted.epoch, "deadline_ms": limit_ms}
        await bench.ask("step_started", step, attempt, data, admitted.permit)
    elif doing == "undo":
        told = {"token": bench.view.token, "who": bench.view.cancel_who, "reason": "rolled back"}
        await bench.ask("undo_started", step, attempt, told, admitted.permit)


async def _go(bench: Bench, admitted: Admitted, doing: Doing, step: RunStep, attempt: int) -> None:
    one = bench.try_of(doing, bench.view.number(step.id), admitted.epoch)
    try:
        kind, data = await admitted.during(bench.perform(doing, one))
    except LeaseLost as error:
        kind, data = "step_unknown", {"message": error.message}
        if doing == "observe":
            kind, data = "step_observed", {"outcome": "unclear", "evidence": {"why": error.message}}
    await _finish(bench, admitted, doing, step, attempt, (kind, data))


async def _finish(
    bench: Bench, admitted: Admitted, doing: Doing, step: RunStep, attempt: int, outcome: Outcome
) -> None:
    """Writes the result with its permit. A completed step is never called failed because the store did not
    answer: the write is retried for as long as we lead.
    """
    tries_left = CONCLUDE_TRIES
    while True:
        kind, data = outcome
        try:
            permit = await admitted.conclude(Event(kind, bench.view.last_ms, step.id, attempt, data))
        except Unavailable:
            await asyncio.sleep(CONFLICT_AGAIN_MS / 1_000)
            continue
        except NotAllowed as error:
            outcome, permit = _cannot_stand(doing, error), Permit()
            kind, data = outcome
        try:
            await bench.ask(kind, step, attempt, data, permit, under_way=True)
            return
        except Conflict:
            tries_left -= 1
            if not tries_left:
                raise
        except RunError:
            return  # people decided meanwhile, and that stands


def _cannot_stand(doing: Doing, error: EvacError) -> Outcome:
    """The result cannot be accepted by policy, such as a fence with too weak a proof."""
    if doing == "observe":
        return "step_observed", {"outcome": "unclear", "evidence": {"why": error.message}}
    if doing == "undo":
        return "undo_failed", {"code": error.code, "message": words_of(error), "again_ms": NO_MORE}
    return "step_failed", {"code": error.code, "message": words_of(error), "again_ms": NO_MORE}


async def _wait(bench: Bench, doing: Doing, step: RunStep, attempt: int, error: EvacError) -> None:
    """Not now: recorded in the journal if the state allows it. A refusal by a guard is a failure that asks a
    person, recorded once.
    """
    again_ms = OTHERWISE_AGAIN_MS
    if isinstance(error, Retryable):
        again_ms = max(error.after_ms, CONFLICT_AGAIN_MS)
    elif isinstance(error, Conflict | Unavailable):
        again_ms = CONFLICT_AGAIN_MS
    try:
        if isinstance(error, NotAllowed) and doing != "observe":
            await _give_up(bench, doing, step, attempt, error)
        elif doing == "start":
            data: dict[str, Any] = {"why": error.message, "again_ms": again_ms}
            if error.code == LOSS_GROWN:
                data["asks"] = True  # it never shrinks, so only a person ends this wait
            await bench.ask("step_waits", step, attempt, data, Permit())
        elif doing == "observe":
            data = {"outcome": "unclear", "evidence": {"why": error.message}}
            await bench.ask("step_observed", step, attempt, data, Permit(), under_way=True)
        else:
            await asyncio.sleep(again_ms / 1_000)
    except (RunError, Conflict):
        return  # people decided meanwhile, or a hold came in between


async def _give_up(bench: Bench, doing: Doing, step: RunStep, attempt: int, error: EvacError) -> None:
    """Refused for good, so that the run asks a person or ends instead of waiting forever."""
    data = {"code": error.code, "message": words_of(error), "again_ms": NO_MORE}
    if doing == "undo":
        told = {"token": bench.view.token, "who": bench.view.cancel_who, "reason": "rolled back"}
        await bench.ask("undo_started", step, attempt, told, Permit())
        await bench.ask("undo_failed", step, attempt, data, Permit(), under_way=True)
    else:
        await bench.ask("step_failed", step, attempt - 1, data, Permit())
