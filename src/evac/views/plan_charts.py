"""What the charts of a plan draw: the work by kind, services over time, critical chains, outage.

All times here are seconds from the loss on, so that the whole page has one clock: the plan's own
times plus detection and approval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from evac.model.plan import Outcome, Plan, Step, StoreOutcome
from evac.steps.registry import PLANNED
from evac.views.plan_view import GONE
from evac.views.svg import Bar, Row, Series
from evac.views.words import duration, number

GANTT_ROWS: Final = 30
CHAIN_ROWS: Final = 60
BINS: Final = 120
LEVELS: Final = 4
FOREVER: Final = float("inf")
MANY_LATE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Work:
    """All steps of one kind: unit actions, those done by people, first begin and last end in seconds."""

    kind: str
    steps: int
    actions: int
    by_hand: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a critical chain: what it does, seconds from the loss on, and how long it waited
    for room, a slot or its turn after the step before it."""

    words: str
    kind: str
    begin: float
    end: float
    waited: float


@dataclass(frozen=True, slots=True)
class Chain:
    """What decides when the last service of a tier is back."""

    tier: int
    service: str
    back: float
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """People without a service of a tier over time, and those whose objective has passed.

    At any second late <= down, and down <= late + allowed.
    """

    tier: int
    people: int
    down: tuple[tuple[float, float], ...]
    late: tuple[tuple[float, float], ...]
    allowed: tuple[tuple[float, float], ...]
    stated: bool


def lead_seconds(plan: Plan) -> float:
    """From the loss to the release of the plan."""
    return (plan.detection_ms + plan.approval_ms) / 1000


def span_seconds(plan: Plan) -> float:
    """How much of the time axis is worth drawing: to the last return, a little more, at least a minute."""
    ends = [o.base_ms for o in plan.outcomes if o.base_ms is not None and o.state not in GONE]
    return max(60.0, (max(ends, default=0) / 1000 + lead_seconds(plan)) * 1.05)


def curve_span(plan: Plan, curve: Curve) -> float:
    """Seconds of a tier's outage worth drawing: at least a minute, and to its last return.

    To its objectives too where they are near, or where many miss them.
    """
    lead, mine = lead_seconds(plan), [o for o in plan.outcomes if o.tier == curve.tier]
    ends = [at for o in mine if (at := _back_at(o, lead)) < FOREVER]
    last = max(60.0, max(ends, default=0.0) * 1.05)
    missed = max((o.rto_ms / 1000 for o in mine if o.rto_ms and o.meets_rto is False), default=0.0)
    limit = max((o.rto_ms / 1000 for o in mine if o.rto_ms), default=0.0)
    many = max((value for _, value in curve.late), default=0.0) >= MANY_LATE * curve.people
    return max(last, missed * 1.15 if many else 0.0, limit * 1.1 if limit <= 3 * last else 0.0)


def work_by_kind(plan: Plan) -> tuple[Work, ...]:
    """One entry a kind that the plan has, in the order in which work of that kind begins."""
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
    """One row a kind: the darker, the more actions of the kind are under way."""
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
            bars.append(Bar(since, until, f"{work.kind} d{level[begin]}", words))
    return tuple(bars)


def heaviest(plan: Plan, most: int = GANTT_ROWS) -> list[Outcome]:
    """The services whose outage weighs most, in the order they come back."""
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
            bars.append(Bar(begin, end, name, f"{outcome.service} {kind.phase}: {count}{_span(begin, end)}"))
    first = min((b.begin for b in bars), default=(outcome.base_ms or 0) / 1000 + lead)
    wait = [Bar(lead, first, "wait", f"waits: {_span(lead, first)}")] if first > lead else []
    limit = None if outcome.rto_ms is None else outcome.rto_ms / 1000
    return Row(f"{outcome.service} (tier {outcome.tier})", (*wait, *bars), limit)


