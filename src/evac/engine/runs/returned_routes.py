"""Name servers and proxies of a site that comes back: they still send users to where services ran before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from evac.drivers.port import Action
from evac.engine.runs.step_actions import Ground, redirect_actions
from evac.model.step_id import StepId
from evac.run.values import RunStep
from evac.steps.redirect import Redirect
from evac.steps.registry import kind_of

REDIRECT_MS: Final = 1_000
DEADLINE_MS: Final = 60_000


def redirects(ground: Ground, steps: Sequence[RunStep]) -> list[tuple[RunStep, tuple[Action, ...]]]:
    """Of each service whose traffic a run moved away, and that this plan does not shift: what the routers of
    the sites that come back still do not know.
    """
    if ground.plan.scenario.kind != "restore":
        return []
    shifted = {step.target for step in steps if kind_of(step.kind).moves_traffic}
    found = []
    for service, sites in sorted(ground.estate.traffic.items()):
        actions = () if service in shifted else redirect_actions(ground, service, sites)
        if actions:
            found.append((_redirect_step(service, actions), actions))
    return found


def _redirect_step(service: str, actions: tuple[Action, ...]) -> RunStep:
    return RunStep(
        id=StepId(Redirect.name, service),
        kind=Redirect.name,
        target=service,
        start_ms=0,
        duration_ms=REDIRECT_MS,
        site=actions[0].at,
        deadline_ms=DEADLINE_MS,
    )
