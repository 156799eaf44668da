"""A plan carried out in virtual time by the real engine: the same journal, state machine and limits.

Only the drivers are simulated: each step takes as long as the plan predicts, longer or shorter by a draw from
the seed. The same plan and seed give the same ending. Real seconds are spent on the engine alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from evac.drivers.noop import NoopDriver
from evac.drivers.port import Action, Evidence, Order
from evac.engine.clock import Clock
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.binding import Bound, bind
from evac.engine.runs.execution import RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.run_policy import Patience, RunPolicy
from evac.model.step_id import plan_id
from evac.run.values import RunPhase, RunSpec
from evac.run.view import RunView
from evac.store.memory import MemoryStore
from evac.store.port import Store
from evac_lab.virtual_loop import Process, VirtualLoop, run

SLOWEST_PERMILLE: Final = 1_300
FASTEST_PERMILLE: Final = 900
LEASE_MS: Final = 600_000
RUN: Final = "october"
_ACTION: Final = (Action("run", "step", "timed"),)


@dataclass(frozen=True, slots=True)
class Played:
    """How a run ended. steps: id -> (began, ended) in milliseconds since the run began, of what succeeded."""

    phase: RunPhase
    steps: Mapping[str, tuple[int, int]]
    ended_ms: int


class TimedDriver(NoopDriver):
    """Every step takes its predicted duration times a draw; `speed` divides it for runs in real time."""

    name = "timed"

    def __init__(self, seed: int, speed: int = 1) -> None:
        super().__init__()
        self._seed, self._speed = seed, speed
        self._takes: dict[str, int] = {}

    def know(self, spec: RunSpec) -> None:
        """Remembers how long the steps of a plan are predicted to take."""
        self._takes.update((step.id, step.duration_ms) for step in spec.steps)

    async def execute(self, action: Action, order: Order) -> Evidence:
        draw = Random(f"{self._seed} {order.step}").randint(FASTEST_PERMILLE, SLOWEST_PERMILLE)
        takes_ms = self._takes[plan_id(order.step)] * draw
        await asyncio.sleep(takes_ms / 1_000_000 / self._speed)
        return await super().execute(action, order)


def bound_plan(estate: Estate, plan: Plan, digest: str) -> Bound:
    """The run of a plan for which nobody is asked: the story has approved it beforehand."""
    policy = replace(RunPolicy(), approvals=0, patience=Patience(attempts=2, deadline_factor=8))
    return bind(estate, plan, policy, run=RUN, incident="october-2022", digest=digest)


def timed(bound: Bound) -> Bound:
    """The same steps, waits and limits, every step done by the simulated driver and none by a person."""
    steps = tuple(replace(step, manual=False, gate="") for step in bound.spec.steps)
    return Bound(replace(bound.spec, steps=steps), dict.fromkeys((s.id for s in steps), _ACTION))


def play(bound: Bound, seed: int) -> Played:
    """Carries a bound run out in virtual time."""
    loop = VirtualLoop(seed)
    process = Process(loop, "evac")
    driver = TimedDriver(seed)
    driver.know(bound.spec)
    return run(loop, _carry_out(loop, process, bound, driver))


async def _carry_out(loop: VirtualLoop, clock: Process, bound: Bound, driver: TimedDriver) -> Played:
    store = MemoryStore(loop.now_ms)
    leading = await Leadership.acquire(store, "evac", LEASE_MS, clock)
    terms = Terms(
        bound.spec.run, lambda step: _ACTION, lambda name: driver, leading, bound.spec.patience, RUN
    )
    view = await execute(store, bound, leading, clock, terms)
    await leading.release()
    return played(view)


async def execute(store: Store, bound: Bound, leading: Leadership, clock: Clock, terms: Terms) -> RunView:
    """Creates the run and carries it out to its end."""
    journal, view = await create_run(store, bound.spec, leading, clock, {"reason": "october 2022"})
    execution = RunExecution(store, journal, view, leading, terms, clock)
    await execution.run()
    return execution.view


def played(view: RunView) -> Played:
    """What became of each step that succeeded, in milliseconds since the run started."""
    began = view.started_ms
    steps = {
        step.id: (view.started[i] - began, view.ended[i] - began)
        for i, step in enumerate(view.steps)
        if view.phases[i] == "succeeded"
    }
    return Played(view.phase, steps, view.last_ms - began)
