"""A plan in the making: its steps so far, milestones and their cost, and the outcome of every affected
service and store, with the chain of steps that decides it. A start may not fit where an
available or needed amount is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.derive.affected import ServiceGraph, hit_by_dependency
from evac.derive.circles import doubted_with, tools_of_base, unjudged_tool
from evac.derive.untimed import from_loss, open_outages, people_before
from evac.model.fleet import IntColumn
from evac.model.instance import Instance
from evac.model.objectives import loss_facts, rpo_fact
from evac.model.plan import Outcome, Sensitivity, ServiceState, Step, StoreOutcome, Worst
from evac.model.reason import NAMED_MOST, PLACEMENT, Reason
from evac.model.records import dataclass
from evac.model.step_id import MILES, MOVED
from evac.planning.assembly.capacity import short_of, taken_by, why_no_capacity
from evac.planning.evacuation.board import FAILED_TIME, NEVER, SHEDS, STARTS, Board
from evac.planning.evacuation.legality import lack_time
from evac.steps.registry import PLANNED, kind_of

Ints = NDArray[np.int64]

_USUAL: Final[dict[str, dict[str, object]]] = {
    kind.name: {"precheck": kind.precheck, "gate": kind.gate, "undo": kind.undo, "tools": kind.tools}
    for kind in PLANNED.values()
}
"""Default fields of steps of a kind."""


@dataclass(slots=True, eq=False)
class Draft:
    """Steps by id, and the steps that end waits of others."""

    instance: Instance
    board: Board
    steps: dict[str, Step] = field(default_factory=dict)
    boot_of: dict[int, str] = field(default_factory=dict)
    sheds_on: dict[int, list[str]] = field(default_factory=dict)
    starts_of: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    promote_of: dict[int, str] = field(default_factory=dict)
    last_of: dict[int, str] = field(default_factory=dict)
    members: dict[int, list[int]] = field(default_factory=dict)

    def add(self, kind: str, target: str, name: str, start: int, end: int, **fields: object) -> str:
        """Adds a step, in ticks; returns its id."""
        tick = self.instance.tick_ms
        deadline = max(2 * (end - start), 1) * tick
        rest: dict[str, object] = {"deadline_ms": deadline, **_USUAL[kind], **fields}
        self.steps[name] = Step(
            id=name,
            kind=kind,
            target=target,
            start_ms=start * tick,
            end_ms=end * tick,
            **rest,  # type: ignore[arg-type]
        )
        return name

    def manual_ticks(self, kind: str, regular: int, manual: bool) -> int:
        """Duration of a step: manual work takes at least what the estate states."""
        need = self.instance.tools[kind].manual if manual else None
        return regular if need is None else max(regular, need)


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Ticks, S each, H if never: base and top hold from `*_at` until `*_gone`; before that they are gone from
    `*_since` on, where a loss counts from the end of the grace, if it was not there before.
    """

    base_at: Ints
    top_at: Ints
    base_gone: Ints
    top_gone: Ints
    base_since: Ints
    top_since: Ints


def times_of(instance: Instance, board: Board) -> Times:
    """Results of the last generation on a board."""
    found = ("base_at", "top_at", "base_shed_at", "top_shed_at", "base_since", "top_since")
    return Times(*(np.minimum(board.service[name], instance.horizon) for name in found))


def outages(instance: Instance, times: Times) -> tuple[Ints, Ints]:
    """(S,) ticks without base and without top."""
    horizon = instance.horizon
    base = np.maximum(times.base_at - times.base_since, 0) + horizon - times.base_gone
    top = np.maximum(times.top_at - times.top_since, 0) + horizon - times.top_gone
    return np.minimum(base, horizon), np.minimum(top, horizon)


def price(instance: Instance, base: Ints, top: Ints, weighted: bool = True) -> int:
    """Z of outages, or the same with weight 1 for everyone.

    For tiers of weight zero, an instance does not hold the people without service: to count them, pass an
    instance with other weights.
    """
    s = instance.services
    base_weight, top_weight = s.base_weight.astype(object), s.top_weight.astype(object)
    if not weighted:
        tier = np.maximum(1, np.array(instance.tier_weights, np.int64))[s.tier]
        base_weight, top_weight = base_weight // tier, top_weight // tier
    return int((base_weight * base + top_weight * top).sum())


