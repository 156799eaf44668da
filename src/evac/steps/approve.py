"""Approve: people agree to the plan."""

from __future__ import annotations

from evac.steps.kind import Entry, StepKind


class Approve(StepKind):
    name = "approve"
    target = "plan"
    title = "approve the plan"
    work = "approve"
    sentence = "approve the plan"
    entry = Entry("approved", "{target} was approved", "main")
    tools = ("evac", "identity")
    is_audited = True
