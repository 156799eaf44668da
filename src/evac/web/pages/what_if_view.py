"""The page What if: fault domains are ticked, and the answer says what is down, what comes back, when, and
what capacity is left.

What it says are plain values for its template, made of facts and an answer.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response

from evac.audit.context import measured
from evac.model.errors import EvacError, Unavailable
from evac.model.plan import Plan
from evac.office.facts import DomainFacts, EstateFacts
from evac.office.reckoning import DOMAINS_MOST, CapacityOf, FateOf, WhatIf
from evac.office.verdicts import loss_by, verdict_of
from evac.views import svg
from evac.views.words import duration, number, people, plural
from evac.web.api.runs import plan_of
from evac.web.pages import frame
from evac.web.pages.now_view import KINDS, VERDICT_CLASS, VERDICT_WORDS, verdict_words
from evac.web.pages.what_if_graph import graph, gravity, row_of
from evac.web.room import WarRoom, room_of

ALL: Final = "all sites"
SHORT: Final = {
    "cpu_millicores": "cpu",
    "memory_mib": "memory",
    "disk_gib": "disk",
    "accelerators": "accelerators",
}
SITES_OPEN: Final = 6


def rooms(capacity: Sequence[CapacityOf]) -> dict[str, Any]:
    """Panels of bars by site, all sites together first, and rows of a table."""
    rows = [*_summed(capacity), *capacity]
    names = list(dict.fromkeys(row.site for row in rows))
    panels = [_panel(number, [row for row in rows if row.site == name]) for number, name in enumerate(names)]
    return {"open": panels[:SITES_OPEN], "rest": panels[SITES_OPEN:], "rows": [_words(row) for row in rows]}


def _summed(rows: Iterable[CapacityOf]) -> list[CapacityOf]:
    found: dict[str, CapacityOf] = {}
    for row in rows:
        sum_of = found.get(row.resource, CapacityOf(ALL, row.resource, 0, 0, 0, 0, 0))
        found[row.resource] = replace(
            sum_of,
            total=sum_of.total + row.total,
            used=sum_of.used + row.used,
            total_left=sum_of.total_left + row.total_left,
            used_left=sum_of.used_left + row.used_left,
            moved_in=sum_of.moved_in + row.moved_in,
        )
    return list(found.values())


def _panel(number: int, rows: Sequence[CapacityOf]) -> dict[str, Any]:
    site = rows[0].site
    left, whole = sum(row.total_left for row in rows), sum(row.total for row in rows)
    words, state = "", ""
    if not left:
        words, state = "lost", "error"
    elif left < whole:
        words, state = "a part is lost", "warning"
    told = "; ".join(f"{SHORT[row.resource]} {_shares(row)} used" for row in rows) + "."
    bars = [svg.Shares(SHORT[row.resource], _bars(row), _shares(row)) for row in rows]
    title = f"Room of {site} before and after"
    return {
        "site": site,
        "words": words,
        "state": state,
        "chart": svg.shares(f"room{number}", title, told, bars, 8),
    }


def _bars(row: CapacityOf) -> tuple[tuple[svg.Part, ...], ...]:
    gone = row.total - row.total_left
    pieces = (
        (("used before", row.used),),
        (("used after", row.used_left), ("moved", row.moved_in), ("gone", gone)),
    )
    found = []
    for when, parts in zip(("before", "after"), pieces, strict=True):
        found.append(
            tuple(
                svg.Part(value / row.total, style, f"{when}: {style} {svg.percent_of(value, row.total)}")
                for style, value in _in_place(parts, row.total)
            )
        )
    return tuple(found)


def _in_place(parts: Sequence[tuple[str, int]], whole: int) -> list[tuple[str, int]]:
    """Used first, then free, and what is gone at the far end."""
    kept = [(style, value) for style, value in parts if value > 0]
    if not kept or kept[-1][0] != "gone":
        return kept
    free = whole - sum(value for _, value in kept)
    return [*kept[:-1], *([("ground", free)] if free > 0 else []), kept[-1]]


def _shares(row: CapacityOf) -> str:
    """Of what is there: before, and after everything that finds room has moved."""
    before = svg.percent_of(row.used, row.total)
    after = "lost" if not row.total_left else svg.percent_of(row.used_left + row.moved_in, row.total_left)
    return f"{before} → {after}"


def _words(row: CapacityOf) -> dict[str, str]:
    free = max(0, row.total_left - row.used_left - row.moved_in)
    amounts = {
        "total": row.total,
        "used": row.used,
        "gone": row.total - row.total_left,
        "left": row.used_left,
        "moved": row.moved_in,
        "free": free,
    }
    name = SHORT[row.resource]
    parts = {key: measured(name, value) for key, value in amounts.items()}
    told = {key: size if unit == name else f"{size} {unit}" for key, (size, unit) in parts.items()}
    return told | {"site": row.site, "resource": name, "share": _shares(row)}


OPEN_KINDS: Final = ("site", "hall")
ORDER: Final = ("site", "hall", "feed", "group", "rack")
TICKS_MOST: Final = 60
"""Boxes of one kind; more are found by name."""
FOUND_MOST: Final = 60
SERVICES: Final = 100
FINDINGS_MOST: Final = 20
FATES: Final = {
    "lost": ("does not come back", "error"),
    "recovers": ("down, comes back", "warning"),
    "degraded": ("degraded", "warning"),
    "unknown": ("cannot be judged", "unknown"),
    "shed": ("shed to make room", "warning"),
}


def context(
    facts: EstateFacts, wanted: Sequence[str], find: str, answer: WhatIf | None, begin: int, of: str = ""
) -> dict[str, Any]:
    """The form, and the answer where something was asked."""
    shared = {
        "estate": facts.name,
        "wanted": list(wanted),
        "find": find,
        "ticks": list(_ticks(facts, wanted)),
        "found": _found(facts, wanted, find),
        "asked": answer is not None,
    }
    return shared if answer is None else shared | _answered(facts, answer, begin, of)


def _ticks(facts: EstateFacts, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Boxes by kind: sites and halls open, the others folded, and never more than so many."""
    by_kind: dict[str, list[DomainFacts]] = {}
    for domain in facts.domains:
        by_kind.setdefault(domain.kind, []).append(domain)
    for kind, one, many in sorted(KINDS, key=lambda row: ORDER.index(row[0])):
        mine = by_kind.get(kind, [])
        if mine:
            ticked = any(domain.id in wanted for domain in mine)
            yield {
                "name": plural(len(mine), one, many),
                "open": kind in OPEN_KINDS or ticked,
                "boxes": [_box(domain, wanted) for domain in mine[:TICKS_MOST]],
                "rest": max(0, len(mine) - TICKS_MOST),
            }


