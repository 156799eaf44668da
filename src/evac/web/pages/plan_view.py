"""Pages of plans: the library, and one plan with its order, its objectives and its proof. What they say
are plain values for their templates, made from a situation and plans. The charts and sentences are those
of the report page.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response

from evac.engine.runs.requests import to_apply
from evac.model.errors import EvacError
from evac.model.plan import SITE_PREFIX, Plan, Step
from evac.model.step_id import FENCE_RUNGS
from evac.office.facts import EstateFacts
from evac.office.reckoning import CapacityOf, verdict_of
from evac.office.values import ReadyPlan, Situation
from evac.steps.registry import PLANNED, kind_of
from evac.views import plan_charts, svg
from evac.views import plan_view as views
from evac.views.moves import work_words
from evac.views.plan_charts import Chain, seconds, step_words
from evac.views.plan_view import Planned
from evac.views.words import (
    GONE,
    OUTCOME_WORDS,
    above_parts,
    best_possible,
    duration,
    listed,
    number,
    outage_doubt,
    outage_words,
    people,
    plural,
    untimed,
    user_minutes,
    weighted_words,
)
from evac.web.api.runs import plan_of
from evac.web.api.shapes import Digest
from evac.web.pages import frame
from evac.web.pages.create_run import PATH, leaving
from evac.web.pages.losses_view import loss_row
from evac.web.pages.now_view import LEFT
from evac.web.room import room_of

PAGE: Final = frame.Page(PATH, "Plans", icon="plans", group="Prepare", key="p")
SERVICES: Final = 50
STEPS: Final = 50
GROUPS: Final = 20
RUNS: Final = 5
STORES: Final = 30
ALL_KINDS: Final = (
    ("", "scenario", "scenarios"),
    ("site", "site", "sites"),
    ("pair", "pair of sites", "pairs of sites"),
    ("group", "shared fate", "shared fates"),
    ("hall", "hall", "halls"),
    ("feed", "power feed", "power feeds"),
)
KIND_NAMES: Final = {name: one for name, one, _ in ALL_KINDS}
KIND_RANK: Final = {"site": 0, "pair": 1}
RUNG_WORDS: Final = {
    "none": "nothing to fence",
    "demote": "asked to step down",
    "isolate": "cut off from the network",
    "power-off": "powered off",
    "destroy": "destroyed",
}


def library_context(
    now: Situation, facts: EstateFacts | None, kind: str, begin: int, most: int
) -> dict[str, Any]:
    """The plan library, or one kind in it: problems first, sites before pairs."""
    rows = sorted((_ready(plan) for plan in now.drawer), key=lambda row: row["key"])
    shown = [row for row in rows if not kind or row["plan"].kind == kind]
    page = _page(shown, begin, most)
    losses = {} if facts is None else {loss.domain: loss for loss in facts.losses if loss.plan}
    for row in page["rows"]:
        loss = losses.get(row["name"]) if row["plan"].plan else None
        row["loss"] = loss_row(loss) if loss is not None and loss.plan == row["plan"].plan else None
    paged = page["before"] is not None or page["after"] is not None
    folded = [] if kind else _folded(page["rows"], " on this page" if paged else "")
    hidden = {id(row) for _, mine in folded for row in mine}
    page["rows"] = [row for row in page["rows"] if id(row) not in hidden]
    told = {"answer": _drawer_answer(rows), "kinds": list(_kinds(rows, kind)), "kind": kind}
    return page | told | {"folded": folded}


def _folded(rows: Sequence[dict[str, Any]], where: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """What nobody needs at first: plans for anything but a site, by kind, each with a summary. Those that are
    not ready come first and apart, by what they wait for.
    """
    waiting, ready = [], []
    for name, one, many in ALL_KINDS[2:]:
        parts: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["plan"].kind == name and row["state"] != "error":
                parts.setdefault("" if row["state"] in ("ok", "note") else row["words"], []).append(row)
        for words, mine in sorted(parts.items()):
            told = plural(len(mine), one, many) + where
            if words:
                waiting.append((f"{told} {words}", mine))
            else:
                ready.append((f"{told}, {'all ready' if len(mine) > 1 else mine[0]['words']}", mine))
    return waiting + ready


def _drawer_answer(rows: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...], str]:
    """Return (heading, more sentences, state) for the whole plan library."""
    if not rows:
        return (
            "No plan is ready yet",
            ("The leading controller makes plans for every site, hall and feed.",),
            "",
        )
    counts = Counter(row["state"] for row in rows)
    ready = counts["ok"] + counts["note"]
    words = f"{number(ready)} of {plural(len(rows), 'plan')} {'is' if len(rows) == 1 else 'are'} ready"
    if ready == len(rows):
        words = f"All {number(ready)} plans are ready" if ready > 1 else "The plan is ready"
    more = []
    if counts["error"]:
        has = "scenario has" if counts["error"] == 1 else "scenarios have"
        more.append(f"{number(counts['error'])} {has} no plan.")
    waiting = Counter(row["words"] for row in rows if row["state"] == "warning")
    more += [
        f"{number(found)} {'is' if found == 1 else 'are'} {state}."
        for state, found in sorted(waiting.items())
    ]
    if waiting:
        more.append("The leading controller is checking them again.")
    if counts["note"]:
        more.append(f"{number(counts['note'])} {'is' if counts['note'] == 1 else 'are'} being improved.")
    state = "good" if ready == len(rows) else "bad" if counts["error"] else "warn"
    return words, tuple(more), state


def _kinds(rows: Sequence[Mapping[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """The filters, each with how many of its plans are ready unless all are."""
    for name, one, many in ALL_KINDS:
        mine = [row for row in rows if not name or row["plan"].kind == name]
        ready = sum(1 for row in mine if row["state"] in ("ok", "note"))
        if mine:
            words = plural(len(mine), one, many)
            words += "" if ready == len(mine) else f", {number(ready)} ready"
            path = f"/plans?kind={name}" if name else "/plans"
            yield {"path": path, "words": words, "here": name == kind}


def _ready(plan: ReadyPlan) -> dict[str, Any]:
    words, state = "ready", "ok"
    if plan.problem or not plan.plan:
        words, state = "none", "error"
    elif plan.current is False:
        words, state = "out of date" if plan.estate else "not assessed yet", "warning"
    elif plan.current is None:
        words, state = "not compared yet", "unknown"
    elif not plan.searched:
        words, state = "ready, being improved", "note"
    bad = state in ("error", "warning", "unknown")
    return {
        "plan": plan,
        "words": words,
        "state": state,
        "name": " and ".join(plan.lost) or plan.scenario,
        "took": duration(plan.took_ms),
        "kind": KIND_NAMES.get(plan.kind, plan.kind),
        "confirmed": plan.made_ms and plan.at_ms > plan.made_ms,
        "made_ms": plan.made_ms or plan.at_ms,
        "key": (not bad, KIND_RANK.get(plan.kind, 2), -plan.people, len(plan.lost), plan.scenario),
    }


def plan_context(
    plan: Plan, digest: str, now: Situation, services: int, steps: int, capacity: Sequence[CapacityOf] = ()
) -> dict[str, Any]:
    """Everything that the page of one plan shows. capacity: of the sites, before and after the plan."""
    planned = Planned(plan, digest)
    ready = next((row for row in now.drawer if row.plan == digest), None)
    waits = ready is not None and ready.current is False
    upto = plan_charts.span_seconds(plan)
    sentences, state = views.answer_sentences(planned)
    rows = [capacity_bar(one) for one in capacity]
    return {
        "title": plan.scenario.title,
        "digest": digest,
        "heading": _heading(plan, sentences[0]),
        "more": sentences[1:],
        "state": state,
        "ready": ready,
        "stale": bool(now.estate and plan.estate_digest and waits and ready and ready.estate),
        "unjudged": bool(waits and ready and not ready.estate),
        "guard": _guard(plan, now),
        "cards": _cards(plan, digest),
        "runs": [run for run in (*now.open_runs, *now.ended_runs) if run.plan == digest][:RUNS],
        "lead": duration(plan.lead.ms),
        "capacity": plan_charts.both(rows),
        "bottleneck": plan_charts.bottleneck(rows),
        "work": _work(plan, upto),
        "gantt": _gantt(plan),
        "chains": [_chain(plan, chain) for chain in plan_charts.chains(plan)],
        **_given_up(plan),
        **_databases(plan),
        "rungs": _rungs(plan),
        "waves": _waves(plan),
        "services": _services(plan, services),
        "steps": _steps(plan, steps),
        "facts": _facts(plan, digest),
        "typed": _typed(plan, digest, now) if ready and not waits else "",
    }


def capacity_bar(one: CapacityOf) -> plan_charts.CapacityBar:
    return plan_charts.bar(
        one.site, one.resource, one.total, one.used, one.used_left, one.moved_in, one.total_left
    )


def _heading(plan: Plan, first: str) -> str:
    """The result as one sentence that says what is lost."""
    if plan.scenario.kind != "lose":
        return f"{plan.scenario.title}: {first[:1].lower()}{first[1:]}"
    lost = listed(tuple(plan.scenario.domains))
    be = "is" if len(plan.scenario.domains) == 1 else "are"
    return f"If {lost} {be} lost, {first[:1].lower()}{first[1:]}"


def _guard(plan: Plan, now: Situation) -> str:
    """Which working sites this plan takes out of service; empty if there are none."""
    if plan.scenario.kind not in ("lose", "evacuate"):
        return ""
    names = leaving(plan)
    healthy = [
        site.id
        for site in now.sites
        if site.id in names and site.state == "healthy" and site.mark not in LEFT
    ]
    if not healthy:
        return ""
    be, them = ("is", "it") if len(healthy) == 1 else ("are", "them")
    return f"{listed(healthy)} {be} healthy. Running this plan takes {them} out of service."


def _cards(plan: Plan, digest: str) -> list[svg.Card]:
    """Five figures: what is restored, when, whether as promised, with what data loss, and how good the
    plan is.
    """
    counts, found = views.tally(plan), verdict_of(digest, plan)
    gone = [
        f"{number(count)} {word}"
        for count, word in (
            (counts.shed, "shed"),
            (counts.unplaced, "not restored"),
            (counts.unknown, "unknown"),
        )
        if count
    ]
    stated = [o for o in plan.outcomes if o.rto_ms is not None]
    missed = [o.service for o in stated if o.meets_rto is False]
    open_ones = sum(o.rto_unknown for o in stated)
    losing = [s.store for s in plan.stores if s.primary_ms is None or s.loss_ms is None or s.loss_ms > 0]
    lost = (
        "not known"
        if found.data_loss_ms is None
        else duration(found.data_loss_ms)
        if found.data_loss_ms
        else "none"
    )
    ended = len(plan.gone_stores)
    lost = f"{plural(ended, 'store')} not restored" if ended else lost
    lead = f"Includes {duration(plan.detection_ms)} to detect and {duration(plan.approval_ms)} to approve"
    ends = svg.Card("Last one back after", duration(found.worst_ms) if found.worst_ms else "-", lead)
    if late := untimed(plan):
        ends = svg.Card("Last one back after", "Unknown", f"Not known of {plural(late, 'service')}")
    if plan.scenario.kind != "lose":
        ends = svg.Card("Finished after", work_words(plan), plural(len(plan.steps), "step"))
    gap, why = best_possible(plan)
    is_proven = gap == 0 and plan.proof == "full" and not plan.unjudged
    value, word = ("Unknown", "above") if gap is None else above_parts(gap)
    most = value if gap is None or is_proven else f"At most {value}"
    return [
        svg.Card(
            "Restored",
            f"{number(counts.back)} of {number(counts.down + counts.unknown)}",
            ", ".join(gone) or counts.stay_words or "All affected services",
            "error" if counts.unplaced else "",
        ),
        ends,
        svg.Card(
            "Within objective",
            f"{number(sum(o.meets_rto is True for o in stated))} of {number(len(stated))}",
            "; ".join(
                [f"Missed: {listed(missed, 3)}" if missed else "No objective is missed"]
                + ([f"{number(open_ones)} unknown"] if open_ones else [])
            ),
            "error" if missed else "",
        ),
        svg.Card(
            "Maximum data loss",
            lost,
            listed(losing, 3) if losing else "No database loses writes",
            "error" if ended else "",
        ),
        svg.Card(f"{word or 'of'} the best possible".capitalize(), most, f"{why[:1].upper()}{why[1:]}"),
    ]


def _typed(plan: Plan, digest: str, now: Situation) -> str:
    """The command that executes it; empty while a run does."""
    if any(run.plan == digest for run in now.open_runs):
        return ""
    return to_apply(digest, leaving(plan))


def _work(plan: Plan, upto: float) -> dict[str, Any]:
    found = plan_charts.work_by_kind(plan)
    told = [
        f"{PLANNED[w.kind].work}: {number(w.actions)}, {seconds(w.begin)} to {seconds(w.end)}" for w in found
    ]
    rows = [
        (
            PLANNED[w.kind].work,
            *map(number, (w.steps, w.actions, w.by_hand)),
            seconds(w.begin),
            seconds(w.end),
        )
        for w in found
    ]
    if not rows:
        return {"chart": "", "rows": []}
    drawn, lead = plan_charts.work_rows(plan, upto), plan_charts.lead_seconds(plan)
    chart = svg.gantt("work", "The work by kind over time", "; ".join(told) + ".", drawn, upto, lead)
    return {"chart": chart, "rows": rows}


def _gantt(plan: Plan) -> dict[str, Any]:
    rows = plan_charts.gantt_rows(plan, plan_charts.heaviest(plan))
    if not rows:
        return {"chart": "", "words": ""}
    lead, last = plan_charts.lead_seconds(plan), max(bar.end for row in rows for bar in row.bars)
    upto = max(lead + 60.0, last + 0.03 * (last - lead))
    words = f"The {plural(len(rows), 'service')} with the worst outages, in order of recovery."
    title = "When each service starts, is checked and receives traffic"
    return {"chart": svg.gantt("gantt", title, words, rows, upto, lead), "words": words}


def _chain(plan: Plan, chain: Chain) -> dict[str, Any]:
    lead = plan_charts.lead_seconds(plan)
    upto = max(lead + 1.0, chain.back + 0.03 * (chain.back - lead))
    name = f"Critical chain of {chain.service}"
    waited = sum(link.waited for link in chain.links)
    return {
        "words": chain.words,
        "told": f"{chain.counted}; {seconds(waited)} waiting for capacity or a slot.",
        "chart": svg.gantt(
            f"chain{chain.tier}", name, chain.description, plan_charts.chain_rows(chain), upto, lead
        ),
    }


def _given_up(plan: Plan) -> dict[str, Any]:
    """What is shed and what is not restored, by reason, and how many services are not listed."""
    groups = views.given_up(plan)
    rest = sum(len(group.services) for group in groups[GROUPS:])
    words = {
        "shed": ("shed", "minus", ""),
        "unplaced": ("not restored", "x", "bad"),
        "unknown": ("unknown", "info", ""),
    }
    rows = [
        {
            "words": f"{_some(g.services)} {'is' if len(g.services) == 1 else 'are'} {words[g.state][0]}",
            "icon": words[g.state][1],
            "look": words[g.state][2],
            "reason": f"{g.reason[:1].upper()}{g.reason[1:]}",
            "people": people(g.people, g.unstated) if g.people or g.unstated else "",
        }
        for g in groups[:GROUPS]
    ]
    return {"given_up": rows, "given_up_rest": plural(rest, "more service") if rest else ""}


def _stores(plan: Plan) -> list[tuple[str, str, str, str, str]]:
    """Return (store, site, restored after, data loss in words, state); the largest loss first."""
    rows = []
    for s in plan.stores:
        back = plan_charts.back_words(plan, s)
        lost, state, rank = ("unknown", "unknown", 1) if s.loss_ms is None else ("none", "ok", 3)
        if s.primary_ms is None and not s.in_doubt:
            lost, state, rank = "all of it", "error", 0
        elif s.loss_ms:
            lost, state, rank = duration(s.loss_ms), "warning", 2
        where = plan_charts.place_words(s, plan)
        rows.append(((rank, -(s.loss_ms or 0), s.store), (s.store, where, back, lost, state)))
    return [row for _, row in sorted(rows)]


def _databases(plan: Plan) -> dict[str, Any]:
    """Those that lose data, those that lose none, and how many of each are not listed."""
    stores = _stores(plan)
    safe, losing = ([row for row in stores if (row[-1] == "ok") is good] for good in (True, False))
    rest, words = len(losing) - STORES, f"{plural(len(safe), 'database')} without data loss"
    return {
        "stores": losing[:STORES],
        "stores_rest": number(rest) if rest > 0 else "",
        "safe": safe[:STORES],
        "safe_words": words if len(safe) <= STORES else f"{words}; the first {STORES} are listed",
    }


def _rungs(plan: Plan) -> list[tuple[str, str, str]]:
    """Return (rung, its words, how many and which), the most drastic first."""
    found: dict[str, list[str]] = {}
    for step in plan.steps:
        if PLANNED[step.kind].fences:
            found.setdefault(step.rung or "none", []).append(step.target)
    order = [rung for rung in reversed(FENCE_RUNGS) if rung in found]
    return [
        (rung, RUNG_WORDS.get(rung, rung), f"{plural(len(found[rung]), 'store')}: {listed(found[rung], 5)}")
        for rung in order
    ]


def _some(names: Sequence[str]) -> str:
    rest = len(names) - GROUPS
    return ", ".join(sorted(names)[:GROUPS]) + (f" and {number(rest)} more" if rest > 0 else "")


def _waves(plan: Plan) -> list[dict[str, Any]]:
    """Each wave of steps: what it does, and its start and end, counted from the loss."""
    lead, found = plan.lead.ms, dict[int, list[Step]]()
    for step in plan.steps:
        found.setdefault(step.wave, []).append(step)
    rows = []
    for wave in sorted(found):
        kinds = Counter(step.kind for step in found[wave])
        told = "; ".join(f"{PLANNED[kind].work}: {number(count)}" for kind, count in sorted(kinds.items()))
        begin, end = min(s.start_ms for s in found[wave]), max(s.end_ms for s in found[wave])
        rows.append(
            {
                "wave": wave,
                "steps": number(len(found[wave])),
                "words": told,
                "begin": duration(begin + lead),
                "end": duration(end + lead),
            }
        )
    return rows[:STEPS]


_LOOKS: Final[Mapping[str, tuple[str, str]]] = {
    "restored": ("good", "check"),
    "running": ("good", "check"),
    "degraded": ("", "minus"),
    "shed": ("", "minus"),
    "unplaced": ("bad", "x"),
    "unknown": ("", "info"),
}
"""State of a service after a plan -> (style, icon)."""
_CALM: Final = ((("degraded",), "restored in part"), (("restored", "running"), "restored or still up"))
"""States of services that nobody has to look at first, if they are known to miss no objective, and their
summary."""
_ATTENTION: Final = ("unplaced", "unknown", "missed", "unclear", "shed", "degraded", "restored", "running")


def _services(plan: Plan, begin: int) -> dict[str, Any]:
    """Every service against its objective: what needs attention first."""
    places: dict[str, Counter[str]] = {}
    for step in plan.steps:
        if kind_of(step.kind).replicas > 0 and step.pool:
            places.setdefault(step.target, Counter())[step.pool.removeprefix(SITE_PREFIX)] += step.count
    rows = []
    for row in views.outcome_rows(plan):
        words, (look, icon) = OUTCOME_WORDS[row["state"]].capitalize(), _LOOKS[row["state"]]
        goes = ", ".join(
            f"{pool} {number(count)}" for pool, count in sorted(places.get(row["service"], {}).items())
        )
        rows.append(row | {"words": words, "look": look, "icon": icon, "goes": goes or "-"})
    rank = {name: n for n, name in enumerate(_ATTENTION)}
    outcomes = {outcome.service: outcome for outcome in plan.outcomes}

    def attention(row: Mapping[str, str]) -> int:
        found = outcomes[row["service"]]
        is_back = found.state not in GONE
        if found.meets_rto is False and is_back:
            return rank["missed"]
        unclear = found.rto_unknown or (is_back and found.recovery_ms is None)
        return min(rank["unclear"], rank[found.state]) if unclear else rank[found.state]

    rows.sort(key=attention)
    page, folded = _page(rows, begin, SERVICES), []
    for states, words in _CALM:
        calm = [row for row in page["rows"] if attention(row) in [rank[state] for state in states]]
        page["rows"] = [row for row in page["rows"] if row not in calm]
        if calm:
            folded.append((f"{plural(len(calm), 'service')} {words}, no objective missed", calm))
    return page | {"folded": folded}


def _steps(plan: Plan, begin: int) -> dict[str, Any]:
    """Steps in the order in which they begin."""
    lead = plan.lead.ms
    found = _page(sorted(plan.steps, key=lambda s: (s.start_ms, s.id)), begin, STEPS)
    found["rows"] = [
        {
            "id": s.id,
            "words": step_words(s),
            "wave": s.wave,
            "begin": duration(s.start_ms + lead),
            "takes": duration(s.end_ms - s.start_ms),
            "after": ", ".join(s.after[:3]) or "-",
            "more": max(0, len(s.after) - 3),
            "gate": s.gate,
        }
        for s in found["rows"]
    ]
    return found


def _page(rows: Sequence[Any], begin: int, most: int) -> dict[str, Any]:
    begin = min(begin, max(0, len(rows) - 1)) // most * most
    end = min(len(rows), begin + most)
    return {
        "rows": list(rows[begin:end]),
        "total": len(rows),
        "begin": begin,
        "end": end,
        "before": begin - most if begin else None,
        "after": end if end < len(rows) else None,
    }


def _facts(plan: Plan, digest: str) -> list[tuple[str, str]]:
    """The proof: the plan's outage, what no plan can get below, and what the plan was made from."""
    made = f"{weighted_words(plan)} lost in {duration(plan.horizon_ms)}, weighted"
    facts = [
        ("This plan", "; ".join(filter(None, (made, outage_doubt(plan))))),
        ("Lower bound", f"{user_minutes(plan.bound, plan.tick_ms)}, {plan.proof} proof"),
        ("People without service", " ".join(outage_words(plan))),
        ("Search", f"{number(plan.work)} schedules tried, seed {plan.seed}"),
        ("Estate", (plan.estate_digest or "not known")[:19]),
        ("As of", plan.as_of.isoformat() if plan.as_of else "not known"),
        ("Plan ID", digest),
    ]
    if plan.waivers:
        facts.append(("Waived by name", ", ".join(plan.waivers[:GROUPS])))
    if plan.unknown:
        facts.append(("Unknown facts", _some(plan.unknown)))
    return facts


