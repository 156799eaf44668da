"""The data of a plan's charts: the work by kind, services over time, critical chains, outage, and a cold
start by hall.

All times here are seconds from the loss, so that the whole page has one clock: the plan's own times plus
detection and approval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evac.derive.domains import topology
from evac.derive.limits import power_table
from evac.model.estate import Estate
from evac.model.fleet import IntColumn
from evac.model.instance import LeftOff
from evac.model.plan import FROM_LOSS_MS, Outcome, Plan, Step, StoreOutcome
from evac.model.records import dataclass
from evac.model.units import moment_words
from evac.steps.registry import PLANNED, kind_of
from evac.views import svg
from evac.views.svg import Bar, Row, Series
from evac.views.words import GONE, duration, number, plural

HALLS_OPEN: Final = 8
Ints = NDArray[np.int64]
WIDE: Final = 620
NARROW: Final = 340
PITCH: Final = 46
BAR: Final = 14
NAMES: Final = {
    "cpu_millicores": "CPU",
    "memory_mib": "Memory",
    "disk_gib": "Disk",
    "accelerators": "GPU",
    "cpu": "CPU",
    "memory": "Memory",
    "disk": "Disk",
}
SITE_LETTERS: Final = 14
SITE_LETTERS_NARROW: Final = 8


def wave_context(estate: Estate, plan: Plan) -> dict[str, Any] | None:
    """What the section about a cold start shows; None if no domain is restored."""
    if plan.wave is None and not plan.left_off:
        return None
    rows, start, end = _boots(estate, plan)
    upto = max(60.0, float(end.max(initial=0)) / 1000 * 1.03)
    halls = _halls(estate, rows, end, upto)
    return {
        "words": _words(plan),
        "halls": halls[:HALLS_OPEN],
        "more": halls[HALLS_OPEN:],
        "power": _power(estate, plan, rows, start, upto),
        "off": [_off(entry) for entry in plan.left_off],
    }


def _off(entry: LeftOff) -> dict[str, str]:
    return {
        "domain": entry.domain,
        "reason": entry.reason,
        "count": number(len(entry.servers)),
        "servers": ", ".join(entry.servers),
    }


def _words(plan: Plan) -> str:
    wave = plan.wave
    if wave is None:
        return "No server comes up."
    words = f"All {plural(wave.servers, 'server')} on after {duration(wave.on_ms)}"
    if wave.bound_ms >= wave.on_ms:
        return f"{words}: no order is faster."
    by = f", by the limit {wave.limit}" if wave.limit else ""
    return f"{words}: no order can beat {duration(wave.bound_ms)}{by}."


def _boots(estate: Estate, plan: Plan) -> tuple[Ints, Ints, Ints]:
    """Return (fleet rows, start, end in milliseconds) of every server of the restored domains that boots."""
    sites = {domain.split("/", 1)[0] for domain in plan.scenario.domains}
    steps = [step for step in plan.steps if kind_of(step.kind).boots]
    if not steps:
        return (np.zeros(0, np.int64),) * 3
    names = np.array([step.target.encode() for step in steps])
    rows = np.searchsorted(estate.fleet.name, names)
    times = np.array([(step.start_ms, step.end_ms) for step in steps], np.int64)
    here = np.isin(estate.fleet.site[rows], [row for row, s in enumerate(estate.sites) if s.id in sites])
    return rows[here], times[here, 0], times[here, 1]


def _halls(estate: Estate, rows: Ints, end: Ints, upto: float) -> list[dict[str, str]]:
    """One chart per hall, with the number of its servers that are on."""
    of_rack = np.array([*(_place(r.hall or "", estate) for r in estate.racks), -1], np.int64)
    hall = of_rack[estate.fleet.rack[rows]]
    found = []
    for number_of in np.unique(hall).tolist():
        name = estate.halls[number_of].id if number_of >= 0 else "hall unknown"
        mine = np.sort(end[hall == number_of])
        words = f"{plural(len(mine), 'server')}, half on after {duration(int(mine[(len(mine) - 1) // 2]))}"
        words += f", all after {duration(int(mine[-1]))}."
        points = _running_sum(mine, np.ones(len(mine), np.int64))
        series = [Series("servers on", "area", points, True), Series("servers on", "line", points)]
        title = f"Servers on in {name} over time"
        chart = svg.curves(f"hall{number_of + 1}", title, words, series, upto, len(mine) * 1.05)
        found.append({"hall": name, "words": words, "chart": chart})
    return found


def _place(hall: str, estate: Estate) -> int:
    return next((row for row, entry in enumerate(estate.halls) if entry.id == hall), -1)


def _power(estate: Estate, plan: Plan, rows: Ints, start: Ints, upto: float) -> list[dict[str, str]]:
    """One chart per site: watts drawn, from the start of each boot on, and the current budget."""
    table = power_table(topology(estate), plan.scenario)
    found = []
    for site in np.unique(estate.fleet.site[rows]).tolist():
        here = estate.fleet.site[rows] == site
        order = np.argsort(start[here], kind="stable")
        watts = np.where(estate.fleet.watts_known, estate.fleet.watts, 0)[rows[here]][order]
        points = _running_sum(start[here][order], watts)
        most, name = int(watts.sum()), estate.sites[site].id
        budget = table.watts[int(table.of_site[site])] if table.of_site[site] >= 0 else None
        series = [Series("drawn", "area", points, True), Series("drawn", "line", points)]
        words = f"{number(most)} W at the end"
        if budget is None:
            words += "; the site's budget is unknown."
        else:
            series.append(Series("budget minus margin", "allowed", ((0.0, float(budget)),)))
            words += f", of the {number(budget)} W that {name} may draw."
        if silent := int((~estate.fleet.watts_known[rows[here]]).sum()):
            words += f" {number(silent)} of {plural(len(watts), 'server')} state no watts and count as 0 W."
        title = f"Power of {name} over time"
        highest = float(max(most, budget or 0)) * 1.05
        found.append(
            {
                "site": name,
                "words": words,
                "chart": svg.curves(f"power{site}", title, words, series, upto, highest),
            }
        )
    return found


def _running_sum(at_ms: IntColumn, amounts: IntColumn) -> tuple[tuple[float, float], ...]:
    """A step function of running sums, one point for each time."""
    total = np.cumsum(amounts)
    last = np.flatnonzero(np.r_[at_ms[1:] != at_ms[:-1], True]) if len(at_ms) else np.zeros(0, np.int64)
    points: Sequence[tuple[float, float]] = [(float(at_ms[k]) / 1000, float(total[k])) for k in last.tolist()]
    return ((0.0, 0.0), *points) if not points or points[0][0] > 0 else tuple(points)


GANTT_ROWS: Final = 30
CHAIN_ROWS: Final = 60
BINS: Final = 120
LEVELS: Final = 4
FOREVER: Final = float("inf")
MANY_LATE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Work:
    """All steps of one kind: number of actions, those done by people, first start and last end in seconds."""

    kind: str
    steps: int
    actions: int
    by_hand: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a critical chain: what it does, seconds from the loss, and how long it waited for
    capacity, a slot or its turn after the previous step.
    """

    words: str
    kind: str
    begin: float
    end: float
    waited: float