def _box(domain: DomainFacts, wanted: Sequence[str]) -> dict[str, Any]:
    return {
        "id": domain.id,
        "ticked": domain.id in wanted,
        "words": VERDICT_WORDS.get(domain.verdict, ""),
        "state": VERDICT_CLASS.get(domain.verdict, "unknown"),
    }


def _found(facts: EstateFacts, wanted: Sequence[str], find: str) -> dict[str, Any]:
    """What the search finds, and what is ticked beyond the boxes that are shown anyway."""
    shown = {box["id"] for group in _ticks(facts, wanted) for box in group["boxes"]}
    hits = [d for d in facts.domains if find and find.lower() in d.id.lower() and d.id not in shown]
    ticked = [d for d in facts.domains if d.id in wanted and d.id not in shown and d not in hits[:FOUND_MOST]]
    return {
        "boxes": [_box(domain, wanted) for domain in (*ticked, *hits[:FOUND_MOST])],
        "rest": max(0, len(hits) - FOUND_MOST),
        "none": bool(find) and not hits and not any(find.lower() in name.lower() for name in shown),
    }


def _answered(facts: EstateFacts, answer: WhatIf, begin: int, of: str) -> dict[str, Any]:
    loss = answer.loss
    rows = sorted(answer.services, key=gravity)
    begin = min(begin, max(0, len(rows) - 1)) // SERVICES * SERVICES
    end = min(len(rows), begin + SERVICES)
    # What the audit says about these domains, the gravest first, as it lists them.
    asked = set(answer.domains)
    findings = [finding for finding in facts.findings if asked.intersection(finding.domains)]
    return {
        "verdict": (verdict_words(loss), VERDICT_CLASS[loss.verdict]),
        "plan": loss.plan,
        "text": loss.text,
        "because": loss.because,
        "cards": _cards(answer),
        "rows": [_row(one) for one in rows[begin:end]],
        "total": len(rows),
        "begin": begin,
        "end": end,
        "before": begin - SERVICES if begin else None,
        "after": end if end < len(rows) else None,
        "findings": findings[:FINDINGS_MOST],
        "findings_rest": max(0, len(findings) - FINDINGS_MOST),
        "rooms": rooms(answer.capacity),
        "graph": graph(facts, answer, of),
        "of": of,
        "of_unknown": bool(of) and all(service.id != of for service in facts.services),
        "placed": (number(loss.placed), number(loss.to_place)),
        "short": loss.placed < loss.to_place,
        "sheds": loss.sheds,
        "stale": answer.estate != facts.digest,
    }


