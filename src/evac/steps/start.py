"""Start: starts replicas of a service on servers of one pool."""

from __future__ import annotations

from evac.model.instance import Instance, Use
from evac.steps.kind import Capability, Condition, Entry, Need, Place, StepKind, Uncertainty


class Start(StepKind):
    name = "start"
    target = "service"
    title = "start replicas"
    work = "start replicas"
    sentence = "start {many}{target}{where}"
    phase = "starts"
    entry = Entry("started", "replicas of {target} were started{where}", "detail")
    tools = ("deploy", "evac", "registry", "secrets")
    precheck = "the image is in the registry; capacity is free"
    gate = "replicas report ready"
    undo = "stop the replicas"
    is_undone_safely = True
    needs = frozenset({Need.START_DEPENDENCIES, Need.RELEASE, Need.BOOTS, Need.SHEDS, Need.TOOLS})
    condition = Condition.STARTS
    planner_code = 3
    bound_code = 2
    is_audited = True
    is_timed = True
    uncertainty = Uncertainty(0.30, 0.15, 0.01)
    performed_by = Capability.RUNS_UNITS
    replicas = 1

    def ticks(self, instance: Instance, at: Place) -> int | None:
        return int(instance.services.start[at.service])

    def own_uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        return instance.pools[at.pool].start_uses if at.pool >= 0 else ()
