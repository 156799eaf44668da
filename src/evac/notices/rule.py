"""The rule that makes notices: (what was known before, what is known now) -> (what is known, what is told).

What each source that is looked at means for people comes first: plain facts in, concerns out. Invariants of
the rule: of one concern `begins` and `over` take turns; nothing is told of what did not last as long as its
patience; a kind that could not be looked at changes nothing; the same look twice tells nothing new. A
concern that comes and goes within `QUIET_MS` is one concern. What held when findings and tools were looked
at for the first time is told to no one: it is no news.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from evac.model.records import dataclass
from evac.model.run_policy import SUCCEEDED
from evac.notices.values import (
    UPDATE,
    Concern,
    Held,
    Kind,
    Known,
    Memory,
    Message,
    MessageState,
    News,
    Reference,
    Severity,
    rank,
)
from evac.run.values import left_of, left_words

SUSPECT_MS: Final = 30_000
LAG_MS: Final = 10_000
WAITS_MS: Final = 5_000
PAGE_MS: Final = 120_000
NO_PLAN_MS: Final = 60_000
STALE_MS: Final = 900_000
"""So long a suspicion, a lag, a run that waits, a page that is not written, a missing plan and one of an
earlier estate are given to end by themselves."""
WORSE: Final = (6, 5)
GOOD_AGAIN: Final = (11, 10)
"""A plan counts as worse from 20 % on, and as good again at 10 %. However large, that is only a warning:
after a loss most plans are worse, and the person on call has more urgent work.
"""
PUBLISHED_MS: Final = 86_400_000
"""An update that is older is told to nobody any more; those of twice the time are known by name."""
TEXT_MOST: Final = 300
PLANS_MOST: Final = 5_000


@dataclass(frozen=True, slots=True)
class Lag:
    """A copy of a store, its last observed lag behind the primary, and the promised limit."""

    store: str
    site: str
    lag_ms: int
    rpo_ms: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """What lies in the drawer for one loss. cost: weighted outage; None: not known. fits: whether it is of
    the estate as it is now.
    """

    loss: str
    cost: int | None
    problem: str
    fits: bool


def short(words: str) -> str:
    """One line that is not too long, without what could change how text is shown."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    return plain if len(plain) <= TEXT_MOST else plain[: TEXT_MOST - 1] + "…"


def of_sites(verdicts: Mapping[str, tuple[str, str]]) -> tuple[Concern, ...]:
    """Site -> (verdict, reason)."""
    grave: Mapping[str, tuple[Severity, int]] = {
        "lost": ("critical", 0),
        "isolated": ("error", SUSPECT_MS),
        "suspect": ("warning", SUSPECT_MS),
    }
    found = []
    for site, (state, reason) in sorted(verdicts.items()):
        if state in grave:
            severity, patience_ms = grave[state]
            words = short(f"{site} is {state}" + (f": {reason}" if reason else ""))
            found.append(Concern(f"site/{site}", "site", severity, words, "see the Now page", patience_ms))
    return tuple(found)


def of_rivals(rows: Iterable[tuple[str, str, str]]) -> tuple[Concern, ...]:
    """(store, words, hint) of each store with two writable primaries: no alert is more severe."""
    return tuple(
        Concern(f"rivals/{store}", "site", "critical", short(words), short(hint))
        for store, words, hint in rows
    )


def of_silent(rows: Iterable[tuple[str, str, str]]) -> tuple[Concern, ...]:
    """(store, words, hint) of each store whose primary does not answer."""
    return tuple(
        Concern(f"silent/{store}", "site", "critical", short(words), short(hint))
        for store, words, hint in rows
    )


def of_findings(rows: Iterable[tuple[str, str, str, str]]) -> tuple[Concern, ...]:
    """(fingerprint, code, message, fix) of each error of the audit."""
    return tuple(
        Concern(f"finding/{mark}", "finding", "error", short(f"{code} {message}"), short(fix))
        for mark, code, message, fix in rows
    )


def of_tools(tools: Mapping[str, Collection[str]], gone: Collection[str]) -> tuple[Concern, ...]:
    """Recovery tools -> sites where they run. `gone`: sites that cannot be relied on now."""
    found = []
    for tool, sites in sorted(tools.items()):
        left = sorted(set(sites) - set(gone))
        if len(left) > 1:
            continue
        where = f"runs at {left[0]} only" if left else "no longer runs at any site"
        severity: Severity = "error" if left else "critical"
        words = f"{tool}, which recovery depends on, {where}"
        found.append(Concern(f"tool/{tool}", "tool", severity, words, "bring up a replica at another site"))
    return tuple(found)


