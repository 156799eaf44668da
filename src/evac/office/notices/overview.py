"""Notices in the store (their journal, the last known state, and a box for each channel) and how the war room
shows them.

    journal/notices/...     messages, and the outcome in each channel, in chronological order
    notices/state           what was known at the last look
    notices/box/<channel>   what waits for a channel, with its attempts

A look that finds something new writes all of it in one transaction under its lease. So a message is created
exactly once, whatever crashes in between, and from then on waits for every channel that wants it. It leaves a
box together with the record of its outcome, after it was sent: a process that dies between the two sends it
again, under the same id.

The war room follows the journal of notices and reads the boxes; it creates and sends nothing. Memory is
bounded: the last `ROWS_MOST` records.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, Literal

from evac.engine.clock import Clock
from evac.model.errors import Corrupt
from evac.model.records import dataclass
from evac.notices import values as boxes
from evac.notices.values import (
    STREAM,
    Box,
    Channel,
    Delivery,
    Kind,
    Message,
    MessageState,
    Severity,
    State,
    Waiting,
    box_bytes,
    box_of,
    record_of,
    row_of,
    state_bytes,
    state_of,
)
from evac.store.anchors import Anchor
from evac.store.journal import Journal, last_of, readable, records_after
from evac.store.port import Change, Delete, Lease, Put, Store, all_entries, owner_in

LEASE: Final = "notices"
STATE: Final = "notices/state"
BOX: Final = "notices/box/"
KEPT: Final = 256
"""Messages kept in memory; older ones are read again."""


class Ledger:
    """One term of sending, under one lease. Created by `open`; after any store error, open another one."""

    def __init__(self, store: Store, lease: Lease, clock: Clock, journal: Journal) -> None:
        self._store, self._lease, self._clock, self._journal = store, lease, clock, journal
        self._turn = asyncio.Lock()
        self._messages: OrderedDict[int, Message] = OrderedDict()
        self.state = State()
        self.channels: Mapping[str, Channel] = {}
        self.boxes: dict[str, Box] = {}

    @classmethod
    async def open(cls, store: Store, lease: Lease, clock: Clock, channels: Mapping[str, Channel]) -> Ledger:
        """Raises LeaseLost, Conflict, Unavailable, and Corrupt if a box or the journal cannot be read."""
        made = cls(store, lease, clock, await Journal.at_end(store, STREAM, lease))
        entry = await store.get(STATE)
        if entry is not None:
            with contextlib.suppress(
                Corrupt
            ):  # what was known is derived again, and open alerts are repeated
                made.state = state_of(entry.value)
        kept = {one.key.removeprefix(BOX): box_of(one.value) for one in await all_entries(store, BOX)}
        made.channels = channels
        for name, channel in channels.items():
            about = _about(channel)
            known = kept.pop(name, None)
            # A channel gets only messages from after it was added.
            new = Box(after=made._journal.head.records, about=about)
            made.boxes[name] = replace(known, about=about) if known else new
        await made._let_go(kept)
        changes = [Put(BOX + name, box_bytes(box)) for name, box in made.boxes.items()]
        await store.transact((), changes, lease)
        return made

    async def _let_go(self, kept: Mapping[str, Box]) -> None:
        """Removes the boxes of channels that no longer exist and gives up what waited there."""
        for name, box in kept.items():
            rows = [self._ended(name, one, "given up", "the channel no longer exists") for one in box.waiting]
            await self._write(rows, [Delete(BOX + name)])

    async def keep(self, state: State, messages: Sequence[Message] = ()) -> None:
        """Saves the state after a look together with its new messages: all or nothing."""
        async with self._turn:
            if not messages and state == self.state:
                return
            first = self._journal.head.records + 1
            rows = list(enumerate(messages, first))
            after = {name: self._filled(name, rows) for name in self.boxes} if rows else {}
            changes: list[Change] = [Put(STATE, state_bytes(state))]
            changes += [Put(BOX + name, box_bytes(box)) for name, box in after.items()]
            await self._write(messages, changes)
            self.state = state
            self.boxes |= after
            for number, message in rows:
                self._remember(number, message)

    def _filled(self, name: str, rows: Iterable[tuple[int, Message]]) -> Box:
        wants = self.channels[name].wants
        told = [(number, message.at_ms, wants(message)) for number, message in rows]
        return boxes.put(self.boxes[name], told)

    async def message(self, number: int) -> Message:
        """Raises Corrupt if there is none."""
        if number not in self._messages:
            async for found, record in records_after(self._store, STREAM, number - 1, 1, proven=False):
                row = row_of(record)
                if found == number and isinstance(row, Message):
                    self._remember(number, row)
        if number not in self._messages:
            raise Corrupt(f"message {number} is not in the alert journal")
        return self._messages[number]

    async def delivered(self, name: str, one: Waiting) -> None:
        now_ms = self._clock.now_ms()
        await self._leaves(name, one, "delivered", "", lambda box: boxes.delivered(box, one.number, now_ms))

    async def given_up(self, name: str, one: Waiting, why: str) -> None:
        await self._leaves(name, one, "given up", why, lambda box: boxes.given_up(box, one.number))

    async def failed(self, name: str, one: Waiting, problem: str, after_ms: int, whole: bool) -> None:
        """It waits for its next attempt."""
        async with self._turn:
            box = boxes.failed(self.boxes[name], one.number, problem, self._clock.now_ms(), after_ms, whole)
            await self._store.transact((), (Put(BOX + name, box_bytes(box)),), self._lease)
            self.boxes[name] = box

    async def tidy(self, name: str) -> None:
        """Gives up messages that are too old or too many."""
        for one in boxes.hopeless(self.boxes[name], self._clock.now_ms()):
            why = one.problem or "too many were waiting"
            await self.given_up(name, one, why)

    async def _leaves(
        self, name: str, one: Waiting, outcome: str, why: str, change: Callable[[Box], Box]
    ) -> None:
        async with self._turn:
            after = change(self.boxes[name])
            await self._write([self._ended(name, one, outcome, why)], [Put(BOX + name, box_bytes(after))])
            self.boxes[name] = after

    def _ended(self, name: str, one: Waiting, outcome: str, why: str) -> Delivery:
        tries = one.tries + (outcome == "delivered")
        return Delivery(one.number, name, outcome, tries, self._clock.now_ms(), why)

    async def _write(self, rows: Sequence[Message | Delivery], changes: Sequence[Change]) -> None:
        if rows:
            await self._journal.append([record_of(row) for row in rows], self._lease, (), changes)
        else:
            await self._store.transact((), changes, self._lease)

    def _remember(self, number: int, message: Message) -> None:
        self._messages[number] = message
        while len(self._messages) > KEPT:
            self._messages.popitem(last=False)


def _about(channel: Channel) -> str:
    """Describes a channel for people who may not see its address."""
    if channel.public:
        return f"{channel.way}; for users: updates published on the status page"
    kinds = ", ".join(sorted(channel.kinds)) if channel.kinds else "all kinds"
    return f"{channel.way}; {kinds}; {channel.least} and above"


def new_messages(drafts: Iterable[Message], make_id: Callable[[], str]) -> list[Message]:
    """Gives the rule's drafts ids of their own."""
    return [replace(draft, id=make_id()) for draft in drafts]


