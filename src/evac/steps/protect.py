"""Protect: makes other copies of a store confirm its commits. A separate run when commits stall."""

from __future__ import annotations

from evac.steps.kind import Capability, Entry, StepKind


class Protect(StepKind):
    name = "protect"
    is_planned = False
    target = "store"
    title = "change which replicas confirm commits"
    work = "change who confirms commits"
    sentence = "change which replicas confirm commits of {target}"
    entry = Entry("protected", "the replicas that confirm commits of {target} were changed", "main")
    performed_by = Capability.PROTECTS
    protects = True
    claims_epoch = True
