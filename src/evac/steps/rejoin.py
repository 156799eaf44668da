"""Rejoin: makes another copy of a store follow its new primary. A run adds one per copy to each promotion."""

from __future__ import annotations

from evac.steps.kind import Capability, Entry, Need, StepKind


class Rejoin(StepKind):
    name = "rejoin"
    is_planned = False
    target = "copy"
    title = "make a replica follow the new primary"
    work = "reattach replicas"
    sentence = "reattach the replica of {target}{where}"
    entry = Entry("protected", "a replica of {target} follows the new primary{where}", "detail")
    needs = frozenset({Need.PRIMARY})
    performed_by = Capability.FOLLOWS
    follows = True
    joins_epoch = True