ROWS_MOST: Final = 1_000
SEGMENTS_BACK: Final = 1_000

Stands = Literal["waits", "delivered", "given up"]


@dataclass(frozen=True, slots=True)
class DeliverySeen:
    """Delivery state of a message in one channel."""

    channel: str
    state: Stands
    tries: int
    at_ms: int
    """When it was delivered or given up."""
    next_ms: int
    """When the next attempt is due; 0: immediately."""
    problem: str
    """Error of the last attempt."""


@dataclass(frozen=True, slots=True)
class NoticeTold:
    """One message."""

    number: int
    """Its place in the notices journal."""
    id: str
    kind: Kind
    state: MessageState
    """`begins`, `worse`, `over`, `once`."""
    severity: Severity
    words: str
    hint: str
    at_ms: int
    deliveries: tuple[DeliverySeen, ...]
    title: str = ""
    """Title, if it is an update for users."""


@dataclass(frozen=True, slots=True)
class ConcernOpen:
    """An alert that is not resolved yet."""

    key: str
    kind: Kind
    severity: Severity
    words: str
    hint: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class ChannelSeen:
    """A channel, without its address."""

    name: str
    about: str
    waiting: int
    oldest_ms: int
    """Since when the oldest message has been waiting; 0: none is."""
    next_ms: int
    problem: str
    sent: int
    sent_ms: int
    given_up: int


@dataclass(frozen=True, slots=True)
class NoticesSeen:
    """Who sends messages, over which channels, and which concerns are open."""

    by: str
    """The site that sends messages now; empty: none does."""
    channels: tuple[ChannelSeen, ...]
    concerns: tuple[ConcernOpen, ...]


NOTHING: Final = NoticesSeen("", (), ())


class NoticeBoard:
    """One per office. `look` keeps `seen` and `told` up to date."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._head: Anchor | None = None
        self._rows: deque[tuple[int, Message | Delivery]] = deque(maxlen=ROWS_MOST)
        self.seen = NOTHING
        self.told: tuple[NoticeTold, ...] = ()

    async def look(self) -> None:
        """Raises Unavailable. Unreadable entries are left out."""
        boxes: dict[str, Box] = {}
        for entry in await all_entries(self._store, BOX):
            with suppress(Corrupt):
                boxes[entry.key.removeprefix(BOX)] = box_of(entry.value)
        await self._read_on()
        lease = await self._store.holder(LEASE)
        by = "" if lease is None else owner_in(lease.owner).site
        self.seen = NoticesSeen(by, tuple(_channel(n, b) for n, b in boxes.items()), await self._concerns())
        self.told = _told(self._rows, boxes)

    async def _read_on(self) -> None:
        if self._head is None:
            end = await last_of(self._store, STREAM)
            begin = max(0, end.segment - SEGMENTS_BACK) if end else 0
        else:
            begin = self._head.segment
        async for segment in readable(self._store, STREAM, begin):
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
        """Messages after a number, in order, as far as they are kept."""
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
    """Messages with their delivery state, oldest first."""
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
