"""The whole check of a plan against its estate.

Also checks that a plan's figures follow from the estate and its steps (rules F1, F3, F15 and F19). A run does
not use them, but people judge a plan by them: who waits, for how long, and what is lost. And that the plan
keeps the objectives of its class of loss, and data where it may be (F2, F10). Names, sites and the class are
looked up in the estate by this package's own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from evac.derive.domains import Topology, topology
from evac.derive.intervals import interval_paths
from evac.derive.planning_instance import derive
from evac.derive.untimed import from_loss, open_outages, people_before
from evac.model.collector import collector_at_rest
from evac.model.digest import estate_digest
from evac.model.estate import PROVIDER_PREFIX, Estate
from evac.model.fleet import IntColumn
from evac.model.instance import Instance
from evac.model.objectives import LOSS_CLASSES, LossClass, rto_for
from evac.model.plan import Outcome, Plan, StoreOutcome, Worst
from evac.model.records import dataclass
from evac.model.units import QUANTITY_LIMIT, UNLIMITED
from evac.steps.registry import kind_of
from evac.verify import capacity, order
from evac.verify.bound import proved
from evac.verify.congestion import check_congestion
from evac.verify.derivation import better_again, derived_again
from evac.verify.doubt import in_doubt
from evac.verify.needs import check_needs, with_members
from evac.verify.outcome import check_counts, check_outcomes, check_reasons, check_sheds, check_tiers
from evac.verify.overload import check_overload
from evac.verify.places import Where, sites_in
from evac.verify.reading import (
    Ints,
    Milestones,
    Reading,
    Violation,
    as_promoted,
    counted_from,
    milestones,
    outages,
    read,
)
from evac.verify.rpo import check_unknown_losses, check_unstated_rpos, strictest_rpos
from evac.verify.unknown_places import check_places
from evac.verify.wave import check_bring_up, check_people, check_power_steps


def check_header(estate: Estate, plan: Plan) -> list[Violation]:
    """F1, F2 and F19: the lead before a plan begins, each rto and each rpo match the estate."""
    found = []
    if plan.lead != estate.lead:
        found.append(Violation("F1", plan.name, "detection and approval times differ from the estate's"))
    if plan.attest != plan.unknown:
        found.append(Violation("F1", plan.name, "the facts to attest are not the unknown facts"))
    return found + check_objectives(estate, plan)


def check_statements(reading: Reading, times: Milestones, counted: Instance) -> None:
    """F3, F15 and F19: deadlines, tools, outcomes of services and stores, and people in total."""
    for step in reading.plan.steps:
        if step.tools != kind_of(step.kind).tools:
            reading.complain("F15", step.id, f"does not name the tools that a {step.kind} needs")
        if step.deadline_ms < step.end_ms - step.start_ms:
            reading.complain("F3", step.id, "its deadline passes before it can be done")
    rows = {name: row for row, name in enumerate(reading.instance.services.id)}
    (untold, _), alone = in_doubt(reading), from_loss(reading.instance)
    ends = {step.id: (step.start_ms, step.end_ms) for step in reading.plan.steps}
    for outcome in reading.plan.outcomes:
        if outcome.service in rows:
            service = rows[outcome.service]
            back = None if untold[service] else _recovery_ms(reading, times, service, alone)
            _check_service(reading, times, service, outcome, back)
            _check_chain(reading, outcome, ends)
    _check_stores(reading, times)
    _check_people(reading, times, counted)


def _check_service(
    reading: Reading, times: Milestones, service: int, outcome: Outcome, back_ms: int | None
) -> None:
    instance, s = reading.instance, reading.instance.services
    top = int(times.top_at[service])
    wanted = {
        "people": (int(s.people[service]), outcome.people),
        "tier": (int(s.tier[service]), outcome.tier),
        "top_ms": (top * instance.tick_ms if top < instance.horizon else None, outcome.top_ms),
        "recovery_ms": (back_ms, outcome.recovery_ms),
    }
    for name, (is_, said) in wanted.items():
        if is_ != said:
            reading.complain("F19", outcome.service, f"{name} is {is_}, the plan says {said}")


def _recovery_ms(
    reading: Reading, times: Milestones, service: int, alone: Mapping[int, IntColumn]
) -> int | None:
    """Time from the loss, including detection and approval; without that lead for an evacuation and for what
    waits for no one (alone).
    """
    instance, plan = reading.instance, reading.plan
    at = int(times.base_at[service])
    if at >= instance.horizon or times.base_gone[service] < instance.horizon or service in instance.unjudged:
        return None
    if not instance.services.base_lost[service]:
        return max(0, at - int(times.base_since[service])) * instance.tick_ms
    if service in instance.untimed:
        return None
    if service in alone:
        return int(alone[service]) * instance.tick_ms
    late = max(0, at - int(times.base_since[service])) * instance.tick_ms
    return late if instance.grace else late + plan.lead.ms


def _check_chain(reading: Reading, outcome: Outcome, ends: dict[str, tuple[int, int]]) -> None:
    """F19: the critical chain consists of steps of this plan, each begun after the previous one ended."""
    if not all(name in ends for name in outcome.critical):
        reading.complain("F19", outcome.service, "its critical chain contains no step of the plan")
        return
    for before, after in zip(outcome.critical, outcome.critical[1:], strict=False):
        if ends[after][0] < ends[before][1]:
            reading.complain("F19", outcome.service, f"{after} is not after {before} in its critical chain")


def _check_stores(reading: Reading, times: Milestones) -> None:
    """F19: every lost store once: where and when it is restored, and what is lost."""
    instance = reading.instance
    wanted = []
    for row, store in enumerate(instance.stores):
        timed = reading.promotes.get(row)
        way = None if timed is None else as_promoted(reading, timed)
        if way is None:
            doubt = any(c.loss_ms is None and not c.forced for c in store.candidates)
            doubt = doubt and not any(c.allowed for c in store.candidates)
            wanted.append(StoreOutcome(store.id, "", None, None, in_doubt=doubt))
            continue
        at_ms = int(times.primary_at[row]) * instance.tick_ms
        waiver = store.id if way.waived else ""
        restored = kind_of(way.kind).restores
        wanted.append(StoreOutcome(store.id, way.id, at_ms, way.loss_ms, waiver, restored))
    said = {outcome.store: outcome for outcome in reading.plan.stores}
    if len(said) != len(reading.plan.stores):
        reading.complain("F1", reading.plan.name, "a store has two outcomes")
    for one in wanted:
        if said.pop(one.store, None) != one:
            reading.complain("F19", one.store, "what the plan says about it does not match its promotion")
    for name in sorted(said):
        reading.complain("F1", name, "has an outcome but is not a store that lost its primary")


def _check_people(reading: Reading, times: Milestones, counted: Instance) -> None:
    """F19: people without service, each tier alike, and the most of it. counted: the instance with the people
    of tiers of weight zero; unknown here if it lacks them.
    """
    instance, s = reading.instance, reading.instance.services
    weights = np.array(counted.tier_weights, np.int64)
    if not len(s) or (weights < 1).any():
        return
    base, top = outages(reading, times)
    people = counted.services.base_weight // weights[s.tier], counted.services.top_weight // weights[s.tier]
    whole = _priced(people, base, top)
    if whole != reading.plan.unweighted:
        words = f"unweighted user outage is {whole}, the plan says {reading.plan.unweighted}"
        reading.complain("F19", reading.plan.name, words)
    said = reading.plan.unweighted_before
    lead_ms = reading.plan.lead.ms if reading.plan.scenario.kind == "lose" else 0
    before = people_before(counted, lead_ms)
    if said not in (None, before):
        words = f"outage of people before the plan begins is {before}, the plan says {said}"
        reading.complain("F19", reading.plan.name, words)
    worst, open_ones, tick = reading.plan.worst, open_outages(s, reading.plan.outcomes), instance.tick_ms
    if worst is None:
        return  # a plan of an earlier version; views say that its outage is larger
    longest = (instance.horizon - np.array(since, np.int64) for since in counted_from(instance))
    most = open_ones.at_most(base, top, *longest)
    own = Worst(
        _priced((s.base_weight, s.top_weight), *most) * tick,
        _priced(people, *most) * tick,
        people_before(counted, lead_ms, open_ones),
    )
    if worst != own or not open_ones:
        words = f"the outage at worst is {own}, the plan says {worst}"
        reading.complain("F19", reading.plan.name, words)


def _priced(weights: tuple[Ints, Ints], base: Ints, top: Ints) -> int:
    """Person-ticks of outages, by the weight of each service's base and top."""
    return int((weights[0].astype(object) * base + weights[1].astype(object) * top).sum())


