"""What a page shows of a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evac.model.plan import Plan, Step
from evac.planning.simulation.simulate import PERCENTILES, Critical, Simulation
from evac.views.plan_charts import step_words
from evac.views.words import duration, number, plural, share


def simulation_context(plan: Plan, found: Simulation) -> dict[str, Any]:
    """Percentiles of recovery per tier, who is at risk, and what is critical most often."""
    steps = {s.id: s for s in plan.steps}
    stated = [s for s in found.services if s.meets_rto_permille is not None]
    at_risk = [s for s in stated if (s.meets_rto_permille or 0) < 990]
    at_risk.sort(key=lambda s: (s.meets_rto_permille or 0, s.tier, s.service))
    return {
        "simulation": found,
        "simulation_words": (
            f"{number(found.trials)} trials with uncertain durations and failing steps, seed {found.seed}: "
            f"{number(len(stated) - len(at_risk))} of {plural(len(stated), 'service')} with an rto "
            "meet it in at least 99 % of them."
        ),
        "percentiles": PERCENTILES,
        "simulation_tiers": [
            {"tier": t.tier, "planned": duration(t.planned_ms), "cells": [duration(x) for x in t.last_ms]}
            for t in found.tiers
        ],
        "at_risk": [
            {
                "service": s.service,
                "tier": s.tier,
                "odds": share(s.meets_rto_permille or 0),
                "p90": duration(s.recovery_ms[1]),
                "rto": duration(s.rto_ms),
            }
            for s in at_risk[:20]
        ],
        "often": [{"name": _words(c, steps), "odds": share(c.permille)} for c in found.critical[:10]],
    }


def _words(critical: Critical, steps: Mapping[str, Step]) -> str:
    step = steps.get(critical.name)
    return step_words(step) if step is not None else f"waiting for a turn: {critical.name}"
