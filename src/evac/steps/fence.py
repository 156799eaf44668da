"""Fence: stops the old primary of a store from acknowledging any more writes."""

from __future__ import annotations

from evac.model.instance import Instance, Use
from evac.steps.kind import Capability, Condition, Entry, Need, Place, StepKind, Uncertainty


class Fence(StepKind):
    name = "fence"
    target = "store"
    title = "fence the old primary so that it cannot write"
    work = "fence old primaries"
    sentence = "fence {target}{rung}"
    entry = Entry("fenced", "the old primary of {target} can no longer write", "main")
    tools = ("evac", "secrets", "vpn")
    precheck = "the loss is confirmed by quorum"
    gate = "the old primary refuses writes"
    undo = "none: unfence by hand after reprotecting"
    needs = frozenset({Need.TOOLS})
    condition = Condition.STORES
    is_gate = True
    planner_code = 0
    bound_code = 0
    is_audited = True
    is_timed = True
    uncertainty = Uncertainty(0.25, 0.10, 0.01)
    performed_by = Capability.FENCES
    fences = True
    claims_epoch = True

    def ticks(self, instance: Instance, at: Place) -> int | None:
        return instance.stores[at.store].fence

    def own_uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        return instance.stores[at.store].fence_uses
