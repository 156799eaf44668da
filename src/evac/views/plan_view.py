"""What a page shows of a plan, computed from estate and plan: a summary in eight figures, who runs where,
capacity, and what is given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evac.derive.domains import Loss, Topology, lost_in, lost_now, site_of_replicas, topology
from evac.derive.pools import lost_of_pool, replicas_lost, replicas_off
from evac.model.estate import Estate
from evac.model.fleet import CONDEMNED, DARK, BoolColumn
from evac.model.objectives import loss_facts, open_rpo_words
from evac.model.plan import Outcome, Plan, site_in
from evac.model.reason import PLACEMENT, fact_words
from evac.model.records import dataclass
from evac.model.units import RESOURCE_COUNT, RESOURCE_WORDS
from evac.planning.simulation.simulate import Simulation
from evac.steps.registry import kind_of
from evac.views.congestion_text import congestion_words, through_words, too_small_words
from evac.views.moves import stops_words, work_words, writes_words
from evac.views.svg import Card
from evac.views.words import (
    GONE,
    above_parts,
    as_judged,
    assumed_words,
    best_possible,
    duration,
    listed,
    number,
    outage_doubt,
    outage_words,
    people,
    people_words,
    plural,
    since,
    time_back,
    untimed,
    why_words,
)

if TYPE_CHECKING:
    from evac.verify import Verdict

Ints = NDArray[np.int64]
GIVEN_UP_WORDS = (
    ("unplaced", "Not coming back"),
    ("unknown", "Cannot be judged"),
    ("shed", "Shed to free capacity"),
)
"""Titles of these states, most severe first."""
_PLACES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Tally:
    """Number of services affected by a loss, by outcome. Only services that go down are restored."""

    restored: int
    degraded: int
    """Services that were down and then serve with reduced capacity until the horizon."""
    stay: int
    """Services that never go down; some have reduced capacity for a while, or move."""
    reduced: int
    """Of `stay`, those with reduced capacity until the horizon."""
    shed: int
    unplaced: int
    unknown: int

    @property
    def down(self) -> int:
        return self.back + self.shed + self.unplaced

    @property
    def known(self) -> int:
        return self.down + self.stay

    @property
    def back(self) -> int:
        return self.restored + self.degraded

    @property
    def back_words(self) -> str:
        """`all 5 affected services come back`; where others stay up, `2 of 5 services that go down ...`."""
        one = "service that goes down" if self.stay else "affected service"
        more = "services that go down" if self.stay else "affected services"
        if not self.down:
            return "no service goes down" if not self.unknown else self.stay_words
        if self.down == 1:
            return f"the one {one} {'comes' if self.back else 'does not come'} back"
        if self.restored == self.down:
            return f"{'both' if self.down == 2 else f'all {number(self.down)}'} {more} come back"
        return (
            f"{number(self.back)} of {number(self.down)} {more} {'comes' if self.back == 1 else 'come'} back"
        )

    @property
    def stay_words(self) -> str:
        """`2 more stay up, 1 of them degraded until the horizon`; empty for none."""
        if not self.stay:
            return ""
        more, stay = " more" if self.down else "", "stays" if self.stay == 1 else "stay"
        words = f"{number(self.stay)}{more} {stay} up"
        of = "" if self.reduced == self.stay else f" {number(self.reduced)} of them"
        return f"{words},{of} degraded until the horizon" if self.reduced else words


def tally(plan: Plan) -> Tally:
    """Every outcome of a plan, once."""
    up = Counter[str](o.state for o in plan.outcomes if o.state not in GONE and not o.goes_down)
    counts = Counter[str](o.state for o in plan.outcomes) - up
    gone = (counts[state] for state in GONE)
    return Tally(counts["restored"], counts["degraded"], up.total(), up["degraded"], *gone)


def unjudged_words(plan: Plan) -> str:
    """Why a loss cannot be judged, or not for all services; empty if it can."""
    if not plan.unjudged:
        return ""
    found = {
        section: [name for kind, name in plan.places_unknown if kind == section]
        for section in ("services", "stores")
    }
    parts = []
    if found["services"]:
        parts.append(f"the replicas of {listed(found['services'], _PLACES_SHOWN)} run")
    if found["stores"]:
        noun = "store" if len(found["stores"]) == 1 else "stores"
        parts.append(f"the members of {noun} {listed(found['stores'], _PLACES_SHOWN)} are")
    stated = {f"{section}/{name}/{PLACEMENT}" for section, name in plan.places_unknown}
    facts = sorted({o.why.fact for o in plan.outcomes if o.why is not None and o.why.fact} - stated)
    words = [" and ".join(f"where {part}" for part in parts)] if parts else []
    if facts:
        words.append(listed([fact_words(fact) for fact in facts], _PLACES_SHOWN))
    return f"cannot be judged: {'; '.join(words)}"


def verdict_words(plan: Plan) -> str:
    """What happens to the services that a loss affects; never "all" for a part of them."""
    found = tally(plan)
    if not found.known:
        small = too_small_words(plan)
        none = f"no service goes down; {small}" if small else "no service is affected"
        return "; ".join(filter(None, (unjudged_words(plan) or none, _open_words(plan))))
    words, gone = found.back_words, found.down - found.back
    if found.degraded:
        stay = "stays" if found.degraded == 1 else "stay"
        words += f", {number(found.degraded)} of them {stay} degraded until the horizon"
    if gone and found.down > 1:
        words += f", {number(gone)} {'does' if gone == 1 else 'do'} not"
    if found.stay and words != found.stay_words:
        words += f"; {found.stay_words}"
    if late := untimed(plan):
        which = "" if late == found.back else f" for {number(late)} of them"
        words += f"; time unknown{which}"
    if found.unknown:
        words += f"; {number(found.unknown)} {unjudged_words(plan)}"
    return "; ".join(filter(None, (words, _open_words(plan))))


def _open_words(plan: Plan) -> str:
    """How many stores may lose too much data, without those that are why a service cannot be judged."""
    said = {o.why.fact for o in plan.outcomes if o.why is not None}
    return open_rpo_words(sum(1 for one in plan.open_stores if said.isdisjoint(loss_facts(one.store))))


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Replicas of each service at each site, (S, sites), before the plan and after it."""

    before: Ints
    after: Ints
    off_before: BoolColumn
    off_after: BoolColumn
    """Sites that are lost or without power afterwards."""