def worst_of(
    instance: Instance, counted: Instance, outcomes: tuple[Outcome, ...], base: Ints, top: Ints, lead_ms: int
) -> Worst | None:
    """The outage if all that is unknown turns out worst. counted: see `price`; lead_ms: until the plan
    begins.
    """
    open_ones, tick = open_outages(instance.services, outcomes), instance.tick_ms
    if not open_ones:
        return None
    longest = instance.horizon - instance.base_since, instance.horizon - instance.top_since
    most = open_ones.at_most(base, top, *longest)
    return Worst(
        objective=price(instance, *most) * tick,
        unweighted=price(counted, *most, weighted=False) * tick,
        unweighted_before=people_before(counted, lead_ms, open_ones),
    )


CASES: Final = (
    ("demand is 30 % higher", 130, 100),
    ("demand is 30 % lower", 70, 100),
    ("tier 0 and 1 weigh 30 % more", 100, 130),
    ("tier 0 and 1 weigh 30 % less", 100, 70),
)


def sensitivities(
    instance: Instance, steps: tuple[Step, ...], base: Ints, top: Ints
) -> tuple[Sensitivity, ...]:
    """The objective if demand or weights are off by 30 per cent: of the fixed plan, whose outages are `base`
    and `top` in ticks, and of a new constructive plan, unless the fixed one is better: no one has to replan.
    With more demand, starts of the fixed plan that no longer fit do not happen, nor does anything that needs
    them.
    """
    from evac.planning.evacuation.solve import solve

    found = []
    for words, demand, weight in CASES:
        changed = _changed(instance, demand, weight)
        board = solve(changed, 0)
        again = price(changed, *outages(changed, times_of(changed, board)))
        fixed_base, fixed_top = (
            (base, top) if demand <= 100 else _with_less_capacity(changed, steps, base, top)
        )
        fixed = price(changed, fixed_base, fixed_top)
        found.append(Sensitivity(words, fixed, min(again, fixed)))
    return tuple(found)


