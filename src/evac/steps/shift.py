"""Shift: moves a service's traffic to where it runs."""

from __future__ import annotations

from evac.model.instance import Instance, Use
from evac.model.plan import Step
from evac.model.situation import Draft
from evac.steps.kind import Capability, Condition, Entry, Need, Place, StepKind, Uncertainty


class Shift(StepKind):
    name = "shift"
    target = "service"
    title = "move traffic"
    work = "move traffic"
    sentence = "move traffic of {target}"
    phase = "traffic is moving"
    entry = Entry("shifted", "traffic of {target} was moved", "main")
    tools = ("dns-control", "evac")
    precheck = "the service answers in its new location"
    gate = "traffic arrives and errors stay low"
    undo = "point traffic back"
    is_undone_safely = True
    needs = frozenset({Need.VERIFY, Need.TOOLS})
    condition = Condition.SHIFTS
    is_gate = True
    opens_wave = True
    joins_wave = True
    planner_code = 5
    bound_code = 4
    is_audited = True
    is_timed = True
    uncertainty = Uncertainty(0.20, 0.10, 0.005)
    performed_by = Capability.ROUTES_TRAFFIC
    moves_traffic = True

    def ticks(self, instance: Instance, at: Place) -> int | None:
        return int(instance.services.change[at.service] + instance.services.settle[at.service])

    def own_uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        return instance.services.shift_uses[at.service]

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        if to:
            now.traffic[step.target] = to