def _with_everyone(top: Topology, plan: Plan, instance: Instance) -> Instance:
    """The same instance, which counts the people of tiers of weight zero too."""
    if min(plan.tier_weights) > 0:
        return instance
    ones = (1,) * len(plan.tier_weights)
    even = derive(top.estate, plan.scenario, replace(plan.policy, tier_weights=ones), plan.tick_ms, top)
    weights = even.services.base_weight, even.services.top_weight
    services = replace(instance.services, base_weight=weights[0], top_weight=weights[1])
    return replace(instance, services=services, tier_weights=ones)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The checker's result. objective and bound are its own, in weighted person-ticks."""

    violations: tuple[Violation, ...]
    objective: int
    bound: int
    steps: int

    @property
    def holds(self) -> bool:
        return not self.violations


@collector_at_rest()
def check(estate: Estate, plan: Plan, known: tuple[str, Instance] | None = None) -> Verdict:
    """Derives everything again from estate and plan. Never raises for a bad plan, but reports its errors.

    known: the estate's digest and its instance for this plan's scenario, waivers and weights, for callers
    that check many plans of one estate. Raises UnknownDomain if the plan's scenario names a domain that the
    estate does not have.
    """
    unreckonable = _unreckonable(estate, plan)
    if unreckonable is not None:
        return Verdict((Violation("F1", plan.name, unreckonable),), 0, 0, len(plan.steps))
    policy = plan.policy
    top = topology(estate)
    digest, shared = (None if plan.passed_over else known) or (
        estate_digest(estate),
        derive(estate, plan.scenario, policy, plan.tick_ms, top),
    )
    instance = derived_again(top, plan.scenario, shared)
    better = better_again(top, plan.scenario, policy, shared, instance)
    verdict = check_instance(instance, plan, better, _with_everyone(top, plan, instance))
    header = (
        *_header(estate, digest, instance, plan),
        *check_header(estate, plan),
        *check_needs(estate, plan, frozenset(instance.services.id[row] for row in instance.services.alone)),
        *check_residency(estate, plan),
        *check_congestion(top, plan),
        *check_places(top, plan),
        *check_overload(top, plan),
        *check_unstated_rpos(estate, plan, _class_of(estate, plan.scenario.domains)),
        *check_unknown_losses(estate, plan, _class_of(estate, plan.scenario.domains)),
    )
    return Verdict(
        tuple(sorted({*header, *verdict.violations})), verdict.objective, verdict.bound, verdict.steps
    )


