"""Power: restores power to a feed or a rack."""

from __future__ import annotations

from evac.model.instance import Instance, Use
from evac.steps.kind import Capability, Entry, Need, Place, StepKind


class Power(StepKind):
    name = "power"
    target = "supply"
    title = "power up a feed or a rack"
    work = "power up feeds and racks"
    sentence = "power up {target}"
    entry = Entry("power", "{target} has power", "main")
    precheck = "the fault is cleared; outlets of racks that power on by themselves are off"
    gate = "voltage is present and no breaker tripped"
    undo = "open the breaker or switch the outlets off again"
    needs = frozenset({Need.POWER})
    performed_by = Capability.SWITCHES_POWER
    gives_power = True

    def uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        """The person or control that closes the breaker, in the estate's own order of power steps."""
        return instance.power_steps[at.power].uses
