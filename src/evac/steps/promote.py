"""Promote: a copy of a store becomes the primary."""

from __future__ import annotations

from typing import ClassVar

from evac.model.estate import Store
from evac.model.instance import Candidate, Instance, Use
from evac.model.plan import Step
from evac.model.situation import Draft
from evac.steps.kind import Capability, Condition, Entry, Need, PeopleTimes, Place, StepKind, Uncertainty


class Promote(StepKind):
    name = "promote"
    target = "store"
    title = "promote a replica to primary"
    work = "promote stores"
    sentence = "promote {target}{where}"
    entry = Entry("promoted", "{target} accepts writes{where}", "main")
    tools: ClassVar[tuple[str, ...]] = ("evac", "secrets", "vpn")
    precheck = "the old primary is fenced; lag is known"
    gate = "the new primary accepts writes"
    undo = "none: a store that moved stays where it is"
    needs = frozenset({Need.FENCE, Need.TOOLS})
    condition: ClassVar[Condition | None] = Condition.STORES
    is_gate = True
    opens_wave = True
    planner_code = 1
    bound_code = 1
    is_audited = True
    is_timed = True
    uncertainty = Uncertainty(0.35, 0.15, 0.02)
    performed_by: ClassVar[Capability | None] = Capability.PROMOTES
    makes_primary = True
    claims_epoch = True
    doing: ClassVar[str] = "promoting"

    def approval(self, target: str, loss: str | None) -> str:
        if loss is None:
            return f"{self.doing} {target} loses an unknown part of its newest writes"
        most = f", up to {loss}" if loss else ""
        return f"{self.doing} {target} may lose its newest writes{most}"

    def way_ms(self, store: Store, people: PeopleTimes) -> int | None:
        return super().way_ms(store, people) if self.takes_people else store.promote_ms

    def way_fact(self, store: Store) -> str:
        return super().way_fact(store) if self.takes_people else f"stores/{store.id}/promote"

    def ticks(self, instance: Instance, at: Place) -> int | None:
        found = self.candidate(instance, at)
        return None if found is None else found.duration

    def own_uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        found = self.candidate(instance, at)
        return () if found is None else found.uses

    def candidate(self, instance: Instance, at: Place) -> Candidate | None:
        """The candidate that the step uses."""
        ways = instance.stores[at.store].candidates
        return next((way for way in ways if (way.kind, way.id) == (self.name, at.step.candidate)), None)

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        now.primaries[step.target] = step.candidate
