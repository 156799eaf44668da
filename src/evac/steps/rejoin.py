"""Rejoin: another copy of a store follows its new primary. A run adds one a copy to each promotion."""

from __future__ import annotations

from evac.steps.kind import Capability, Entry, Need, StepKind


class Rejoin(StepKind):
    name = "rejoin"
    is_planned = False
    target = "copy"
    title = "let a copy follow the new primary"
    work = "lead copies back"
    sentence = "lead the copy of {target}{where} back"
    entry = Entry("protected", "a copy of {target} follows the new primary{where}", "detail")
    needs = frozenset({Need.PRIMARY})
    performed_by = Capability.FOLLOWS
    follows = True
    joins_epoch = True
