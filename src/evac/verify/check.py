"""The whole check of a plan against its estate."""

from __future__ import annotations

from dataclasses import dataclass

from evac.derive.intervals import bound_instance, interval_paths
from evac.derive.planning_instance import derive
from evac.model.collector import collector_at_rest
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.plan import Plan
from evac.model.policy import Policy
from evac.model.units import QUANTITY_LIMIT
from evac.verify.bound import proved
from evac.verify.capacity import (
    check_limits,
    check_placement,
    check_power,
    check_room,
    check_spread,
    final_state,
)
from evac.verify.milestones import milestones
from evac.verify.order import (
    check_after,
    check_components,
    check_durations,
    check_precedence,
    check_stops,
    check_stores,
    check_tools,
)
from evac.verify.outcome import check_counts, check_outcomes, check_sheds, check_tiers
from evac.verify.reading import Reading, Violation, read
from evac.verify.statements import check_header, check_statements
from evac.verify.wave import check_bring_up, check_people, check_power_steps


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker found. objective and bound are its own; weighted person-ticks."""

    violations: tuple[Violation, ...]
    objective: int
    bound: int
    steps: int

    @property
    def holds(self) -> bool:
        return not self.violations


@collector_at_rest()
def check(estate: Estate, plan: Plan, known: tuple[str, Instance] | None = None) -> Verdict:
    """Re-derive everything from estate and plan. Never raises for a bad plan: it says what is wrong.

    known: the digest of the estate, and the instance of it for this plan's scenario, waivers and weights,
    where whoever checks many plans of one estate has them. Raises UnknownDomain where the plan's scenario
    names a domain that the estate does not have.
    """
    unreckonable = _unreckonable(estate, plan)
    if unreckonable is not None:
        return Verdict((Violation("F1", plan.name, unreckonable),), 0, 0, len(plan.steps))
    policy = Policy(waivers=plan.waivers, tier_weights=plan.tier_weights)
    digest, instance = known or (estate_digest(estate), derive(estate, plan.scenario, policy, plan.tick_ms))
    better = bound_instance(estate, plan.scenario, policy, plan.tick_ms, instance)
    verdict = check_instance(instance, plan, better)
    header = (*_header(estate, digest, instance, plan), *check_header(estate, plan))
    return Verdict(
        tuple(sorted({*header, *verdict.violations})), verdict.objective, verdict.bound, verdict.steps
    )


def _unreckonable(estate: Estate, plan: Plan) -> str | None:
    """Why nothing can be worked out with the ticks and weights that the plan states, if so."""
    if not 1 <= plan.tick_ms <= estate.horizon_ms:
        return f"ticks of {plan.tick_ms} ms cannot be counted in"
    if not plan.tier_weights or min(plan.tier_weights) < 0:
        return "states no weight for a tier"
    most = max((s.people or 0 for s in estate.services), default=0)
    if max(plan.tier_weights) * max(most, 1) > QUANTITY_LIMIT:
        return "states tier weights beyond what can be counted"
    return None


def _header(estate: Estate, digest: str, instance: Instance, plan: Plan) -> list[Violation]:
    found = []
    if digest != plan.estate_digest:
        found.append(Violation("F1", plan.name, "was made from another estate: its digest differs"))
    if plan.horizon_ms != instance.horizon * instance.tick_ms:
        found.append(Violation("F1", plan.name, "horizon is not the estate's"))
    if plan.grace_ms != instance.grace * instance.tick_ms:
        found.append(Violation("F1", plan.name, "grace is not what the scenario gives"))
    if plan.unknown != instance.unknown:
        found.append(Violation("F1", plan.name, "unknown facts are not those of the estate"))
    if plan.intervals != tuple(sorted({*interval_paths(estate), *instance.estimated})):
        found.append(Violation("F1", plan.name, "facts known within bounds are not those of the estate"))
    if plan.proof != ("partial" if instance.unknown else "full"):
        found.append(Violation("F1", plan.name, "says another strength of proof than the estate allows"))
    return found


def check_instance(instance: Instance, plan: Plan, better: Instance | None = None) -> Verdict:
    """All rules but the header, against an instance. The bound must be true of `better`, where facts known
    within bounds have their better ends; left out, all is known exactly."""
    reading = read(instance, plan)
    times = milestones(reading)
    check_durations(reading)
    check_precedence(reading, times)
    check_components(reading, times)
    check_stores(reading)
    check_tools(reading, times)
    check_after(reading, times)
    check_limits(reading)
    check_power(reading)
    check_power_steps(reading)
    check_bring_up(reading, better or instance)
    check_people(reading, times)
    check_stops(reading, times)
    check_placement(reading)
    check_room(reading)
    final = final_state(reading)
    check_spread(reading, final)
    check_counts(reading, times)
    check_sheds(reading, times, final)
    check_tiers(reading, times, final)
    objective = check_outcomes(reading, times)
    check_statements(reading, times)
    bound = _check_bound(reading, better or instance, objective)
    violations = tuple(sorted(set(reading.violations)))
    return Verdict(violations, objective, bound, len(plan.steps))


def _check_bound(reading: Reading, better: Instance, objective: int) -> int:
    """F20: the bound recomputed from the certificate is the one stated, and not above Z."""
    plan = reading.plan
    bound, heads, complaints = proved(better, plan.certificate)
    for subject, message in complaints:
        reading.complain("F20", subject, message)
    if bound != plan.bound:
        reading.complain("F20", plan.name, f"the certificate proves {bound}, the plan says {plan.bound}")
    if heads != plan.heads:
        words = f"critical chains alone make {heads} unavoidable, the plan says {plan.heads}"
        reading.complain("F20", plan.name, words)
    if bound > objective:
        reading.complain("F20", plan.name, f"bound {bound} is above the objective {objective}: evac is wrong")
    return bound