def _changed(instance: Instance, demand: int, weight: int) -> Instance:
    """Demand rounded up, rows with at least what is on them; weights of the two highest tiers scaled."""
    s = instance.services
    high = s.tier <= 1
    scaled = -(-s.demand * demand // 100)
    services = replace(
        s,
        demand=scaled,
        base_weight=np.where(high, s.base_weight * weight // 100, s.base_weight),
        top_weight=np.where(high, s.top_weight * weight // 100, s.top_weight),
    )
    present = instance.present
    used = np.zeros_like(instance.rows.used)
    np.add.at(used, present.row, services.demand[present.service] * present.count[:, None])
    rows = replace(instance.rows, used=used, capacity=np.maximum(instance.rows.capacity, used))
    return replace(instance, services=services, rows=rows)


def _with_less_capacity(
    instance: Instance, steps: tuple[Step, ...], base: Ints, top: Ints
) -> tuple[Ints, Ints]:
    """Outages if starts take their rows in planned order and those that do not fit never happen."""
    s, horizon = instance.services, instance.horizon
    rows = {name: n for n, name in enumerate(instance.row_names)}
    index = {name: n for n, name in enumerate(s.id)}
    free = instance.rows.capacity - instance.rows.used
    failed = {mile: np.zeros(len(s), np.bool_) for mile in MILES}
    for step in steps:
        sign = kind_of(step.kind).replicas
        if not sign:
            continue
        service = index[step.target]
        for name, count in step.servers:
            need = s.demand[service] * count
            if sign < 0:
                free[rows[name]] += need
            elif (free[rows[name]] >= need).all():
                free[rows[name]] -= need
            else:
                failed[step.milestone][service] = True
    graph = ServiceGraph(s.hard, s.soft, s.hard_start, (), (), {}, {})
    down = hit_by_dependency(graph, failed["base"])
    down |= failed[MOVED] & (base > 0)
    return np.where(down, horizon, base), np.where(down | failed["top"] | failed[MOVED], horizon, top)


CHAIN_MOST: Final = 60


def outcomes_of(
    draft: Draft, times: Times, rto_ms: Mapping[str, int | None], lead_ms: int
) -> tuple[Outcome, ...]:
    """One for each affected service, sorted by id. lead_ms: detection and approval."""
    instance, s = draft.instance, draft.instance.services
    base, top = outages(instance, times)
    tick, late, helped = instance.tick_ms, _late(draft, times), _helped(draft)
    doubt, alone, found = doubt_of(instance, draft.board), from_loss(instance), []
    shed = (draft.board.service["left"] < s.surviving).tolist()
    for service in range(len(s)):
        touched = s.base_lost[service] or s.top_lost[service] or base[service] or top[service]
        touched = touched or service in instance.unjudged or shed[service] or service in doubt.top
        if not touched and times.top_gone[service] >= instance.horizon:
            continue
        state = state_of(instance, times, service, doubt)
        back = times.base_at[service] < instance.horizon
        found.append(
            Outcome(
                service=s.id[service],
                state=state,
                base_ms=int(times.base_at[service]) * tick if back else None,
                top_ms=int(times.top_at[service]) * tick
                if times.top_at[service] < instance.horizon
                else None,
                base_outage_ms=int(base[service]) * tick,
                top_outage_ms=int(top[service]) * tick,
                recovery_ms=_recovery(instance, times, service, state, lead_ms, alone),
                rto_ms=rto_ms.get(s.id[service]),
                people=int(s.people[service]),
                tier=int(s.tier[service]),
                critical=_chain(draft, service) if back and s.base_lost[service] else (),
                why=_reason(draft, times, service, state, late, helped, doubt),
            )
        )
    return tuple(found)


def state_of(instance: Instance, times: Times, service: int, doubt: Doubt) -> ServiceState:
    """unknown, shed, unplaced, degraded or restored. If it is unknown whether all of it fits, at best
    degraded. What is down because what it needs never returns is unplaced, whatever is shed of it.
    """
    horizon = instance.horizon
    if service in instance.unjudged:
        return "unknown"
    if times.base_gone[service] < horizon and not instance.services.blocked[service]:
        return "shed"
    if times.base_at[service] >= horizon:
        return "unplaced"
    if service in doubt.base:
        return "unknown"
    full = times.top_at[service] < horizon and times.top_gone[service] >= horizon
    full = full and service not in doubt.top
    return "restored" if full else "degraded"


def _recovery(
    instance: Instance,
    times: Times,
    service: int,
    state: ServiceState,
    lead_ms: int,
    alone: Mapping[int, IntColumn],
) -> int | None:
    """Time from the loss; for a survivor only while it moves; without lead for an evacuation; None if nothing
    restores it or a duration on the way is unknown. alone: see `from_loss`.
    """
    if state in ("shed", "unplaced", "unknown"):
        return None
    if not instance.services.base_lost[service]:
        away = max(0, int(times.base_at[service]) - int(times.base_since[service]))
        return away * instance.tick_ms
    if service in instance.untimed:
        return None
    if service in alone:
        return int(alone[service]) * instance.tick_ms
    late = max(0, int(times.base_at[service]) - int(instance.base_since[service])) * instance.tick_ms
    return late if instance.grace else late + lead_ms


def _chain(draft: Draft, service: int) -> tuple[str, ...]:
    """Follows backwards, for each step, whatever it waited for last."""
    members = draft.members[int(draft.instance.services.component[service])]
    ends = [draft.last_of[m] for m in members if m in draft.last_of]
    chain: list[str] = []
    name = max(ends, key=lambda n: (draft.steps[n].end_ms, n), default="")
    while name and len(chain) < CHAIN_MOST:
        chain.append(name)
        name = max(draft.steps[name].after, key=lambda n: (draft.steps[n].end_ms, n), default="")
    return tuple(reversed(chain))


def _reason(
    draft: Draft,
    times: Times,
    service: int,
    state: ServiceState,
    late: frozenset[int],
    helped: Mapping[str, set[str]],
    doubt: Doubt,
) -> Reason | None:
    if state == "shed":
        some = sorted(helped.get(draft.instance.services.id[service], ()))
        return Reason("capacity-for", tuple(some[:NAMED_MOST]), max(0, len(some) - NAMED_MOST))
    if state == "degraded" and service in doubt.top:
        return Reason("fact-unknown", fact=doubt.top[service])
    if state == "unknown" and service not in draft.instance.unjudged:
        return Reason("fact-unknown", fact=doubt.base[service])
    if state == "unknown":
        return _unjudged(draft.instance.unjudged[service])
    if state != "unplaced":
        return None
    held = _waits_in_vain(draft, times, service)
    if held is None and service in late and service in draft.instance.start_by:
        held = _circle(draft, service)
    if held is not None or service in late:
        return held or Reason("late")
    none = why_no_capacity(draft.instance, service)
    if none is not None:
        return none
    resource, missing = short_of(draft.instance, service, times.base_at < draft.instance.horizon)
    takers = () if resource else taken_by(draft.instance, draft.board, service)
    if takers:
        return Reason("capacity-taken", takers[:NAMED_MOST], max(0, len(takers) - NAMED_MOST))
    return Reason("capacity-not-found", resource=resource, missing=missing)


def _unjudged(fact: str) -> Reason:
    """Why the effect on a service is unknown, by the path of the missing fact."""
    section, name, what = fact.split("/", 2)
    if fact in loss_facts(name) and fact != rpo_fact(name):
        return Reason("loss-unknown", store=name, fact=fact)
    if what != PLACEMENT:
        return Reason("fact-unknown", fact=fact)
    return (
        Reason("place-unknown", (name,)) if section == "services" else Reason("members-unknown", store=name)
    )


def _circle(draft: Draft, service: int) -> Reason:
    """Services that need each other to start, and cannot start before their site goes dark."""
    s = draft.instance.services
    others = (s.id[other] for other in draft.members[int(s.component[service])] if other != service)
    return Reason("start-cycle", (*sorted(others)[:1], s.id[service]))


def _waits_in_vain(draft: Draft, times: Times, service: int, among: bool = False) -> Reason | None:
    """The required store, service or tool that does not return. For services that need each other, only what
    they need apart from each other counts (among).
    """
    instance, s = draft.instance, draft.instance.services
    if service in instance.stuck:
        stuck, name = instance.stuck[service], s.id[service]
        others = [other for other in stuck.services if other != name]
        return Reason(stuck.kind, (others[0], name) if others else (name,))
    for store in s.lost_stores[service]:
        if not 0 <= draft.board.store[store]["primary_at"] < NEVER:
            return _no_data(draft, times, store)
    for other in s.hard[service]:
        if times.base_at[other] >= instance.horizon and s.component[other] != s.component[service]:
            return Reason("needs", (s.id[other],))
    for tool in tools_of_base(s, instance.tools, service) if s.base_lost[service] else ():
        if times.base_at[tool] >= instance.horizon and tool != service:
            return Reason("needs-tool", (s.id[tool],))
    if not among:
        for other in draft.members.get(int(s.component[service]), ()):
            if other != service and _waits_in_vain(draft, times, other, among=True) is not None:
                return Reason("needs", (s.id[other],))
    return None


def _no_data(draft: Draft, times: Times, row: int) -> Reason:
    """Why a lost store does not return."""
    instance, store = draft.instance, draft.instance.stores[row]
    until_ms = int(draft.board.store[row]["until"]) * instance.tick_ms
    ways = [c if until_ms < 0 else store.at(c, until_ms) for c in store.candidates]
    for other in store.needs:
        if times.base_at[other] >= instance.horizon:
            return Reason("needs-tool", (instance.services.id[other],))
    if any(c.allowed for c in ways):
        for kind in sorted({c.kind for c in ways if c.allowed and not c.forced}):
            tools = instance.tools.get(kind)
            for tool in () if tools is None or tools.manual is not None else tools.services:
                if times.base_at[tool] >= instance.horizon:
                    return Reason("needs-tool", (instance.services.id[tool],))
        return Reason("store-late", store=store.id)
    if any(c.forced for c in store.candidates) and not store.has_majority:
        return Reason("majority-lost", store=store.id)
    known = sorted((c.loss_ms, c.site, c.kind) for c in ways if c.loss_ms is not None)
    if known:
        _, site, kind = known[0]
        whose = (store.limited_by,) if store.limited_by else ()
        restores = kind_of(kind).restores
        return Reason("loss-above-rpo", whose, store=store.id, site=site, backup=restores)
    return Reason("loss-unknown" if store.candidates else "no-copy", store=store.id)


def _late(draft: Draft, times: Times) -> frozenset[int]:
    """Services that nothing keeps down except that they would not be back before the horizon."""
    instance, board = draft.instance, draft.board
    down = [
        service
        for service in range(len(instance.services))
        if state_of(instance, times, service, Doubt()) == "unplaced"
        and not _waits_in_vain(draft, times, service)
    ]
    why = board.item["why"][instance.services.component[down]]
    late = {service for service, one in zip(down, why.tolist(), strict=True) if one == FAILED_TIME}
    open_ = sorted(set(down) - late, key=lambda service: (board.service["tier"][service], service))
    flags = np.zeros(len(open_), np.int64)
    if open_:
        lack_time(board, np.array(open_, np.int64), flags)
    return frozenset(late.union(service for service, one in zip(open_, flags.tolist(), strict=True) if one))


def _helped(draft: Draft) -> dict[str, set[str]]:
    """For each shed service, those that it frees capacity for."""
    found: dict[str, set[str]] = {}
    for step in draft.steps.values():
        if kind_of(step.kind).frees_capacity:
            found.setdefault(step.target, set()).update(step.for_services)
    return found


def store_outcomes(draft: Draft) -> tuple[StoreOutcome, ...]:
    """Every lost store: where and when it is restored, and what is lost."""
    tick = draft.instance.tick_ms
    found = []
    for row, store in enumerate(draft.instance.stores):
        entry = draft.board.store[row]
        back = 0 <= entry["primary_at"] < NEVER
        candidate = store.candidates[int(entry["candidate"])] if back else None
        candidate = store.at(candidate, int(entry["until"]) * tick) if candidate else None
        found.append(
            StoreOutcome(
                store=store.id,
                candidate=candidate.id if candidate else "",
                primary_ms=int(entry["primary_at"]) * tick if back else None,
                loss_ms=candidate.loss_ms if candidate else None,
                waiver=store.id if candidate is not None and candidate.waived else "",
                restored=candidate is not None and kind_of(candidate.kind).restores,
                in_doubt=store.in_doubt is not None,
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Doubt:
    """Service -> path of the unknown fact: for services whose base depends on it, by a start of their own
    or of what they wait for, and for those where only the rest does, or what they need softly.
    """

    base: dict[int, str] = field(default_factory=dict)
    top: dict[int, str] = field(default_factory=dict)


def doubt_of(instance: Instance, board: Board) -> Doubt:
    """What depends on unknown facts. Next to a start with unknown demand, the free capacity of its row is
    unknown for others; so is that of rows that something leaves only if its move is certain.
    """
    if not (instance.vague or instance.unjudged):
        return Doubt()
    s, found = instance.services, Doubt()
    lines = board.started[: board.size[STARTS]]
    beside, by_tool = dict[int, set[int]](), _rows_by_tool(instance, board)
    for service, row in zip(lines["service"].tolist(), lines["row"].tolist(), strict=True):
        if service in instance.vague.demand:
            beside.setdefault(row, set()).add(service)
    starts = list(zip(*(lines[name].tolist() for name in ("service", "row", "mile")), strict=True))
    direct = [_missing(instance, n, row, beside.get(row, ())) or by_tool.get(row, "") for n, row, _ in starts]
    freed = _freed_in_doubt(instance, board, starts, direct)
    for (service, row, mile), missing in zip(starts, direct, strict=True):
        missing = missing or freed.get(row, "")
        serves = MILES[mile] == MOVED and board.service["left"][service] < s.m[service]
        if missing:
            (found.base if mile == 0 or serves else found.top).setdefault(service, missing)
    found.base.update(_waiting(instance, {**instance.unjudged, **found.base}))
    unknown = {**found.base, **instance.unjudged}
    for service, others in enumerate(s.soft):
        for other in sorted(unknown.keys() & set(others)):
            found.top.setdefault(service, unknown[other])
    return found


def _freed_in_doubt(
    instance: Instance, board: Board, starts: list[tuple[int, int, int]], direct: list[str]
) -> dict[int, str]:
    """Row -> path, where something movable stops only once it runs elsewhere, if it can. starts:
    (service, row, milestone), and for each the unknown fact that it depends on itself.
    """
    left, found = dict[int, set[int]](), dict[int, str]()
    gone = board.present[board.shed["entry"][: board.size[SHEDS]]]
    for service, row in zip(gone["service"].tolist(), gone["row"].tolist(), strict=True):
        if instance.services.movable[service]:
            left.setdefault(service, set()).add(row)
    before = -1
    while before < len(found):
        before = len(found)
        for (service, row, mile), missing in zip(starts, direct, strict=True):
            unknown = missing or found.get(row, "")
            if unknown and MILES[mile] == MOVED:
                found.update(dict.fromkeys(left.get(service, set()) - found.keys(), unknown))
    return found


def _rows_by_tool(instance: Instance, board: Board) -> dict[int, str]:
    """Row that is booted or on which something is shed -> path, if the tools for that cannot be judged."""
    boot, shed = unjudged_tool(instance, "boot"), unjudged_tool(instance, "shed")
    rows = np.flatnonzero(board.row["boot_at"] >= 0).tolist() if boot else []
    gone = board.present["row"][board.shed["entry"][: board.size[SHEDS]]].tolist() if shed else []
    return {**dict.fromkeys(gone, shed), **dict.fromkeys(rows, boot)}


def _missing(instance: Instance, service: int, row: int, beside: Iterable[int]) -> str:
    """Path of the unknown amount that a start on a row depends on; empty if none."""
    vague = instance.vague
    if service in vague.demand:
        return vague.demand[service]
    wanted = instance.services.demand[service]
    paths = [path for resource, path in vague.rows.get(row, ()) if wanted[resource] > 0]
    return next(iter(paths), "") or next((vague.demand[other] for other in sorted(beside)), "")


def _waiting(instance: Instance, direct: dict[int, str]) -> dict[int, str]:
    """The same for services that are down and wait for these."""
    found, users = dict(direct), doubted_with(instance)
    queue = sorted(found)
    for row in queue:
        for user in users[row]:
            if user not in found:
                found[user] = found[row]
                queue.append(user)
    return found
