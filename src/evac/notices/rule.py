"""The rule that makes notices: (what was known before, what is known now) -> (what is known, what is told).

Invariants: of one concern `begins` and `over` take turns; nothing is told of what did not last as long as its
patience; a kind that could not be looked at changes nothing; the same look twice tells nothing new. A concern
that comes and goes within `QUIET_MS` is one concern. What held when findings and tools were looked at for the
first time is told of nobody: it is no news.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from evac.notices.values import (
    UPDATE,
    Concern,
    Held,
    Kind,
    Known,
    Memory,
    Message,
    News,
    Severity,
    State,
    rank,
)

QUIET_MS: Final = 30_000
"""So long a concern must be gone before it is over."""
AGAIN_MS: Final = 600_000
"""The same news within so long are told once."""
OPEN_MOST: Final = 50
"""Open concerns of one kind; more are counted, and not followed one by one."""
NEWS_MOST: Final = 200
SINGLE_MOST: Final = 3
"""So many messages of one kind and state are told one by one; more become one."""
SHOWN: Final = 3
ADOPTING: Final[frozenset[Kind]] = frozenset({"finding", "tool"})

_MANY: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        "site": "verdicts on sites",
        "run": "things wait for a person",
        "break-glass": "uses of break-glass",
        "trouble": "things could not be done",
        "tool": "tools stand in one site only",
        "lag": "copies lag beyond what was promised",
        "plan": "plans got worse, or are missing",
        "finding": "new errors of the audit",
        "status-page": "status pages are not written",
        "update": "updates were published",
    }
)
_OVER: Final[Mapping[Kind, str]] = MappingProxyType({"finding": "errors of the audit are gone"})


def tell(memory: Memory, known: Known, now_ms: int) -> tuple[Memory, tuple[Message, ...]]:
    """What is known after a look, and what is told of it: messages without ids, the gravest first."""
    held, adopted = dict(memory.open), dict(memory.adopted)
    drafts: list[Message] = []
    for kind in sorted(known.holds):
        now = {one.key: one for one in known.holds[kind]}
        before = adopted.get(kind)
        first = before is None and kind in ADOPTING
        kept = frozenset(now.keys() - held.keys()) if first else (before or frozenset()) & now.keys()
        fresh = sorted(now.keys() - held.keys() - kept)
        room = max(0, OPEN_MOST - sum(1 for one in held.values() if one.concern.kind == kind))
        if len(fresh) > room:
            drafts.append(_uncounted(kind, [now[key] for key in fresh[room:]], now_ms))
            kept |= frozenset(fresh[room:])
        adopted[kind] = kept
        for key in sorted(now.keys() - kept):
            held[key], found = _holds(held.get(key), now[key], now_ms)
            drafts += found
        gone = [one for one in held.values() if one.concern.kind == kind and one.concern.key not in now]
        for one in gone:
            drafts += _gone(held, one, now_ms)
    told, news = _news(memory.news, known.news, now_ms)
    after = Memory(MappingProxyType(held), MappingProxyType(adopted), MappingProxyType(news))
    return after, bundled([*drafts, *told])


def _holds(before: Held | None, concern: Concern, now_ms: int) -> tuple[Held, list[Message]]:
    """A concern that holds, and what is told of it."""
    held = Held(concern, now_ms) if before is None else replace(before, concern=concern, gone_ms=None)
    if now_ms - held.since_ms < concern.patience_ms and held.told is None:
        return held, []
    if held.told is not None and rank(concern.severity) <= rank(held.told):
        return held, []
    state: State = "begins" if held.told is None else "worse"
    return replace(held, told=concern.severity), [_draft(concern, state, concern.severity, now_ms)]


def _gone(held: dict[str, Held], one: Held, now_ms: int) -> list[Message]:
    """A concern that holds no more: over once it is gone for long enough; forgotten where nobody was told."""
    key = one.concern.key
    if one.told is None:
        del held[key]
    elif one.gone_ms is None:
        held[key] = replace(one, gone_ms=now_ms)
    elif now_ms - one.gone_ms >= QUIET_MS:
        del held[key]
        return [_draft(one.concern, "over", one.told, now_ms)]
    return []


def _draft(concern: Concern, state: State, severity: Severity, now_ms: int) -> Message:
    hint = "" if state == "over" else concern.hint
    return Message("", concern.kind, state, severity, concern.words, hint, now_ms, (concern.key,))


def _uncounted(kind: Kind, rest: list[Concern], now_ms: int) -> Message:
    severity = max((one.severity for one in rest), key=rank)
    words = f"{len(rest)} more {_MANY[kind]}: too many to follow one by one"
    return Message("", kind, "once", severity, words, "look in the war room", now_ms)


def _news(
    before: Mapping[str, int], news: Iterable[News], now_ms: int
) -> tuple[list[Message], dict[str, int]]:
    known = {name: at_ms for name, at_ms in before.items() if now_ms - at_ms < AGAIN_MS}
    told = []
    for one in news:
        told_as = Message("", one.kind, "once", one.severity, one.words, one.hint, now_ms, title=one.title)
        name = hashlib.sha256(f"{one.kind}\0{one.words}".encode()).hexdigest()[:16]
        if one.kind == UPDATE:
            told.append(told_as)
        elif name not in known:
            known[name] = now_ms
            told.append(told_as)
    return told, dict(sorted(known.items(), key=lambda pair: pair[1])[-NEWS_MOST:])


def bundled(drafts: Iterable[Message]) -> tuple[Message, ...]:
    """Many of one kind and state become one; the gravest first. What was published stays as it is."""
    groups: dict[tuple[Kind, State], list[Message]] = {}
    for draft in drafts:
        groups.setdefault((draft.kind, draft.state), []).append(draft)
    found: list[Message] = []
    for (kind, state), rows in groups.items():
        if kind == UPDATE:
            found += rows
            continue
        rows.sort(key=lambda one: (-rank(one.severity), one.words))
        found += [_alone(row) for row in rows] if len(rows) <= SINGLE_MOST else [_bundle(kind, state, rows)]
    return tuple(sorted(found, key=_place))


def _place(one: Message) -> tuple[int, str, str, str]:
    return -rank(one.severity), one.kind, one.state, "" if one.kind == UPDATE else one.words


def _alone(draft: Message) -> Message:
    return replace(draft, words=f"Over: {draft.words}") if draft.state == "over" else draft


def _bundle(kind: Kind, state: State, rows: list[Message]) -> Message:
    many = _OVER.get(kind, f"over: {_MANY[kind]}") if state == "over" else _MANY[kind]
    shown = "; ".join(row.words for row in rows[:SHOWN])
    words = f"{len(rows)} {many}: {shown}; and {len(rows) - SHOWN} more"
    keys = tuple(key for row in rows for key in row.keys)
    return Message("", kind, state, rows[0].severity, words, rows[0].hint, rows[0].at_ms, keys)
