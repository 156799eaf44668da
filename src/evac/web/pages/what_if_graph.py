"""The dependency graph of a what-if: the part that a person can read, and the same in words. Pure.

Of a thousand services that are down nobody reads a drawing. Shown are the reasons that take most with them,
the gravest services behind each with their chains, and how many more there are; or, of one service that was
asked about, all that it needs and that is down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote

from evac.office.facts import EstateFacts
from evac.office.what_if import FateOf, WhatIf
from evac.views.words import duration, listed, people, plural
from evac.web.layered import Arrow, Box, drawing

REASONS_MOST: Final = 6
BEHIND_MOST: Final = 3
BOXES_MOST: Final = 36
STANDING_MOST: Final = 6
DOWN: Final = ("lost", "recovers")
LEAD: Final = (
    "To the right is why; an arrow leads from a service to what it cannot do without. Each is drawn with its "
    "shortest chain. Choose a service to see all that it needs."
)
LEAD_OF_SERVICE: Final = (
    "An arrow leads to what is needed; a dashed one to what is only used. "
    "An arrow that others imply is left out."
)
STATES: Final = {
    "lost": "error",
    "recovers": "warning",
    "degraded": "note",
    "unknown": "unknown",
    "": "ok",
}
RANK: Final = {"lost": 0, "unknown": 1, "recovers": 2, "degraded": 3}


def gravity(one: FateOf) -> tuple[int, int, int, str]:
    """Those first that do not come back, then by tier and by people."""
    return (RANK.get(one.fate, 9), 9 if one.tier is None else one.tier, -(one.people or 0), one.service)


def fate_words(one: FateOf | None) -> str:
    """What becomes of a service, in a few words."""
    if one is None:
        return "stands"
    if one.fate == "recovers":
        late = one.rto_ms is not None and one.recovery_ms is not None and one.recovery_ms > one.rto_ms
        back = "down" if one.recovery_ms is None else f"back after {duration(one.recovery_ms)}"
        return f"{back}, late" if late else back
    return {"lost": "does not come back", "unknown": "cannot be judged"}.get(one.fate, one.fate)


@dataclass(slots=True)
class _Part:
    """What is drawn: boxes by key, and arrows between keys."""

    boxes: dict[str, Box] = field(default_factory=dict)
    arrows: dict[tuple[str, str], bool] = field(default_factory=dict)

    def drawn(self, name: str, title: str, told: str) -> str:
        index = {key: number for number, key in enumerate(self.boxes)}
        arrows = [Arrow(index[a], index[b], soft) for (a, b), soft in self.arrows.items()]
        return drawing(name, title, told, list(self.boxes.values()), arrows)


@dataclass(frozen=True, slots=True)
class _Reason:
    """What is down by itself, why, and all that is down because of it, itself included."""

    root: str
    why: str
    behind: tuple[FateOf, ...]

    @property
    def rank(self) -> tuple[int, int, int, str]:
        lost = sum(1 for one in self.behind if one.fate == "lost")
        return (-lost, -sum(one.people or 0 for one in self.behind), -len(self.behind), self.root)


def graph(facts: EstateFacts, answer: WhatIf, of: str) -> dict[str, Any] | None:
    """The drawing with its words; None where nothing is down. of: the service that was asked about, or ""."""
    fates = {one.service: one for one in answer.services}
    query = "".join(f"lose={quote(name, safe='')}&" for name in answer.domains)
    known = {service.id: service.needs for service in facts.services}
    if of in known:
        return _of_service(fates, query, of, known[of])
    return _overview(fates, query)


def _overview(fates: Mapping[str, FateOf], query: str) -> dict[str, Any] | None:
    reasons = _reasons(fates.values())
    if not reasons:
        return None
    part, shown = _Part(), reasons[:REASONS_MOST]
    told = []
    for number_of, reason in enumerate(shown):
        told.append(_draw_reason(part, fates, query, f"reason {number_of}", reason))
    rest = reasons[REASONS_MOST:]
    hidden = len({one.service for reason in rest for one in reason.behind})
    degraded = sum(1 for one in fates.values() if one.fate == "degraded")
    more = []
    if rest:
        more.append(
            f"{plural(len(rest), 'reason')} more {'takes' if len(rest) == 1 else 'take'} "
            f"{plural(hidden, 'service')} down; the table below has the chain of each."
        )
    if degraded:
        verb = "serves" if degraded == 1 else "serve"
        more.append(
            f"{plural(degraded, 'service')} {verb} less and {'is' if degraded == 1 else 'are'} not drawn."
        )
    said = (
        f"What the loss takes by itself, to the right, and what is down because of it: {len(shown)} reasons."
    )
    if len(shown) == 1:
        said = said.replace("1 reasons", "1 reason")
    return {
        "svg": part.drawn("spread", "How the loss spreads", said),
        "of": "",
        "told": told,
        "more": more,
        "lead": LEAD,
    }


def _reasons(services: Iterable[FateOf]) -> list[_Reason]:
    """What chains end at, those that take most with them first."""
    found: dict[tuple[str, str], list[FateOf]] = {}
    for one in services:
        if one.fate in DOWN and len(one.chain) > 1:
            found.setdefault((one.chain[-2], one.chain[-1]), []).append(one)
    reasons = [_Reason(root, why, tuple(sorted(rows, key=gravity))) for (root, why), rows in found.items()]
    return sorted(reasons, key=lambda reason: reason.rank)


def _draw_reason(
    part: _Part, fates: Mapping[str, FateOf], query: str, key: str, reason: _Reason
) -> dict[str, Any]:
    """One reason with the gravest services behind it; the same in words."""
    chosen = [one for one in reason.behind if one.service != reason.root][:BEHIND_MOST]
    part.boxes[key] = Box("", reason.why, "cause", reason=True)
    _draw_chain(part, fates, query, (reason.root,), key)
    for one in chosen:
        _draw_chain(part, fates, query, one.chain[:-1], key)
    drawn = {name for one in chosen for name in one.chain[:-1]} | {reason.root}
    rest = [one for one in reason.behind if one.service not in drawn]
    words = ""
    if rest:
        felt = sum(one.people or 0 for one in rest)
        name = f"{plural(len(rest), 'more service', 'more services')}"
        words = f"{people(felt)} people" if felt else "nobody uses them directly"
        part.boxes[f"more {key}"] = Box(name, words, "rest")
        part.arrows[f"more {key}", reason.root] = False
    rows = [one for one in reason.behind if one.service == reason.root] + chosen
    return {
        "why": reason.why,
        "count": plural(len(reason.behind), "service"),
        "rows": [row_of(one) for one in rows],
        "rest": len(rest),
    }


def _draw_chain(
    part: _Part, fates: Mapping[str, FateOf], query: str, names: Sequence[str], last: str
) -> None:
    for name in names:
        part.boxes.setdefault(name, _box(fates, query, name))
    for name, needed in zip(names, (*names[1:], last), strict=True):
        part.arrows.setdefault((name, needed), False)


def _box(fates: Mapping[str, FateOf], query: str, name: str) -> Box:
    one = fates.get(name)
    address = f"/what-if?{query}of={quote(name, safe='')}#h-graph"
    return Box(name, fate_words(one), STATES[one.fate if one else ""], address=address)


def _own_reason(one: FateOf | None) -> str:
    """Why a service is down by itself; empty where something that it needs is why."""
    return "" if one is None or len(one.chain) != 2 else one.chain[1]


def row_of(one: FateOf) -> dict[str, Any]:
    """A service with its fate and its chain: names, and at the end the reason."""
    return {
        "id": one.service,
        "words": fate_words(one),
        "state": STATES[one.fate],
        "path": list(one.chain[:-1]) or [one.service],
        "why": one.chain[-1] if len(one.chain) > 1 else "",
    }


def _of_service(fates: Mapping[str, FateOf], query: str, of: str, needs: Sequence[str]) -> dict[str, Any]:
    """All that one service needs and that is down, transitively; what stands is told in words."""
    part, one = _Part(), fates.get(of)
    part.boxes[of] = replace(_box(fates, query, of), why=_own_reason(one), strong=True)
    left = _spread(part, fates, query, of)
    _reduce(part, of)
    told = [row_of(fates[name]) for name in part.boxes if name in fates]
    down = set(one.needs) | set(one.wants) if one else set()
    standing = sorted(name for name in needs if name not in down)
    users = sorted(name for name, fate in fates.items() if of in fate.needs)
    more = []
    if left:
        more.append(
            f"{plural(left, 'service')} more that it needs in turn {'is' if left == 1 else 'are'} down."
        )
    if standing:
        verb = "stands" if len(standing) == 1 else "stand"
        more.append(f"Of what it needs itself, {listed(standing, STANDING_MOST)} {verb}.")
    if users:
        verbs = ("is", "needs") if len(users) == 1 else ("are", "need")
        counted = f"{plural(len(users), 'service')} that {verbs[0]} down {verbs[1]} it"
        more.append(f"{counted}: {listed(users, STANDING_MOST)}.")
    said = f"{of}: {fate_words(one)}. {plural(len(part.boxes) - 1, 'service')} that it needs or uses."
    return {
        "svg": part.drawn("spread", f"What {of} needs", said),
        "of": of,
        "told": [{"why": "", "count": "", "rows": told, "rest": 0}],
        "more": more,
        "lead": f"{of}: {fate_words(one)}. {LEAD_OF_SERVICE}",
    }


def _spread(part: _Part, fates: Mapping[str, FateOf], query: str, of: str) -> int:
    """Puts in what is needed, level by level, the gravest first; how many found no room."""
    waiting, left = [of], set()
    while waiting:
        following: list[str] = []
        for name in waiting:
            one = fates.get(name)
            if one is None:
                continue
            soft = one.wants if name == of else ()
            for other in sorted(
                {*one.needs, *soft}, key=lambda n: gravity(fates[n]) if n in fates else (9, 9, 0, n)
            ):
                if other not in part.boxes:
                    if len(part.boxes) >= BOXES_MOST:
                        left.add(other)
                        continue
                    part.boxes[other] = replace(_box(fates, query, other), why=_own_reason(fates.get(other)))
                    following.append(other)
                if other != of:
                    part.arrows.setdefault((name, other), other not in one.needs)
        waiting = following
    return len(left - set(part.boxes))


def _reduce(part: _Part, of: str) -> None:
    """Leaves out arrows that a longer way implies. In a circle nothing is left out."""
    after: dict[str, set[str]] = {}
    for begin, end in part.arrows:
        after.setdefault(begin, set()).add(end)
    reach = {name: _reached(after, name) for name in after}
    for begin, end in list(part.arrows):
        through = (other for other in after[begin] if other != end and begin not in reach.get(other, ()))
        if any(end in reach.get(other, ()) for other in through) and not part.arrows[begin, end]:
            del part.arrows[begin, end]


def _reached(after: Mapping[str, set[str]], begin: str) -> set[str]:
    found: set[str] = set()
    work = [begin]
    while work:
        for other in after.get(work.pop(), ()):
            if other not in found:
                found.add(other)
                work.append(other)
    return found