def of_lags(lags: Iterable[Lag]) -> tuple[Concern, ...]:
    found = []
    for one in sorted(lags, key=lambda lag: (lag.store, lag.site)):
        if one.lag_ms > one.rpo_ms:
            words = (
                f"{one.store}: the copy in {one.site} is {_span(one.lag_ms)} behind; the promised maximum is "
            )
            words += f"{_span(one.rpo_ms)}"
            hint = "check replication; failing over now would exceed the RPO"
            key = f"lag/{one.store}/{one.site}"
            found.append(Concern(key, "lag", "error", short(words), hint, LAG_MS))
    return tuple(found)


def of_runs(waits: Mapping[str, Collection[tuple[str, str]]]) -> tuple[Concern, ...]:
    """Open run -> (key, words) of each thing that only a person can do now."""
    found = []
    for run, wants in sorted(waits.items()):
        for key, words in wants:
            mark = hashlib.sha256(key.encode()).hexdigest()[:12]
            told, hint = short(f"{run}: {words}"), f"evac run show {run}"
            found.append(Concern(f"run/{run}/{mark}", "run", "critical", told, hint, WAITS_MS, run))
    return tuple(found)


def of_pages(exports: Iterable[tuple[str, int, str]], now_ms: int) -> tuple[Concern, ...]:
    """(site, since_ms, problem) of each that writes the public status page."""
    return tuple(
        Concern(
            f"status-page/{site}",
            "status-page",
            "warning",
            short(f"{site} cannot write the public status page: {problem}"),
            "check the status-page target",
        )
        for site, since_ms, problem in sorted(exports)
        if problem and now_ms - since_ms >= PAGE_MS
    )


def of_plans(
    before: Mapping[str, Reference], drawn: Iterable[Drawn]
) -> tuple[dict[str, Reference], tuple[Concern, ...]]:
    """References after a look, and what is to be said of the plans that lie ready."""
    references, found, stale, all_of_them = dict(before), [], 0, 0
    for one in sorted(drawn, key=lambda row: row.loss):
        all_of_them += 1
        stale += not one.fits
        if one.problem:
            words = short(f"there is no plan for the loss of {one.loss}: {one.problem}")
            key = f"plan/none/{one.loss}"
            found.append(Concern(key, "plan", "error", words, "see the Plans page", NO_PLAN_MS))
        known = references.get(one.loss)
        if one.cost is not None and (known is not None or len(references) < PLANS_MOST):
            known = references[one.loss] = _compared(known, one.cost)
        if known is not None and known.worse:
            found.append(_worse(one.loss, known.least, known.cost))
    if stale:
        words = f"{stale} of {all_of_them} standby plans were made for an earlier state of the estate"
        found.append(Concern("plan/stale", "plan", "warning", words, "see the Plans page", STALE_MS))
    return references, tuple(found)


def _compared(before: Reference | None, cost: int) -> Reference:
    if before is None or cost <= before.least:
        return Reference(cost)
    if before.worse:
        return replace(before, worse=cost * GOOD_AGAIN[1] > before.least * GOOD_AGAIN[0], cost=cost)
    return replace(before, worse=cost * WORSE[1] >= before.least * WORSE[0], cost=cost)


def _worse(loss: str, least: int, cost: int) -> Concern:
    words = f"the plan for the loss of {loss} has {_more(least, cost)} before, across all services"
    return Concern(f"plan/worse/{loss}", "plan", "warning", words, "see the Plans page")


def _more(least: int, cost: int) -> str:
    """How much more outage, in words."""
    if not least:
        return "more outage than"
    if cost >= 2 * least:
        return f"{cost // least} times as much outage as"
    return f"{(cost - least) * 100 // least} % more outage than"


def of_watching(kind: str, words: str, data: Mapping[str, Any]) -> News | None:
    """What one record of the journal of watching is for people; None for what is for the journal alone.
    Verdicts are concerns, see `of_sites`.
    """
    words = short(words)
    if data.get("break_glass"):
        return News("break-glass", "critical", words, "check that this was someone on your team")
    if kind == "loss":
        return News("site", "critical", words)
    if kind in ("refused", "trouble"):
        return News("trouble", "error", words, short(str(data.get("hint", ""))))
    if kind == "run" and data.get("event") == "run_ended":
        phase = str(data.get("phase", ""))
        left = left_of(data.get("left", ()))
        bare = any(one.state in ("unprotected", "beyond_rpo") for one in left)
        severity: Severity = (
            "error" if bare else "warning" if left else "info" if phase in SUCCEEDED else "error"
        )
        said = f"{words}: {phase.replace('_', ' ')}" if phase else words
        return News("run", severity, short(f"{said}: {left_words(left)}") if left else said)
    return None


