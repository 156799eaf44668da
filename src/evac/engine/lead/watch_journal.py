"""The watch journal: verdicts, notices and drift, in the stream `watch`, with one writer at a time.

A record is a JSON array [kind, at_ms, site, words, data]. It is for people and reports; no run depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson

from evac.model.access import GlassUse
from evac.model.errors import Conflict, Corrupt, StoreError, Unavailable
from evac.model.records import dataclass
from evac.run.patience import is_alarm
from evac.run.values import Event
from evac.store.journal import Journal
from evac.store.port import Lease, Store
from evac.watch.verdict import Standing

STREAM: Final = "watch"
WAITING_MOST: Final = 1_000
BATCH: Final = 64
AGAIN_S: Final = 0.2
BROKEN_S: Final = 5.0
CURE: Final = "restore the entry from a backup of the store, and find out what else writes to it"
REPAIR: Final = "evac store repair watch, and find out what else writes to the store"
"""For entries that evac did not write."""
LAST_WORDS_S: Final = 1.0

_KEYS: Final = (
    "phase",
    "why",
    "left",
    "code",
    "message",
    "outside",
    "reason",
    "feed",
    "server",
    "other",
    "break_glass",
)
_TOLD: Final = MappingProxyType(
    {
        "approval_needed": "needs approval",
        "run_started": "began",
        "step_failed": "a step failed",
        "step_stuck": "a step is taking longer than predicted",
        "step_unknown": "the outcome of a step is unknown",
        "paused": "paused",
        "run_ended": "ended",
        "pace_changed": "the pace changed",
        "feed_tripped": "a feed tripped",
        "boot_server_lost": "a boot server was abandoned",
    }
)

NoticeKind = Literal["verdict", "leader", "loss", "run", "drift", "refused", "trouble", "estate", "policy"]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should know."""

    kind: NoticeKind
    at_ms: int
    site: str
    words: str
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Small plain values, never a secret."""


Tell = Callable[[Notice], None]


def encode(notice: Notice) -> bytes:
    return orjson.dumps((notice.kind, notice.at_ms, notice.site, notice.words, dict(notice.data)))


def decode(record: bytes) -> Notice:
    """Raises Corrupt for what is not a notice."""
    try:
        kind, at_ms, site, words, data = orjson.loads(record)
        return Notice(kind, int(at_ms), str(site), str(words), dict(data))
    except (ValueError, TypeError) as error:
        raise Corrupt("cannot read a record of the watch journal") from error


def of_verdict(standing: Standing, at_ms: int) -> Notice:
    """The notice for a changed site state."""
    verdict = standing.verdict
    data = {
        "state": verdict.state,
        "by": list(verdict.by),
        "kinds": list(verdict.kinds),
        "reason": verdict.reason,
    }
    reason = f": {verdict.reason}" if verdict.reason else ""
    return Notice("verdict", at_ms, verdict.site, f"{verdict.site} is {verdict.state}{reason}", data)


def of_event(run: str, event: Event) -> tuple[str, dict[str, Any]] | None:
    """Words and data to report for a run event; None if only the journal needs it."""
    words = _TOLD.get(event.kind)
    if glass := event.data.get("break_glass"):
        did = f"was refused: {event.data.get('verb')}" if event.kind == "request_refused" else event.kind
        words = f"{GlassUse.from_data(glass).words}: {event.data.get('who', 'somebody')} {did}"
    if words is None or (event.kind == "step_stuck" and not is_alarm(event.data)):
        return None
    of = event.step or event.data.get("feed") or event.data.get("server")
    what = f" ({of})" if of else ""
    more = {key: event.data[key] for key in _KEYS if key in event.data}
    return f"{run}: {words}{what}", {"run": run, "event": event.kind} | more


class Chronicle:
    """Writes notices in the background, in order, under the leader's lease, without blocking anyone. While
    the store is away for long, the oldest are dropped and counted.
    """

    def __init__(self, store: Store, guard: Lease) -> None:
        self._store, self._guard = store, guard
        self._waiting: deque[Notice] = deque()
        self._flying: list[Notice] = []
        self._dropped = 0
        self._news = asyncio.Event()
        self.journal: Journal | None = None

    def add(self, notice: Notice) -> None:
        if len(self._waiting) >= WAITING_MOST:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(notice)
        self._news.set()

    @property
    def idle(self) -> bool:
        """Whether all notices are written."""
        return not self._waiting and not self._flying

    async def run(self, say: Callable[[str], None] = lambda words: None) -> None:
        """Writes until cancelled. Raises `LeaseLost`. If someone else writes the stream or it is unreadable,
        reports that once and reopens it: no other leader exists, because no one else has the lease.
        """
        told = ""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting or (self.journal is not None and self.journal.in_doubt):
                try:
                    await self._write()
                except Unavailable:
                    await asyncio.sleep(AGAIN_S)
                except (Corrupt, Conflict) as error:
                    if error.message != told:
                        words = f"cannot write notices: {error.message}; next: {REPAIR}"
                        other = (
                            f"someone else wrote to the journal {STREAM}; new records are added after theirs"
                        )
                        say(words if isinstance(error, Corrupt) else other)
                    told, self.journal = error.message, None
                    self._waiting.extendleft(reversed(self._flying))
                    self._flying = []
                    await asyncio.sleep(BROKEN_S)
                if self.journal is not None and self.journal.unread:
                    which = f"segment {self.journal.unread} of the journal {STREAM}"
                    say(f"{which} was changed or deleted in the store; new records follow it; next: {REPAIR}")
                    self.journal.unread = 0

    async def last_words(self, notice: Notice) -> None:
        """After `run` was cancelled, writes the rest and this notice, for a limited time and on a best-effort
        basis.
        """
        self.add(notice)
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                if self.journal is not None:
                    await self.journal.close()
                    self._flying = self._flying if self.journal.in_doubt else []
                while not self.idle:
                    await self._write()

    async def _write(self) -> None:
        """Writes one batch, after settling any write in doubt."""
        if self.journal is None:
            self.journal = await Journal.at_end(self._store, STREAM, self._guard)
        if self.journal.in_doubt:
            if not await self.journal.settle(self._guard):
                self._waiting.extendleft(reversed(self._flying))
            self._flying = []
            return
        if self._dropped:
            words = f"{self._dropped} records were lost while the store was unreachable"
            self._waiting.appendleft(Notice("trouble", self._waiting[0].at_ms, "", words))
            self._dropped = 0
        self._flying = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        try:
            await self.journal.append([encode(notice) for notice in self._flying], self._guard)
            self._flying = []
        except Unavailable:
            if not self.journal.in_doubt:
                self._waiting.extendleft(reversed(self._flying))
                self._flying = []
            raise
