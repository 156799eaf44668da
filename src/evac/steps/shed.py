"""Shed: replicas of a less important service stop, to free capacity."""

from __future__ import annotations

from evac.model.instance import Instance, Use
from evac.steps.kind import Capability, Entry, Need, Place, StepKind, Uncertainty


class Shed(StepKind):
    name = "shed"
    target = "service"
    title = "stop replicas to free capacity"
    work = "shed replicas to free capacity"
    sentence = "shed {many}{target}{where}"
    entry = Entry("shed", "replicas of {target} were stopped to free capacity", "main")
    tools = ("deploy", "evac")
    precheck = "the service may be stopped, or serves elsewhere"
    gate = "replicas have stopped"
    undo = "start the replicas again"
    is_undone_safely = True
    needs = frozenset({Need.TOOLS})
    planner_code = 6
    is_timed = True
    uncertainty = Uncertainty(0.25, 0.10, 0.005)
    performed_by = Capability.RUNS_UNITS
    replicas = -1
    frees_capacity = True

    def ticks(self, instance: Instance, at: Place) -> int | None:
        return int(instance.services.shed[at.service])

    def own_uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        return instance.pools[at.pool].shed_uses if at.pool >= 0 else ()