def _cards(answer: WhatIf) -> list[dict[str, str]]:
    loss, counts = answer.loss, Counter(one.fate for one in answer.services)
    lost = counts["lost"]
    worst = duration(loss.worst_recovery_ms) if counts["recovers"] else "-"
    stores = f"{number(loss.stores_lost)} of their primaries are lost, {number(loss.stores_gone)} for good"
    data = "not known" if loss.data_loss_ms is None else duration(loss.data_loss_ms)
    if loss.stores_gone:
        data = f"all data of {plural(loss.stores_gone, 'store')}"
    doubt, late = f"{number(counts['unknown'])} more cannot be judged", "error" if loss.late else ""
    told = f"{plural(loss.late, 'service')} later than promised"
    grave = "error" if loss.stores_gone else "warning" if loss.data_loss_ms else ""
    return [
        _card("do not come back", number(lost), doubt, "error" if lost else "ok"),
        _card("down, and back again", number(counts["recovers"]), f"the last after {worst}", ""),
        _card("degraded", number(counts["degraded"]), "serve, but less than they should", ""),
        _card("people without a service, at most", people(loss.people_down), told, late),
        _card("writes lost, at most", data, stores, grave),
    ]


def _card(name: str, value: str, more: str, state: str) -> dict[str, str]:
    return {"name": name, "value": value, "more": more, "state": state}


def _row(one: FateOf) -> dict[str, Any]:
    words, state = FATES.get(one.fate, (one.fate, "unknown"))
    late = one.rto_ms is not None and one.recovery_ms is not None and one.recovery_ms > one.rto_ms
    return {
        "id": one.service,
        "tier": "-" if one.tier is None else str(one.tier),
        "people": one.people,
        "words": words,
        "state": state,
        "late": late,
        "path": row_of(one)["path"],
        "why": row_of(one)["why"],
        "back": "-" if one.recovery_ms is None or one.fate != "recovers" else duration(one.recovery_ms),
        "rto": "-" if one.rto_ms is None else duration(one.rto_ms),
    }


async def _answer(room: WarRoom, wanted: tuple[str, ...]) -> WhatIf:
    """By the plan that is ready for it, where there is one of the estate as it is now; else by the audit.
    Raises EvacError.
    """
    answer = await room.office.what_if(wanted)
    for ready in room.office.situation.drawer:
        if ready.lost == answer.domains and ready.current and ready.plan and ready.estate == answer.estate:
            with contextlib.suppress(EvacError):
                return by_plan(answer, ready.plan, await plan_of(room, ready.plan))
    return answer


def by_plan(answer: WhatIf, digest: str, plan: Plan) -> WhatIf:
    """The answer as a verified plan gives it; why a service is down is known from the audit."""
    known = {one.service: one for one in answer.services}
    fates = {"restored": "recovers", "shed": "lost", "unplaced": "lost"}
    services = []
    for one in plan.outcomes:
        fate = fates.get(one.state, one.state)
        if one.state == "running":
            continue
        if one.state == "restored" and not one.base_outage_ms:
            fate = "degraded"
        seen = known.get(one.service) or FateOf(
            one.service,
            one.tier,
            one.people,
            fate,
            one.recovery_ms,
            one.rto_ms,
            (one.service, one.reason or fate),
        )
        services.append(replace(seen, fate=fate, recovery_ms=one.recovery_ms, rto_ms=one.rto_ms))
    loss = loss_by(answer.loss, verdict_of(digest, plan))
    return replace(answer, loss=loss, services=tuple(services))


PAGE: Final = frame.Page("/what-if", "What if", icon="whatif", group="Prepare")
Name = Annotated[str, Query(max_length=512)]


@PAGE.router.get(PAGE.path)
async def what_if(
    request: Request,
    lose: Annotated[list[Annotated[str, Query(max_length=512)]], Query(max_length=DOMAINS_MOST)] = [],  # noqa: B006 - never changed
    find: Annotated[str, Query(max_length=200)] = "",
    begin: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    of: Name = "",
) -> Response:
    """lose: domains that are lost at once. find: words that names of more domains to tick contain. begin:
    from which service on they are listed. of: the service of which the graph shows all that it needs.
    """
    room = room_of(request)
    facts = room.facts
    wanted = tuple(sorted({name.strip() for name in lose if name.strip()}))
    answer: WhatIf | None = None
    problem = ""
    if wanted:
        try:
            answer = await _answer(room, wanted)
        except Unavailable:
            raise
        except EvacError as error:
            problem = f"{error.message[:1].upper()}{error.message[1:]}."
    told = context(facts, wanted, find.strip(), answer, begin, of)
    now_ms = room.office.situation.at_ms
    body = frame.render("what_if.html.j2", PAGE.path, now_ms, problem=problem, **told)
    return Response(body, 422 if problem else 200, {"cache-control": "no-cache"}, frame.HTML)
