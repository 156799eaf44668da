"""A run whose server does not come up: its plan is mended once, in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from evac.drivers.manual import NoopDriver
from evac.drivers.port import Action, Evidence, Order
from evac.engine.boots.feed_watch import Mending, Trouble, take_over_plan
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.binding import Bound
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run, events_of
from evac.model.errors import InvalidInput, Permanent
from evac.model.run_policy import Patience
from evac.run.state import fingerprint, replay
from evac.run.values import RunPhase, RunSpec, RunStep
from evac.run.view import RunView
from evac.store.port import MemoryStore

BOOTS = tuple(RunStep(f"boot:{name}", "boot", name, 0, 10) for name in ("a", "b", "c"))
START = RunStep("start:chat:base:1", "start", "chat", 10, 10, ("boot:a", "boot:b"), act="on a, b")
VERIFY = RunStep("verify:chat:base", "verify", "chat", 20, 10, ("start:chat:base:1",))
PATIENCE = Patience(attempts=1)
SPEC = RunSpec(
    "run", "incident", "plan", (*BOOTS, START, VERIFY), patience=PATIENCE, approvals=0, mend_ms=400
)
MENDED = replace(
    SPEC,
    plan="mended",
    steps=(BOOTS[0], BOOTS[2], replace(START, after=("boot:a", "boot:c"), act="on a, c"), VERIFY),
)


class DeadServer(NoopDriver):
    """One server never comes up; notes what is begun."""

    def __init__(self, dead: str) -> None:
        super().__init__()
        self.dead, self.begun = dead, list[str]()

    async def execute(self, action: Action, order: Order) -> Evidence:
        self.begun.append(order.step)
        if order.step == f"boot:{self.dead}":
            raise Permanent("bmc-silent", "it does not answer")
        return await super().execute(action, order)


class Carried:
    """What became of a run."""

    def __init__(self, mends: bytes | Exception | None) -> None:
        self.driver, self.asked, self.told = DeadServer("b"), list[tuple[str, Trouble]](), list[str]()
        self.mends = mends
        self.phase: RunPhase = "pending"
        self.view: RunView = asyncio.run(self._carry())

    async def _carry(self) -> RunView:
        store, clock = MemoryStore(), SystemClock()
        leading = await Leadership.acquire(store, "test", 10_000, clock)
        terms = Terms(
            "run",
            lambda step: (Action("run", step, "noop"),),
            lambda name: self.driver,
            leading,
            PATIENCE,
            "",
        )
        journal, view = await create_run(store, SPEC, leading, clock, {"reason": "test"})
        execution = RunExecution(store, journal, view, leading, terms, clock)

        async def mend(plan: str, trouble: Trouble) -> bytes | None:
            self.asked.append((plan, trouble))
            if isinstance(self.mends, Exception):
                raise self.mends
            return self.mends

        async def take(data: bytes, trouble: Trouble) -> None:
            await take_over_plan(execution, Bound(MENDED, {}), trouble)

        task = asyncio.create_task(Mending(execution, mend, take, self.told.append).run())
        self.phase = await execution.run()
        task.cancel()
        self.events = await events_of(store, "run")
        await leading.release()
        return execution.view


def test_what_it_should_carry_starts_elsewhere() -> None:
    run = Carried(b"mended")
    assert run.phase == "succeeded_with_exceptions"
    assert [plan for plan, _ in run.asked] == ["plan"]
    assert run.asked[0][1].failed == {"b"}
    assert "boot:a" in run.asked[0][1].begun
    assert "start:chat:base:1" not in run.asked[0][1].begun
    assert run.driver.begun.count("start:chat:base:1") == 1
    assert run.view.plans == ["plan", "mended"]
    assert fingerprint(replay(SPEC, run.events, (MENDED,))) == fingerprint(run.view)
    assert run.told == ["1 server did not come up; the affected replicas start elsewhere"]


@pytest.mark.parametrize("mends", [None, InvalidInput("plan-broken", "no room")])
def test_where_nothing_can_be_mended_the_run_goes_on_without(mends: bytes | Exception | None) -> None:
    run = Carried(mends)
    assert run.phase == "succeeded_with_exceptions"
    assert len(run.asked) == 1
    assert run.view.plans == ["plan"]
    assert run.view.phases[run.view.index["start:chat:base:1"]] == "succeeded"
