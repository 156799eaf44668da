"""A driver with a memory of its own, told how each try goes, and the pieces of an execution."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from evac.drivers.port import Action, Checked, Driver, Evidence, Observed, Order
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.execution import Hooks, RunExecution
from evac.engine.runs.performing import Terms
from evac.engine.runs.reading import create_run, take_over
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac.model.run_policy import Patience
from evac.run.values import RunSpec, RunStep
from evac.store.port import MemoryStore, Store
from tests.unit.virtual_time import LOOP_MS, LoopClock

T = TypeVar("T")
PATIENCE = Patience(attempts=4, backoff_ms=5, backoff_most_ms=20, deadline_least_ms=500)


def run_async(work: Coroutine[Any, Any, T], limit_s: float = 15.0) -> T:
    """In real time, for what never waits while it is busy: virtual time would not pass."""

    async def bounded() -> T:
        async with asyncio.timeout(limit_s):
            return await work

    return asyncio.run(bounded())


class Crash(BaseException):
    """The process ends here."""


@dataclass
class WorldDriver:
    """done: what is true in the world. plan: (step, attempt) -> how it goes. log: what was asked."""

    plan: Callable[[str, int], str] = lambda step, attempt: "ok"
    takes_s: float = 0.0
    name: str = "world"
    verbs: frozenset[Any] = frozenset({"run"})
    done: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)

    async def check(self, action: Action, order: Order) -> Checked:
        how = self.plan(order.step, order.attempt)
        return Checked(("not yet",)) if how == "unready" else Checked()

    async def execute(self, action: Action, order: Order) -> Evidence:
        how = self.plan(order.step, order.attempt)
        self.log.append(f"execute {order.key}")
        if how in ("retry", "refuse"):
            raise (Retryable if how == "retry" else Permanent)("no", "no")
        if how in ("ok", "lost", "liar", "hang-done") and not order.dry_run:
            self.done.add(order.key)
        if self.takes_s or how.startswith("hang"):
            await asyncio.sleep(60 if how.startswith("hang") else self.takes_s)
        if how in ("lost", "gone"):
            raise OutcomeUnknown("silent", "no answer")
        if how == "liar":
            raise Retryable("no", "it says it failed, and it did not")
        if how == "broken":
            raise ValueError("a mistake in the driver")
        return {"by": order.token}

    async def observe(self, action: Action, order: Order) -> Observed:
        self.log.append(f"observe {order.key}")
        return Observed("done" if order.key in self.done else "absent")

    async def undo(self, action: Action, order: Order) -> Evidence:
        self.log.append(f"undo {order.key}")
        self.done.discard(order.key)
        return {}

    async def close(self) -> None:
        """Nothing is open."""


def spec_of(*steps: RunStep, **more: Any) -> RunSpec:
    return RunSpec("run-1", "fire", "plan-1", steps, **{"patience": PATIENCE, "approvals": 0, **more})


def chain(*names: str, **more: Any) -> RunSpec:
    before: tuple[str, ...] = ()
    steps = []
    for name in names:
        steps.append(RunStep(name, "start", name, len(steps), 10, before))
        before = (name,)
    return spec_of(*steps, **more)


@dataclass
class Ground:
    """A store, a world, and whoever leads."""

    spec: RunSpec
    driver: WorldDriver = field(default_factory=WorldDriver)
    store: Store = field(default_factory=lambda: MemoryStore(LOOP_MS))
    actions: dict[str, tuple[Action, ...]] = field(default_factory=dict)
    dry_run: bool = False
    drivers: Callable[[str], Driver] | None = None
    """Drivers by name; None: `driver` does everything."""

    def terms(self, leading: Leadership) -> Terms:
        default = (Action("run", "x", "world"),)
        return Terms(
            "run-1",
            lambda step: self.actions.get(step, default),
            self.drivers or (lambda name: self.driver),
            leading,
            self.spec.patience,
            "test",
            dry_run=self.dry_run,
        )

    async def lead(self, owner: str = "a", ttl_ms: int = 5_000) -> Leadership:
        return await Leadership.acquire(self.store, owner, ttl_ms, LoopClock())

    async def begin(self, leading: Leadership, hooks: Hooks | None = None, **more: Any) -> RunExecution:
        journal, view = await create_run(self.store, self.spec, leading, LoopClock(), {})
        return RunExecution(
            self.store, journal, view, leading, self.terms(leading), LoopClock(), hooks=hooks, **more
        )

    async def resume(self, leading: Leadership, hooks: Hooks | None = None, **more: Any) -> RunExecution:
        async def spec(plan: str, said: Mapping[str, Any]) -> RunSpec:
            return self.spec

        journal, view = await take_over(self.store, "run-1", spec, leading, LoopClock(), leading.lease.owner)
        return RunExecution(
            self.store, journal, view, leading, self.terms(leading), LoopClock(), hooks=hooks, **more
        )
