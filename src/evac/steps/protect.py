"""Protect: other copies of a store confirm its commits. A run of its own, when commits hang."""

from __future__ import annotations

from evac.steps.kind import Capability, Entry, StepKind


class Protect(StepKind):
    name = "protect"
    is_planned = False
    target = "store"
    title = "change which copies confirm commits"
    work = "protect stores"
    sentence = "change who confirms the commits of {target}"
    entry = Entry("protected", "who confirms the commits of {target} was changed", "main")
    performed_by = Capability.PROTECTS
    protects = True
    claims_epoch = True