@dataclass(frozen=True, slots=True)
class Chain:
    """What determines when the last service of a tier is restored."""

    tier: int
    service: str
    back: float
    links: tuple[Link, ...]
    """The last ones, at most `CHAIN_ROWS`."""
    earlier: int
    """How many steps precede them."""
    is_timed: bool = True
    """False if it is not known when some service of the tier is back: the last one is then not known."""

    @property
    def words(self) -> str:
        """`login, last of tier 0 to come back, after 26 min`."""
        if not self.is_timed:
            return (
                f"tier {self.tier} is not back before {seconds(self.back)}; {self.service} is the last known"
            )
        return f"{self.service}, last of tier {self.tier} to come back, after {seconds(self.back)}"

    @property
    def counted(self) -> str:
        """`12 steps`, or `Last 60 of 75 steps`."""
        steps = plural(len(self.links) + self.earlier, "step")
        return f"Last {number(len(self.links))} of {steps}" if self.earlier else steps

    @property
    def description(self) -> str:
        """All links in one sentence."""
        begin = f"After {plural(self.earlier, 'earlier step')}, in order: " if self.earlier else "In order: "
        return begin + ", then ".join(link.words for link in self.links) + "."


@dataclass(frozen=True, slots=True)
class Curve:
    """People without a service of a tier over time, and those whose objective has passed. At any second,
    late <= down <= late + allowed.
    """

    tier: int
    people: int
    down: tuple[tuple[float, float], ...]
    late: tuple[tuple[float, float], ...]
    allowed: tuple[tuple[float, float], ...]
    stated: bool