AGE_MS: Final = 10_000
ROWS: Final = 100
Begin = Annotated[int, Query(ge=0, le=10_000_000)]
Kind = Annotated[str, Query(pattern="^(|site|pair|group|hall|feed)$")]


@PAGE.router.get(PAGE.path)
async def plans(request: Request, begin: Begin = 0, kind: Kind = "") -> Response:
    """The plan library: for each scenario its plan, or why there is none. kind: only this kind."""
    room = room_of(request)
    now, now_ms = room.office.situation, room.office.clock.now_ms() // AGE_MS * AGE_MS
    facts = room.office.facts

    def make() -> bytes:
        context = library_context(now, facts, kind, begin, ROWS)
        return frame.render("plans.html.j2", PAGE.path, max(now_ms, now.at_ms), **context)

    name = f"page plans {kind} {begin // ROWS}"
    return frame.answer(request, name, (now.version, now_ms, facts and facts.stamp), make)


@PAGE.router.get(PAGE.path + "/{digest}")
async def plan(request: Request, digest: Digest, services: Begin = 0, steps: Begin = 0) -> Response:
    """One plan. services, steps: the first rows to show in these tables."""
    room = room_of(request)
    office = room.office
    if not await office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError("plan-unknown", f"no such plan: {digest[:19]}", "see /plans for the ready plans")
    found, now = await plan_of(room, digest), office.situation
    capacity: tuple[CapacityOf, ...] = ()
    if found.estate_digest == now.estate:
        with contextlib.suppress(EvacError):
            capacity = await office.capacity(digest)
    now_ms = office.clock.now_ms() // AGE_MS * AGE_MS

    def make() -> bytes:
        context = plan_context(found, digest, now, services, steps, capacity)
        return frame.render("plan.html.j2", PAGE.path, max(now_ms, now.at_ms), **context)

    name = f"page plan {digest} {services} {steps}"
    return frame.answer(request, name, (now.version, now_ms), make)