@dataclass(frozen=True, slots=True)
class Room:
    """Capacity of one resource at one site at one time, in base units."""

    used: int
    """What replicas demand; an unknown demand counts as nothing."""
    dark: int
    """On servers that are off and may be booted."""
    gone: int
    """On servers and pools that are lost or without power."""


@dataclass(frozen=True, slots=True)
class CapacityRow:
    """One resource of a site in base units; `whole` is all of it but what is condemned."""

    site: str
    resource: str
    whole: int
    before: Room
    after: Room


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Services with the same outcome for the same reason."""

    state: str
    reason: str
    tiers: tuple[int, ...]
    people: int
    """Users of all of them, counted once per service."""
    unstated: int
    """How many of them do not state their number of users."""
    services: tuple[str, ...]


def by_site(estate: Estate, top: Topology, counts: Ints) -> Ints:
    """(S, sites) the sum of (K,) counts over the bindings of each service at each site."""
    table = np.zeros((len(estate.services), len(estate.sites)), np.int64)
    r, site = estate.replicas, site_of_replicas(top)
    known = site >= 0
    np.add.at(table, (r.service[known], site[known]), counts[known])
    return table


def site_of_pool(top: Topology, pool: str) -> int:
    """Index of the site of a pool that a plan starts on; -1 if there is none."""
    if pool in top.pool_index:
        return int(top.pool_site[top.pool_index[pool]])
    return top.site_index.get(site_in(pool, top.site_index), -1)


def moved_by_site(estate: Estate, top: Topology, plan: Plan) -> Ints:
    """(S, sites) replicas the plan adds (starts) and takes away (sheds)."""
    table = np.zeros((len(estate.services), len(estate.sites)), np.int64)
    service = {s.id: n for n, s in enumerate(estate.services)}
    for step in plan.steps:
        sign = kind_of(step.kind).replicas
        if sign and step.target in service:
            site = site_of_pool(top, step.pool)
            if site >= 0:
                table[service[step.target], site] += sign * step.count
    return table


def standing(estate: Estate, plan: Plan) -> Standing:
    """Who runs where. A site that is restored or failed back to is off before and on after."""
    top = topology(estate)
    lost, homing = lost_in(top, plan.scenario), plan.scenario.kind == "failback" and estate.home is not None
    count = estate.replicas.count
    off = replicas_off(top)
    waits = np.maximum(replicas_lost(top, lost_now(top)), off)
    left = by_site(estate, top, count - (waits if homing else np.maximum(replicas_lost(top, lost), waits)))
    returns = plan.scenario.kind in ("restore", "failback")
    before = left if returns else by_site(estate, top, count - off)
    none = np.zeros_like(lost.sites)
    dark = (lost.sites, none) if returns else (none, lost.sites)
    return Standing(before, left + moved_by_site(estate, top, plan), *dark)


def capacity(estate: Estate, plan: Plan, where: Standing) -> tuple[CapacityRow, ...]:
    """Per site that carries services and resource that any service asks for; sites in their order."""
    top = topology(estate)
    lost = lost_in(top, plan.scenario)
    demand = np.array([[a or 0 for a in s.demand] for s in estate.services], np.int64)
    demand = demand.reshape(-1, RESOURCE_COUNT)
    used = (where.before.T @ demand, where.after.T @ demand)
    whole, dark, woken, gone = _amounts(estate, top, lost, plan)
    if plan.scenario.kind in ("restore", "failback"):
        rooms = (used[0], dark, gone), (used[1], dark - woken, 0 * gone)
    else:
        rooms = (used[0], dark, 0 * gone), (used[1], dark - woken, gone)
    rows = []
    for n, site in enumerate(estate.sites):
        for r, word in enumerate(RESOURCE_WORDS):
            if site.role == "full" and demand[:, r].any() and whole[n, r]:
                before, after = (Room(*(int(t[n, r]) for t in tables)) for tables in rooms)
                rows.append(CapacityRow(site.id, word, int(whole[n, r]), before, after))
    return tuple(rows)


def _amounts(estate: Estate, top: Topology, lost: Loss, plan: Plan) -> tuple[Ints, Ints, Ints, Ints]:
    """(sites, R) each: total, of pools what may be used; dark and not lost; dark and booted; lost."""
    fleet = estate.fleet
    own = (fleet.pool < 0) & (fleet.state != CONDEMNED)
    dark = own & (fleet.state == DARK) & ~lost.servers
    woken = dark & _booted(estate, plan)
    tables = [_servers(estate, rows) for rows in (own, dark, woken, own & lost.servers)]
    for n, pool in enumerate(estate.pools):
        usable = [amount or 0 for amount in pool.usable]
        tables[0][top.pool_site[n]] += np.array(usable, np.int64)
        tables[3][top.pool_site[n]] += np.array(lost_of_pool(top, lost, n, usable), np.int64)
    whole, off, booted, gone = tables
    return whole, off, booted, gone


def _servers(estate: Estate, rows: BoolColumn) -> Ints:
    fleet = estate.fleet
    table = np.zeros((len(estate.sites), RESOURCE_COUNT), np.int64)
    known = np.where(fleet.capacity_known, fleet.capacity, 0)
    np.add.at(table, fleet.site[rows], known[rows])
    return table


def _booted(estate: Estate, plan: Plan) -> BoolColumn:
    """(V,) servers that the plan boots."""
    fleet = estate.fleet
    names = sorted({name for step in plan.steps if kind_of(step.kind).boots for name, _ in step.servers})
    found = np.zeros(len(fleet), np.bool_)
    if names and len(fleet):
        keys = np.array([name.encode() for name in names])
        rows = np.minimum(np.searchsorted(fleet.name, keys), len(fleet) - 1)
        found[rows[fleet.name[rows] == keys]] = True
    return found


def given_up(plan: Plan) -> tuple[GivenUp, ...]:
    """What is not restored and what is shed, grouped by reason; the groups with most users first. A service
    that waits for one that is not restored is listed with the reason of that service.
    """
    by_service = {o.service: o for o in plan.by_weight(plan.outcomes) if o.state in GONE}
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in by_service.values():
        groups.setdefault((outcome.state, root_reason(outcome, by_service)), []).append(outcome)
    rows = []
    for (state, reason), found in groups.items():
        tiers, names = tuple(sorted({o.tier for o in found})), tuple(o.service for o in found)
        rows.append(GivenUp(state, reason, tiers, *felt(plan, found), names))
    return tuple(sorted(rows, key=lambda g: (not g.unstated, -g.people, g.tiers, g.state, g.reason)))


def felt(plan: Plan, outcomes: Iterable[Outcome]) -> tuple[int, int]:
    """Users of some services, and how many of these do not state their number."""
    found, unstated = list(outcomes), plan.unstated
    return sum(o.people for o in found), sum(o.service in unstated for o in found)


def root_reason(outcome: Outcome, gone: Mapping[str, Outcome]) -> str:
    """The reason at the end of the chain of services that wait for each other and never come back."""
    seen = {outcome.service}
    while outcome.needs in gone and outcome.needs not in seen:
        outcome = gone[outcome.needs]
        seen.add(outcome.service)
    if outcome.state == "shed" and outcome.reason:
        return "frees capacity for services of higher tiers"
    return outcome.reason or "no reason is given"


def recovery_times(plan: Plan, outcomes: Iterable[Outcome]) -> list[int]:
    """Milliseconds from the loss for services that went down and are restored, ascending; not for those that
    keep running until the plan moves them.
    """
    back, moves = [o for o in outcomes if o.state in ("restored", "degraded") and o.goes_down], plan.moves
    return sorted(o.recovery_ms for o in back if o.recovery_ms is not None and o.service not in moves)


def outcome_rows(plan: Plan) -> Iterator[dict[str, str]]:
    """Every outcome in words, for the table behind the charts; highest tier and most people first."""
    targets, moves = {s.id: s.target for s in plan.steps}, plan.moves
    away = {service for service, moved in moves.items() if not moved.stops_last}
    for o in plan.by_weight(plan.outcomes):
        yield {
            "service": o.service,
            "tier": str(o.tier),
            "people": people(*felt(plan, [o])),
            "state": o.state,
            "back": "-" if o.state in GONE else "away " * (o.service in away) + time_back(o.recovery_ms),
            "rto": "-" if o.rto_ms is None else duration(o.rto_ms),
            "met": {True: "met", False: "missed", None: "-" if o.rto_ms is None else "unknown"}[o.meets_rto],
            "why": why_words(o.reason, moves.get(o.service))
            or through_words(plan, o)
            or _waits_for(o, targets),
        }


def _waits_for(outcome: Outcome, targets: dict[str, str]) -> str:
    """The services, stores and servers on the critical chain, in order, itself left out; at most four."""
    names = dict.fromkeys(targets.get(step, step) for step in outcome.critical)
    names.pop(outcome.service, None)
    return "after " + ", ".join(list(names)[-4:]) if names else ""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what belongs to it on a page."""

    plan: Plan
    digest: str
    verdict: Verdict | None = None
    simulation: Simulation | None = None


