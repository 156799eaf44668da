"""Stop: what an evacuation leaves behind stops cleanly."""

from __future__ import annotations

from evac.steps.kind import Capability, Entry, Need, StepKind


class Stop(StepKind):
    name = "stop"
    target = "service"
    title = "stop cleanly"
    work = "stop cleanly"
    sentence = "stop {many}{target}{where}"
    entry = Entry("stopped", "{target} was stopped cleanly", "detail")
    tools = ("deploy", "evac")
    precheck = "traffic has moved"
    gate = "replicas have stopped"
    undo = "start the replicas again"
    needs = frozenset({Need.SERVING})
    performed_by = Capability.RUNS_UNITS
    replicas = -1