def of_updates(
    before: Mapping[str, int] | None, updates: Iterable[tuple[str, int, str, str]], now_ms: int
) -> tuple[dict[str, int], tuple[News, ...]]:
    """(key, when, title, text) of each that was published -> what is known after a look, and what is new, in
    the order it was published. What was there at the first look is no news.
    """
    recent = (row for row in updates if now_ms - row[1] < 2 * PUBLISHED_MS)
    rows = sorted(recent, key=lambda row: (row[1], row[0]))
    known = {key: at_ms for key, at_ms, _, _ in rows}
    fresh = [] if before is None else [row for row in rows if row[0] not in before]
    return known, tuple(
        News(UPDATE, "info", text, title=short(title))
        for _, at_ms, title, text in fresh
        if now_ms - at_ms < PUBLISHED_MS
    )


def _span(ms: int) -> str:
    seconds = ms / 1_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.1f}".removesuffix(".0") + " s"


QUIET_MS: Final = 30_000
"""How long a concern must be gone before it counts as resolved."""
AGAIN_MS: Final = 600_000
"""The same news within this time is sent only once."""
OPEN_MOST: Final = 50
"""Maximum open concerns of one kind; more are counted, but not tracked one by one."""
NEWS_MOST: Final = 200
SINGLE_MOST: Final = 3
"""Maximum messages of one kind and state that are sent one by one; more are combined into one."""
SHOWN: Final = 3
ADOPTING: Final[frozenset[Kind]] = frozenset({"finding", "tool"})

_MANY: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        "site": "site verdicts",
        "run": "items are waiting for a person",
        "break-glass": "uses of break-glass",
        "trouble": "actions failed",
        "tool": "tools run at only one site",
        "lag": "replicas lag more than promised",
        "plan": "plans got worse, or are missing",
        "finding": "new audit errors",
        "status-page": "status pages cannot be written",
        "update": "updates were published",
    }
)
_OVER: Final[Mapping[Kind, str]] = MappingProxyType({"finding": "audit errors were fixed"})


def tell(memory: Memory, known: Known, now_ms: int) -> tuple[Memory, tuple[Message, ...]]:
    """The state after a look, and its messages: without ids, most severe first."""
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
            rest = [now[key] for key in fresh[room:]]
            severity = max((one.severity for one in rest), key=rank)
            words = f"{len(rest)} more {_MANY[kind]}: too many to list one by one"
            drafts.append(Message("", kind, "once", severity, words, "see the war room", now_ms))
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
    state: MessageState = "begins" if held.told is None else "worse"
    return replace(held, told=concern.severity), [_draft(concern, state, concern.severity, now_ms)]


def _gone(held: dict[str, Held], one: Held, now_ms: int) -> list[Message]:
    """A concern that holds no more: over once it is gone for long enough; forgotten where no one was told."""
    key = one.concern.key
    if one.told is None:
        del held[key]
    elif one.gone_ms is None:
        held[key] = replace(one, gone_ms=now_ms)
    elif now_ms - one.gone_ms >= QUIET_MS:
        del held[key]
        return [_draft(one.concern, "over", one.told, now_ms)]
    return []


def _draft(concern: Concern, state: MessageState, severity: Severity, now_ms: int) -> Message:
    hint = "" if state == "over" else concern.hint
    return Message("", concern.kind, state, severity, concern.words, hint, now_ms, (concern.key,))


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
    """Combines many messages of one kind and state into one; most severe first. Published updates stay as
    they are.
    """
    groups: dict[tuple[Kind, MessageState], list[Message]] = {}
    for draft in drafts:
        groups.setdefault((draft.kind, draft.state), []).append(draft)
    found: list[Message] = []
    for (kind, state), rows in groups.items():
        if kind == UPDATE:
            found += rows
            continue
        rows.sort(key=lambda one: (-rank(one.severity), one.words))
        found += (
            [replace(row, words=f"Resolved: {row.words}") if row.state == "over" else row for row in rows]
            if len(rows) <= SINGLE_MOST
            else [_bundle(kind, state, rows)]
        )
    return tuple(sorted(found, key=_place))


def _place(one: Message) -> tuple[int, str, str, str]:
    return -rank(one.severity), one.kind, one.state, "" if one.kind == UPDATE else one.words


def _bundle(kind: Kind, state: MessageState, rows: list[Message]) -> Message:
    many = _OVER.get(kind, f"over: {_MANY[kind]}") if state == "over" else _MANY[kind]
    shown = "; ".join(row.words for row in rows[:SHOWN])
    words = f"{len(rows)} {many}: {shown}; and {len(rows) - SHOWN} more"
    keys = tuple(key for row in rows for key in row.keys)
    return Message("", kind, state, rows[0].severity, words, rows[0].hint, rows[0].at_ms, keys)
