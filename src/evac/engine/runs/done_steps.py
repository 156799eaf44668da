"""What the steps of open runs did, watched afterwards; what drifted is put right where that is allowed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from evac.drivers.port import Order
from evac.engine.lead.leadership import Leadership
from evac.engine.runs.desk import Desk
from evac.engine.runs.drift import Done, Drift, DriftWatch
from evac.engine.runs.open_runs import InHand
from evac.model.errors import ActionError, Conflict, NotAllowed, RunError, Unavailable
from evac.model.step_id import StepId
from evac.run.values import Event
from evac.run.view import RunView
from evac.steps.registry import kind_of

DRIFT_TIMEOUT_S: Final = 10.0


class DoneSteps:
    """Of one leadership. runs: those that are open, as they come and go."""

    def __init__(
        self,
        desk: Desk,
        leadership: Leadership,
        runs: Mapping[str, InHand],
        tell: Callable[[Any, str, Mapping[str, Any]], None],
    ) -> None:
        self._desk, self._lead, self._runs, self._tell = desk, leadership, runs, tell
        self._drift = DriftWatch(
            desk.driver,
            desk.clock,
            self._drifted,
            self._may_redo,
            lasts=self._lasts,
            span_ms=desk.drift_ms,
            period_ms=desk.drift_period_ms,
        )

    async def run(self) -> None:
        await self._drift.run()

    def watch(self, run: InHand, step: str, attempt: int) -> None:
        key = f"{run.spec.run}/{step}/again"
        order = Order(
            run.spec.run,
            step,
            attempt,
            self._lead.token,
            run.epochs.get(step, 0),
            "it drifted",
            DRIFT_TIMEOUT_S,
            key,
        )
        if run.execution is not None:
            self._drift.add(step, run.actions_of(run.execution.view, step), order)

    def watch_again(self, run: InHand, view: RunView) -> None:
        """What was done under an earlier leader, not too long ago, is watched on, and breakers always; roles
        of stores are not, because their epochs are known to who decided them.
        """
        since_ms = self._desk.clock.now_ms() - self._desk.drift_ms
        recent = (
            i
            for i, kind in enumerate(kind_of(step.kind) for step in view.steps)
            if view.phases[i] == "succeeded"
            and (kind.gives_power or (kind.moves_traffic and view.ended[i] >= since_ms))
        )
        for i in sorted(recent, key=view.ended.__getitem__):
            self.watch(run, view.steps[i].id, view.attempts[i])

    def _lasts(self, done: Done) -> bool:
        """A breaker is watched as long as its run is under way."""
        run = self._runs.get(done.order.run)
        is_breaker = kind_of(StepId.parse(done.step).kind).gives_power
        return is_breaker and run is not None and run.execution is not None

    async def _may_redo(self, done: Done) -> bool:
        """Only while we lead, nothing holds, no guard refuses, and no newer epoch decided otherwise."""
        try:
            self._lead.check()
            windows = self._desk.policies.of(done.order.run).windows
            await self._desk.guards.may_act([(done.action.at, (done.action,))], windows)
            if done.action.verb == "protect":
                epoch = await self._desk.sets.read(done.action.target)
                if not epoch.settled or epoch.number != done.order.epoch:
                    return False
            # The questions took time, in which the lease may have ended.
            self._lead.check()
        except (ActionError, NotAllowed, Unavailable):
            return False
        return True

    async def _drifted(self, drift: Drift) -> None:
        told = {"step": drift.step, "undone": drift.undone, "failure": drift.failure}
        self._tell("drift", drift.words, told)
        for run in list(self._runs.values()):
            execution = run.execution
            if execution is None or drift.step not in execution.view.index:
                continue
            data = {"evidence": dict(drift.evidence), "undone": drift.undone}
            with contextlib.suppress(RunError, Conflict):
                await execution.say(Event("drift_seen", 0, drift.step, 0, data))
