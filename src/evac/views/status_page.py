"""The public status page: one self-contained file that survives any site, the same as JSON, and its feed
(RSS 2.0).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256
from typing import Any, Final
from xml.sax.saxutils import escape

from markupsafe import Markup

from evac.incident.components import DAYS, Component, Day, PublicIncident, StatusPage, Update, listed
from evac.model.wall_clock import WallClock
from evac.views import rendered
from evac.views.sheet import utc
from evac.views.words import duration, plural, wall_clock_here

ITEMS_MOST: Final = 200
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def status_feed(page: StatusPage, link: str) -> str:
    """link: the URL of the page. Newest first, at most ITEMS_MOST. Same input, same bytes."""
    wall = wall_clock_here()
    items = [
        (update.at_ms, _titled(update, one.title), _with_due(update, wall))
        for one in page.incidents
        for update in one.updates
    ]
    items.sort(key=lambda item: (-item[0], item[1], item[2]))
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<rss version="2.0">',
        "<channel>",
        f"<title>{_text(page.title)}</title>",
        f"<link>{_text(link)}</link>",
        f"<description>{_text(page.title)}: published updates</description>",
        f"<lastBuildDate>{_date(page.made_ms)}</lastBuildDate>",
    ]
    for at_ms, title, text in items[:ITEMS_MOST]:
        guid = sha256(f"{at_ms}\0{title}\0{text}".encode()).hexdigest()
        lines += [
            "<item>",
            f"<title>{_text(title)}</title>",
            f"<description>{_text(text)}</description>",
            f'<guid isPermaLink="false">{guid}</guid>',
            f"<pubDate>{_date(at_ms)}</pubDate>",
            "</item>",
        ]
    return "\n".join([*lines, "</channel>", "</rss>", ""])


def _with_due(update: Update, wall: WallClock) -> str:
    due = f"\n\nNext update by {wall.both(update.due_ms, update.at_ms)}." if update.due_ms else ""
    return update.text + due


def _titled(update: Update, title: str) -> str:
    """`Identified: Problems with Pay`."""
    words = update.title or title
    return f"{update.phase.capitalize()}: {words}" if update.phase else words


def _text(words: str) -> str:
    return escape(_CONTROL.sub(" ", words))


def _date(at_ms: int) -> str:
    """In RFC 822 format, which RSS requires."""
    return format_datetime(datetime.fromtimestamp(at_ms // 1000, UTC))


SCHEMA_VERSION: Final = 1
OVERALL: Final = {
    "unknown": "No services listed yet",
    "operational": "All systems operational",
    "maintenance": "Under maintenance",
    "degraded": "Degraded performance",
    "partial outage": "Partial outage",
    "major outage": "Major outage",
}


SHORT_MINUTES: Final = 30
"""A day with less outage than this counts as a day with a short outage."""


def status_html(page: StatusPage, wall: WallClock | None = None) -> str:
    """No script and no external request. Same input, same bytes."""
    wall = wall or wall_clock_here()
    return rendered(
        "status.html.j2",
        page=page,
        overall=headline(page),
        body=status_body(page, wall),
        made=wall.both(page.made_ms, page.made_ms),
        zone=f"{wall.label(page.made_ms)} ({wall.offset(page.made_ms)})",
        wall=wall,
    )


def status_body(page: StatusPage, wall: WallClock | None = None) -> Markup:
    """Ongoing incidents, components, past incidents: the same for users and for the people who publish."""
    wall = wall or wall_clock_here()
    return Markup(
        rendered(
            "status_body.html.j2",
            page=page,
            components=component_rows(page),
            left_down=left_down(page),
            days=DAYS,
            moment=lambda at_ms: wall.local(at_ms, page.made_ms),
            utc=lambda at_ms: "" if wall.is_utc else wall.beside(at_ms, page.made_ms),
            both=lambda at_ms: wall.both(at_ms, page.made_ms),
            iso=lambda at_ms: datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="seconds"),
            lasted=lambda one: duration((one.ended_ms - one.begun_ms) // 60_000 * 60_000 or 60_000),
        )
    )


def left_down(page: StatusPage) -> list[Component]:
    """What a resolved incident left down: it is not operational, and no open incident affects it."""
    told = {name for one in page.current for name in one.components}
    left = {name for one in page.past for name in one.components} - told
    states = ("operational", "maintenance")
    return [one for one in page.components if one.state not in states and one.name in left]


def headline(page: StatusPage) -> str:
    """`Major outage: Mail and Maps`; `All systems operational`."""
    if not page.components and page.current:
        return "Incident in progress"
    words = OVERALL[page.overall]
    named = [one.name for one in page.components if one.state == page.overall]
    return words if not named or page.overall == "operational" else f"{words}: {listed(named)}"


def preview_headline(page: StatusPage) -> str:
    """For the people who publish: what is affected and not public, then what users read."""
    public = {one.name: one.state for one in page.components}
    hidden = [
        one.name
        for one in page.recorded
        if one.state != "operational" and public.get(one.name) == "operational"
    ]
    if not hidden:
        return headline(page)
    are = "is" if len(hidden) == 1 else "are"
    return f"{listed(hidden)} {are} affected, but users see: {headline(page)}"


Bars = list[tuple[int, str, str]]


def component_rows(page: StatusPage) -> list[tuple[Component, str, str, Bars]]:
    """Return (component, its state as a CSS class, its days in words, a bar for each known day)."""
    return [(one, one.state.replace(" ", "-"), summary_words(one), _bars(one)) for one in page.components]


def _bars(component: Component) -> Bars:
    """Return (position among all days, style, words)."""
    known = known_days(component)
    states = ["operational"] * (len(known) - 1) + [component.state]
    places = range(DAYS - len(known), DAYS)
    return [
        (place, day_look(day, state), day_words(day))
        for place, day, state in zip(places, known, states, strict=False)
    ]


def known_days(component: Component) -> list[Day]:
    """From the first day with records; earlier ones are left out."""
    first = next((n for n, day in enumerate(component.days) if day.state != "unknown"), DAYS)
    return list(component.days[first:])


def day_look(day: Day, now: str = "operational") -> str:
    """The style of a bar. A full outage is `out` from half an hour on, or while it lasts."""
    if day.outage_minutes - day.partial_minutes >= SHORT_MINUTES or now == "major outage":
        return "out"
    if day.outage_minutes or day.degraded_minutes or now in ("partial outage", "degraded"):
        return "part"
    if day.state == "unknown":
        return "none"
    return "care" if day.maintenance_minutes or now == "maintenance" else ""


def day_words(day: Day) -> str:
    """The tooltip of a bar."""
    whole = day.outage_minutes - day.partial_minutes
    parts = [
        f"{plural(minutes, 'minute')} of {words}"
        for minutes, words in (
            (whole, "outage"),
            (day.partial_minutes, "partial outage"),
            (day.degraded_minutes, "degraded performance"),
            (day.maintenance_minutes, "maintenance"),
        )
        if minutes
    ]
    state = "no data" if day.state == "unknown" else "no outage"
    return f"{day.day.isoformat()}: {', '.join(parts) or state}"


def summary_words(component: Component) -> str:
    """The days in one sentence, also for people who do not see the bars."""
    known = [day for day in component.days if day.state != "unknown"]
    bad = [day for day in known if day.outage_minutes or day.degraded_minutes]
    minutes = sum(day.outage_minutes for day in known)
    if not known:
        return "no data yet"
    if not bad:
        return f"no outage in {plural(len(known), 'day')}"
    lasted = f"{duration(minutes * 60_000)} of outage" if minutes else "degraded"
    return f"{lasted} on {plural(len(bad), 'day')} of {len(known)}"


def status_json(page: StatusPage) -> str:
    """The documented JSON of a status page."""
    body: dict[str, Any] = {
        "kind": "evac-status",
        "schema_version": SCHEMA_VERSION,
        "title": page.title,
        "made_at": utc(page.made_ms),
        "time_zone": wall_clock_here().name,
        "known_since": utc(page.known_ms) if page.known_ms else None,
        "state": page.overall,
        "components": [
            {
                "name": one.name,
                "state": one.state,
                "since": utc(one.since_ms),
                "days": [
                    {
                        "day": day.day.isoformat(),
                        "state": day.state,
                        "outage_minutes": day.outage_minutes,
                        "partial_minutes": day.partial_minutes,
                        "degraded_minutes": day.degraded_minutes,
                        "maintenance_minutes": day.maintenance_minutes,
                    }
                    for day in one.days
                ],
            }
            for one in page.components
        ],
        "incidents": [_incident(one) for one in page.incidents],
    }
    return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _incident(one: PublicIncident) -> dict[str, Any]:
    return {
        "title": one.title,
        "begun_at": utc(one.begun_ms),
        "ended_at": None if one.ended_ms is None else utc(one.ended_ms),
        "components": list(one.components),
        "updates": [
            {
                "at": utc(u.at_ms),
                "phase": u.phase,
                "title": u.title,
                "text": u.text,
                "next_by": utc(u.due_ms) if u.due_ms else None,
            }
            for u in one.updates
        ],
    }


def status_files(page: StatusPage, url: str) -> tuple[str, str, str]:
    """Return (the page, its feed, the same as JSON). url: the address of the page, for the feed."""
    return status_html(page), status_feed(page, url), status_json(page)
