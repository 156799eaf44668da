"""The planner's public interface: an estate and a scenario in, a plan with its proof out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import numpy as np

from evac import __version__
from evac.derive.affected import service_graph
from evac.derive.alternatives import first_of_each
from evac.derive.boots import kept_off
from evac.derive.congestion import congested_by, maybe_congested_after
from evac.derive.domains import Topology, loss, topology
from evac.derive.intervals import bound_instance, interval_paths
from evac.derive.objectives import rto_of
from evac.derive.planning_instance import derive
from evac.derive.untimed import people_before
from evac.model.digest import estate_digest
from evac.model.estate import Estate, Lead
from evac.model.instance import Instance
from evac.model.plan import Congestion, Outcome, Plan
from evac.model.reason import Reason
from evac.model.records import dataclass
from evac.model.scenario import Policy, Scenario, lose
from evac.model.units import TICK_MS

if TYPE_CHECKING:
    from evac.planning.bound import BoundResult
    from evac.planning.evacuation.board import Board

Progress = Callable[[float, str], None]
Result = TypeVar("Result")
BOUND_WORK: Final = 300
"""Iterations of the dual ascent, enough to bring the bound within a percent of its limit."""

FEW: Final = 40
"""Up to this many services, a search gets a lower bound to stop at; with more it hardly ever reaches it."""

FIRST_BOUND_WORK: Final = 150
"""Iterations for a plan without a search: half of the time, and two tenths of a percent less."""


class Beside(Protocol):
    """Runs work concurrently with the planner, in the order given; calling the result waits for it, or raises
    the work's error.
    """

    def __call__(self, work: Callable[[], Result], /) -> Callable[[], Result]: ...


def plan(
    estate: Estate,
    scenario: Scenario,
    *,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    work: int = 0,
    seed: int = 0,
    tick_ms: int = TICK_MS,
    sensitivity: bool = False,
    progress: Progress = lambda share, words: None,
    known: tuple[str, Instance] | None = None,
    beside: Beside | None = None,
) -> Plan:
    """Plan a scenario. work: generations of search (0: the constructive plan); same input, same plan. known:
    the estate's digest and its instance for this scenario, if already made. beside: proves the bound
    concurrently; long kernels of both release the interpreter's lock.

    Raises UnknownDomain for a domain the estate does not have.
    """
    digest, instance = known or (estate_digest(estate), derive(estate, scenario, policy, tick_ms))
    made = plan_instance(
        instance,
        scenario,
        name=estate.name,
        digest=digest,
        rto_ms=rto_of(estate, scenario),
        lead=estate.lead,
        as_of=estate.as_of,
        better=first_of_each(
            service_graph(estate), bound_instance(estate, scenario, policy, tick_ms, instance)
        ),
        counted=_counted(estate, scenario, policy, tick_ms, instance),
        work=work,
        seed=seed,
        sensitivity=sensitivity,
        progress=progress,
        beside=beside,
    )
    over = _passed_over(estate, made.outcomes, policy)
    if len(over) > len(policy.passed_over):
        again = replace(policy, passed_over=over)
        return plan(
            estate,
            scenario,
            policy=again,
            work=work,
            seed=seed,
            tick_ms=tick_ms,
            sensitivity=sensitivity,
            progress=progress,
            known=(digest, derive(estate, scenario, again, tick_ms)),
            beside=beside,
        )
    congestion = congested_by(topology(estate), made)
    return replace(
        made,
        intervals=tuple(sorted({*interval_paths(estate), *instance.estimated})),
        outcomes=_with_congestion(congestion, _with_reasons(estate, scenario, made.outcomes)),
        passed_over=policy.passed_over,
        congestion=congestion,
    )


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a constructive plan does to services."""

    outcomes: tuple[Outcome, ...]
    """Of every affected service."""
    moved: frozenset[str]
    """Those that the loss does not touch, and that move to free capacity."""
    vague: bool = False
    """Whether some capacity or demand is unknown: a longer search may keep what this plan sheds."""


