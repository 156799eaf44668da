"""Values of notices, and their JSON: what should worry people now, what they are told of it, who is told,
and what waits for a channel. Pure.

A message waits by its number in the journal of notices. It is tried in order, ever more seldom, until it
was taken, or is too old, or too many wait behind it. Bounds: `WAITING_MOST` messages, `OLDEST_MS`. Times
are milliseconds since 1970 (UTC). JSON that cannot be read raises Corrupt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import orjson

from evac.model.errors import Corrupt
from evac.model.records import dataclass

WAITING_MOST: Final = 200
OLDEST_MS: Final = 86_400_000
FIRST_MS: Final = 5_000
MOST_MS: Final = 600_000
AFTER_MOST_MS: Final = 3_600_000
PROBLEM_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Waiting:
    """`number`: its place in the notices journal. `next_ms`: earliest time of the next attempt."""

    number: int
    made_ms: int
    tries: int = 0
    next_ms: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """after: all messages up to this number were looked at. sent: how many were delivered, sent_ms: the last
    one; given_up: how many never were. about: what the channel is, in words without a secret.
    """

    after: int = 0
    waiting: tuple[Waiting, ...] = ()
    sent: int = 0
    sent_ms: int = 0
    given_up: int = 0
    about: str = ""

    @property
    def problem(self) -> str:
        """Problem of the oldest waiting message; empty while nothing fails."""
        return next((one.problem for one in self.waiting if one.problem), "")


def put(box: Box, rows: Iterable[tuple[int, int, bool]]) -> Box:
    """Messages of the journal: (number, when it was made, whether the channel wants it)."""
    after, waiting = box.after, list(box.waiting)
    for number, made_ms, wanted in rows:
        if number > after:
            after = number
            if wanted:
                waiting.append(Waiting(number, made_ms))
    return replace(box, after=after, waiting=tuple(waiting))


def due(box: Box, now_ms: int) -> Waiting | None:
    """The message to send now: the oldest that is due; None if none is."""
    return next((one for one in box.waiting if one.next_ms <= now_ms), None)


def hopeless(box: Box, now_ms: int) -> tuple[Waiting, ...]:
    """Messages to give up now: too old, or too many."""
    over = max(0, len(box.waiting) - WAITING_MOST)
    return tuple(
        one for place, one in enumerate(box.waiting) if place < over or now_ms - one.made_ms > OLDEST_MS
    )


def delivered(box: Box, number: int, now_ms: int) -> Box:
    return replace(_without(box, number), sent=box.sent + 1, sent_ms=now_ms)


def given_up(box: Box, number: int) -> Box:
    return replace(_without(box, number), given_up=box.given_up + 1)


def pause_of(tries: int) -> int:
    """Milliseconds until the next attempt after that many, which grow with every one."""
    return min(MOST_MS, FIRST_MS << min(tries - 1, 20))


def failed(box: Box, number: int, problem: str, now_ms: int, after_ms: int = 0, whole: bool = True) -> Box:
    """It is tried again later. after_ms: as the receiver asks. whole: the channel is down, and what waits
    behind it is not tried before.
    """
    tries = next(one.tries for one in box.waiting if one.number == number) + 1
    next_ms = now_ms + max(pause_of(tries), min(after_ms, AFTER_MOST_MS))

    def tried(one: Waiting) -> Waiting:
        if one.number == number:
            return replace(one, tries=tries, next_ms=next_ms, problem=problem[:PROBLEM_MOST])
        return replace(one, next_ms=max(one.next_ms, next_ms)) if whole else one

    return replace(box, waiting=tuple(tried(one) for one in box.waiting))


def _without(box: Box, number: int) -> Box:
    return replace(box, waiting=tuple(one for one in box.waiting if one.number != number))


Kind = Literal[
    "site", "run", "break-glass", "trouble", "tool", "lag", "plan", "finding", "status-page", "update"
]
"""site: suspect, lost, or lost and what is done about it. run: it waits for a person, or ended. trouble: what
evac could not do, or was refused. tool: one that stands in a single site. lag: a copy beyond the `rpo`.
update: what somebody published for users.
"""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
UPDATE: Final[Kind] = "update"
"""For people outside: it goes as it was published, and only where a channel names this kind and no other."""

Severity = Literal["info", "warning", "error", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
"""Least severe first."""

MessageState = Literal["begins", "worse", "over", "once"]
"""Of a message: a concern begins, became graver, or is over; or something happened that has no end."""

Way = Literal["apprise", "webhook", "mail"]


def rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that people should know for as long as it lasts. key: begins with its kind, and is the same
    for the same thing. patience_ms: it is told once it has lasted so long.
    """

    key: str
    kind: Kind
    severity: Severity
    words: str
    hint: str = ""
    patience_ms: int = 0
    run: str = ""
    """The run that it is about; empty if none."""


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened, and is not over at any time."""

    kind: Kind
    severity: Severity
    words: str
    hint: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What one look found. holds: kind -> its concerns; a kind that could not be looked at is not there."""

    holds: Mapping[Kind, tuple[Concern, ...]] = field(default_factory=lambda: MappingProxyType({}))
    news: tuple[News, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """A concern that is open. told: how grave it was told to be; None: not told yet. gone_ms: since when it
    holds no more; None: it holds.
    """

    concern: Concern
    since_ms: int
    told: Severity | None = None
    gone_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What was known before. adopted: kind -> keys of what held at the first look at that kind, which nobody
    is told of. news: digest of what was told once -> when.
    """

    open: Mapping[str, Held] = field(default_factory=lambda: MappingProxyType({}))
    adopted: Mapping[Kind, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    news: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Message:
    """What people are told. id: the same on every try to every channel. keys: of the concerns it is about.
    title: of an update, as it was published.
    """

    id: str
    kind: Kind
    state: MessageState
    severity: Severity
    words: str
    hint: str
    at_ms: int
    keys: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to people or programs. url, secret: references, never the thing itself. kinds: empty for all.
    least: milder messages do not go there. clear: an address that TLS does not hide is allowed. sender, join:
    of mail to subscribers, its address of the sender and of the page where they subscribe.
    """

    name: str
    way: Way
    url: str
    secret: str = ""
    kinds: frozenset[Kind] = frozenset()
    least: Severity = "warning"
    clear: bool = False
    sender: str = ""
    join: str = ""

    @property
    def public(self) -> bool:
        """Whether its readers are outside the company."""
        return UPDATE in self.kinds

    def wants(self, message: Message) -> bool:
        if self.public or message.kind == UPDATE:
            return self.public and message.kind == UPDATE
        of_kind = not self.kinds or message.kind in self.kinds
        return of_kind and rank(message.severity) >= rank(self.least)


@dataclass(frozen=True, slots=True)
class NoticeRules:
    """All of a notices file. room: address of the war room, page: of the public status page, for links in
    messages; may be empty.
    """

    channels: Mapping[str, Channel] = field(default_factory=lambda: MappingProxyType({}))
    room: str = ""
    page: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """The least that a plan for one loss did cost; whether the last one is called worse; what it costs."""

    least: int
    worse: bool = False
    cost: int = 0


STREAM: Final = "notices"
"""Of the journal that holds messages, and what became of each in each channel."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message in a channel. outcome: `delivered`, `given up`; why: of the latter."""

    number: int
    channel: str
    outcome: str
    tries: int
    at_ms: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """All that is kept from one look to the next. watched: number of the last record of watching that was
    read; verdicts: site -> (verdict, reason). published: key of each update of the last days -> its time;
    None: nobody looked yet.
    """

    memory: Memory = field(default_factory=Memory)
    watched: int = -1
    verdicts: Mapping[str, tuple[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    references: Mapping[str, Reference] = field(default_factory=lambda: MappingProxyType({}))
    published: Mapping[str, int] | None = None


def record_of(row: Message | Delivery) -> bytes:
    name = "message" if isinstance(row, Message) else "delivery"
    return orjson.dumps([name, asdict(row)])


def row_of(record: bytes) -> Message | Delivery:
    """Raises Corrupt."""
    try:
        name, told = orjson.loads(record)
        if name == "message":
            return Message(**told | {"keys": tuple(told["keys"])})
        return Delivery(**told)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt("cannot read a record of the alert journal") from error


def box_bytes(box: Box) -> bytes:
    return orjson.dumps(asdict(box))


def box_of(value: bytes) -> Box:
    """Raises Corrupt."""
    try:
        told: dict[str, Any] = orjson.loads(value)
        return Box(**told | {"waiting": tuple(Waiting(**row) for row in told["waiting"])})
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt("cannot read the outbox of a channel") from error


def state_bytes(state: State) -> bytes:
    memory = state.memory
    return orjson.dumps(
        {
            "open": [asdict(held) for held in memory.open.values()],
            "adopted": {kind: sorted(keys) for kind, keys in memory.adopted.items()},
            "news": dict(memory.news),
            "watched": state.watched,
            "verdicts": {site: list(pair) for site, pair in state.verdicts.items()},
            "references": {loss: [one.least, one.worse, one.cost] for loss, one in state.references.items()},
            "published": None if state.published is None else dict(state.published),
        },
        option=orjson.OPT_SORT_KEYS,
    )


def state_of(value: bytes) -> State:
    """Raises Corrupt."""
    try:
        told: dict[str, Any] = orjson.loads(value)
        held = [Held(**row | {"concern": Concern(**row["concern"])}) for row in told["open"]]
        adopted: dict[Kind, frozenset[str]] = {k: frozenset(v) for k, v in told["adopted"].items()}
        published = told.get("published")
        memory = Memory(
            MappingProxyType({one.concern.key: one for one in held}),
            MappingProxyType(adopted),
            MappingProxyType({str(name): int(at_ms) for name, at_ms in told["news"].items()}),
        )
        return State(
            memory,
            int(told["watched"]),
            MappingProxyType({site: (str(a), str(b)) for site, (a, b) in told["verdicts"].items()}),
            MappingProxyType(
                {k: Reference(int(a), bool(b), int(c)) for k, (a, b, c) in told["references"].items()}
            ),
            None if published is None else {str(key): int(at_ms) for key, at_ms in published.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt("cannot read the state of alerts") from error