def assumed_times(plan: Plan) -> str:
    """Which times before the first step are assumed; empty for none, and for what begins when people want."""
    alone = any(0 < (o.recovery_ms or 0) < plan.lead.ms for o in plan.outcomes)
    return assumed_words(plan.lead, alone) if plan.scenario.kind == "lose" else ""


def answer(planned: Planned) -> tuple[str, str]:
    """(sentences, state): a short summary of the plan."""
    sentences, state = answer_sentences(planned)
    return " ".join(sentences), state


def answer_sentences(planned: Planned) -> tuple[tuple[str, ...], str]:
    """(sentences, state): a short summary of the plan, most important first."""
    plan = planned.plan
    is_open = _open_words(plan)
    if not plan.outcomes and (plan.congestion or is_open):
        told = [f"{words[:1].upper()}{words[1:]}." for words in (is_open, congestion_words(plan)) if words]
        return ("No service goes down.", *told), "unknown" if is_open else "warning"
    if not plan.outcomes:
        return ("Nothing is down: no service is affected.",), "ok"
    counts, unjudged = tally(plan), unjudged_words(plan)
    if not counts.known:
        return (f"The loss {unjudged}.",), "unknown"
    back, last = (
        [o for o in plan.outcomes if o.state not in GONE],
        max(recovery_times(plan, plan.outcomes), default=None),
    )
    words = f"{counts.back_words[:1].upper()}{counts.back_words[1:]}"
    known = " known" if untimed(plan) else ""
    words += f", the last{known} {duration(last)} {since(plan.scenario.kind)}." if last is not None else "."
    told, state = [words], "ok"
    if counts.degraded:
        stay = "stays" if counts.degraded == 1 else "stay"
        told.append(f"{number(counts.degraded)} of them {stay} degraded until the horizon.")
    if counts.stay and counts.stay_words != counts.back_words:
        told.append(f"{counts.stay_words}.")
    if counts.degraded or counts.reduced:
        state = "warning"
    if counts.unknown:
        told.append(f"{number(counts.unknown)} {unjudged}.")
        state = "unknown"
    for which, fate in (("shed", "shed to free capacity"), ("unplaced", "not coming back")):
        found = [o for o in plan.outcomes if o.state == which]
        if found:
            be = "is" if len(found) == 1 else "are"
            whom = f" ({people_words(*felt(plan, found))})" if any(felt(plan, found)) else ""
            told.append(f"{number(len(found))} {be} {fate}{whom}.")
            state = "error" if which == "unplaced" else "warning"
    if is_open:
        told.append(f"{is_open}.")
        state = "error" if state == "error" else "unknown"
    told += _timing(plan, back)
    if plan.congestion and state == "ok":
        state = "warning"
    if any(o.meets_rto is False for o in back):
        state = "error"
    if planned.verdict is not None and not planned.verdict.holds:
        return ("Do not use this plan: the independent check rejected it.", *told), "error"
    return tuple(told), state


