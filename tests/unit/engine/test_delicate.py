"""Delicate steps: admitted, written with what rides along, refused in writing, concluded or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from evac.engine.runs import requests
from evac.engine.runs.admitting import Admitted, Doing
from evac.engine.runs.execution import Hooks
from evac.engine.runs.reading import events_of
from evac.engine.runs.requests import Request, RequestVerb
from evac.engine.stores.guards import Permit
from evac.engine.stores.sightings import LOSS_GROWN
from evac.model.errors import LeaseLost, NotAllowed, Retryable, RunError, Unavailable
from evac.run.state import replay
from evac.run.values import Event, RunLimit, RunStep
from evac.run.waits import Gate, waiting
from evac.store.port import Compare, MemoryStore, Put
from tests.unit.engine.worlds import PATIENCE, Crash, Ground, WorldDriver, chain, spec_of
from tests.unit.virtual_time import LOOP_MS, run_virtually


@dataclass
class Door:
    """Lets steps of data sets in: each start writes an epoch, each result settles it. refusals: raised first.

    moved: how often somebody else changes the epoch between the reading and the writing.
    """

    store: MemoryStore
    refusals: list[Exception] = field(default_factory=list)
    moved: int = 0
    loses: bool = False
    forbids: str = ""
    silent: int = 0
    inside: int = 0
    most_inside: int = 0

    def concerns(self, step: RunStep) -> bool:
        return bool(step.data_set)

    def enter(
        self, run: str, step: RunStep, attempt: int, doing: Doing
    ) -> AbstractAsyncContextManager[Admitted]:
        return self._enter(step, doing)

    @asynccontextmanager
    async def _enter(self, step: RunStep, doing: Doing) -> AsyncIterator[Admitted]:
        if self.refusals:
            raise self.refusals.pop(0)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            permit = await self.change(step, "claimed") if doing == "start" else Permit()
            yield _In(self, step, permit)
        finally:
            self.inside -= 1

    async def change(self, step: RunStep, value: str) -> Permit:
        key = f"epoch/{step.data_set}"
        entry = await self.store.get(key)
        if self.moved:
            self.moved -= 1
            await self.store.transact((), (Put(key, b"somebody else"),))
        revision = entry.revision if entry else 0
        return Permit((Compare(key, revision),), (Put(key, value.encode()),))


@dataclass
class _In:
    door: Door
    step: RunStep
    permit: Permit
    epoch: int = 7

    async def during(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self.door.loses:
            self.door.loses = False
            work.close()
            raise LeaseLost(f"store/{self.step.data_set}")
        return await work

    async def conclude(self, event: Event) -> Permit:
        if self.door.silent:
            self.door.silent -= 1
            raise Unavailable("silent")
        if self.door.forbids and event.kind == self.door.forbids:
            raise NotAllowed("proof-refused", "policy does not take this proof", "attest it")
        return await self.door.change(self.step, event.kind)


def stores(number: int, **more: Any) -> Any:
    steps = tuple(
        RunStep(f"fence/s{n}", "fence", f"s{n}", 0, 10, data_set=f"s{n}", site="pangyo")
        for n in range(number)
    )
    return spec_of(*steps, **more)


async def carried_out(ground: Ground, door: Door) -> Any:
    leading = await ground.lead()
    execution = await ground.begin(leading, admission=door)
    phase = await execution.run()
    await leading.release()
    return phase, execution, [(e.kind, e.step) for e in await events_of(ground.store, "run-1") if e.step]


def test_start_and_result_ride_with_their_epoch() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        ground, door = Ground(stores(1), store=store), Door(store)
        phase, _, events = await carried_out(ground, door)
        assert phase == "succeeded"
        assert [kind for kind, _ in events] == ["step_started", "step_succeeded"]
        entry = await store.get("epoch/s0")
        assert entry is not None
        assert entry.value == b"step_succeeded"
        assert door.inside == 0

    run_virtually(story())


def test_a_hundred_stores_go_side_by_side_and_are_written_together() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        ground, door = Ground(stores(100), WorldDriver(takes_s=0.05), store), Door(store)
        phase, execution, _ = await carried_out(ground, door)
        assert phase == "succeeded"
        assert door.most_inside == 100
        assert execution.journal.head.segment < 60, "not one transaction an event"
        for n in range(100):
            entry = await store.get(f"epoch/s{n}")
            assert entry is not None
            assert entry.value == b"step_succeeded"

    run_virtually(story())


@pytest.mark.parametrize("moved", [1, 2])
def test_an_epoch_that_moved_meanwhile_is_read_again(moved: int) -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        ground, door = Ground(stores(3), store=store), Door(store, moved=moved)
        phase, _, events = await carried_out(ground, door)
        assert phase == "succeeded"
        assert [step for kind, step in events if kind == "step_waits" and step.startswith("fence/")]
        executed = [line for line in ground.driver.log if line.startswith("execute")]
        assert len(executed) == len(set(executed)), "each once"

    run_virtually(story())


@pytest.mark.parametrize("others", [0, 2])
def test_a_loss_that_grew_asks_a_person_and_the_run_says_so(others: int) -> None:
    """It waited as for a lock: the run was running, nothing waited for a person, and it never ended."""

    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        refusals: list[Exception] = [Retryable(LOSS_GROWN, "it would lose 71.8 s", after_ms=10)]
        ground, door = Ground(stores(1 + others), store=store), Door(store, refusals)
        leading = await ground.lead()
        execution = await ground.begin(leading, admission=door)
        running = asyncio.ensure_future(execution.run())
        async with asyncio.timeout(60):
            while execution.view.phase != "paused":
                await asyncio.sleep(0.05)
        view = execution.view
        (wait,) = waiting(view)
        assert (wait.kind, wait.verbs[0]) == ("gate", "approve")
        assert wait.facts == Gate("it would lose 71.8 s", view.steps[view.index[wait.step]].data_set)
        assert replay(view.spec, await events_of(store, "run-1")).gate_of(view.index[wait.step])
        asked = Request("a1", "approve", "kim", "cold cache is fine", wait.step)
        await store.transact((), (Put(requests.key_of("run-1", "a1"), requests.encode(asked)),))
        async with asyncio.timeout(60):
            assert await running == "succeeded"
        assert not waiting(execution.view)
        await leading.release()

    run_virtually(story())


def test_who_is_not_let_in_waits_in_writing_and_comes_again() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        refusals: list[Exception] = [
            Retryable("data-set-held", "b is changing the roles of s0", after_ms=10),
            Retryable("maintenance", "maintenance", after_ms=10),
        ]
        ground, door = Ground(stores(1), store=store), Door(store, refusals)
        phase, _, events = await carried_out(ground, door)
        assert phase == "succeeded"
        assert [kind for kind, _ in events] == ["step_waits", "step_waits", "step_started", "step_succeeded"]

    run_virtually(story())


async def stops_and_is_settled(
    store: MemoryStore, door: Door, said: tuple[str, str], verb: RequestVerb
) -> None:
    """The run pauses at the fence with this failure; a person's request ends it."""
    ground = Ground(stores(1), store=store)
    leading = await ground.lead()
    execution = await ground.begin(leading, admission=door)
    task = asyncio.create_task(execution.run())
    while execution.view.phase != "paused":
        await asyncio.sleep(0.005)
    assert execution.view.step("fence/s0").failure == said
    request = Request("r1", verb, "mina", "done by hand", step="fence/s0")
    await store.transact((), (Put(requests.key_of("run-1", "r1"), requests.encode(request)),))
    assert await task == "succeeded_with_exceptions"
    await leading.release()