def chains(plan: Plan) -> tuple[Chain, ...]:
    """Of each tier, the critical chain of the service that is back last."""
    lead, steps = lead_seconds(plan), {s.id: s for s in plan.steps}
    found = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier and o.state not in GONE]
        back = [o for o in mine if o.base_ms and o.critical]
        if back:
            last = max(back, key=lambda o: (o.base_ms or 0, o.service))
            known = [steps[name] for name in last.critical if name in steps][-CHAIN_ROWS:]
            found.append(Chain(tier, last.service, (last.base_ms or 0) / 1000 + lead, _links(known, lead)))
    return tuple(found)


def _links(steps: Sequence[Step], lead: float) -> tuple[Link, ...]:
    links, before = [], 0
    for step in steps:
        begin, end = step.start_ms / 1000 + lead, step.end_ms / 1000 + lead
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
    return f"{words} (by hand)" if step.manual else words


def place_words(store: StoreOutcome) -> str:
    """Where a store comes back, in words: `south`, `south, from the backup`."""
    return f"{store.candidate}, from the backup" if store.restored else store.candidate or "nowhere"


def chain_rows(chain: Chain) -> tuple[Row, ...]:
    """The chain as a Gantt."""
    rows = []
    for link in chain.links:
        wait = (Bar(link.begin - link.waited, link.begin, "wait", f"waits {seconds(link.waited)}"),)
        bar = Bar(link.begin, link.end, link.kind, f"{link.words}: {_span(link.begin, link.end)}")
        rows.append(Row(link.words, (*(wait if link.waited else ()), bar)))
    return tuple(rows)


def curves_by_tier(plan: Plan) -> tuple[Curve, ...]:
    """Of each tier with people without service: the step functions of its outage."""
    lead = lead_seconds(plan)
    found = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier and o.people and o.base_outage_ms]
        if not mine:
            continue
        total = sum(o.people for o in mine)
        back = [(o, _back_at(o, lead), FOREVER if o.rto_ms is None else o.rto_ms / 1000) for o in mine]
        gone = [(_down_from(plan, o), o.people) for o in mine]
        down = _steps(0, [*gone, *((at, -o.people) for o, at, _ in back)])
        allowed = _steps(total, ((limit, -o.people) for o, _, limit in back))
        missed = [(limit, at, o.people) for o, at, limit in back if at > limit]
        late = _steps(0, [*((limit, p) for limit, _, p in missed), *((at, -p) for _, at, p in missed)])
        found.append(Curve(tier, total, down, late, allowed, any(o.rto_ms is not None for o in mine)))
    return tuple(found)


def curve_series(curve: Curve) -> tuple[Series, ...]:
    """Areas first, so that the lines lie above them."""
    series = [
        Series("people without service", "area", curve.down, True),
        Series("of them, past their objective", "lateness", curve.late, True),
    ]
    if curve.stated:
        series.append(Series("what the objectives allow", "allowed", curve.allowed))
    return (*series, Series("people without service", "line", curve.down))


def curve_end(curve: Curve) -> float | None:
    """When nobody of the tier is without service any more; None where that never comes.

    A curve may begin at nobody: what is shed goes down later than what was lost.
    """
    back = None
    for second, value in curve.down:
        back = (second if back is None else back) if value == 0 else None
    return back


def _back_at(outcome: Outcome, lead: float) -> float:
    if outcome.base_ms is None or outcome.state in GONE:
        return FOREVER
    return outcome.base_ms / 1000 + lead


def _down_from(plan: Plan, outcome: Outcome) -> float:
    """When the outage begins: with the loss, or later where a service is shed or its site still runs."""
    never = outcome.base_ms is None or outcome.state in GONE
    end = plan.horizon_ms if never else outcome.base_ms or 0
    begin = end - outcome.base_outage_ms
    return begin / 1000 + lead_seconds(plan) if begin > 0 else 0.0


def _steps(first: int, changes: Iterable[tuple[float, int]]) -> tuple[tuple[float, float], ...]:
    """A step function from its first value and its changes; one point a second, none at infinity."""
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
