"""A world in which a copy follows the new primary after a promotion, and a person does the rest."""

from __future__ import annotations

from dataclasses import replace

from evac.drivers.port import Action
from evac.engine.runs.binding import Bound
from evac.engine.stores.stalled_commits import is_protection
from evac.run.values import RunStep
from tests.unit.engine.small_world import World


class Rejoining(World):
    async def bind(self, data: bytes, run: str, incident: str, digest: str) -> Bound:
        bound = await super().bind(data, run, incident, digest)
        if is_protection(data):
            return bound
        step = RunStep("rejoin:chat:ansan", "rejoin", "chat", 200, 100, ("promote:chat",), site="ansan")
        action = Action("rejoin", "chat", "simulated", "ansan", {}, {"primary": "anyang"})
        spec = replace(bound.spec, steps=(*bound.spec.steps, step))
        return Bound(spec, {**bound.actions, step.id: (action,)})
