"""The page at the end of the October 2022 story: what happened, what evac did, and what was assumed.

Times are milliseconds since the fire. The published hours and evac's are on one axis, so that no one has
to compare numbers; every assumption is listed with its source.
"""

from __future__ import annotations

from typing import Any, Final

from markupsafe import Markup

from evac.model.records import dataclass
from evac.views import rendered
from evac.views.svg import Card, Part, Series, Shares, curves, shares
from evac.views.words import duration, number, people, plural

PUBLISHED_LAST_MS: Final = 459_000_000
"""127 h 30 min: until the last service was restored, as the ministry published in December 2022."""
PUBLISHED_MESSENGER_MS: Final = 36_000_000
"""About ten hours: until messages could be sent again."""
PUBLISHED_POWER_MS: Final = 63_000_000
"""17 h 30 min: until nine tenths of the power in Pangyo were restored."""

_HOUR_S: Final = 3_600


@dataclass(frozen=True, slots=True)
class Chapter:
    """One part of the story."""

    title: str
    begin_ms: int
    end_ms: int
    style: str
    facts: tuple[str, ...]
    """Sentences, the most important first."""
    how: str
    real_ms: int
    """How long it took on this machine."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """One assumption, its value in words, and its source."""

    what: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Wave:
    """The cold start as counted by the fleet and the journal."""

    servers: int
    came_up: int
    degraded: int
    to_the_floor: int
    trips: int
    """Number of feeds that exceeded their limit."""
    again: int
    """Servers that were switched on again after a failed attempt."""
    began_ms: int
    ended_ms: int
    bound_ms: int
    """No order can be faster than this."""
    up: tuple[tuple[int, int], ...]
    """(milliseconds since the fire, servers that are up), in ascending order of time."""
    speed: int = 1
    """How much faster than real time it ran."""


@dataclass(frozen=True, slots=True)
class October:
    """The whole story."""

    servers: int
    burnt: int
    """Servers in the building."""
    services: int
    people: int
    chapters: tuple[Chapter, ...]
    back: tuple[tuple[int, int], ...]
    """(milliseconds since the fire, services not restored yet), in ascending order of time."""
    wave: Wave
    messenger_ms: int | None
    """When messages could be sent again."""
    last_ms: int | None
    """When the last service was restored."""
    home_ms: int
    """When everything was again where the files declare it."""
    missing: tuple[str, ...]
    assumptions: tuple[Assumption, ...]


def october_page(story: October, footer: str) -> str:
    """A whole page, self-contained. Same input, same bytes."""
    context: dict[str, Any] = {
        "title": "15 October 2022, again",
        "lead": _lead(story),
        "verdict": _verdict(story),
        "cards": _cards(story),
        "chapters": [
            {
                "title": c.title,
                "begin": _begin(c),
                "end": duration(c.end_ms),
                "facts": c.facts,
                "how": c.how,
                "real": duration(c.real_ms) if c.real_ms else "",
            }
            for c in story.chapters
        ],
        "beside": Markup(_beside(story)),
        "back": Markup(_back(story)),
        "wave": Markup(_wave(story.wave)),
        "wave_words": _wave_words(story.wave),
        "missing": story.missing,
        "assumptions": story.assumptions,
        "footer": footer,
    }
    return rendered("october.html.j2", **context)


def october_text(story: October) -> str:
    """The same in a few lines for a terminal."""
    lines = [_verdict(story)[0], ""]
    width = max(len(chapter.title) for chapter in story.chapters)
    for chapter in story.chapters:
        first = chapter.facts[0] if chapter.facts else ""
        span = f"{_begin(chapter)} to {duration(chapter.end_ms)}"
        lines.append(f"  {span:>24}  {chapter.title:<{width}}  {first}")
    lines += ["", *(f"  {words}" for words in _wave_words(story.wave))]
    lines += ["", f"  {'':<34}{'published':>12}{'evac':>16}"]
    for what, published, ours in _rows(story):
        lines.append(f"  {what:<34}{published:>12}{ours:>16}")
    return "\n".join(lines) + "\n"


def _lead(story: October) -> str:
    return (
        f"A fire knocks out a building with {number(story.burnt)} of {number(story.servers)} servers. "
        f"{plural(story.services, 'service')} and {people(story.people)} users are affected. "
        "This page replays the day with evac: the same program that you use in production plans the "
        "evacuation, executes it and boots the site."
    )


def _verdict(story: October) -> tuple[str, str]:
    if story.last_ms is None:
        words = f"{plural(len(story.missing), 'service')} did not come back within this simulation."
        return words, "error"
    times = PUBLISHED_LAST_MS / max(1, story.last_ms)
    return (
        f"The last service is back after {duration(story.last_ms)}; in 2022 it took 127 h 30 min, "
        f"{times:.0f} times as long.",
        "warning" if story.wave.trips else "ok",
    )


def _cards(story: October) -> list[Card]:
    wave = story.wave
    over = wave.ended_ms - wave.began_ms
    return [
        Card("Messages can be sent again", duration(story.messenger_ms), "about 10 h in 2022", "ok"),
        Card(
            "The last service is back",
            duration(story.last_ms),
            "127 h 30 min in 2022",
            "error" if story.last_ms is None else "ok",
        ),
        Card(
            f"{number(wave.came_up)} of {number(wave.servers)} servers are up",
            duration(over),
            f"no order can beat {duration(wave.bound_ms)}; by hand, over days, in 2022",
        ),
        Card(
            "Feeds tripped",
            number(wave.trips),
            "counted by the simulated feeds",
            "error" if wave.trips else "ok",
        ),
    ]


def _rows(story: October) -> list[tuple[str, str, str]]:
    return [
        ("messages can be sent again", "about 10 h", duration(story.messenger_ms)),
        ("the last service is back", "127 h 30 min", duration(story.last_ms)),
        ("everything is back home", "not published", duration(story.home_ms)),
    ]


def _begin(chapter: Chapter) -> str:
    return duration(chapter.begin_ms) if chapter.begin_ms else "0"


def _beside(story: October) -> str:
    """The published hours and evac's as bars on one scale, each with its value."""
    rows = [
        _bar("Messages, 2022", "gone", PUBLISHED_MESSENGER_MS, "about 10 h"),
        _bar("Messages, evac", "start", story.messenger_ms),
        _bar("The last service, 2022", "gone", PUBLISHED_LAST_MS, "127 h 30 min"),
        _bar("The last service, evac", "start", story.last_ms),
        _bar("Everything is back home; evac", "verify", story.home_ms),
    ]
    words = (
        f"Published: 10 h and 127 h 30 min. evac: {duration(story.messenger_ms)}, {duration(story.last_ms)}."
    )
    return shares("beside", "The 2022 outage: as it happened, and with evac", words, rows)


