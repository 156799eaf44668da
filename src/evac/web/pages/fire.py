"""What the page Now says first while something is lost: who is affected since when, when it will be over
compared with the plan, and the one next action. It is based on the run that responds to the loss, even
after that run has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from evac.model.errors import EvacError
from evac.model.records import dataclass
from evac.model.run_policy import SUCCEEDED
from evac.office.values import RunShort, SiteSeen, Situation
from evac.run.values import CORRUPT, ENDED
from evac.views import live_charts
from evac.views.decisions import served_by
from evac.views.documents import run_head
from evac.views.incident_document import IncidentShort
from evac.views.live_charts import Impact, at
from evac.views.wait_words import WaitRow
from evac.views.words import duration, figure_and_unit, listed, people, plural
from evac.web.api.runs import kept_plan, shown_of
from evac.web.pages.projection import Shown, curves, impact, projection_of, stamp_of
from evac.web.pages.run_view import NOTABLE_MS, hour, next_action
from evac.web.room import WarRoom

ROWS_MOST: Final = 8
_NOTHING_ASKED: Final[dict[str, Any]] = {
    "title": "",
    "since_ms": 0,
    "href": "",
    "label": "",
    "others": [],
    "cost": "",
    "waits": "",
    "code": "",
    "command": "",
    "step": "",
    "words": "",
}


@dataclass(frozen=True, slots=True)
class Fire:
    """What is lost, and the run that responds to it; None if there is none or it cannot be read."""

    lost: tuple[SiteSeen, ...]
    shown: Shown | None
    incident: IncidentShort | None
    unanswered: tuple[str, ...]
    """Sites that no run has evacuated, if none is in progress."""

    @property
    def stamp(self) -> object:
        view = self.shown.run.view if self.shown is not None else None
        of_run = (view.spec.run, stamp_of(view, self.shown.said.at_ms)) if view and self.shown else ()
        return (self.lost, of_run, self.incident, self.unanswered)

    @property
    def is_answered(self) -> bool:
        """Whether all sites that the run evacuates are lost: before it begins, they may still work."""
        leaves = self.shown.run.view.spec.envelope.sites if self.shown is not None else ()
        return bool(leaves) and set(leaves) <= {site.id for site in self.lost}

    @property
    def over(self) -> bool:
        """Whether people resolved the incident: no record shows what is up or down since then."""
        return self.incident is not None and self.incident.ended_ms is not None


async def fire_of(room: WarRoom, now_ms: int) -> Fire | None:
    """The fire; None if nothing is lost and no run responds to a loss."""
    now = room.office.situation
    lost = now.lost_sites
    readable = [run for run in now.open_runs if run.state != CORRUPT]
    run = next((one for one in readable if one.waits), readable[0] if readable else None)
    unanswered: tuple[str, ...] = ()
    if run is None:
        unanswered, run = _answered(now)
    shown, incident = None, None
    if run is not None:
        try:
            shown = await _shown(room, run, now_ms)
            incident = next(iter(await room.office.incidents.lines([run.incident])), None)
        except EvacError:  # the store does not answer: the page says so, and shows what is known
            pass
    if shown is not None and (shown.moves or impact(shown) is None) and not lost:
        return None
    return Fire(lost, shown, incident, unanswered) if lost or shown is not None else None


def _answered(now: Situation) -> tuple[tuple[str, ...], RunShort | None]:
    """Return (lost sites that no run has evacuated, the last run that evacuated the others if all were)."""
    ended = {one.run: one for one in now.ended_runs}
    left = {one.domain: one.run for one in now.lost if one.run}
    runs = {site.id: ended.get(left[site.id]) for site in now.lost_sites if site.id in left}
    failed = {name for name, run in runs.items() if run is not None and run.state not in SUCCEEDED}
    unanswered = tuple(site.id for site in now.lost_sites if site.id not in runs or site.id in failed)
    known = [run for run in runs.values() if run is not None]
    return unanswered, None if unanswered else max(known, key=lambda run: run.ended_ms, default=None)


async def _shown(room: WarRoom, run: RunShort, now_ms: int) -> Shown:
    found = await shown_of(room, run.run)
    # What has ended stays as it is, and is projected once.
    said = await projection_of(room, found.view, found.view.last_ms if found.view.phase in ENDED else now_ms)
    return Shown(found, said, await kept_plan(room, found.view), run.created_ms, ())


def fire_context(fire: Fire, now: Situation, services: int, now_ms: int) -> dict[str, Any]:
    """The template's values. services: how many the estate has; 0: not known yet."""
    names = [site.id for site in fire.lost]
    shown, short = fire.shown, fire.incident
    felt = impact(shown, fire.is_answered) if shown is not None and not fire.over else None
    waits = () if shown is None or shown.run.view.phase in ENDED else run_head(shown.run).waits
    found: dict[str, Any] = {
        "title": _title(names, felt, services, short.still_down if short and fire.over else ()),
        "since_ms": felt.lost_ms if felt is not None else now.lost_since_ms,
        "by": listed(sorted({witness for site in fire.lost for witness in site.by}), 3),
        "incident": short,
        "run": shown.run.view.spec.run if shown is not None else "",
        "state": _state(shown),
        "over": fire.over,
        "next": None,
        "figures": [],
        "curve": {},
        "down": [],
        "down_rest": 0,
        "up": "",
    }
    if shown is None:
        return found | {"next": _plan_to_run(fire.unanswered, names, now)}
    found["next"] = next_action(shown, waits)
    if shown.run.view.phase in ENDED and not fire.over:
        found["next"] = _resolve(short, felt)
    if felt is not None:
        asked = _asked(shown, waits, felt)
        rows = [_down_row(felt, n, asked) for n in range(len(felt.down))]
        found |= {
            "figures": _figures(felt, shown, services, asked),
            "curve": curves(shown, felt, waits, live_charts.HALF, 330),
            "down": rows[:ROWS_MOST],
            "down_rest": max(0, len(rows) - ROWS_MOST),
            "up": listed([one.service for one in felt.services if not one.is_down], 8),
        }
    return found


