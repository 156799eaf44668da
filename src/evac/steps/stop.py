"""Stop: cleanly stops what an evacuation leaves behind, or what a failback leaves away from home."""

from __future__ import annotations

from evac.model.plan import Step
from evac.model.situation import Draft
from evac.steps.kind import Capability, Entry, Need, StepKind


class Stop(StepKind):
    name = "stop"
    target = "service"
    title = "stop replicas cleanly"
    work = "stop replicas cleanly"
    sentence = "stop {many}{target}{where}"
    entry = Entry("stopped", "{target} was stopped cleanly", "detail")
    tools = ("deploy", "evac")
    precheck = "traffic has moved"
    gate = "replicas have stopped"
    undo = "start the replicas again"
    needs = frozenset({Need.SERVING})
    performed_by = Capability.RUNS_UNITS
    replicas = -1

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        """A failback names what it stops; an evacuation stops everything at the site that it leaves."""
        if step.servers:
            now.add(step.target, step.servers, self.replicas)
        else:
            now.leave(step.target)
