"""The public status page: one self-contained file that outlives every site, the same as JSON, and its feed
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

from evac.incident.components import Component, Day, PublicIncident, StatusPage, Update
from evac.views import rendered
from evac.views.sheet import utc
from evac.views.words import plural

ITEMS_MOST: Final = 200
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def status_feed(page: StatusPage, link: str) -> str:
    """link: the address of the page. Newest first, at most ITEMS_MOST. Same input, same bytes."""
    items = [
        (update.at_ms, _titled(update, one.title), update.text)
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


def _titled(update: Update, title: str) -> str:
    """`Identified: Trouble with Pay`."""
    words = update.title or title
    return f"{update.phase.capitalize()}: {words}" if update.phase else words


def _text(words: str) -> str:
    return escape(_CONTROL.sub(" ", words))


def _date(at_ms: int) -> str:
    """As RFC 822 has it, which RSS asks for."""
    return format_datetime(datetime.fromtimestamp(at_ms // 1000, UTC))


SCHEMA_VERSION: Final = 1
OVERALL: Final = {
    "operational": "All systems operational",
    "maintenance": "Under maintenance",
    "degraded": "Degraded performance",
    "partial outage": "Partial outage",
    "major outage": "Major outage",
}


def status_html(page: StatusPage) -> str:
    """No script, no request to anywhere. Same input, same bytes."""
    return rendered(
        "status.html.j2",
        page=page,
        overall=OVERALL[page.overall],
        made=utc(page.made_ms),
        components=component_rows(page),
        incidents=[
            (one, utc(one.begun_ms), utc(one.ended_ms) if one.ended_ms else "") for one in page.incidents
        ],
        utc=utc,
    )


Bars = list[tuple[int, str, str]]


def component_rows(page: StatusPage) -> list[tuple[Component, str, str, Bars]]:
    """(component, its state as a class of styles, its days in words, a bar for each day)."""
    return [
        (
            one,
            one.state.replace(" ", "-"),
            summary_words(one),
            [(n, day.state.replace(" ", "-"), day_words(day)) for n, day in enumerate(one.days)],
        )
        for one in page.components
    ]


def day_words(day: Day) -> str:
    """What a bar says to whoever points at it."""
    parts = [
        f"{plural(minutes, 'minute')} {words}"
        for minutes, words in (
            (day.outage_minutes, "out"),
            (day.degraded_minutes, "degraded"),
            (day.maintenance_minutes, "in maintenance"),
        )
        if minutes
    ]
    state = "nothing is known" if day.state == "unknown" else day.state
    return f"{day.day.isoformat()}: {state}" + (f", {', '.join(parts)}" if parts else "")


def summary_words(component: Component) -> str:
    """The 90 days in one sentence, for who does not see the bars."""
    known = [day for day in component.days if day.state != "unknown"]
    bad = [day for day in known if day.outage_minutes or day.degraded_minutes]
    minutes = sum(day.outage_minutes for day in known)
    if not known:
        return "nothing is known of the last 90 days"
    if not bad:
        return f"no trouble in the {plural(len(known), 'day')} that are known"
    return f"{plural(minutes, 'minute')} out, trouble on {len(bad)} of {plural(len(known), 'known day')}"


def status_json(page: StatusPage) -> str:
    """The documented document of a status page."""
    body: dict[str, Any] = {
        "kind": "evac-status",
        "schema_version": SCHEMA_VERSION,
        "title": page.title,
        "made_at": utc(page.made_ms),
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
            {"at": utc(u.at_ms), "phase": u.phase, "title": u.title, "text": u.text} for u in one.updates
        ],
    }


def status_files(page: StatusPage, url: str) -> tuple[str, str, str]:
    """(the page, its feed, the same as JSON). url: the address of the page, for the feed."""
    return status_html(page), status_feed(page, url), status_json(page)