def _timing(plan: Plan, back: Sequence[Outcome]) -> Iterator[str]:
    """What is unknown, how long the work takes, and what is restored late."""
    if open_ones := untimed(plan):
        yield f"It is unknown when {number(open_ones)} of them {'is' if open_ones == 1 else 'are'} back."
    if plan.scenario.kind != "lose" and plan.steps:
        yield f"The work is finished {work_words(plan)} after it starts."
        for words in filter(None, (stops_words(plan), writes_words(plan))):
            yield f"{words[:1].upper()}{words[1:]}."
    late = sum(1 for o in back if o.meets_rto is False)
    if late:
        yield f"{number(late)} {'comes' if late == 1 else 'come'} back later than promised."
    if words := congestion_words(plan):
        yield f"{words[:1].upper()}{words[1:]}."
    if assumed := assumed_times(plan):
        yield f"{assumed[:1].upper()}{assumed[1:]}."


def cards(planned: Planned) -> list[Card]:
    """The figures of the summary: eight, so that rows of four or two are full."""
    plan = planned.plan
    counts, last = tally(plan), max(recovery_times(plan, plan.outcomes), default=None)
    lead, writes = plan.lead.ms, writes_words(plan)
    (outage, of), doubt = outage_words(plan), outage_doubt(plan)
    ends = Card("last one back after", duration(last) if last is not None else "-", "from the loss")
    if late := untimed(plan):
        ends = Card("last one back after", "not known", f"of {plural(late, 'service')}", "unknown")
    if plan.scenario.kind != "lose":
        ends = Card("finished after", work_words(plan), f"{number(len(plan.steps))} steps")
    return [
        Card(
            "come back",
            f"{number(counts.back)} of {number(counts.down + counts.unknown)}",
            f"services that go down; {counts.stay_words}" if counts.stay else "affected services",
            _grave(plan),
        ),
        ends,
        _objectives(plan),
        _data(plan),
        Card(
            "before the first step",
            duration(lead),
            f"{duration(plan.detection_ms)} to detect, {duration(plan.approval_ms)} to approve",
        ),
        Card(
            "outage",
            outage,
            "; ".join(filter(None, (writes, doubt))) if writes else of,
            "unknown" * bool(doubt),
        ),
        _gap(plan),
        _check(planned.verdict),
    ]