def foresee(
    estate: Estate,
    scenario: Scenario,
    top: Topology | None = None,
    policy: Policy = Policy(),  # noqa: B008 - frozen
) -> Foreseen:
    """The outcome of every affected service by the constructive plan, without its proof.

    Raises UnknownDomain.
    """
    from evac.planning.assembly import draft as drafts
    from evac.planning.assembly.steps import draft_steps

    instance = derive(estate, scenario, policy, top=top)
    if not (instance.services.top_lost.any() or instance.unjudged):
        return Foreseen((), frozenset())
    board = _solved(instance, 0, 0, lambda share, words: None)
    times = drafts.times_of(instance, board)
    rto_ms = rto_of(estate, scenario)
    outcomes = drafts.outcomes_of(draft_steps(instance, board), times, rto_ms, estate.lead.ms)
    over = _passed_over(estate, outcomes, policy)
    if len(over) > len(policy.passed_over):
        return foresee(estate, scenario, top, replace(policy, passed_over=over))
    movable = {instance.services.id[row] for row in np.flatnonzero(instance.services.movable).tolist()}
    moved = movable.intersection(one.service for one in outcomes)
    found = _with_reasons(estate, scenario, outcomes)
    congestion = maybe_congested_after(top or topology(estate), scenario)
    return Foreseen(_with_congestion(congestion, found), frozenset(moved), bool(instance.vague))


def _passed_over(estate: Estate, outcomes: tuple[Outcome, ...], policy: Policy) -> tuple[str, ...]:
    """Services passed over so far, and those that keep a service or recovery waiting while an alternative is
    available.

    The next attempt uses the alternative.
    """
    gone = {one.service for one in outcomes if one.state == "unplaced"}
    found = set(policy.passed_over)
    for service in estate.services if gone else ():
        for need in service.needs if service.id in gone else ():
            down = gone.intersection(need.any_of)
            if need.hard and down and len(down) < len(need.any_of):
                found |= down
    for group in estate.tool_groups(estate.tools) if gone else ():
        if 0 < len(gone.intersection(group)) < len(group):
            found |= gone.intersection(group)
    return tuple(sorted(found))