def lead_seconds(plan: Plan) -> float:
    """Seconds from the loss to the release of the plan."""
    return plan.lead.ms / 1000


def span_seconds(plan: Plan) -> float:
    """How much of the time axis to draw: to the last restoration, a little more, at least a minute."""
    ends = [o.base_ms for o in plan.outcomes if o.base_ms is not None and o.state not in GONE]
    return max(60.0, (max(ends, default=0) / 1000 + lead_seconds(plan)) * 1.05)


def curve_span(plan: Plan, curve: Curve) -> float:
    """Seconds of a tier's outage to draw: to its last restoration, at least a minute; also to its
    objectives if they are near, or if many miss them.
    """
    mine = [o for o in plan.outcomes if o.tier == curve.tier]
    ends = [at for o in mine if (at := _back_at(plan, o)) < FOREVER]
    last = max(60.0, max(ends, default=0.0) * 1.05)
    missed = max((o.rto_ms / 1000 for o in mine if o.rto_ms and o.meets_rto is False), default=0.0)
    limit = max((o.rto_ms / 1000 for o in mine if o.rto_ms), default=0.0)
    many = max((value for _, value in curve.late), default=0.0) >= MANY_LATE * curve.people
    return max(last, missed * 1.15 if many else 0.0, limit * 1.1 if limit <= 3 * last else 0.0)


def work_by_kind(plan: Plan) -> tuple[Work, ...]:
    """One entry for each kind in the plan, in the order in which work of that kind begins."""
    lead = lead_seconds(plan)
    found = []
    order = {kind: number for number, kind in enumerate(PLANNED)}
    for kind in PLANNED:
        mine = [s for s in plan.steps if s.kind == kind]
        if mine:
            hands = sum(s.count for s in mine if s.manual)
            begin, end = min(s.start_ms for s in mine), max(s.end_ms for s in mine)
            count = sum(s.count for s in mine)
            found.append(Work(kind, len(mine), count, hands, begin / 1000 + lead, end / 1000 + lead))
    return tuple(sorted(found, key=lambda w: (w.begin, order[w.kind])))


def work_rows(plan: Plan, upto: float) -> tuple[Row, ...]:
    """One row per kind: the darker, the more actions of the kind are in progress."""
    return tuple(
        Row(f"{PLANNED[work.kind].work} ({number(work.actions)})", _density(plan, work, upto))
        for work in work_by_kind(plan)
    )


