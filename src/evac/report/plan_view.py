"""What a page shows of a plan, computed from estate and plan: matrix, capacity, Gantt, outage curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evac.model.domain import Loss, Topology, loss, topology
from evac.model.estate import Estate
from evac.model.fleet import AT_SITE, CONDEMNED, DARK, ON_POOL, ON_SERVER
from evac.model.plan import Outcome, Plan, Step
from evac.model.units import RESOURCE_WORDS
from evac.report.svg import Bar, Row, Series, clock
from evac.report.words import duration, people

Ints = NDArray[np.int64]
GANTT_ROWS: Final = 40


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """Replicas of one service: (before, after) for each site."""

    service: str
    tier: int | None
    people: int | None
    state: str
    cells: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class CapacityRow:
    """Shares of what a site has of a resource, before and after: used, and what boots would add."""

    site: str
    resource: str
    lost: bool
    before: float
    after: float
    dark: float


def replicas_by_site(estate: Estate, top: Topology) -> Ints:
    """(S, sites) replicas of each service as the estate says."""
    table = np.zeros((len(estate.services), len(estate.sites)), np.int64)
    r = estate.replicas
    site = np.full(len(r), -1, np.int64)
    for kind, lookup in ((ON_SERVER, estate.fleet.site), (ON_POOL, top.pool_site)):
        rows = r.kind == kind
        site[rows] = lookup[r.target[rows]]
    rows = r.kind == AT_SITE
    site[rows] = r.target[rows]
    known = site >= 0
    np.add.at(table, (r.service[known], site[known]), r.count[known])
    return table


def site_of_target(estate: Estate, top: Topology) -> Mapping[str, int]:
    """Names of servers and pools that a plan starts on, to the index of their site."""
    sites = {pool.id: int(top.pool_site[n]) for n, pool in enumerate(estate.pools)}
    sites |= {f"site:{site.id}": n for n, site in enumerate(estate.sites)}
    return sites


def moved_by_site(estate: Estate, top: Topology, plan: Plan) -> Ints:
    """(S, sites) replicas the plan adds (starts) and takes away (sheds)."""
    table = np.zeros((len(estate.services), len(estate.sites)), np.int64)
    service = {s.id: n for n, s in enumerate(estate.services)}
    pools = site_of_target(estate, top)
    index = top.site_index
    for step in plan.steps:
        if step.kind in ("start", "shed") and step.target in service:
            site = pools.get(step.pool, index.get(step.pool.split(":", 1)[0], -1))
            if site >= 0:
                table[service[step.target], site] += step.count if step.kind == "start" else -step.count
    return table


def matrix(estate: Estate, plan: Plan) -> tuple[MatrixRow, ...]:
    """Every service the loss touches, highest tier and most people first."""
    top = topology(estate)
    lost = loss(top, plan.scenario.domains)
    before = replicas_by_site(estate, top)
    after = before + moved_by_site(estate, top, plan)
    if plan.scenario.kind != "restore":
        after[:, lost.sites] -= before[:, lost.sites] if plan.scenario.kind != "failback" else 0
    touched = {o.service: o for o in plan.outcomes}
    rows = []
    for n, service in enumerate(estate.services):
        outcome = touched.get(service.id)
        if outcome is None:
            continue
        cells = tuple((int(b), int(a)) for b, a in zip(before[n], after[n], strict=True))
        rows.append(MatrixRow(service.id, service.tier, service.people, outcome.state, cells))
    return tuple(sorted(rows, key=lambda r: (9 if r.tier is None else r.tier, -(r.people or 0), r.service)))


def capacity(estate: Estate, plan: Plan) -> tuple[CapacityRow, ...]:
    """Per full site and resource that any service asks for; shares of what is there, dark included."""
    top = topology(estate)
    lost = loss(top, plan.scenario.domains)
    demand = np.array([[amount or 0 for amount in s.demand] for s in estate.services], np.int64).reshape(
        -1, 4
    )
    before = replicas_by_site(estate, top).T @ demand
    after = before + moved_by_site(estate, top, plan).T @ demand
    total, dark = _room(estate, top)
    rows = []
    for n, site in enumerate(estate.sites):
        for resource, word in enumerate(RESOURCE_WORDS):
            if site.role == "full" and demand[:, resource].any() and total[n, resource]:
                rows.append(_capacity_row(site.id, word, lost, n, before, after, total, dark, resource))
    return tuple(rows)


def _capacity_row(
    site: str,
    word: str,
    lost: Loss,
    n: int,
    before: Ints,
    after: Ints,
    total: Ints,
    dark: Ints,
    resource: int,
) -> CapacityRow:
    whole = float(total[n, resource])
    gone = bool(lost.sites[n])
    left = 0.0 if gone else float(after[n, resource]) / whole
    return CapacityRow(
        site, word, gone, float(before[n, resource]) / whole, left, float(dark[n, resource]) / whole
    )


def _room(estate: Estate, top: Topology) -> tuple[Ints, Ints]:
    """(sites, R) of all servers and pools, and of the dark ones among them."""
    total = np.zeros((len(estate.sites), 4), np.int64)
    dark = total.copy()
    fleet = estate.fleet
    known = np.where(fleet.capacity_known, fleet.capacity, 0)
    for table, rows in ((total, fleet.state != CONDEMNED), (dark, fleet.state == DARK)):
        rows = rows & (fleet.pool < 0)
        np.add.at(table, fleet.site[rows], known[rows])
    for n, pool in enumerate(estate.pools):
        total[top.pool_site[n]] += np.array([amount or 0 for amount in pool.capacity], np.int64)
    return total, dark


def gantt_rows(plan: Plan) -> tuple[Row, ...]:
    """The services whose outage weighs most, each with its phases, in the order they come back."""
    steps: dict[str, list[Step]] = {}
    for step in plan.steps:
        steps.setdefault(step.target, []).append(step)
    back = [o for o in plan.outcomes if o.base_ms and o.state in ("restored", "degraded")]
    back.sort(key=lambda o: (-o.people * o.base_outage_ms, o.service))
    chosen = sorted(back[:GANTT_ROWS], key=lambda o: (o.base_ms or 0, o.service))
    return tuple(_service_row(plan, o, steps.get(o.service, [])) for o in chosen)


def _service_row(plan: Plan, outcome: Outcome, steps: list[Step]) -> Row:
    bars = []
    starts = [s for s in steps if s.kind == "start" and s.milestone == "base"]
    if starts:
        begin, end = min(s.start_ms for s in starts), max(s.end_ms for s in starts)
        count = sum(s.count for s in starts)
        bars.append(
            Bar(
                begin / 1000,
                end / 1000,
                "start",
                f"{count} starts, {clock(begin / 1000)} to {clock(end / 1000)}",
            )
        )
    for kind in ("verify", "shift"):
        for step in steps:
            if step.kind == kind and step.milestone in ("base", ""):
                words = f"{kind}, {clock(step.start_ms / 1000)} to {clock(step.end_ms / 1000)}"
                bars.append(Bar(step.start_ms / 1000, step.end_ms / 1000, kind, words))
    first = min((b.begin for b in bars), default=(outcome.base_ms or 0) / 1000)
    wait = Bar(0, first, "wait", f"waits {clock(first)}")
    lead = plan.detection_ms + plan.approval_ms
    limit = None if outcome.rto_ms is None else max(0, outcome.rto_ms - lead) / 1000
    return Row(f"{outcome.service} (tier {outcome.tier})", (wait, *bars), limit)


def critical_rows(plan: Plan) -> tuple[str, tuple[Row, ...]]:
    """The chain of the last service of the highest affected tier, step by step."""
    back = [o for o in plan.outcomes if o.base_ms and o.critical]
    if not back:
        return "", ()
    last = max(back, key=lambda o: (-o.tier, o.base_ms or 0, o.service))
    steps = {s.id: s for s in plan.steps}
    rows = []
    for name in last.critical:
        step = steps.get(name)
        if step is not None:
            words = f"{step.id}: {clock(step.start_ms / 1000)} to {clock(step.end_ms / 1000)}"
            rows.append(Row(step.id, (Bar(step.start_ms / 1000, step.end_ms / 1000, step.kind, words),)))
    return last.service, tuple(rows)


def curves_by_tier(plan: Plan) -> tuple[tuple[int, float, tuple[Series, ...]], ...]:
    """(tier, people at most, [without service, allowed by rto]) from the loss on, in seconds."""
    lead = plan.detection_ms + plan.approval_ms
    found = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier and o.people and o.base_outage_ms]
        if not mine:
            continue
        down = _falling((o.people, _back_at(o, lead)) for o in mine)
        series = [Series(f"tier {tier}: people without service", f"line tier{min(tier, 3)}", down)]
        stated = [o for o in mine if o.rto_ms is not None]
        if stated:
            allowed = _falling((o.people, o.rto_ms / 1000) for o in stated if o.rto_ms is not None)
            series.append(Series(f"tier {tier}: allowed by the objectives", "line allowed", allowed))
        found.append((tier, float(sum(o.people for o in mine)), tuple(series)))
    return tuple(found)


def _back_at(outcome: Outcome, lead_ms: int) -> float:
    if outcome.base_ms is None or outcome.state in ("shed", "unplaced"):
        return float("inf")
    return (outcome.base_ms + lead_ms) / 1000


def _falling(rows: Iterable[tuple[int, float]]) -> tuple[tuple[float, float], ...]:
    ordered = sorted(rows, key=lambda row: row[1])
    left = sum(p for p, _ in ordered)
    points: list[tuple[float, float]] = [(0.0, float(left))]
    for count, second in ordered:
        if second == float("inf"):
            break
        left -= count
        points.append((second, float(left)))
    return tuple(points)


def recovery_times(outcomes: Iterable[Outcome]) -> list[int]:
    """Milliseconds from the loss on of the services that went down and come back, rising."""
    back = [o for o in outcomes if o.state in ("restored", "degraded") and o.base_outage_ms > 0]
    return sorted(o.recovery_ms for o in back if o.recovery_ms is not None)


def span_seconds(plan: Plan) -> float:
    """How much of the time axis is worth drawing: to the last return, a little more, at least a minute."""
    ends = [o.base_ms for o in plan.outcomes if o.base_ms is not None]
    lead = plan.detection_ms + plan.approval_ms
    return max(60.0, (max(ends, default=0) + lead) / 1000 * 1.05)


def outcome_rows(plan: Plan) -> tuple[dict[str, str], ...]:
    """Every outcome in words, for the table behind the charts."""
    return tuple(
        {
            "service": o.service,
            "tier": str(o.tier),
            "people": people(o.people),
            "state": o.state,
            "back": duration(o.recovery_ms) if o.state not in ("shed", "unplaced") else "-",
            "rto": "-" if o.rto_ms is None else duration(o.rto_ms),
            "met": {True: "met", False: "missed", None: "-"}[o.meets_rto],
            "reason": o.reason,
            "critical": " > ".join(o.critical[-4:]),
        }
        for o in sorted(plan.outcomes, key=lambda o: (o.tier, -o.people, o.service))
    )