def _unreckonable(estate: Estate, plan: Plan) -> str | None:
    """Why nothing can be computed with the plan's ticks, weights and approval, if so."""
    if not 1 <= plan.tick_ms <= estate.horizon_ms:
        return f"ticks of {plan.tick_ms} ms are not valid"
    if not plan.tier_weights or min(plan.tier_weights) < 0:
        return "states no weight for a tier"
    if plan.lead != estate.lead and plan.lead == replace(estate, waits_for_people=False).lead:
        return (
            "was made without the policy.yaml next to this estate, which has a person approve every plan: "
            "plan again with it"
        )
    if plan.lead != estate.lead and plan.lead == replace(estate, waits_for_people=True).lead:
        return (
            "was made with a policy.yaml that has a person approve every plan, but there is none next to "
            "this estate: verify it next to that policy"
        )
    most = max((s.people or 0 for s in estate.services), default=0)
    if max(plan.tier_weights) * max(most, 1) > QUANTITY_LIMIT:
        return "states tier weights beyond the supported range"
    return None


def _header(estate: Estate, digest: str, instance: Instance, plan: Plan) -> list[Violation]:
    found = []
    if digest != plan.estate_digest:
        found.append(Violation("F1", plan.name, "was made from another estate: its digest differs"))
    if plan.horizon_ms != instance.horizon * instance.tick_ms:
        found.append(Violation("F1", plan.name, "horizon differs from the estate's"))
    if plan.grace_ms != instance.grace * instance.tick_ms:
        found.append(Violation("F1", plan.name, "grace differs from the scenario's"))
    if plan.unknown != instance.unknown:
        found.append(Violation("F1", plan.name, "unknown facts differ from the estate's"))
    if plan.intervals != tuple(sorted({*interval_paths(estate), *instance.estimated})):
        found.append(Violation("F1", plan.name, "facts known within bounds differ from the estate's"))
    if plan.proof != ("partial" if instance.unknown else "full"):
        found.append(
            Violation("F1", plan.name, "states a different strength of proof than the estate allows")
        )
    return found


