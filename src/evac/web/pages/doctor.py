"""The page Doctor: what evac does for each service and store, what people do, what cannot be done, and
how to fix that. Systems are queried on request; the page shows the latest result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response

from evac.office.doctor import DoctorSeen
from evac.views.doctor_view import SET_CLOCK, Ability, Diagnosis, NextStep
from evac.views.words import listed, number, plural
from evac.web.access.port import Actor, need
from evac.web.pages import frame
from evac.web.room import room_of

PAGE: Final = frame.Page("/doctor", "Doctor", icon="shield", group="Prepare", key="d")
ROWS_MOST: Final = 200
STEPS_MOST: Final = 20
REASONS_MOST: Final = 12
LOOKS: Final = {"automatic": "good", "by hand": "warn", "nobody": "bad"}
ICONS: Final = {"automatic": "check", "by hand": "hand", "nobody": "x"}


@PAGE.router.get(PAGE.path)
async def doctor(request: Request, actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """The latest result, the worst first. Made for one person, who may or may not start a new check."""
    office = room_of(request).office
    seen = office.doctor.seen
    found = seen.found
    body = frame.render(
        "doctor.html.j2",
        PAGE.path,
        office.clock.now_ms(),
        seen=seen,
        answer=answer_of(seen),
        cards=() if found is None else figures(found),
        steps=() if found is None else [step_of(step) for step in found.next_steps()[:STEPS_MOST]],
        more_steps=0 if found is None else max(0, len(found.next_steps()) - STEPS_MOST),
        rows=() if found is None else rows_of(found),
        more_rows=0 if found is None else max(0, len(found.subjects()) - ROWS_MOST),
        set_clock=SET_CLOCK,
        actor=actor,
        may_ask=actor.has("operator"),
    )
    return Response(body, 200, {"cache-control": "no-store"}, frame.HTML)


@PAGE.router.post(PAGE.path)
async def ask(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """Query every system; the page shows the result once it is complete."""
    room_of(request).office.doctor.begin(actor.name)
    return Response(None, 303, {"location": PAGE.path, "cache-control": "no-store"})


def answer_of(seen: DoctorSeen) -> tuple[str, str, str]:
    """Return (sentence, details, style)."""
    found = seen.found
    if found is None:
        more = (
            "evac asks every endpoint what it can do now. This takes up to two minutes and changes nothing."
        )
        return "No check has been made yet.", more, ""
    counts, broken = found.counts(), found.broken()
    total = sum(counts.values())
    if not total:
        return "The estate lists no services and no stores.", "Add them, then ask again.", "warn"
    look = "bad" if counts["nobody"] or broken else "warn" if counts["by hand"] or found.clocks else "good"
    more = f"{plural(found.endpoints, 'endpoint')} asked; nothing was changed."
    if broken:
        more = f"{listed(broken, 3)} cannot do what {'they are' if len(broken) > 1 else 'it is'} for. {more}"
    well = number(counts["automatic"])
    some = f"{well} of {number(total)} services and stores"
    words = f"evac can do everything for {'every service and store' if well == number(total) else some}."
    return words, more, look


def figures(found: Diagnosis) -> list[dict[str, str]]:
    """How many services and stores have each verdict, and how many endpoints fail."""
    counts, broken = found.counts(), len(found.broken())
    total = number(sum(counts.values()))
    texts = {
        "automatic": "evac does everything",
        "by hand": "a person has to act",
        "nobody": "something cannot be done at all",
    }
    cards = [
        {
            "name": verdict.capitalize(),
            "value": f"{number(count)} of {total}",
            "more": texts[verdict],
            "state": LOOKS[verdict] if count and verdict != "automatic" else "",
        }
        for verdict, count in counts.items()
    ]
    asked = f"of {plural(found.endpoints, 'endpoint')} asked"
    fail = {
        "name": "Endpoints that fail",
        "value": number(broken),
        "more": asked,
        "state": "bad" * bool(broken),
    }
    return [*cards, fail]


def step_of(step: NextStep) -> dict[str, Any]:
    """One thing to do, and what it is for."""
    first = step.abilities[0]
    return {
        "words": step.words,
        "kind": "Endpoint fails" if first.is_broken else first.verdict.capitalize(),
        "look": "bad" if first.is_broken or first.verdict == "nobody" else "warn",
        "endpoint": first.endpoint if first.is_broken else "",
        "why": first.why if first.is_broken else "",
        "subjects": listed(step.subjects, 5),
    }


def rows_of(found: Diagnosis) -> list[dict[str, Any]]:
    """One row for each service and store, the worst first."""
    rows = []
    for kind, subject in found.subjects()[:ROWS_MOST]:
        mine = found.of(kind, subject)
        verdict = found.verdict(subject)
        rest = _reasons(mine)
        # What evac does automatically, in one line.
        does = listed([a.what for a in mine if a.verdict == "automatic"], 4)
        rows.append(
            {
                "name": subject,
                "kind": kind,
                "verdict": verdict,
                "look": LOOKS[verdict],
                "icon": ICONS[verdict],
                "does": does,
                "rest": rest[:REASONS_MOST],
                "more": max(0, len(rest) - REASONS_MOST),
            }
        )
    return rows


def _reasons(abilities: Sequence[Ability]) -> list[tuple[str, str, str]]:
    """Return (what, endpoint, why) for everything evac does not do; items with the same reason are merged."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in abilities:
        if one.verdict != "automatic":
            found.setdefault((one.endpoint, one.why), []).append(one.what)
    return [(listed(what, 6), endpoint, why) for (endpoint, why), what in found.items()]
