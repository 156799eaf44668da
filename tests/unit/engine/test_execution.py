"""A run carried out on a store: outcomes of every kind, crashes at every boundary, lost leases and holds."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import orjson
import pytest

from evac.drivers.port import Action
from evac.engine.runs import requests
from evac.engine.runs.execution import LATE_MS, Hooks, RunExecution
from evac.engine.runs.reading import events_of
from evac.engine.runs.requests import Request
from evac.model.errors import Conflict, LeaseLost, Unavailable
from evac.model.run_policy import Envelope
from evac.run.state import fingerprint, replay
from evac.run.values import RunLimit, RunStep
from evac.store.port import Compare, Delete, MemoryStore, Put
from tests.unit.engine.worlds import Crash, Ground, WorldDriver, chain, run_async, spec_of
from tests.unit.run.test_replay import starts_without_a_look_between
from tests.unit.virtual_time import LOOP_MS, pass_s, run_virtually


def test_every_kind_of_outcome_ends_well_or_asks() -> None:
    how = {
        "b": ["retry", "ok"],
        "c": ["lost"],
        "d": ["gone", "ok"],
        "e": ["liar"],
        "f": ["broken", "ok"],
        "g": ["unready", "ok"],
    }
    driver = WorldDriver(lambda step, attempt: (how.get(step, []) + ["ok"] * 9)[attempt - 1])

    async def story() -> None:
        ground = Ground(spec_of(*(RunStep(n, "start", n, 0, 10) for n in "abcdefg")), driver)
        leading = await ground.lead()
        execution = await ground.begin(leading)
        assert await execution.run() == "succeeded"
        assert driver.done == {f"run-1/{n}" for n in "abcdefg"}
        executed = [line for line in driver.log if line.startswith("execute")]
        assert executed.count("execute run-1/c") == 1, "done, and only the answer was lost"
        assert executed.count("execute run-1/e") == 1, "a second try looks first"
        assert executed.count("execute run-1/d") == 2
        events = await events_of(ground.store, "run-1")
        assert fingerprint(replay(ground.spec, events)) == fingerprint(execution.view)
        await leading.release()

    run_virtually(story())


def test_a_hanging_step_is_observed_after_its_deadline() -> None:
    driver = WorldDriver(lambda step, attempt: "hang-done" if step == "a" else "ok")

    async def story() -> None:
        ground = Ground(chain("a", "b", patience=replace(chain("a").patience, deadline_least_ms=50)), driver)
        leading = await ground.lead()
        execution = await ground.begin(leading)
        assert await execution.run() == "succeeded"
        kinds = [e.kind for e in await events_of(ground.store, "run-1") if e.step == "a"]
        assert kinds[-2:] == ["step_unknown", "step_observed"]
        await leading.release()

    run_virtually(story())


async def _crashed_at(number: int, driver: WorldDriver) -> tuple[Ground, bool]:
    """A run that crashes at one boundary; whether it came that far."""

    def boundary(reached: int) -> None:
        if reached == number:
            raise Crash

    ground = Ground(chain("a", "b", "c"), driver)
    leading = await ground.lead()
    execution = await ground.begin(leading, Hooks(boundary=boundary))
    crashed = False
    try:
        await execution.run()
    except Crash:
        crashed = True
    await leading.release()
    return ground, crashed


def test_it_crashes_once_at_every_boundary_and_goes_on() -> None:
    async def story() -> int:
        number = 0
        while True:
            number += 1
            driver = WorldDriver(lambda step, attempt: "lost" if (step, attempt) == ("b", 1) else "ok")
            ground, crashed = await _crashed_at(number, driver)
            leading = await ground.lead("b")
            execution = await ground.resume(leading)
            assert await execution.run() == "succeeded"
            await leading.release()
            events = await events_of(ground.store, "run-1")
            assert not starts_without_a_look_between(events)
            executed = [line for line in driver.log if line.startswith("execute")]
            assert sorted(executed) == [f"execute run-1/{n}" for n in "abc"], f"boundary {number}"
            if not crashed:
                return number

    assert run_virtually(story()) > 15


def test_a_leader_that_lost_its_lease_stops_and_the_next_goes_on() -> None:
    driver = WorldDriver(takes_s=0.2)

    async def story() -> None:
        ground = Ground(chain("a", "b"), driver)
        first = await ground.lead("a")
        execution = await ground.begin(first)
        task = asyncio.create_task(execution.run())
        await asyncio.sleep(0.05)
        await ground.store.release(first.lease)
        second = await ground.lead("b")
        assert second.token > first.token
        with pytest.raises(LeaseLost):
            await task
        resumed = await ground.resume(second)
        assert await resumed.run() == "succeeded"
        assert driver.log.count("execute run-1/a") == 1
        await first.release()
        await second.release()

    run_virtually(story())


def test_two_writers_of_one_journal_never_both_go_on() -> None:
    async def story() -> None:
        ground = Ground(chain("a", "b", "c"), WorldDriver(takes_s=0.1))
        leading = await ground.lead("a")
        execution = await ground.begin(leading)
        task = asyncio.create_task(execution.run())
        await asyncio.sleep(0.05)
        other = await ground.resume(leading)  # the same lease: only the chain can tell them apart
        with pytest.raises(Conflict):
            await task
        assert await other.run() == "succeeded"
        await leading.release()

    run_virtually(story())


class LossyStore(MemoryStore):
    """Loses answers, by a seed: of writes before or after they were done. down: it answers nothing at all."""

    def __init__(self, chance: float, seed: int = 0) -> None:
        super().__init__(LOOP_MS)
        self.chance, self.random = chance, random.Random(seed)
        self.calm = True
        self.down = False

    def _loses(self) -> bool:
        return self.down or (not self.calm and self.random.random() < self.chance)

    async def transact(self, compares: Any, changes: Any, guard: Any = None) -> int:
        if self._loses():
            raise Unavailable("lost before")
        revision = await super().transact(compares, changes, guard)
        if self._loses():
            raise Unavailable("lost after")
        return revision

    async def get(self, key: str) -> Any:
        if self._loses():
            raise Unavailable("lost")
        return await super().get(key)

    async def renew(self, lease: Any) -> None:
        if self.down:
            raise Unavailable("lost")
        await super().renew(lease)


@pytest.mark.parametrize("seed", range(8))
def test_lost_answers_of_the_store_double_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evac.engine.runs.reading.SETTLE_AGAIN_S", 0.001)
    driver = WorldDriver()

    async def story() -> None:
        store = LossyStore(0.45, seed)
        ground = Ground(chain(*(f"s{n}" for n in range(20))), driver, store)
        leading = await ground.lead()
        execution = await ground.begin(leading)
        store.calm = False
        assert await execution.run() == "succeeded"
        store.calm = True
        executed = [line for line in driver.log if line.startswith("execute")]
        assert len(executed) == len(set(executed)) == 20
        events = await events_of(store, "run-1")
        assert fingerprint(replay(ground.spec, events)) == fingerprint(execution.view)
        await leading.release()

    run_virtually(story())


def test_a_store_that_stays_silent_ends_the_leader_not_the_run() -> None:
    async def story() -> None:
        store = LossyStore(0.0)
        ground = Ground(chain("a", "b"), WorldDriver(takes_s=0.05), store)
        leading = await ground.lead(ttl_ms=600)
        execution = await ground.begin(leading)
        task = asyncio.create_task(execution.run())
        await asyncio.sleep(0.02)
        store.down = True
        with pytest.raises(LeaseLost):
            await task
        assert "execute run-1/b" not in ground.driver.log
        store.down = False
        await leading.release()
        second = await ground.lead("b")
        resumed = await ground.resume(second)
        assert await resumed.run() == "succeeded"
        assert ground.driver.log.count("execute run-1/a") == 1
        await second.release()

    run_virtually(story())


def _ask(ground: Ground, verb: Any, **more: Any) -> Any:
    request = Request(f"r-{verb}-{len(more)}", verb, "mina", "because", **more)
    key = requests.key_of("run-1", request.id)
    return ground.store.transact((Compare(key, 0),), (Put(key, requests.encode(request)),))


async def _until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def test_people_approve_pause_attest_and_are_refused_in_writing() -> None:
    needed = Envelope(("pangyo",), ("accounts",))

    async def story() -> None:
        spec = replace(chain("a", "b"), approvals=1, envelope=needed)
        spec = replace(spec, steps=(spec.steps[0], replace(spec.steps[1], manual=True)))
        ground = Ground(spec)
        leading = await ground.lead()
        execution = await ground.begin(leading)
        task = asyncio.create_task(execution.run())
        await _until(lambda: execution.view.phase == "awaiting_approval")
        await _ask(ground, "resume")
        await _ask(ground, "approve", envelope=needed)
        await _until(lambda: execution.view.phases == ["succeeded", "running"])
        await _ask(ground, "attest", step="b", evidence={"seen": "by eye"})
        assert await task == "succeeded"
        events = await events_of(ground.store, "run-1")
        assert [e.data["verb"] for e in events if e.kind == "request_refused"] == ["resume"]
        assert execution.view.step("b").evidence == {
            "seen": "by eye",
            "attested_by": "mina",
            "proven_by": "name not proven",
        }
        assert not await ground.store.list("request/")
        assert "execute run-1/b" not in ground.driver.log
        await leading.release()

    run_virtually(story())


def test_a_hold_stops_everything_before_its_next_effect() -> None:
    async def story() -> None:
        ground = Ground(chain("a", "b"), WorldDriver(takes_s=0.1))
        leading = await ground.lead()
        execution = await ground.begin(leading)
        task = asyncio.create_task(execution.run())
        await _until(lambda: execution.view.phases[0] == "running")
        await ground.store.transact((), (Put("hold", orjson.dumps({"who": "jun", "reason": "storm"})),))
        await _until(lambda: execution.view.phases[0] == "succeeded")
        await asyncio.sleep(0.3)
        assert execution.view.held == "jun"
        assert "execute run-1/b" not in ground.driver.log
        await ground.store.transact((), (Delete("hold"),))
        assert await task == "succeeded"
        await leading.release()

    run_virtually(story())


class BlindStore(MemoryStore):
    """Gives no hint and shows no hold until asked to: the hold is first met in the transaction itself."""

    blind = True

    async def get(self, key: str) -> Any:
        return None if key == "hold" and self.blind else await super().get(key)


def test_a_hold_that_came_a_moment_ago_is_met_in_the_transaction() -> None:
    async def story() -> None:
        store = BlindStore(LOOP_MS)
        ground = Ground(chain("a", "b"), WorldDriver(), store)
        leading = await ground.lead()
        execution = await ground.begin(leading)
        await store.transact((), (Put("hold", orjson.dumps({"who": "jun", "reason": "storm"})),))
        task = asyncio.create_task(execution.run())
        await asyncio.sleep(0.1)
        assert not [line for line in ground.driver.log if line.startswith("execute")]
        store.blind = False
        await _until(lambda: execution.view.held == "jun")
        await store.transact((), (Delete("hold"),))
        assert await task == "succeeded"
        await leading.release()

    run_async(story())


def test_a_roll_back_undoes_actions_in_reverse() -> None:
    async def story() -> None:
        spec = chain("a", "b", monitor_ms=60_000)
        spec = replace(spec, steps=tuple(replace(step, safe_undo=True) for step in spec.steps))
        two = (Action("run", "x", "world"), Action("run", "y", "world"))
        ground = Ground(spec, actions={"a": two})
        leading = await ground.lead()
        execution = await ground.begin(leading)
        task = asyncio.create_task(execution.run())
        await _until(lambda: execution.view.phase == "monitoring")
        await _ask(ground, "undo")
        assert await task == "cancelled"
        undone = [line for line in ground.driver.log if line.startswith("undo")]
        assert undone == ["undo run-1/b", "undo run-1/a/1", "undo run-1/a"]
        assert not ground.driver.done
        await leading.release()

    run_virtually(story())


def test_a_dry_run_changes_nothing_and_ends() -> None:
    async def story() -> None:
        ground = Ground(chain("a", "b"), dry_run=True)
        leading = await ground.lead()
        execution: RunExecution = await ground.begin(leading)
        assert await execution.run() == "succeeded"
        assert not ground.driver.done
        assert not [line for line in ground.driver.log if line.startswith("observe")]
        await leading.release()

    run_virtually(story())


def test_a_start_that_was_written_late_begins_anew_so_that_no_window_is_shorter_than_it_is() -> None:
    step = RunStep("boot", "start", "boot", 0, 10, uses=(("inrush", 1, 0),))
    ground = Ground(spec_of(step, limits=(RunLimit("inrush", "rate", 1, 100),)))
    slow = [LATE_MS / 1_000 + 0.1]

    def written(number: int) -> None:
        if number == 2 and slow:  # the start is in the journal, and the store took this long to say so
            pass_s(slow.pop())

    async def story() -> None:
        leading = await ground.lead()
        execution = await ground.begin(leading, Hooks(boundary=written))
        assert await execution.run() == "succeeded"
        await leading.release()

    run_virtually(story())
    told = [(event.kind, event.data.get("code")) for event in run_virtually(events_of(ground.store, "run-1"))]
    started = [kind for kind, _ in told if kind == "step_started"]
    assert ("step_failed", "late") in told
    assert len(started) == 2
    executed = [line for line in ground.driver.log if line.startswith("execute")]
    assert len(executed) == 1, "nothing was done under the start that came late"