def _bar(label: str, style: str, end_ms: int | None, value: str = "") -> Shares:
    """A bar relative to the longest published outage; none for anything that does not end within the
    story.
    """
    words = value or duration(end_ms)
    share = 0.0 if end_ms is None else end_ms / PUBLISHED_LAST_MS
    return Shares(label, ((Part(share, style, words),),), words)


def _back(story: October) -> str:
    """Services not restored yet, over time."""
    end = max(story.home_ms, *(at for at, _ in story.back), _HOUR_S * 1_000) / 1_000
    points = tuple((at / 1_000, float(count)) for at, count in story.back)
    words = (
        f"{plural(story.services, 'service')} go down in the fire; {number(story.back[-1][1])} at the end."
    )
    series = (
        Series("services not yet back", "area", points, filled=True),
        Series("services not yet back", "line", points),
    )
    return curves("back", "Services not yet back", words, series, end, float(story.services))


def _wave(wave: Wave) -> str:
    """Servers that are up, over the time of the wave."""
    upto = max(1.0, (wave.ended_ms - wave.began_ms) / 1_000)
    points = tuple(((at - wave.began_ms) / 1_000, float(count)) for at, count in wave.up)
    words = (
        f"{number(wave.came_up)} of {number(wave.servers)} servers are up after {duration(int(upto * 1000))}."
    )
    series = (
        Series("servers up", "area", points, filled=True),
        Series("servers up", "line", points),
    )
    return curves("wave", "Servers that are up", words, series, upto, float(wave.servers))


def _wave_words(wave: Wave) -> list[str]:
    late = (
        f"Time ran {number(wave.speed)} times as fast here: one second spent waiting for a silent "
        f"controller, or because this machine was busy, counts as {duration(1_000 * wave.speed)}."
    )
    return [
        f"{number(wave.came_up)} of {plural(wave.servers, 'server')} came up, "
        f"{number(wave.degraded)} of them degraded; "
        f"{number(wave.to_the_floor)} go to on-site staff.",
        f"It took {duration(wave.ended_ms - wave.began_ms)}; no order can beat {duration(wave.bound_ms)}.",
        f"Feeds above their limit: {number(wave.trips)}. "
        f"Servers powered on again after a failed attempt: {number(wave.again)}.",
        *([late] if wave.speed > 1 else []),
    ]