def _asked(shown: Shown, waits: Sequence[WaitRow], felt: Impact) -> frozenset[str]:
    """Services that are not restored until a person has done what the run waits for."""
    view = shown.run.view
    if not shown.said.begun_ms or any(not row.step for row in waits):
        return frozenset(one.service for one in felt.services)
    steps = {view.number(row.step) for row in waits}
    return frozenset(name for i in steps for name in served_by(view, i, shown.plan))


def _state(shown: Shown | None) -> str:
    if shown is None:
        return "no run is in progress"
    phase = shown.run.view.phase
    return f"run {phase.replace('_', ' ')}" if phase in ENDED else phase.replace("_", " ")


def _title(names: list[str], felt: Impact | None, services: int, left: Sequence[str]) -> str:
    """`pangyo is lost. 4 of 12 services are down.` left: services that were down when the incident was
    resolved.
    """
    words = "Recovery is in progress."
    if names:
        words = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} lost."
    if felt is None and left:
        were = "was" if len(left) == 1 else "were"
        some = " and ".join(left) if len(left) == 2 else listed(list(left), 3)
        return f"{words} {some[:1].upper()}{some[1:]} {were} still down when the incident was resolved."
    if felt is None:
        return words
    down = len(felt.down)
    of = f"{down} of {plural(services, 'service')}" if services else plural(down, "service")
    return f"{words} {of} {'is' if down == 1 else 'are'} down." if down else f"{words} No service is down."