def _grave(plan: Plan) -> str:
    states = {o.state for o in plan.outcomes}
    if "unplaced" in states:
        return "error"
    if "unknown" in states:
        return "unknown"
    return "warning" if states & {"shed", "degraded"} or plan.congestion else "ok"


def _check(verdict: Verdict | None) -> Card:
    name = "independent check"
    if verdict is None:
        return Card(name, "not done", "evac verify PLAN ESTATE", "unknown")
    words = (
        "every rule, by code independent of the planner"
        if verdict.holds
        else "evac verify PLAN ESTATE says why"
    )
    return Card(name, "holds" if verdict.holds else "fails", words, "ok" if verdict.holds else "error")


def _objectives(plan: Plan) -> Card:
    stated = [o for o in plan.outcomes if o.rto_ms is not None]
    missed = [o for o in stated if o.meets_rto is False]
    if not stated:
        return Card("miss their RTO", "not known", "no affected service has an RTO", "unknown")
    late = sum(1 for o in missed if o.state not in GONE)
    more = f"of {number(len(stated))}: {number(late)} late, {number(len(missed) - late)} not back"
    unknown = sum(1 for o in stated if o.rto_unknown)
    more += f", {number(unknown)} not known" if unknown else ""
    grave = "error" if late else _grave(plan)
    state = "unknown" if unknown else "ok"
    return Card("miss their RTO", number(len(missed)), more, grave if missed else state)