def test_a_result_that_cannot_stand_is_a_failure_that_asks_a_person() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        said = ("proof-refused", "policy does not take this proof; next: attest it")
        await stops_and_is_settled(store, Door(store, forbids="step_succeeded"), said, "attest")
        entry = await store.get("epoch/s0")
        assert entry is not None
        assert entry.value == b"step_attested"

    run_virtually(story())


def test_a_step_that_a_guard_refuses_says_what_to_do() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        refused = NotAllowed("site-left", "ansan is lost", "restore the site first")
        said = ("site-left", "ansan is lost; next: restore the site first")
        await stops_and_is_settled(store, Door(store, [refused]), said, "skip")

    run_virtually(story())


def test_what_was_done_is_no_failure_because_the_store_was_silent() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        ground, door = Ground(stores(1), store=store), Door(store, [Unavailable("silent")], silent=3)
        phase, _, events = await carried_out(ground, door)
        assert phase == "succeeded"
        kinds = [kind for kind, _ in events if kind != "step_stuck"]
        assert kinds == ["step_waits", "step_started", "step_succeeded"]

    run_virtually(story())


def test_a_data_set_lost_in_the_middle_is_looked_at_again() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        ground, door = Ground(stores(1), store=store), Door(store, loses=True)
        phase, _, events = await carried_out(ground, door)
        assert phase == "succeeded"
        assert [kind for kind, _ in events][:3] == ["step_started", "step_unknown", "step_observed"]

    run_virtually(story())