def _with_reasons(estate: Estate, scenario: Scenario, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    """The outcomes, with the reasons that instances do not have: lost providers, and servers that stay off
    for a missing fact.
    """
    found, bare = _with_providers(estate, scenario, outcomes), Reason("no-capacity")
    if not any(one.why == bare for one in found):
        return found
    off, services = kept_off(topology(estate), scenario), {one.id: one for one in estate.services}
    facts = {one.service: off.path_for(services[one.service]) for one in found if one.why == bare}
    return tuple(
        replace(one, why=replace(bare, fact=facts[one.service])) if one.why == bare else one for one in found
    )


def _with_providers(estate: Estate, scenario: Scenario, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    """The outcomes, with the reason for external services whose provider is lost: instances do not have
    these.
    """
    if not any(service.external for service in estate.services):
        return outcomes
    gone = loss(topology(estate), (*scenario.domains, *estate.lost)).external.tolist()
    lost = {
        service.id: Reason("provider", provider=service.provided_by)
        for service, is_gone in zip(estate.services, gone, strict=True)
        if is_gone
    }
    if not lost:
        return outcomes
    return tuple(
        replace(one, why=lost[one.service]) if one.service in lost and one.state == "unplaced" else one
        for one in outcomes
    )


def _with_congestion(
    congestion: tuple[Congestion, ...], outcomes: tuple[Outcome, ...]
) -> tuple[Outcome, ...]:
    """The outcomes, with a mark at services whose traffic may not get through."""
    through = {name for one in congestion for name in one.services}
    return tuple(replace(one, congested=True) if one.service in through else one for one in outcomes)


def _counted(
    estate: Estate, scenario: Scenario, policy: Policy, tick_ms: int, instance: Instance
) -> Instance:
    """The instance used to count people: one in which every tier has weight."""
    if min(instance.tier_weights) > 0:
        return instance
    even = replace(policy, tier_weights=(1,) * len(instance.tier_weights))
    return derive(estate, scenario, even, tick_ms)


def plan_instance(
    instance: Instance,
    scenario: Scenario | None = None,
    *,
    name: str = "instance",
    digest: str = "",
    rto_ms: Mapping[str, int | None] | None = None,
    lead: Lead = Lead(),  # noqa: B008 - frozen
    as_of: object = None,
    better: Instance | None = None,
    counted: Instance | None = None,
    work: int = 0,
    seed: int = 0,
    sensitivity: bool = False,
    progress: Progress = lambda share, words: None,
    beside: Beside | None = None,
) -> Plan:
    """Plans an instance. `rto_ms` and `lead` only affect the outcomes; `better` (if facts are intervals) is
    the instance that the bound is proved for; `counted` (if tiers weigh 0) counts people.
    """
    from evac.planning.assembly import draft as drafts
    from evac.planning.assembly.steps import add_stops, draft_steps, ordered
    from evac.planning.assembly.waves import left_off, wave_of

    asked, prove = scenario or lose("instance"), _proving(better or instance, work, beside)
    board = _solved(instance, work, seed, progress)
    base, top = drafts.outages(instance, times := drafts.times_of(instance, board))
    objective, draft = drafts.price(instance, base, top), draft_steps(instance, board)
    add_stops(draft, times)
    steps = ordered(draft)
    progress(0.85, "proving")
    proved = prove(objective)
    stores, tick = drafts.store_outcomes(draft), instance.tick_ms
    outcomes = drafts.outcomes_of(draft, times, rto_ms or {}, lead.ms)
    counted, before_ms = counted or instance, lead.ms if asked.kind == "lose" else 0
    needs_waiver = {one.id for one in instance.stores if one.needs_waiver} - dict(asked.moments).keys()
    return Plan(
        name=name,
        scenario=asked,
        estate_digest=digest,
        planner_version=__version__,
        seed=seed,
        work=work,
        tick_ms=tick,
        horizon_ms=instance.horizon * tick,
        grace_ms=instance.grace * tick,
        tier_weights=instance.tier_weights,
        steps=steps,
        outcomes=outcomes,
        stores=stores,
        objective=objective,
        unweighted=drafts.price(counted, base, top, weighted=False),
        heads=proved.heads,
        bound=proved.bound,
        certificate=proved.certificate,
        detection_ms=lead.detection_ms,
        approval_ms=lead.approval_ms,
        unweighted_before=people_before(counted, before_ms),
        worst=drafts.worst_of(instance, counted, outcomes, base, top, before_ms),
        assumed=lead.assumed,
        as_of=as_of,  # type: ignore[arg-type]
        waivers=tuple(sorted({s.waiver for s in stores if s.waiver} | needs_waiver)),
        attest=instance.unknown,
        unknown=instance.unknown,
        proof="partial" if instance.unknown else "full",
        sensitivity=drafts.sensitivities(instance, steps, base, top) if sensitivity else (),
        wave=wave_of(instance, board, better or instance, proved.boot_tools),
        left_off=left_off(instance, board),
    )


def _proving(instance: Instance, work: int, beside: Beside | None) -> Callable[[int], BoundResult]:
    """Takes the plan's objective once it is known and waits for the proof, which with `beside` begins at
    once.
    """
    from evac.planning.bound import bound

    iterations = BOUND_WORK if work > 0 else FIRST_BOUND_WORK
    if beside is None:
        return lambda objective: bound(instance, work=iterations, best_objective=objective)
    proved = beside(partial(bound, instance, work=iterations))
    return lambda objective: proved()


def _solved(instance: Instance, work: int, seed: int, progress: Progress) -> Board:
    """The best generation found, followed by the rest of the boots."""
    from evac.planning.evacuation.solve import bring_up_rest, solve

    progress(0.05, "placing and ordering")
    searched, board = _sure_first(instance)
    if board is None or work > 0 or seed:
        board = solve(
            searched,
            work,
            seed,
            lambda done, whole, best: progress(0.1 + 0.7 * done / whole, "searching"),
            floor=partial(_floor, searched) if len(searched.services) <= FEW else None,
        )
    bring_up_rest(instance, board)
    return board


def _floor(instance: Instance) -> int:
    """A lower bound on every plan as the search counts it: ticks within the grace count there too, and with
    unknown facts, milestones that no plan can be sure of count once more.
    """
    from evac.planning.bound import bound
    from evac.planning.evacuation.pricing import GRACE_FACTOR

    found = bound(instance, work=FIRST_BOUND_WORK)
    twice = found.never * instance.horizon if instance.vague or instance.unjudged else 0
    if instance.grace == 0:
        return found.bound + twice
    plain = bound(replace(instance, grace=0), work=FIRST_BOUND_WORK)
    return GRACE_FACTOR * (found.bound + twice) + plain.bound + twice


def _sure_first(instance: Instance) -> tuple[Instance, Board | None]:
    """The same instance without unknown capacity, if everything can be restored without it: with enough known
    capacity, a service on a pool of unknown capacity could not be proved. Also its board, as `solve` makes it
    without a search from seed 0, if one was made.
    """
    from evac.planning.assembly.draft import times_of
    from evac.planning.evacuation.solve import solve

    if not instance.vague.rows:
        return instance, None
    closed, s = _closed(instance), instance.services
    board = solve(closed, 0)
    times = times_of(closed, board)
    back = (times.top_at < instance.horizon) & (times.top_gone >= instance.horizon)
    stays = (times.base_gone >= instance.horizon) & (times.top_gone >= instance.horizon)
    is_enough = ((back | ~(s.base_lost | s.top_lost)) & stays).all()
    return (closed, board) if is_enough else (instance, None)


def _closed(instance: Instance) -> Instance:
    """Removes capacity wherever the free amount is unknown."""
    capacity = instance.rows.capacity.copy()
    for row, missing in instance.vague.rows.items():
        for resource, _ in missing:
            capacity[row, resource] = instance.rows.used[row, resource]
    return replace(instance, rows=replace(instance.rows, capacity=capacity))


def level_order(instance: Instance) -> int:
    """Z of the baseline that runbooks use: one dependency level after the other, ties by id."""
    from evac.planning.assembly.draft import outages, price, times_of
    from evac.planning.evacuation.solve import level_by_level

    return price(instance, *outages(instance, times_of(instance, level_by_level(instance))))


def against_levels(instance: Instance, plan: Plan) -> tuple[int, int]:
    """(outage of a plan, of level order) in weighted person-ticks above the heads, over the milestones that
    both restore: a milestone missing in one of them would cost the whole horizon and say nothing about its
    order.
    """
    from evac.planning.assembly.draft import outages, times_of
    from evac.planning.bound.facts import facts_of
    from evac.planning.evacuation.solve import level_by_level

    s, facts, count = instance.services, facts_of(instance), len(instance.services)
    levels = np.concatenate(outages(instance, times_of(instance, level_by_level(instance))))
    index = {name: row for row, name in enumerate(s.id)}
    ours = np.full(2 * count, instance.horizon, np.int64)
    for outcome in plan.outcomes:
        row = index[outcome.service]
        ours[row] = outcome.base_outage_ms // instance.tick_ms
        ours[count + row] = outcome.top_outage_ms // instance.tick_ms
    both = facts.lost[: 2 * count] & (ours < instance.horizon) & (levels < instance.horizon)
    head = np.maximum(0, (facts.head - facts.since)[: 2 * count])
    weight = np.concatenate([s.base_weight, s.top_weight]).astype(object)[both]
    mine, theirs = (int((weight * (outage - head)[both]).sum()) for outage in (ours, levels))
    return mine, theirs
