"""Pages of plans: the library, one plan with its order, its objectives and its proof, and the form that
makes a run of it.

What they say are plain values for their templates, made of a situation and plans. The charts and sentences
are those of the report page; what needs the estate itself stays there. The form ends in the route of the
API, so that a click and a command do the same: the leader makes the run, and it waits for its approval
before it acts.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from evac.engine.runs.proposals import ANSWERS
from evac.engine.runs.requests import to_apply
from evac.model.errors import EvacError, InvalidInput
from evac.model.plan import Plan, Step
from evac.model.steps import FENCE_RUNGS
from evac.office.values import ReadyPlan, Situation
from evac.office.verdicts import verdict_of
from evac.steps.registry import PLANNED
from evac.views import plan_charts, svg
from evac.views import plan_view as views
from evac.views.plan_charts import Chain, seconds, step_words
from evac.views.plan_view import Planned, answer, cards, tier_rows
from evac.views.words import duration, listed, number, people, percent, plural, user_minutes
from evac.web.access.port import Actor, need
from evac.web.api import plans as api
from evac.web.api.runs import plan_of
from evac.web.api.shapes import Digest
from evac.web.pages import frame
from evac.web.pages.frame import sentence
from evac.web.pages.now_view import LEFT, words_of
from evac.web.room import WarRoom, room_of

FIELDS_MOST: Final = 12
WAIT_S: Final = 8
NAMES: Final = ("incident", "reason", "who", "typed", "abandoned", "answers", "problem")
PAGE: Final = frame.Page("/plans", "Plans", icon="plans", group="Prepare")
create_run_router = APIRouter(dependencies=[Depends(need("operator"))])


@dataclass(frozen=True, slots=True)
class Wanted:
    """A plan that is to be carried out."""

    digest: str
    title: str
    words: str
    confirm: tuple[str, ...]
    """Names of the sites that it leaves."""
    verdict: str
    """What it brings back and what not."""
    states: str
    """How the sites are now that it leaves as lost; empty if it leaves none."""
    against: str
    """What speaks against it; empty if nothing does."""


def leaving(plan: Plan) -> tuple[str, ...]:
    """Names that a person types before the plan is carried out: of the sites that it leaves."""
    leaves = plan.scenario.kind in ("lose", "evacuate")
    return tuple(one for one in plan.scenario.domains if leaves and "/" not in one)


@create_run_router.get(PAGE.path + "/{digest}/carry-out")
async def form(
    request: Request, digest: Digest, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """What it does, under which name, why, and names that must be typed."""
    room = room_of(request)
    return _form(room, actor, await _wanted(room, digest), {}, 200)


@create_run_router.post(PAGE.path + "/{digest}/carry-out")
async def carry_out(
    request: Request, digest: Digest, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """Asks the leader, by the code of the API, and goes to the run. What is missing is said in the form."""
    room, fields = room_of(request), frame.fields_of(await request.body(), FIELDS_MOST, strict=True)
    wanted = await _wanted(room, digest)
    try:
        told = await _asked(request, actor, wanted, fields)
    except EvacError as error:
        return _form(room, actor, wanted, {**fields, "problem": sentence(error)}, 422)
    if told["state"] == "made":
        return frame.back_to(f"/runs/{told['run']}", "created")
    words = f"Refused: {told['why']}" + (f" ({told['hint']})" if told["hint"] else "") + "."
    if told["state"] != "refused":
        words = f"No leader accepted it in {plural(WAIT_S, 'second')}. It is withdrawn: no run is created."
    answers = "yes" if told["code"] == ANSWERS else fields.get("answers", "")
    return _form(room, actor, wanted, {**fields, "problem": words, "answers": answers}, 409)


def _abandoned(fields: Mapping[str, str], wanted: Wanted) -> list[str]:
    """Sites that are left as lost although they answer: all of them, once a person typed that."""
    given = fields.get("abandoned", "").replace(",", " ").split()
    return list(wanted.confirm) if given == ["abandon", *wanted.confirm] else []


async def _wanted(room: WarRoom, digest: str) -> Wanted:
    """Raises EvacError for a plan that is not kept."""
    if not await room.office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError("plan-unknown", f"no plan {digest[:19]} is kept", "see /plans for the ready plans")
    plan = await plan_of(room, digest)
    words = (
        f"The leader makes a run of this plan: {plural(len(plan.steps), 'step')}. It begins when it is "
        "approved, and the page of the run asks for that."
    )
    return Wanted(digest, plan.scenario.title, words, leaving(plan), *_at_stake(room, digest, plan))


def _at_stake(room: WarRoom, digest: str, plan: Plan) -> tuple[str, str, str]:
    """(what the plan comes to, how the sites are that it leaves, what speaks against it)."""
    verdict = verdict_of(digest, plan).words
    if plan.scenario.kind != "lose":
        return verdict, "", ""
    seen = {site.id: site for site in room.office.situation.sites}
    left = [seen[name] for name in leaving(plan) if name in seen]
    states = "; ".join(f"{site.id} is {words_of(site.state)} by the votes of witnesses" for site in left)
    healthy = [site.id for site in left if site.state == "healthy" and site.mark not in LEFT]
    others = [
        site.id
        for site in room.office.situation.sites
        if site.role == "full" and site not in left and site.mark not in LEFT and site.state != "lost"
    ]
    against = []
    if healthy:
        against.append(f"{listed(healthy)} answers: this plan leaves a working site as lost")
    if left and not others:
        against.append("no other full site is left to serve")
    return verdict, states, "; ".join(against)


async def _asked(request: Request, actor: Actor, wanted: Wanted, fields: Mapping[str, str]) -> dict[str, Any]:
    """Raises EvacError with what is missing or not allowed."""
    typed = frame.confirmed(fields, wanted.confirm)
    try:
        body = api.Propose(
            reason=fields["reason"].strip(),
            who=fields.get("who", "").strip(),
            plan=wanted.digest,
            incident=fields.get("incident", "").strip(),
            typed=typed,
            abandoned=_abandoned(fields, wanted),
        )
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("incident",):
            raise InvalidInput(
                "incident-name", "that is no name of an incident", "letters, digits and . _ : -, like fire-7"
            ) from error
        raise InvalidInput("request-invalid", f"{first['loc'][0]}: {first['msg']}") from error
    key = fields.get("key", "")
    found = await api.propose(request, body, actor, key if key.isalnum() else "", WAIT_S)
    told: dict[str, Any] = orjson.loads(bytes(found.body))
    return told


def _form(room: WarRoom, actor: Actor, wanted: Wanted, fields: Mapping[str, str], status: int) -> Response:
    shown = {name: fields.get(name, "") for name in NAMES} | {"key": secrets.token_hex(16)}
    context: dict[str, Any] = {"wanted": wanted, "fields": shown, "actor": actor}
    body = frame.render("carry_out.html.j2", PAGE.path, room.office.clock.now_ms(), **context)
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)


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


def drawer_context(now: Situation, kind: str, begin: int, most: int) -> dict[str, Any]:
    """The drawer, or one kind of it: what is wrong first, sites before pairs, many people before few."""
    rows = sorted((_ready(plan) for plan in now.drawer), key=lambda row: row["key"])
    shown = [row for row in rows if not kind or row["plan"].kind == kind]
    page = _page(shown, begin, most)
    return page | {"answer": _drawer_answer(rows), "kinds": list(_kinds(rows, kind)), "kind": kind}


def _drawer_answer(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """(words, state) of all that lies in the drawer."""
    if not rows:
        return "No plan is ready yet: the controller that leads makes them.", "unknown"
    counts = Counter(row["state"] for row in rows)
    ready = counts["ok"] + counts["note"]
    words = f"{plural(ready, 'plan')} of {number(len(rows))} {'lies' if ready == 1 else 'lie'} ready."
    if counts["error"]:
        words += f" For {plural(counts['error'], 'scenario')} none could be made."
    waiting = Counter(row["words"] for row in rows if row["state"] == "warning")
    for state, found in sorted(waiting.items()):
        words += f" {number(found)} {'is' if found == 1 else 'are'} {state}."
    if waiting:
        words += f" {'It is' if waiting.total() == 1 else 'They are'} being looked at again."
    if counts["note"]:
        words += f" {number(counts['note'])} of them {'is' if counts['note'] == 1 else 'are'} being improved."
    return words, "warning" if ready < len(rows) else "ok"


def _kinds(rows: Sequence[Mapping[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """The filters, each with how many of its plans lie ready."""
    for name, one, many in ALL_KINDS:
        mine = [row for row in rows if not name or row["plan"].kind == name]
        ready = sum(1 for row in mine if row["state"] in ("ok", "note"))
        if mine:
            words = plural(len(mine), one, many)
            words += ", all ready" if ready == len(mine) else f", {number(ready)} ready"
            path = f"/plans?kind={name}" if name else "/plans"
            yield {"path": path, "words": words, "here": name == kind}


def _ready(plan: ReadyPlan) -> dict[str, Any]:
    words, state = "ready", "ok"
    if plan.problem or not plan.plan:
        words, state = "none", "error"
    elif plan.current is False:
        words, state = "of an older estate" if plan.estate else "not judged yet", "warning"
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


def plan_context(plan: Plan, digest: str, now: Situation, services: int, steps: int) -> dict[str, Any]:
    """Everything the page of one plan shows."""
    planned = Planned(plan, digest)
    ready = next((row for row in now.drawer if row.plan == digest), None)
    waits = ready is not None and ready.current is False
    upto = plan_charts.span_seconds(plan)
    return {
        "title": plan.scenario.title,
        "digest": digest,
        "answer": answer(planned),
        "ready": ready,
        "stale": bool(now.estate and plan.estate_digest and waits and ready and ready.estate),
        "unjudged": bool(waits and ready and not ready.estate),
        "cards": cards(planned)[:-1],
        "tiers": tier_rows(plan),
        "runs": [run for run in (*now.open_runs, *now.ended_runs) if run.plan == digest][:RUNS],
        "lead": duration(plan.detection_ms + plan.approval_ms),
        "work": _work(plan, upto),
        "gantt": _gantt(plan),
        "chains": [_chain(plan, chain) for chain in plan_charts.chains(plan)],
        "given_up": _given_up(plan),
        "stores": _stores(plan),
        "rungs": _rungs(plan),
        "waves": _waves(plan),
        "services": _services(plan, services),
        "steps": _steps(plan, steps),
        "facts": _facts(plan, digest),
        "typed": _typed(plan, digest, now) if ready and not waits else "",
    }


def _typed(plan: Plan, digest: str, now: Situation) -> str:
    """The command that carries it out; empty while a run does."""
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
    words = f"The {plural(len(rows), 'service')} whose outage weighs most, in the order they come back."
    title = "When each service starts, is checked and gets its traffic"
    return {"chart": svg.gantt("gantt", title, words, rows, upto, lead), "words": words}


def _chain(plan: Plan, chain: Chain) -> dict[str, Any]:
    lead = plan_charts.lead_seconds(plan)
    upto = max(lead + 1.0, chain.back + 0.03 * (chain.back - lead))
    told = "In order: " + ", then ".join(link.words for link in chain.links) + "."
    name = f"Critical chain of {chain.service}"
    waited = sum(link.waited for link in chain.links)
    return {
        "words": f"{chain.service}, back last of tier {chain.tier}, after {seconds(chain.back)}",
        "told": f"{plural(len(chain.links), 'step')}, with {seconds(waited)} of waiting for room or a turn.",
        "chart": svg.gantt(f"chain{chain.tier}", name, told, plan_charts.chain_rows(chain), upto, lead),
    }


def _given_up(plan: Plan) -> list[dict[str, Any]]:
    """What is shed and what does not come back, by reason."""
    words = {
        "shed": ("shed to make room", "warning"),
        "unplaced": ("not coming back", "error"),
        "unknown": ("cannot be judged", "unknown"),
    }
    return [
        {
            "words": words[g.state][0],
            "state": words[g.state][1],
            "reason": g.reason,
            "count": plural(len(g.services), "service"),
            "people": people(g.people),
            "services": ", ".join(g.services[:GROUPS]),
            "rest": max(0, len(g.services) - GROUPS),
        }
        for g in views.given_up(plan)[:GROUPS]
    ]


def _stores(plan: Plan) -> list[tuple[str, str, str, str, str]]:
    """(store, where, back after, words of loss, state); those that lose most first."""
    lead, rows = plan.detection_ms + plan.approval_ms, []
    for s in plan.stores:
        back = duration(s.primary_ms + lead) if s.primary_ms is not None else "never"
        lost, state, rank = ("unknown", "unknown", 1) if s.loss_ms is None else ("none", "ok", 3)
        if s.primary_ms is None:
            lost, state, rank = "all of it", "error", 0
        elif s.loss_ms:
            lost, state, rank = duration(s.loss_ms), "warning", 2
        where = plan_charts.place_words(s)
        rows.append(((rank, -(s.loss_ms or 0), s.store), (s.store, where, back, lost, state)))
    return [row for _, row in sorted(rows)][:STORES]


def _rungs(plan: Plan) -> list[tuple[str, str, str]]:
    """(rung, its words, how many and which), the hardest first."""
    found: dict[str, list[str]] = {}
    for step in plan.steps:
        if PLANNED[step.kind].fences:
            found.setdefault(step.rung or "none", []).append(step.target)
    order = [rung for rung in reversed(FENCE_RUNGS) if rung in found]
    return [
        (rung, RUNG_WORDS.get(rung, rung), f"{plural(len(found[rung]), 'store')}: {_some(found[rung])}")
        for rung in order
    ]


def _some(names: Sequence[str]) -> str:
    rest = len(names) - GROUPS
    return ", ".join(sorted(names)[:GROUPS]) + (f" and {number(rest)} more" if rest > 0 else "")


def _waves(plan: Plan) -> list[dict[str, Any]]:
    """Each wave of steps: what it does, and from when to when, counted from the loss on."""
    lead, found = plan.detection_ms + plan.approval_ms, dict[int, list[Step]]()
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


def _services(plan: Plan, begin: int) -> dict[str, Any]:
    """Every service against its rto: those that miss it first."""
    rows = list(views.outcome_rows(plan))
    rows.sort(key=lambda row: {"missed": 0, "met": 1}.get(row["met"], 2))
    return _page(rows, begin, SERVICES)


def _steps(plan: Plan, begin: int) -> dict[str, Any]:
    """Steps in the order in which they begin."""
    lead = plan.detection_ms + plan.approval_ms
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
    facts = [
        ("plan", digest),
        ("estate", plan.estate_digest or "not said"),
        ("as of", plan.as_of.isoformat() if plan.as_of else "not said"),
        ("weighted outage", user_minutes(plan.objective, plan.tick_ms)),
        ("no plan can beat", f"{user_minutes(plan.bound, plan.tick_ms)}, {plan.proof} proof"),
        ("above the best possible, at most", percent(plan.gap_permille)),
        ("horizon", duration(plan.horizon_ms)),
        ("search", f"{number(plan.work)} schedules tried, seed {plan.seed}"),
    ]
    if plan.waivers:
        facts.append(("waived by name", ", ".join(plan.waivers[:GROUPS])))
    if plan.unknown:
        facts.append(("facts not known", _some(plan.unknown)))
    return facts


AGE_MS: Final = 10_000
ROWS: Final = 100
Begin = Annotated[int, Query(ge=0, le=10_000_000)]
Kind = Annotated[str, Query(pattern="^(|site|pair|group|hall|feed)$")]


@PAGE.router.get(PAGE.path)
async def plans(request: Request, begin: Begin = 0, kind: Kind = "") -> Response:
    """The drawer: for each scenario the plan that lies ready, or why there is none. kind: of these alone."""
    room = room_of(request)
    now, now_ms = room.office.situation, room.office.clock.now_ms() // AGE_MS * AGE_MS

    def make() -> bytes:
        context = drawer_context(now, kind, begin, ROWS)
        return frame.render("plans.html.j2", PAGE.path, max(now_ms, now.at_ms), **context)

    name = f"page plans {kind} {begin // ROWS}"
    return frame.answer(request, name, (now.version, now_ms), make)


@PAGE.router.get(PAGE.path + "/{digest}")
async def plan(request: Request, digest: Digest, services: Begin = 0, steps: Begin = 0) -> Response:
    """One plan. services, steps: from which row on these tables are shown."""
    room = room_of(request)
    office = room.office
    if not await office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError("plan-unknown", f"no plan {digest[:19]} is kept", "see /plans for the ready plans")
    found, now = await plan_of(room, digest), office.situation
    now_ms = office.clock.now_ms() // AGE_MS * AGE_MS

    def make() -> bytes:
        context = plan_context(found, digest, now, services, steps)
        return frame.render("plan.html.j2", PAGE.path, max(now_ms, now.at_ms), **context)

    name = f"page plan {digest} {services} {steps}"
    return frame.answer(request, name, (now.version, now_ms), make)