def _density(plan: Plan, work: Work, upto: float) -> tuple[Bar, ...]:
    lead = lead_seconds(plan)
    width = (upto - lead) / BINS
    busy = np.zeros(BINS + 1, np.int64)
    for step in plan.steps:
        if step.kind == work.kind:
            first = int(step.start_ms / 1000 // width)
            last = int(-(-step.end_ms / 1000 // width))
            np.add.at(busy, [min(first, BINS), min(max(last, first + 1), BINS)], [step.count, -step.count])
    running = np.cumsum(busy)[:BINS]
    most = int(running.max(initial=0))
    level = -(-running * LEVELS // max(most, 1))
    edges = np.flatnonzero(np.diff(level, prepend=-1, append=-1))
    bars = []
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if level[begin]:
            since, until = lead + begin * width, lead + end * width
            words = f"{_span(since, until)}: up to {number(int(running[begin:end].max()))} at once"
            bars.append(Bar(since, until, f"{PLANNED[work.kind].colour} d{level[begin]}", words))
    return tuple(bars)


def heaviest(plan: Plan, most: int = GANTT_ROWS) -> list[Outcome]:
    """The services with the heaviest outages, in the order in which they are restored."""
    back = [o for o in plan.outcomes if o.base_ms and o.state in ("restored", "degraded")]
    weights = plan.tier_weights

    def cost(o: Outcome) -> int:
        return o.people * o.base_outage_ms * weights[min(o.tier, len(weights) - 1)]

    back.sort(key=lambda o: (-cost(o), o.service))
    return sorted(back[:most], key=lambda o: (o.base_ms or 0, o.service))


def gantt_rows(plan: Plan, chosen: Sequence[Outcome]) -> tuple[Row, ...]:
    """Each service with its phases; the mark is its objective."""
    steps: dict[str, list[Step]] = {o.service: [] for o in chosen}
    for step in plan.steps:
        if PLANNED[step.kind].phase and step.milestone in ("base", "") and step.target in steps:
            steps[step.target].append(step)
    return tuple(_service_row(plan, outcome, steps[outcome.service]) for outcome in chosen)


def _service_row(plan: Plan, outcome: Outcome, steps: list[Step]) -> Row:
    lead = lead_seconds(plan)
    bars = []
    for name, kind in PLANNED.items():
        mine = [s for s in steps if s.kind == name]
        if mine:
            begin = min(s.start_ms for s in mine) / 1000 + lead
            end = max(s.end_ms for s in mine) / 1000 + lead
            count = f"{number(sum(s.count for s in mine))} replicas: " if kind.replicas else ""
            bars.append(
                Bar(begin, end, kind.colour, f"{outcome.service} {kind.phase}: {count}{_span(begin, end)}")
            )
    first = min((b.begin for b in bars), default=(outcome.base_ms or 0) / 1000 + lead)
    wait = [Bar(lead, first, "wait", f"waits: {_span(lead, first)}")] if first > lead else []
    limit = None if outcome.rto_ms is None else outcome.rto_ms / 1000
    return Row(f"{outcome.service} (tier {outcome.tier})", (*wait, *bars), limit)


def chains(plan: Plan) -> tuple[Chain, ...]:
    """For each tier, the critical chain of the service that is restored last."""
    lead, steps = lead_seconds(plan), {s.id: s for s in plan.steps}
    found = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier and o.state not in GONE]
        back = [o for o in mine if o.base_ms and o.critical]
        if back:
            last = max(back, key=lambda o: (_back_at(plan, o), o.service))
            known = [steps[name] for name in last.critical if name in steps]
            links = _links(known, lead)[-CHAIN_ROWS:]
            earlier, is_timed = len(known) - len(links), not any(one.is_untimed for one in mine)
            found.append(Chain(tier, last.service, _back_at(plan, last), links, earlier, is_timed))
    return tuple(found)


def _links(steps: Sequence[Step], lead: float) -> tuple[Link, ...]:
    links, before = [], 0
    for step in steps:
        begin, end = step.start_ms / 1000 + lead, step.end_ms / 1000 + lead
        own = step.parameters.get(FROM_LOSS_MS)
        begin, end = (begin, end) if own is None else (0.0, int(own) / 1000)
        waited = max(0, step.start_ms - before) / 1000
        links.append(Link(step_words(step), step.kind, begin, end, waited))
        before = step.end_ms
    return tuple(links)


def step_words(step: Step) -> str:
    """What a step does, in the words of the page."""
    words = PLANNED[step.kind].sentence.format(
        target=step.target,
        where=f" at {step.candidate or step.pool}" if step.candidate or step.pool else "",
        many=f"{number(step.count)} × " if step.count > 1 else "",
        rung=f" ({step.rung})" if step.rung else "",
    )
    if step.rebuilds:
        words = f"{PLANNED[step.kind].first(step)}, then {words}"
    return f"{words} (by hand)" if step.manual else words


def back_words(plan: Plan, store: StoreOutcome) -> str:
    """When a store accepts writes after the loss."""
    back_ms = plan.back_ms(store)
    if back_ms is not None:
        return duration(back_ms)
    return "unknown" if store.in_doubt else "never"


def place_words(store: StoreOutcome, plan: Plan) -> str:
    """Where a store is restored, in words: `south`, `south, from the backup`, and to which point in time."""
    if not store.restored:
        return store.candidate or "nowhere"
    moment_s = dict(plan.scenario.moments).get(store.store)
    moment = "" if moment_s is None else f", as of {moment_words(moment_s)}"
    return f"{store.candidate}, from the backup{moment}"


def chain_rows(chain: Chain) -> tuple[Row, ...]:
    """The chain as a Gantt chart."""
    rows = []
    for link in chain.links:
        wait = (Bar(link.begin - link.waited, link.begin, "wait", f"waits {seconds(link.waited)}"),)
        bar = Bar(
            link.begin, link.end, PLANNED[link.kind].colour, f"{link.words}: {_span(link.begin, link.end)}"
        )
        rows.append(Row(link.words, (*(wait if link.waited else ()), bar)))
    return tuple(rows)


def curves_by_tier(plan: Plan) -> tuple[Curve, ...]:
    """For each tier with people without service: the step functions of its outage."""
    found = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier and o.people and o.goes_down]
        if not mine:
            continue
        total = sum(o.people for o in mine)
        back = [(o, _back_at(plan, o), FOREVER if o.rto_ms is None else o.rto_ms / 1000) for o in mine]
        gone = [(_down_from(plan, o), o.people) for o in mine]
        down = _steps(0, [*gone, *((at, -o.people) for o, at, _ in back)])
        allowed = _steps(total, ((limit, -o.people) for o, _, limit in back))
        missed = [(limit, at, o.people) for o, at, limit in back if at > limit]
        late = _steps(0, [*((limit, p) for limit, _, p in missed), *((at, -p) for _, at, p in missed)])
        found.append(Curve(tier, total, down, late, allowed, any(o.rto_ms is not None for o in mine)))
    return tuple(found)


def curve_series(curve: Curve) -> tuple[Series, ...]:
    """Areas first, so that the lines are on top of them."""
    series = [
        Series("people without service", "area", curve.down, True),
        Series("of them, past their objective", "lateness", curve.late, True),
    ]
    if curve.stated:
        series.append(Series("allowed by the objectives", "allowed", curve.allowed))
    return (*series, Series("people without service", "line", curve.down))


def curve_end(curve: Curve) -> float | None:
    """When no one in the tier is without service any more; None if that never happens. A curve may start
    at zero: what is shed goes down later than what was lost.
    """
    back = None
    for second, value in curve.down:
        back = (second if back is None else back) if value == 0 else None
    return back


def _back_at(plan: Plan, outcome: Outcome) -> float:
    """Seconds from the loss; what comes back by itself does not wait for the plan."""
    if outcome.base_ms is None or outcome.state in GONE:
        return FOREVER
    at = outcome.base_ms + plan.lead.ms
    early = plan.scenario.kind == "lose" and outcome.recovery_ms is not None
    return (min(at, outcome.recovery_ms or 0) if early else at) / 1000


def _down_from(plan: Plan, outcome: Outcome) -> float:
    """When the outage begins: with the loss, or later if a service is shed or its site still runs."""
    never = outcome.base_ms is None or outcome.state in GONE
    end = plan.horizon_ms if never else outcome.base_ms or 0
    begin = end - outcome.base_outage_ms
    return begin / 1000 + lead_seconds(plan) if begin > 0 else 0.0


def _steps(first: int, changes: Iterable[tuple[float, int]]) -> tuple[tuple[float, float], ...]:
    """A step function from its first value and its changes; one point per second, none at infinity."""
    points: dict[float, int] = {0.0: first}
    value = first
    for second, change in sorted(changes):
        if second < FOREVER:
            value += change
            points[second] = value
    return tuple((second, float(value)) for second, value in points.items())


def seconds(value: float) -> str:
    """A time in words."""
    return duration(round(value * 1000))


def _span(begin: float, end: float) -> str:
    return f"{seconds(begin)} to {seconds(end)}"


@dataclass(frozen=True, slots=True)
class CapacityBar:
    """One resource of one site. Shares of what was there before, from 0 to 1."""

    site: str
    resource: str
    before: float
    stays: float
    moved_in: float
    left: float
    """What is left; 0 for a lost site."""

    @property
    def words(self) -> str:
        return f"{self.site} {self.resource}: {100 * self.before:.0f} % before, {self.after} after"

    @property
    def after(self) -> str:
        """How much of what is left is used, in whole percent."""
        return "lost" if self.left <= 0 else f"{100 * (self.stays + self.moved_in) / self.left:.0f} %"


def bar(
    site: str, resource: str, whole: int, before: int, stays: int, moved_in: int, left: int
) -> CapacityBar:
    """From amounts in base units."""
    size = max(1, whole)
    return CapacityBar(
        site, NAMES.get(resource, resource), before / size, stays / size, moved_in / size, left / size
    )


def capacity_picture(rows: Sequence[CapacityBar], narrow: bool = False) -> str:
    """Two bars for each row: before and after. A lost site has only the first."""
    width = NARROW if narrow else WIDE
    second, begin, room = (62, 116, 178) if narrow else (112, 172, 390)
    letters = SITE_LETTERS_NARROW if narrow else SITE_LETTERS
    told = "; ".join(one.words for one in rows)
    parts, y, last = [], 4, ""
    for one in rows:
        if one.site != last:
            name = one.site if len(one.site) <= letters else one.site[: letters - 1] + "…"
            parts.append(f'<text class="t1" x="0" y="{y + 12}">{escape(name)}</text>')
            last = one.site
        parts.append(f'<text x="{second}" y="{y + 12}">{escape(one.resource)}</text>')
        parts += _bar(begin, y, room, [("f-calm", one.before)])
        end = begin + room + 10
        parts.append(f'<text class="t2" x="{end}" y="{y + 11}">{100 * one.before:.0f} %</text>')
        if one.left <= 0:
            parts.append(f'<text x="{begin}" y="{y + 30}">lost</text>')
        else:
            shares = [("f-ink", one.stays), ("f-in", one.moved_in)]
            parts += _bar(begin, y + 18, room, shares, one.left)
            parts.append(f'<text class="t1" x="{end}" y="{y + 29}">{one.after}</text>')
        y += PITCH
    return (
        f'<svg class="pic" viewBox="0 0 {width} {max(1, y - 4)}" role="img" '
        f'aria-label="{escape(f"Capacity used before and after. {told}.")}">{"".join(parts)}</svg>'
    )


def _bar(x: int, y: int, room: int, shares: Sequence[tuple[str, float]], left: float = 1.0) -> list[str]:
    """The background, what is used, and at the far end what is gone."""

    def piece(style: str, begin: float, wide: float) -> str:
        return f'<rect class="{style}" x="{begin:.1f}" y="{y}" width="{wide:.1f}" height="{BAR}" rx="2"/>'

    found, at = [piece("f-soft", x, room)], float(x)
    for style, share in shares:
        wide = min(share * room, x + room - at)
        if wide > 0.05:
            found.append(piece(style, at, wide))
            at += wide
    if left < 0.999:
        found.append(piece("f-bad", x + left * room, (1 - left) * room))
    return found


def both(rows: Sequence[CapacityBar]) -> tuple[str, str]:
    """Wide and narrow; empty if there is nothing to draw."""
    return (capacity_picture(rows), capacity_picture(rows, narrow=True)) if rows else ("", "")


def bottleneck(rows: Sequence[CapacityBar]) -> str:
    """`CPU in east, 97 %`: the resource that is fullest afterwards; empty if there is none."""
    left = [one for one in rows if one.left > 0]
    if not left:
        return ""
    full = max(left, key=lambda one: (one.stays + one.moved_in) / one.left)
    return f"{full.resource} at {full.site}, {full.after}"
