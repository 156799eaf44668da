"""Boot: one server is powered on, through its management controller or by hand."""

from __future__ import annotations

from evac.model.instance import BootKind, Instance, Use
from evac.model.plan import Step
from evac.model.situation import Draft
from evac.steps.kind import Capability, Entry, Need, Place, StepKind, Uncertainty


class Boot(StepKind):
    name = "boot"
    target = "server"
    title = "power on a server"
    work = "power on servers"
    sentence = "power on {target}"
    entry = Entry("booted", "{target} is on", "detail")
    tools = ("boot", "dhcp", "evac", "images", "inventory", "management-network", "time")
    precheck = "the feed has power; the BMC answers"
    gate = "the server is up"
    undo = "leave it on"
    needs = frozenset({Need.POWER, Need.TOOLS})
    planner_code = 2
    bound_code = 5
    is_audited = True
    is_timed = True
    uncertainty = Uncertainty(0.20, 0.10, 0.02)
    performed_by = Capability.BOOTS_SERVERS
    boots = True

    def ticks(self, instance: Instance, at: Place) -> int | None:
        kind = _kind_of(instance, at.row)
        return None if kind is None else kind.duration

    def uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        """For a server that only people can boot, the instance already states what people hold."""
        kind = _kind_of(instance, at.row)
        by_hand = kind is not None and kind.by_hand
        return self.own_uses(instance, at) if by_hand else super().uses(instance, at)

    def own_uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        kind = _kind_of(instance, at.row)
        return () if kind is None else kind.uses

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        now.servers[step.target] = True


def _kind_of(instance: Instance, row: int) -> BootKind | None:
    number = int(instance.rows.boot_kind[row])
    return instance.boot_kinds[number] if number >= 0 else None