def test_it_crashes_once_at_every_boundary_of_a_delicate_step() -> None:
    async def story() -> int:
        number = 0
        while True:
            number += 1
            store = MemoryStore(LOOP_MS)
            ground, door = Ground(stores(2), store=store), Door(store)

            def boundary(reached: int, number: int = number) -> None:
                if reached == number:
                    raise Crash

            leading = await ground.lead()
            execution = await ground.begin(leading, Hooks(boundary=boundary), admission=door)
            crashed = False
            try:
                await execution.run()
            except Crash:
                crashed = True
            await leading.release()
            assert door.inside == 0
            second = await ground.lead("b")
            resumed = await ground.resume(second, admission=door)
            assert await resumed.run() == "succeeded", f"boundary {number}"
            await second.release()
            executed = sorted(line for line in ground.driver.log if line.startswith("execute"))
            assert executed == ["execute run-1/fence/s0", "execute run-1/fence/s1"], f"boundary {number}"
            if not crashed:
                return number

    assert run_virtually(story()) > 10


def test_a_new_plan_in_the_middle_keeps_what_is_done_and_what_runs() -> None:
    async def story() -> None:
        first = chain("a", "b", "c", limits=(RunLimit("api", "slots", 3),))
        first = replace(first, steps=tuple(replace(s, uses=(("api", 3, 0),)) for s in first.steps))
        second = replace(chain("a", "b", "d"), plan="plan-2", limits=(RunLimit("api", "slots", 1),))
        ground = Ground(first, WorldDriver(takes_s=0.1))
        leading = await ground.lead()
        execution = await ground.begin(leading)
        task = asyncio.create_task(execution.run())
        while execution.view.phases[1] != "running":
            await asyncio.sleep(0.005)
        with pytest.raises(RunError, match="was not found"):
            await execution.say(Event("plan_replaced", 0, data={"plan": "plan-9", "why": "", "lost": []}))
        lost = RunStep("x", "start", "x", 0, 1, (), (("nowhere", 1, 0),))
        broken = replace(second, plan="plan-3", steps=(*second.steps, lost))
        execution.view.specs |= {"plan-2": second, "plan-3": broken}
        with pytest.raises(RunError, match="not a limit of this run"):
            await execution.say(Event("plan_replaced", 0, data={"plan": "plan-3", "why": "", "lost": []}))
        await execution.say(Event("plan_replaced", 0, data={"plan": "plan-2", "why": "loss", "lost": ["z"]}))
        assert await task == "succeeded"
        with pytest.raises(RunError, match="the run is no longer being executed here"):
            await execution.say(Event("drift_seen", 0, data={"evidence": {}, "undone": False}))
        executed = [line for line in ground.driver.log if line.startswith("execute")]
        assert executed == ["execute run-1/a", "execute run-1/b", "execute run-1/d"]
        assert execution.view.spec.patience == PATIENCE
        await leading.release()

    run_virtually(story())