def check_instance(
    instance: Instance, plan: Plan, better: Instance | None = None, counted: Instance | None = None
) -> Verdict:
    """Checks all rules except the header against an instance. The bound must hold for `better`, in which
    facts known within bounds have their better ends; if omitted, everything is known exactly. counted: see
    `_check_people`.
    """
    reading = read(instance, plan)
    times = milestones(reading)
    order.check_durations(reading)
    order.check_precedence(reading, times)
    order.check_components(reading, times)
    order.check_stores(reading)
    order.check_tools(reading, times)
    order.check_after(reading, times)
    capacity.check_limits(reading)
    capacity.check_power(reading)
    check_power_steps(reading)
    check_bring_up(reading, better or instance)
    check_people(reading, times)
    order.check_stops(reading, times)
    capacity.check_placement(reading)
    capacity.check_capacity(reading)
    capacity.check_freed(reading)
    final = capacity.final_state(reading)
    capacity.check_spread(reading, final)
    check_counts(reading, times)
    check_sheds(reading, times, final)
    check_tiers(reading, times, final)
    objective = check_outcomes(reading, times)
    check_reasons(reading, times)
    check_statements(reading, times, counted or instance)
    bound = _check_bound(reading, better or instance, objective)
    violations = tuple(sorted(set(reading.violations)))
    return Verdict(violations, objective, bound, len(plan.steps))


def _check_bound(reading: Reading, better: Instance, objective: int) -> int:
    """F20: the bound recomputed from the certificate equals the stated one and does not exceed Z."""
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
        reading.complain(
            "F20", plan.name, f"bound {bound} is above the objective {objective}: internal error"
        )
    return bound


def check_objectives(estate: Estate, plan: Plan) -> list[Violation]:
    """Linear in services, stores and outcomes."""
    of_class = _class_of(estate, plan.scenario.domains)
    rto_ms = {service.id: rto_for(service, of_class) for service in estate.services}
    found = []
    for outcome in plan.outcomes:
        wanted = rto_ms.get(outcome.service)
        if outcome.rto_ms != wanted:
            words = f"RTO is {wanted} ms, the plan says {outcome.rto_ms}"
            found.append(Violation("F19", outcome.service, words))
    rpo_ms = strictest_rpos(estate, of_class)
    for store in plan.stores:
        most = rpo_ms.get(store.store)
        if most is None or most >= UNLIMITED or not store.candidate or store.waiver:
            continue
        if store.loss_ms is None or store.loss_ms > most:
            words = f"loses {store.loss_ms} ms of data and may lose {most} ms after the loss of a {of_class}"
            found.append(Violation("F2", store.store, words))
    return found


def _class_of(estate: Estate, domains: tuple[str, ...]) -> LossClass:
    lost = len(with_members(estate, set(domains)) & {site.id for site in estate.sites})
    if lost:
        return "region" if lost > 1 else "site"
    racks = {rack.id for rack in estate.racks}
    halls = {hall.id for hall in estate.halls} | {feed.id for feed in estate.feeds}
    halls |= {group.id for group in estate.groups}
    kinds: list[LossClass] = ["software"]
    for name in domains:
        if not name.startswith(PROVIDER_PREFIX):
            kinds.append("hall" if name in halls else "rack" if name in racks else "server")
    return max(kinds, key=LOSS_CLASSES.index)


def check_residency(estate: Estate, plan: Plan) -> list[Violation]:
    """Linear in steps and their servers."""
    stated = [(service.id, service.data_in) for service in estate.services]
    stated += [(store.id, store.data_in) for store in estate.stores]
    bounds = {name: sites_in(estate, names) for name, names in stated if names is not None}
    if not bounds:
        return []
    found = []
    where = Where(estate)
    for step in plan.steps:
        allowed = bounds.get(step.target)
        if allowed is None:
            continue
        kind = kind_of(step.kind)
        names = [name for name, _ in step.servers] if kind.replicas > 0 else []
        places = [step.candidate] if kind.makes_primary or kind.restores else names
        for site in sorted({where.site(place) for place in places} - allowed):
            rule = "F10" if places is names else "F2"
            words = f"moves its data to {site or 'an unknown place'}, where it may not be kept"
            found.append(Violation(rule, step.id, words))
    for outcome in plan.stores:
        allowed = bounds.get(outcome.store)
        if allowed is not None and outcome.candidate and where.site(outcome.candidate) not in allowed:
            words = f"has its primary at {outcome.candidate}, where its data may not be kept"
            found.append(Violation("F2", outcome.store, words))
    return found
