"""Reprotect: makes a lagging copy follow the primary again, once its domain has power.

In a run it is a rejoin if the copy has an endpoint; otherwise a person does it.
"""

from __future__ import annotations

from evac.model.instance import Instance, Use
from evac.model.plan import Step
from evac.model.situation import Draft
from evac.steps.kind import Capability, Entry, Need, Place, StepKind


class Reprotect(StepKind):
    name = "reprotect"
    target = "copy"
    title = "make a stale replica follow the primary again"
    work = "reattach replicas"
    sentence = "reattach the replica of {target}{where}"
    entry = Entry("protected", "a replica of {target} is replicating again", "main")
    tools = ("evac", "secrets")
    precheck = "the replica cannot write"
    gate = "the replica is replicating and has caught up"
    undo = "fence it again"
    needs = frozenset({Need.PRIMARY, Need.POWER})
    performed_by = Capability.FOLLOWS
    follows = True

    def uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        """No shared limits."""
        return ()

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        now.following.setdefault(step.target, set()).add(step.candidate)
