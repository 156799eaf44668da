"""What the page Now says first while something is lost: who is affected since when, when it is over against
what was planned, and the one next action. It is made of the run that answers the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from evac.model.errors import EvacError
from evac.office.incidents import IncidentShort
from evac.office.values import RunShort, SiteSeen, Situation
from evac.run.values import CORRUPT, ENDED
from evac.views import live_charts
from evac.views.documents import run_head
from evac.views.impact import Impact
from evac.views.live_charts import at
from evac.views.words import duration, figure_and_unit, listed, people, plural
from evac.web.api.runs import kept_plan, shown_of
from evac.web.pages.projection import Shown, projection_of, stamp_of
from evac.web.pages.run_charts import curves, impact
from evac.web.pages.run_view import NOTABLE_MS, hour, next_action
from evac.web.room import WarRoom

ROWS_MOST: Final = 8


@dataclass(frozen=True, slots=True)
class Fire:
    """What is lost, with the run that answers it; None where there is none, or where it cannot be read."""

    lost: tuple[SiteSeen, ...]
    shown: Shown | None
    incident: IncidentShort | None

    @property
    def stamp(self) -> object:
        view = self.shown.run.view if self.shown is not None else None
        of_run = (view.spec.run, stamp_of(view, self.shown.said.at_ms)) if view and self.shown else ()
        return (self.lost, of_run, self.incident)


async def fire_of(room: WarRoom, now_ms: int) -> Fire | None:
    """None while nothing is lost and no run answers a loss."""
    now = room.office.situation
    lost = tuple(site for site in now.sites if site.state in ("lost", "isolated"))
    readable = [run for run in now.open_runs if run.state != CORRUPT]
    run = next((one for one in readable if one.waits), readable[0] if readable else None)
    shown, incident = None, None
    if run is not None:
        try:
            shown = await _shown(room, run, now_ms)
            incident = next(iter(await room.office.incidents.lines([run.incident])), None)
        except EvacError:  # the store does not answer: the page says so, and shows what is known
            pass
    if shown is not None and (shown.moves or impact(shown) is None) and not lost:
        return None
    return Fire(lost, shown, incident) if lost or shown is not None else None


async def _shown(room: WarRoom, run: RunShort, now_ms: int) -> Shown:
    found = await shown_of(room, run.run)
    said = await projection_of(room, found.view, now_ms)
    return Shown(found, said, await kept_plan(room, found.view), run.created_ms, ())


def fire_context(fire: Fire, now: Situation, services: int, now_ms: int) -> dict[str, Any]:
    """services: how many the estate has; 0: not known yet."""
    names = [site.id for site in fire.lost]
    shown, short = fire.shown, fire.incident
    felt = impact(shown) if shown is not None else None
    waits = () if shown is None or shown.run.view.phase in ENDED else run_head(shown.run).waits
    found: dict[str, Any] = {
        "title": _title(names, felt, services),
        "since_ms": felt.lost_ms if felt is not None else min((s.since_ms for s in fire.lost), default=0),
        "by": listed(sorted({witness for site in fire.lost for witness in site.by}), 3),
        "incident": short,
        "run": shown.run.view.spec.run if shown is not None else "",
        "state": shown.run.view.phase.replace("_", " ") if shown is not None else "no run is under way",
        "next": None,
        "figures": [],
        "curve": {},
        "down": [],
        "down_rest": 0,
        "up": "",
    }
    if shown is None:
        return found | {"next": _plan_to_run(names, now)}
    found["next"] = next_action(shown, waits)
    if felt is not None:
        rows = [_down_row(felt, n, shown.said.waits) for n in range(len(felt.down))]
        found |= {
            "figures": _figures(felt, shown, services),
            "curve": curves(shown, felt, waits, live_charts.HALF, 330),
            "down": rows[:ROWS_MOST],
            "down_rest": max(0, len(rows) - ROWS_MOST),
            "up": listed([one.service for one in felt.services if not one.is_down], 8),
        }
    return found


def _title(names: list[str], felt: Impact | None, services: int) -> str:
    """`pangyo is lost. 4 of 12 services are down.`"""
    words = "Recovery is under way."
    if names:
        words = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} lost."
    if felt is None:
        return words
    down = len(felt.down)
    of = f"{down} of {plural(services, 'service')}" if services else plural(down, "service")
    return f"{words} {of} {'is' if down == 1 else 'are'} down." if down else f"{words} No service is down."


def _figures(felt: Impact, shown: Shown, services: int) -> list[dict[str, str]]:
    said = shown.said
    count, unit = figure_and_unit(felt.people_now)
    figures = [
        {
            "name": "People without a service",
            "value": count,
            "unit": unit,
            "more": f"At most. The peak was {people(felt.peak)}",
            "late": "",
            "bad": "",
        }
    ]
    end = max((one.expected_ms for one in felt.down), default=0)
    gap = said.late_ms
    late = f"{duration(gap // 1_000 * 1_000)} behind plan" if gap >= NOTABLE_MS else ""
    if end:
        seconds = max(0, end - felt.now_ms) // 1_000
        more = f"At {hour(end, felt.now_ms)}{', if approved now' if said.waits else ''}."
        figures.append(
            {
                "name": "Time to recovery",
                "value": f"{seconds // 60}:{seconds % 60:02}",
                "unit": "min",
                "more": more,
                "late": late,
                "bad": "",
            }
        )
    else:
        more = "Everything that this run restores is back." if felt.services else ""
        figures.append(
            {"name": "Time to recovery", "value": "done", "unit": "", "more": more, "late": "", "bad": ""}
        )
    coming = [one.service for one in felt.down if one.expected_ms]
    left = [one.service for one in felt.down if not one.expected_ms]
    recover = "recovers" if len(coming) == 1 else "recover"
    remain = "does not" if len(left) == 1 else "do not"
    figures.append(
        {
            "name": "Down now",
            "value": str(len(felt.down)),
            "unit": f"of {services}" if services else "",
            "more": f"{listed(coming, 3)} {recover}." if coming else "",
            "late": "",
            "bad": f"{listed(left, 3)} {remain}" if left else "",
        }
    )
    return figures


def _down_row(felt: Impact, n: int, waits: bool) -> dict[str, Any]:
    one = felt.down[n]
    forecast = "not in this plan"
    if one.expected_ms:
        forecast = at(one.expected_ms) + (" if approved" if waits else "")
    late = bool(one.limit_ms and one.expected_ms > one.limit_ms)
    return {
        "service": one.service,
        "people": people(one.people),
        "forecast": forecast,
        "late": late,
        "limit": hour(one.limit_ms, felt.now_ms, zone=False),
    }


def _plan_to_run(names: list[str], now: Situation) -> dict[str, Any] | None:
    """The plan that is ready for exactly this loss."""
    ready = next((one for one in now.drawer if set(one.lost) == set(names) and one.plan), None)
    if ready is None or not names:
        return None
    return {
        "title": f"Run the plan for the loss of {' and '.join(names)}?",
        "since_ms": 0,
        "href": f"/plans/{quote(ready.plan, safe=':')}",
        "label": "Review the plan",
        "others": [("Open an incident", "/incidents/new")],
        "cost": "",
        "waits": "No run is under way: nothing moves until a run is created.",
        "code": "",
        "command": "",
        "step": "",
        "words": "",
    }
