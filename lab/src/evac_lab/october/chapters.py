"""The chapters of the story that need no real server: evacuation and fail back.

Each is planned, verified and carried out by the engine in virtual time; what comes back is read from the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evac.app.planner.plans import Made, make_plan
from evac.model.errors import RunError
from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.model.scenario import Scenario
from evac.model.step_id import StepId
from evac.verify import check
from evac_lab.october.playing import Played, bound_plan, play, timed

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Told:
    """One plan carried out. back: service -> milliseconds since the run began; real_ms: spent here."""

    made: Made
    played: Played
    back: Mapping[str, int]
    real_ms: int


def planned(estate: Estate, scenario: Scenario, budget_ms: int, seed: int) -> Made:
    """A plan that the independent checker agrees with. Raises RunError where it does not."""
    made = make_plan(estate, scenario, budget_ms=budget_ms, seed=seed)
    verdict = check(estate, made.plan)
    if not verdict.holds:
        raise RunError("story-plan-broken", f"the plan breaks a rule: {verdict.violations[0]}")
    return made


def tell(estate: Estate, scenario: Scenario, budget_ms: int, seed: int) -> Told:
    """Plans, verifies and plays one scenario. Raises RunError where the run does not end well."""
    began = time.monotonic()
    made = planned(estate, scenario, budget_ms, seed)
    outcome = play(timed(bound_plan(estate, made.plan, made.digest)), seed)
    if outcome.phase not in ("succeeded", "succeeded_with_exceptions"):
        raise RunError("story-run-ended", f"the run of {scenario.title} ended {outcome.phase}")
    back = restored(made.plan, {name: end for name, (_, end) in outcome.steps.items()})
    return Told(made, outcome, back, int((time.monotonic() - began) * 1_000))


def restored(plan: Plan, ended: Mapping[str, int]) -> dict[str, int]:
    """Service -> when its smallest share serves with its traffic there, of those that the plan brings back.

    ended: step id -> end. A service whose last step did not succeed is left out.
    """
    found: dict[str, int] = {}
    steps = {step.id for step in plan.steps}
    for outcome in plan.outcomes:
        if outcome.base_ms is None or outcome.state in ("shed", "unplaced"):
            continue
        shift = str(StepId("shift", outcome.service))
        last = shift if shift in steps else str(StepId("verify", outcome.service, "base"))
        if last in ended:
            found[outcome.service] = ended[last]
        elif last not in steps:
            found[outcome.service] = 0
    return found
