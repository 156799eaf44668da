"""The page Alerts: what is open, who is notified and whether that works, and what was sent."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Query, Request, Response

from evac.model.records import dataclass
from evac.notices.values import UPDATE, Kind, Severity, rank
from evac.office.notices.overview import ChannelSeen, ConcernOpen, DeliverySeen, NoticesSeen, NoticeTold
from evac.views.words import plural
from evac.web.pages import frame
from evac.web.room import room_of

PAGE: Final = frame.Page("/notices", "Alerts", icon="bell", group="Respond", key="l")
AGE_MS: Final = 10_000
ROWS: Final = 50
Begin = Annotated[int, Query(ge=0, le=10_000_000)]

_LOOK: Final[dict[Severity, str]] = {
    "critical": "error",
    "error": "error",
    "warning": "warning",
    "info": "ok",
}
_PREPARED: Final[dict[Kind, tuple[str, str, str, str]]] = {
    "finding": ("audit error", "audit errors", "/now#h-fix", "Fix first"),
    "tool": ("tool at one site", "tools at one site", "/now#h-fix", "Fix first"),
    "plan": ("plan worse or missing", "plans worse or missing", "/plans", "Plans"),
}
"""Kinds of alert about what a further loss would do: (one, many, page, its name)."""
_STATES: Final = {"begins": "", "worse": "graver: ", "over": "", "once": ""}


@dataclass(frozen=True, slots=True)
class Line:
    """One message. look: the style of its severity; ways: (channel, word, details, style) for each
    channel. text: of an update, as users get it, under its title in `words`; empty for all others.
    """

    told: NoticeTold
    look: str
    severity: str
    words: str
    ways: tuple[tuple[str, str, str, str], ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Alerts of one kind about what a further loss would do: collapsed on the page."""

    words: str
    look: str
    page: str
    page_name: str
    concerns: tuple[ConcernOpen, ...]


@PAGE.router.get(PAGE.path)
async def notices(request: Request, begin: Begin = 0) -> Response:
    """What was sent to people, newest first."""
    room = room_of(request)
    board, now_ms = room.office.board, room.office.clock.now_ms() // AGE_MS * AGE_MS
    seen, told = board.seen, board.told
    begin = min(begin, max(0, len(told) - 1)) // ROWS * ROWS
    end = min(len(told), begin + ROWS)

    def make() -> bytes:
        ages = frame.Ages(now_ms)
        lines = [_line(one) for one in told[::-1][begin:end]]
        now, groups = sorted_out(seen.concerns)
        return frame.render(
            "notices.html.j2",
            PAGE.path,
            now_ms,
            seen=seen,
            answer=answer_of(seen),
            looks=_LOOK,
            concerns=now,
            groups=groups,
            channels=[(one, *channel_words(one, ages)) for one in seen.channels],
            lines=lines,
            total=len(told),
            begin=begin,
            end=end,
            before=begin - ROWS if begin else None,
            after=end if end < len(told) else None,
        )

    stamp = (seen, told[-1:], now_ms, begin, len(told))
    return frame.answer(request, f"page notices {begin}", stamp, make)


def answer_of(seen: NoticesSeen) -> tuple[str, str]:
    """Return (one sentence, style)."""
    if not seen.channels:
        return "No one is notified: there is no alerts file.", "warning"
    stuck = [one.name for one in seen.channels if one.problem]
    if stuck:
        return f"{', '.join(stuck)}: notifications do not get through.", "error"
    if not seen.by:
        return "No one is notified now: the leader has no alerts file, or there is no leader.", "warning"
    now, groups = sorted_out(seen.concerns)
    if not seen.concerns:
        return "No alert is open. Every notification was delivered.", "ok"
    burning = f"{plural(len(now), 'alert')} {'needs' if len(now) == 1 else 'need'} attention now"
    first = burning if now else "No alert needs attention now"
    rest = f" Before the next loss: {', '.join(one.words for one in groups)}." if groups else ""
    return f"{first}.{rest}", "error" if any(rank(one.severity) > 1 for one in now) else "warning"


def sorted_out(concerns: tuple[ConcernOpen, ...]) -> tuple[list[ConcernOpen], list[Group]]:
    """Return (what is wrong now, the rest by kind), most severe first. Everything critical is wrong now."""
    ordered = sorted(concerns, key=lambda one: (-rank(one.severity), -one.since_ms, one.key))
    now = [one for one in ordered if one.severity == "critical" or one.kind not in _PREPARED]
    groups = []
    for kind, (single, many, page, name) in _PREPARED.items():
        rows = tuple(one for one in ordered if one.kind == kind and one.severity != "critical")
        if rows:
            words = plural(len(rows), single, many)
            groups.append(Group(words, _LOOK[rows[0].severity], page, name, rows))
    return now, groups


def channel_words(one: ChannelSeen, ages: frame.Ages) -> tuple[str, str, str]:
    """Return (state in one word, details, style)."""
    if one.problem:
        again = "retrying soon"
        if one.next_ms > ages.now_ms:
            again = f"retrying in {_in(one.next_ms - ages.now_ms)}"
        return "fails", f"{one.problem}; {plural(one.waiting, 'message')} waiting, {again}", "error"
    if one.waiting:
        return "sending", plural(one.waiting, "message"), "warning"
    return "works" if one.sent else "not used yet", "", "ok" if one.sent else "note"


def _line(told: NoticeTold) -> Line:
    over = told.state == "over"
    look = "ok" if over else _LOOK[told.severity]
    ways = tuple((way.channel, *_way(way)) for way in told.deliveries)
    severity = "over" if over else told.severity
    words = _STATES[told.state] + told.words
    if told.kind == UPDATE:
        return Line(told, "note", "for users", told.title, ways, words)
    return Line(told, look, severity, words, ways)


def _way(way: DeliverySeen) -> tuple[str, str, str]:
    """Return (a word, details, style)."""
    tries = f"after {plural(way.tries, 'try', 'tries')}"
    if way.state == "delivered":
        return way.state, "" if way.tries < 2 else tries, "ok"
    if way.state == "given up":
        return way.state, f"{tries}: {way.problem}", "error"
    return way.state, f"{tries}: {way.problem}" if way.tries else "", "error" if way.tries else "warning"


def _in(ms: int) -> str:
    seconds = max(1, ms // 1_000)
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