def _data(plan: Plan) -> Card:
    gone, unsure = len(plan.gone_stores), sum(1 for s in plan.stores if s.in_doubt)
    losing = sum(1 for s in plan.stores if s.primary_ms is not None and (s.loss_ms is None or s.loss_ms > 0))
    lost = len(plan.stores) + len({name for step in plan.steps for name, _ in step.rebuilds})
    of = f"of {number(lost)} lost"
    if gone:
        return Card("stores not restored", number(gone), f"{of}; {number(losing)} more lose writes", "error")
    if unsure:
        words = f"{of}; it is unknown how much data {'it lacks' if unsure == 1 else 'they lack'}"
        return Card("stores that no one can judge", number(unsure), words, "unknown")
    more = f"{of}, all come back" if lost else "none is lost"
    return Card("stores that lose writes", number(losing), more, "warning" if losing else "ok")


def _gap(plan: Plan) -> Card:
    gap, why = best_possible(plan)
    if gap is None:
        is_open = plan.objective == 0
        return Card("above the best possible", "not known", why, "unknown" * is_open)
    grave = "unknown" if as_judged(plan) else ""
    at_most = ", at most" * bool(plan.objective)
    value, word = above_parts(gap)
    return Card(f"{word or 'of'} the best possible{at_most}", value, why, grave)


def tier_rows(plan: Plan) -> list[dict[str, Any]]:
    """When each tier is restored: first, half and last of its services that were down."""
    rows = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier]
        times = recovery_times(plan, mine)
        picked = (times[0], times[(len(times) - 1) // 2], times[-1]) if times else ()
        missed = sum(1 for o in mine if o.meets_rto is False)
        states = Counter[str](o.state for o in mine)
        gone = states["shed"] + states["unplaced"]
        rows.append(
            {
                "tier": tier,
                "services": number(len(mine)),
                "times": [duration(t) for t in picked] or ["-"] * 3,
                "missed": number(missed),
                "gone": number(gone),
                "unjudged": number(states["unknown"]),
                "bad": bool(missed),
                "lost": bool(gone),
            }
        )
    return rows
