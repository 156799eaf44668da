"""Verify: a service is asked whether it answers where it was started."""

from __future__ import annotations

from evac.model.instance import Instance
from evac.steps.kind import Capability, Condition, Entry, Need, Place, StepKind, Uncertainty


class Verify(StepKind):
    name = "verify"
    target = "service"
    title = "check that it answers"
    work = "check that they answer"
    sentence = "check {target}"
    phase = "is checked"
    entry = Entry("checked", "{target} answers", "detail")
    tools = ("evac", "monitoring")
    precheck = "all replicas have started"
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

    def ticks(self, instance: Instance, at: Place) -> int | None:
        return int(instance.services.verify[at.service])
