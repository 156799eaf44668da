"""A first draft of a status update, in the words users know, from what the records say. Pure.

It says what is not available, what is back, and since when; causes, promises and apologies are left to the
person who edits and publishes it. Names inside are told to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from evac.incident.components import listed, trouble_with
from evac.incident.incident import Dossier, Summary
from evac.incident.notes import open_draft
from evac.incident.services import Fate, Level

_RANK: Final[Mapping[Level, int]] = {"up": 0, "moving": 1, "degraded": 2, "down": 3}


@dataclass(frozen=True, slots=True)
class Draft:
    """basis: `person` where somebody wrote it, `records` where it was made of them, `nothing` where users
    noticed nothing as far as anybody knows.
    """

    title: str
    text: str
    basis: str


@dataclass(frozen=True, slots=True)
class _Felt:
    """One component: its worst level now, and since when that is so."""

    name: str
    level: Level
    since_ms: int


def draft(dossier: Dossier, about: Summary, names: Mapping[str, str], now_ms: int) -> Draft:
    """The newest draft that a person wrote and nobody published; else one made of the records.

    names: service -> public name.
    """
    kept = open_draft(dossier.notes)
    if kept is not None:
        return Draft(kept.name, kept.text, "person")
    felt = _felt(about.fates, names)
    if not felt:
        return Draft("", "", "nothing")
    title = trouble_with([one.name for one in felt])
    if about.ended_ms is not None:
        words = f"{_names(felt)} {_verb(felt, 'works', 'work')} again"
        return Draft(f"{title}: over", f"{words} since {_moment(about.ended_ms, now_ms)}.", "records")
    down = [one for one in felt if one.level == "down"]
    less = [one for one in felt if one.level in ("degraded", "moving")]
    back = [one for one in felt if one.level == "up"]
    said = []
    if down:
        since = _moment(min(one.since_ms for one in down), now_ms)
        said.append(f"Since {since} {_names(down)} {_verb(down, 'is', 'are')} not available.")
    if less:
        said.append(f"{_names(less)} {_verb(less, 'works', 'work')}, but not in full.")
    if back:
        since = _moment(max(one.since_ms for one in back), now_ms)
        said.append(f"{_names(back)} {_verb(back, 'is', 'are')} back since {since}.")
    said.append("We are at work on it and will say here when that changes.")
    return Draft(title, " ".join(said), "records")


def _felt(fates: Iterable[Fate], names: Mapping[str, str]) -> list[_Felt]:
    """Components that users noticed, the worst first, then by name."""
    rows: dict[str, list[Fate]] = {}
    for fate in fates:
        if fate.service in names and fate.touched:
            rows.setdefault(names[fate.service], []).append(fate)
    found = []
    for name, parts in rows.items():
        worst = max(parts, key=lambda fate: (_RANK[fate.level], fate.changes[-1].at_ms))
        since_ms = min(f.changes[-1].at_ms for f in parts if f.level == worst.level)
        if worst.level == "up":
            since_ms = worst.changes[-1].at_ms
        found.append(_Felt(name, worst.level, since_ms))
    return sorted(found, key=lambda one: (-_RANK[one.level], one.name))


def _names(felt: Iterable[_Felt]) -> str:
    return listed([one.name for one in felt])


def _verb(felt: list[_Felt], one: str, many: str) -> str:
    return one if len(felt) == 1 else many


def _moment(at_ms: int, now_ms: int) -> str:
    """`14:02 UTC`, with the day where it is another one."""
    at, now = (datetime.fromtimestamp(ms / 1_000, UTC) for ms in (at_ms, now_ms))
    return at.strftime("%H:%M UTC" if at.date() == now.date() else "%H:%M UTC on %Y-%m-%d")
