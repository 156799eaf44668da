"""News inside one process: one follower reads a journal, and any number of viewers hear of it.

Bounded everywhere: so many viewers, so many messages that wait for one. A viewer that is too slow is let go;
it comes back with the number of the last message it has, and misses nothing, for the journal has all of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from evac.model.errors import EvacError

VIEWERS_MOST: Final = 1_000
WAITING_MOST: Final = 1_024


class TooManyViewers(EvacError):
    """More viewers than this process feeds."""

    def __init__(self, most: int) -> None:
        super().__init__("too-many-viewers", f"{most} viewers follow already", "try again in a minute")


@dataclass(frozen=True, slots=True)
class News:
    """One piece of news for viewers."""

    topic: str
    kind: str
    """`notice`, `event`, `situation`."""
    number: int
    """Place in its journal; 0 for what has none."""
    value: Any


@dataclass(eq=False)
class Viewer:
    """One listener. Iterate over `news`; it ends when the viewer was too slow or the hub closed."""

    topics: frozenset[str]
    waiting: deque[News] = field(default_factory=deque)
    _bell: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    def tell(self, news: News) -> None:
        if len(self.waiting) >= WAITING_MOST:
            self.end()
            return
        self.waiting.append(news)
        self._bell.set()

    def end(self) -> None:
        self.over = True
        self._bell.set()

    async def news(self, pause_s: float) -> AsyncIterator[News | None]:
        """News as they come; None after a pause without any, for a sign of life."""
        while True:
            while self.waiting and not self.over:
                yield self.waiting.popleft()
            if self.over:
                return
            self._bell.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._bell.wait()
            except TimeoutError:
                yield None


class Hub:
    """Feeds viewers by topic."""

    def __init__(self, most: int = VIEWERS_MOST) -> None:
        self._most = most
        self._by_topic: dict[str, set[Viewer]] = {}
        self.viewers = 0

    def check_room(self) -> None:
        """Raises TooManyViewers where one more would be too many."""
        if self.viewers >= self._most:
            raise TooManyViewers(self._most)

    @contextmanager
    def viewer(self, *topics: str) -> Iterator[Viewer]:
        """Raises TooManyViewers."""
        self.check_room()
        one = Viewer(frozenset(topics))
        self.viewers += 1
        for topic in one.topics:
            self._by_topic.setdefault(topic, set()).add(one)
        try:
            yield one
        finally:
            self.viewers -= 1
            for topic in one.topics:
                self._by_topic[topic].discard(one)
                if not self._by_topic[topic]:
                    del self._by_topic[topic]

    def tell(self, news: News) -> None:
        for viewer in tuple(self._by_topic.get(news.topic, ())):
            viewer.tell(news)

    def close(self) -> None:
        for viewers in tuple(self._by_topic.values()):
            for viewer in tuple(viewers):
                viewer.end()