def _figures(felt: Impact, shown: Shown, services: int, asked: frozenset[str]) -> list[dict[str, str]]:
    said = shown.said
    count, unit = figure_and_unit(felt.people_now)
    if felt.unstated_now:
        count, unit = ("unknown", "") if not felt.people_now else (f"at least {count}", unit)
    peak = people(felt.peak, felt.unstated)
    figures = [
        {
            "name": "People without a service",
            "value": count,
            "unit": unit,
            "more": f"The peak was {peak}" if felt.unstated else f"Upper bound. The peak was {peak}",
            "late": "",
            "bad": "",
        }
    ]
    last = max(felt.down, key=lambda one: (one.expected_ms, one.service in asked), default=None)
    end = last.expected_ms if last else 0
    gap = said.late_ms
    late = f"{duration(gap // 1_000 * 1_000)} behind plan." if gap >= NOTABLE_MS else ""
    if end:
        seconds = max(0, end - felt.now_ms) // 1_000
        more = f"At {hour(end, felt.now_ms)}{', if approved now' if last and last.service in asked else ''}."
        missed = [
            one.service
            for one in felt.down
            if one.limit_ms and not (one.expected_ms and one.expected_ms <= one.limit_ms)
        ]
        if not missed and all(one.limit_ms for one in felt.down):
            more += " Within every RTO."
        figures.append(
            {
                "name": "Time to recovery",
                "value": f"{seconds // 60}:{seconds % 60:02}" if seconds >= 60 else str(seconds),
                "unit": "min" if seconds >= 60 else "s",
                "more": more,
                "late": late,
                "bad": f"{listed(missed, 2)} will miss the RTO." if missed else "",
            }
        )
    else:
        more = "Everything this run restores is back." if felt.services else ""
        value = "none left" if felt.down else "done"
        figures.append(
            {"name": "Time to recovery", "value": value, "unit": "", "more": more, "late": "", "bad": ""}
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


def _down_row(felt: Impact, n: int, asked: frozenset[str]) -> dict[str, Any]:
    one = felt.down[n]
    forecast = "not in this plan"
    if one.expected_ms:
        forecast = at(one.expected_ms) + (" if approved" if one.service in asked else "")
    late = bool(one.limit_ms and one.expected_ms > one.limit_ms)
    return {
        "service": one.service,
        "people": people(one.people),
        "forecast": forecast,
        "late": late,
        "limit": hour(one.limit_ms, felt.now_ms, zone=False),
    }


def _plan_to_run(unanswered: Sequence[str], names: Sequence[str], now: Situation) -> dict[str, Any] | None:
    """The standby plan for what no run has evacuated yet, or for everything that is lost."""
    wanted = [set(unanswered), set(names)]
    ready = next((one for want in wanted for one in now.drawer if one.plan and set(one.lost) == want), None)
    if ready is None or not unanswered:
        return None
    return _NOTHING_ASKED | {
        "title": f"Run the plan for the loss of {' and '.join(sorted(ready.lost))}?",
        "href": f"/plans/{quote(ready.plan, safe=':')}",
        "label": "Review the plan",
        "others": [("Open an incident", "/incidents/new")],
        "waits": "No run is in progress: nothing happens until a run is created.",
    }


def _resolve(incident: IncidentShort | None, felt: Impact | None) -> dict[str, Any] | None:
    """What is left to do after the run has ended."""
    if incident is None:
        return None
    path = f"/incidents/{quote(incident.incident)}/write?kind="
    down = [one.service for one in felt.down] if felt is not None else []
    verb = "is" if len(down) == 1 else "are"
    update, resolve = ("Write a status update", f"{path}update"), ("Review and resolve", f"{path}resolved")
    (label, href), other = (update, resolve) if down else (resolve, update)
    title = f"{listed(down, 3)} {verb} still down" if down else "The run has ended. Resolve the incident?"
    return _NOTHING_ASKED | {
        "title": title,
        "href": href + ("&phase=monitoring" if down else ""),
        "label": label,
        "others": [other],
        "waits": "The run has ended: its plan does not restore them." if down else "",
    }
