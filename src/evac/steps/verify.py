"""Verify: checks that a service answers where it was started.

If no copy of a search index or cache is left, the service that needs it rebuilds it first.
"""

from __future__ import annotations

from evac.model.instance import Instance
from evac.model.plan import Step
from evac.model.situation import Draft
from evac.steps.kind import Capability, Condition, Entry, Need, Place, StepKind, Uncertainty


class Verify(StepKind):
    name = "verify"
    target = "service"
    title = "check that the service answers"
    work = "check that services answer"
    sentence = "check {target}"
    phase = "is being checked"
    entry = Entry("checked", "{target} answers", "detail")
    tools = ("evac", "monitoring")
    precheck = "all replicas are up"
    gate = "checks pass"
    undo = "nothing to undo"
    needs = frozenset({Need.DEPENDENCIES, Need.STARTS, Need.TOOLS})
    condition = Condition.ALWAYS
    is_gate = True
    opens_wave = True
    joins_wave = True
    planner_code = 4
    bound_code = 3
    is_audited = True
    is_timed = True
    uncertainty = Uncertainty(0.30, 0.10, 0.01)
    performed_by = Capability.VERIFIES
    checks = True

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        now.rebuilt |= {store: step.target for store, _ in step.rebuilds}

    def ticks(self, instance: Instance, at: Place) -> int | None:
        return int(instance.services.verify[at.service])
