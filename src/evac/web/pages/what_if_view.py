"""The page What if: select fault domains to see what goes down, what is restored, when, and what capacity
is left. What it says are plain values for its template, made from facts and a result.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response

from evac.model.errors import EvacError, Unavailable
from evac.model.objectives import open_rpo_words
from evac.model.plan import Plan
from evac.model.units import measured
from evac.office.facts import DomainFacts, EstateFacts, FindingFacts, LossFacts
from evac.office.reckoning import DOMAINS_MOST, CapacityOf, FateOf, WhatIf, loss_by, made_worse, verdict_of
from evac.views import plan_charts, svg
from evac.views.words import assumed_words, duration, listed, number, people, plural, time_back
from evac.web.api.runs import plan_of
from evac.web.pages import frame
from evac.web.pages.capacity_view import unclear_words
from evac.web.pages.losses_view import KINDS, VERDICT_CLASS, VERDICT_WORDS
from evac.web.pages.plan_view import capacity_bar
from evac.web.pages.what_if_graph import graph, gravity, row_of
from evac.web.room import WarRoom, room_of

SHORT: Final = {
    "cpu_millicores": "cpu",
    "memory_mib": "memory",
    "disk_gib": "disk",
    "accelerators": "accelerators",
}
BARS_MOST: Final = 16
"""Maximum rows of the capacity chart; the table has all."""


def _capacity(rows: Sequence[CapacityOf]) -> dict[str, Any]:
    """The chart, and the rows of a table."""
    bars = [capacity_bar(row) for row in rows]
    return {
        "pictures": plan_charts.both(bars[:BARS_MOST]),
        "bottleneck": plan_charts.bottleneck(bars),
        "rows": [_words(row) for row in rows],
    }


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
    name = SHORT.get(row.resource, row.resource)
    parts = {key: measured(name, value) for key, value in amounts.items()}
    told = {key: size if unit == name else f"{size} {unit}" for key, (size, unit) in parts.items()}
    # Shares of the capacity: before, and after everything that fits has moved.
    shares = f"{svg.percent_of(row.used, row.total)} → {capacity_bar(row).after}"
    return told | {"site": row.site, "resource": name, "share": shares}


OPEN_KINDS: Final = ("site", "hall")
ORDER: Final = ("site", "hall", "feed", "group", "provider", "rack")
TICKS_MOST: Final = 60
"""Maximum checkboxes of one kind; more are found by name."""
FOUND_MOST: Final = 60
SERVICES: Final = 100
FINDINGS_MOST: Final = 20
FINDINGS_OPEN: Final = 5
MESSAGES_MOST: Final = 2
FATES: Final = {
    "lost": ("Not restored", "bad", "x"),
    "recovers": ("Down, then back", "", "minus"),
    "degraded": ("Degraded", "", "minus"),
    "unknown": ("Cannot be judged", "", "info"),
    "shed": ("Shed", "", "minus"),
    "not proved": ("Not proved", "", "info"),
}
"""Fate of a service -> (words, style, icon)."""


def context(
    facts: EstateFacts, wanted: Sequence[str], find: str, answer: WhatIf | None, begin: int, of: str = ""
) -> dict[str, Any]:
    """The form, and the result if something was selected."""
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
    """Checkboxes by kind: sites and halls expanded, the others collapsed, within the limit."""
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
        "look": {"error": "bad", "ok": "good"}.get(VERDICT_CLASS.get(domain.verdict, ""), ""),
    }


def _found(facts: EstateFacts, wanted: Sequence[str], find: str) -> dict[str, Any]:
    """What the search finds, and what is selected beyond the checkboxes that are always shown."""
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
    groups = _by_fix(findings)
    return {
        "heading": _heading(answer),
        "look": {"error": "bad", "ok": "good"}.get(VERDICT_CLASS[loss.verdict], ""),
        "plan": loss.plan,
        "text": loss.text,
        "because": loss.because,
        "assumed": assumed_words(answer.lead),
        "cards": _cards(answer),
        "rows": [_row(one) for one in rows[begin:end]],
        "total": len(rows),
        "begin": begin,
        "end": end,
        "before": begin - SERVICES if begin else None,
        "after": end if end < len(rows) else None,
        "what": loss.what if loss.plan else "",
        "findings": (groups[:FINDINGS_OPEN], groups[FINDINGS_OPEN:FINDINGS_MOST]),
        "findings_total": number(len(findings)),
        "findings_rest": max(0, len(groups) - FINDINGS_MOST),
        "capacity": _capacity(answer.capacity),
        "unclear": [f"{words} at {site.id}" for site in facts.sites if (words := unclear_words(site))],
        "graph": graph(facts, answer, of),
        "of": of,
        "of_unknown": bool(of) and all(service.id != of for service in facts.services),
        "placed": (number(loss.placed), number(loss.to_place)),
        "short": loss.placed < loss.to_place,
        "sheds": loss.sheds,
        "stale": answer.estate != facts.digest,
    }


def _by_fix(findings: Sequence[FindingFacts]) -> list[dict[str, Any]]:
    """Findings that the same change resolves are one row, with the first of their messages; they come with
    the most severe first.
    """
    groups: dict[str, list[FindingFacts]] = {}
    for one in findings:
        groups.setdefault(one.fix or one.fingerprint, []).append(one)
    return [
        {
            "severity": same[0].severity,
            "about": listed(list(dict.fromkeys(one.subject for one in same)), 3),
            "messages": [one.message for one in same[:MESSAGES_MOST]],
            "rest": max(0, len(same) - MESSAGES_MOST),
            "fix": same[0].fix,
        }
        for same in groups.values()
    ]


def _heading(answer: WhatIf) -> str:
    """What happens to services, and how many stores may lose too much data."""
    is_open = open_rpo_words(answer.loss.stores_open)
    return _services(answer) + (f" {is_open}." if is_open else "")


def _services(answer: WhatIf) -> str:
    """`Losing north takes down 8 services. 7 come back, mail does not.`"""
    loss, lost = answer.loss, listed(answer.domains)
    gone = [one.service for one in sorted(answer.services, key=gravity) if one.fate in ("lost", "shed")]
    doubt = sum(1 for one in answer.services if one.fate == "unknown")
    not_proved = sum(1 for one in answer.services if one.fate == "not proved")
    if answer.newly_lost:
        more = listed(answer.newly_lost, 3)
        return f"What losing {lost} does is unknown: judged before the loss of {more}. Select {more} as well."
    if not answer.services:
        return f"Losing {lost} affects no service."
    down, back = loss.down, max(0, loss.down - len(gone) - doubt - not_proved)
    reduced = max(0, back - sum(1 for one in answer.services if one.fate == "recovers"))
    if not down and (doubt or not_proved):
        words = f"No service is known to go down with {lost}."
    elif not down:
        return (
            f"Losing {lost} takes down no service. {plural(loss.degraded, 'service')} "
            "will run at reduced capacity."
        )
    else:
        before = f" ({number(loss.down_before)} of them were already down)" if loss.down_before else ""
        words = f"After losing {lost}, {plural(down, 'service')} {'is' if down == 1 else 'are'} down{before}."
        if not before:
            words = f"Losing {lost} takes down {plural(down, 'service')}."
    some = f"{number(back)} {'comes' if back == 1 else 'come'} back" if back else ""
    some += f", {number(reduced)} of them degraded until the horizon" if reduced else ""
    if gone:
        names = " and ".join(gone) if len(gone) == 2 else listed(gone, 3)
        rest = "not" if some and not reduced else "not come back"
        some += ". " if reduced else ", " if some else ""
        words += f" {some}{names} {'does' if len(gone) == 1 else 'do'} {rest}."
    elif reduced or back < down:
        words += f" {some}." if some else ""
    elif back:
        words += " All of them come back." if back > 1 else " It comes back."
    if not_proved:
        verb = "is" if not_proved == 1 else "are"
        words += f" {plural(not_proved, 'service')} {verb} not proved to stay up or come back: make a plan."
    return words + (f" {plural(doubt, 'service')} cannot be judged." if doubt else "")


def _cards(answer: WhatIf) -> list[svg.Card]:
    loss, counts = answer.loss, Counter(one.fate for one in answer.services)
    lost = counts["lost"] + counts["shed"]
    names = [one.service for one in sorted(answer.services, key=gravity) if one.fate in ("lost", "shed")]
    back = max(0, loss.down - lost - counts["unknown"] - counts["not proved"])
    worst = f"The last after {duration(loss.worst_recovery_ms)}" if back else "None"
    if loss.untimed:
        be = "is" if loss.untimed == 1 else "are"
        worst = f"It is unknown when {number(loss.untimed)} of them {be} back"
    stores = f"{plural(loss.stores_lost, 'primary is', 'primaries are')} lost"
    data = "not known" if loss.data_loss_ms is None else duration(loss.data_loss_ms)
    if loss.stores_gone:
        data = f"{plural(loss.stores_gone, 'store')} not restored"
    doubt = f"; {number(counts['unknown'])} more cannot be judged" if counts["unknown"] else ""
    doubt += f"; {number(counts['not proved'])} more not proved" if counts["not proved"] else ""
    return [
        svg.Card("Not restored", number(lost), (listed(names, 3) or "None") + doubt, "error" if lost else ""),
        svg.Card("Down, then back", number(back), worst),
        svg.Card("Degraded", number(counts["degraded"]), "Serve at reduced capacity"),
        svg.Card(
            "Maximum people without a service", people(loss.people_down, loss.people_unstated), _late(loss)
        ),
        svg.Card("Maximum data loss", data or "none", stores, "error" if loss.stores_gone else ""),
    ]


def _late(loss: LossFacts) -> str:
    """`2 services later than promised; unknown for 1 more`."""
    if loss.late:
        more = f"; unknown for {number(loss.rto_unknown)} more" if loss.rto_unknown else ""
        return f"{plural(loss.late, 'service')} later than promised{more}"
    if loss.rto_unknown:
        return f"{plural(loss.rto_unknown, 'service')} may be later than promised"
    if loss.never_back or loss.sheds:
        return "None that comes back is later than promised"
    return "None later than promised"


def _row(one: FateOf) -> dict[str, Any]:
    words, look, icon = FATES.get(one.fate, (one.fate, "", "info"))
    late = one.rto_ms is not None and one.recovery_ms is not None and one.recovery_ms > one.rto_ms
    returns = one.fate == "recovers" or (one.fate == "degraded" and one.down)
    return {
        "id": one.service,
        "tier": "-" if one.tier is None else str(one.tier),
        "people": one.people,
        "words": words,
        "look": look,
        "icon": icon,
        "late": late,
        "path": row_of(one)["path"],
        "why": row_of(one)["why"],
        "back": time_back(one.recovery_ms) if returns else "-",
        "rto": "-" if one.rto_ms is None else duration(one.rto_ms),
    }


async def _answer(room: WarRoom, wanted: tuple[str, ...]) -> WhatIf:
    """From the standby plan if there is one for the current estate; otherwise from the audit. Raises
    EvacError.
    """
    answer = await room.office.what_if(wanted)
    if answer.newly_lost:
        return answer
    for ready in room.office.situation.drawer:
        if ready.lost == answer.domains and ready.current and ready.plan and ready.estate == answer.estate:
            with contextlib.suppress(EvacError):
                found = by_plan(answer, ready.plan, await plan_of(room, ready.plan), room.office.before)
                return replace(found, capacity=await room.office.capacity(ready.plan))
    return answer


def by_plan(answer: WhatIf, digest: str, plan: Plan, before: Plan | None) -> WhatIf:
    """The result of a verified plan; the audit says why a service is down."""
    known = {one.service: one for one in answer.services}
    fates = {"restored": "recovers", "shed": "lost", "unplaced": "lost"}
    reasons = {one.service: one.reason for one in plan.outcomes}
    services = []
    for one in made_worse(plan, before)[0]:
        fate = fates.get(one.state, one.state)
        if one.state == "restored" and not one.goes_down:
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
        chain = seen.chain
        if len(chain) > 1 and (reason := reasons.get(chain[-2])):
            chain = (*chain[:-1], reason)
        recovery, rto = one.recovery_ms, one.rto_ms
        services.append(
            replace(seen, fate=fate, recovery_ms=recovery, rto_ms=rto, chain=chain, down=one.goes_down)
        )
    loss = loss_by(answer.loss, verdict_of(digest, plan, before))
    return replace(answer, loss=loss, services=tuple(services))


PAGE: Final = frame.Page("/what-if", "What if", icon="whatif", group="Prepare", key="w")
Name = Annotated[str, Query(max_length=512)]


@PAGE.router.get(PAGE.path)
async def what_if(
    request: Request,
    lose: Annotated[list[Annotated[str, Query(max_length=512)]], Query(max_length=DOMAINS_MOST)] = [],  # noqa: B006 - never changed
    find: Annotated[str, Query(max_length=200)] = "",
    begin: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    of: Name = "",
) -> Response:
    """lose: domains that are lost at once. find: words in the names of more domains to select. begin: the
    first service to list. of: the service whose needs the graph shows.
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
