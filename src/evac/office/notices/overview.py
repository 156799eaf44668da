"""Notices as the war room shows them: what is open, who is told and how that stands, and what was told.

It follows the journal of notices and reads the boxes of the channels; it makes and sends nothing. Memory is
bounded: the last `ROWS_MOST` records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from evac.engine.stores.sightings import pages
from evac.model.errors import Corrupt
from evac.notices.box import Box
from evac.notices.codec import STREAM, Delivery, box_of, row_of, state_of
from evac.notices.values import Kind, Message, Severity, State
from evac.office.notices.ledger import BOX, LEASE, STATE
from evac.store.anchors import Anchor
from evac.store.journal import head_of, read
from evac.store.port import Store

ROWS_MOST: Final = 1_000
SEGMENTS_BACK: Final = 1_000

Stands = Literal["waits", "delivered", "given up"]


@dataclass(frozen=True, slots=True)
class DeliverySeen:
    """How one message stands in one channel. at_ms: when it was delivered or given up; next_ms: when what
    waits is tried again, 0: at once. problem: of the last try.
    """

    channel: str
    state: Stands
    tries: int
    at_ms: int
    next_ms: int
    problem: str


@dataclass(frozen=True, slots=True)
class NoticeTold:
    """One message. number: in the journal of notices; state: `begins`, `worse`, `over`, `once`; title: of an
    update for users.
    """

    number: int
    id: str
    kind: Kind
    state: State
    severity: Severity
    words: str
    hint: str
    at_ms: int
    deliveries: tuple[DeliverySeen, ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class ConcernOpen:
    """Something that people were told of, and that is not over."""

    key: str
    kind: Kind
    severity: Severity
    words: str
    hint: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class ChannelSeen:
    """A channel, without its address. oldest_ms: since when the first message waits; 0: nothing does."""

    name: str
    about: str
    waiting: int
    oldest_ms: int
    next_ms: int
    problem: str
    sent: int
    sent_ms: int
    given_up: int


@dataclass(frozen=True, slots=True)
class NoticesSeen:
    """Who tells, over which channels, and of what. by: the site that tells now; empty: nobody does."""

    by: str
    channels: tuple[ChannelSeen, ...]
    concerns: tuple[ConcernOpen, ...]


NOTHING: Final = NoticesSeen("", (), ())


class NoticeBoard:
    """One for an office. `look` keeps `seen` and `told` true."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._head: Anchor | None = None
        self._rows: deque[tuple[int, Message | Delivery]] = deque(maxlen=ROWS_MOST)
        self.seen = NOTHING
        self.told: tuple[NoticeTold, ...] = ()

    async def look(self) -> None:
        """Raises Unavailable. What cannot be read is left out."""
        boxes: dict[str, Box] = {}
        for entry in await pages(self._store, BOX):
            with suppress(Corrupt):
                boxes[entry.key.removeprefix(BOX)] = box_of(entry.value)
        await self._read_on()
        lease = await self._store.holder(LEASE)
        by = "" if lease is None else lease.owner.partition("/")[0]
        self.seen = NoticesSeen(by, tuple(_channel(n, b) for n, b in boxes.items()), await self._concerns())
        self.told = _told(self._rows, boxes)

    async def _read_on(self) -> None:
        if self._head is None:
            head = await head_of(self._store, STREAM)
            if head is None:
                return
            begin: Anchor | int = max(0, head.segment - SEGMENTS_BACK)
        else:
            begin = self._head
        async for segment in read(self._store, STREAM, begin):
            for number, record in enumerate(segment.records, segment.first):
                with suppress(Corrupt):
                    self._rows.append((number, row_of(record)))
            self._head = Anchor(STREAM, segment.number, segment.last, segment.hash)

    async def _concerns(self) -> tuple[ConcernOpen, ...]:
        entry = await self._store.get(STATE)
        if entry is None:
            return ()
        with suppress(Corrupt):
            held = [one for one in state_of(entry.value).memory.open.values() if one.told is not None]
            return tuple(
                ConcernOpen(
                    one.concern.key,
                    one.concern.kind,
                    one.told or one.concern.severity,
                    one.concern.words,
                    one.concern.hint,
                    one.since_ms,
                )
                for one in held
            )
        return ()

    def page(self, after: int, limit: int) -> tuple[NoticeTold, ...]:
        """What was told after a number, in order, of what is kept."""
        return tuple(one for one in self.told if one.number > after)[:limit]


def _channel(name: str, box: Box) -> ChannelSeen:
    first = box.waiting[0] if box.waiting else None
    return ChannelSeen(
        name,
        box.about,
        len(box.waiting),
        first.made_ms if first else 0,
        first.next_ms if first else 0,
        box.problem,
        box.sent,
        box.sent_ms,
        box.given_up,
    )


def _told(rows: Iterable[tuple[int, Message | Delivery]], boxes: Mapping[str, Box]) -> tuple[NoticeTold, ...]:
    """Messages with how they stand, in the order in which they were made."""
    messages: dict[int, Message] = {}
    ways: dict[int, list[DeliverySeen]] = {}
    for number, row in rows:
        if isinstance(row, Message):
            messages[number] = row
        elif row.number in messages:
            stands: Stands = "delivered" if row.outcome == "delivered" else "given up"
            seen = DeliverySeen(row.channel, stands, row.tries, row.at_ms, 0, row.why)
            ways.setdefault(row.number, []).append(seen)
    for name, box in boxes.items():
        for one in box.waiting:
            seen = DeliverySeen(name, "waits", one.tries, 0, one.next_ms, one.problem)
            ways.setdefault(one.number, []).append(seen)
    return tuple(
        NoticeTold(
            number,
            one.id,
            one.kind,
            one.state,
            one.severity,
            one.words,
            one.hint,
            one.at_ms,
            tuple(sorted(ways.get(number, ()), key=lambda way: way.channel)),
            one.title,
        )
        for number, one in messages.items()
    )
