"""Attest: a person confirms a fact that evac cannot see, which lets a service start."""

from __future__ import annotations

from evac.model.instance import Instance, Use
from evac.steps.kind import Entry, Place, StepKind


class Attest(StepKind):
    name = "attest"
    target = "service"
    title = "a person confirms a fact"
    work = "confirm a fact"
    sentence = "confirm {target}"
    entry = Entry("vouched", "{target}: a person confirmed it", "main")
    precheck = "it is known what the service would delete or unseal"
    gate = "a person has released it"
    undo = "stop it again"
    releases = True

    def uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        """No shared limits."""
        return ()
