"""Proves that a vote is new, not an old one that someone copied and put back into the store.

The seal of the store keeps others from writing a vote, but not from writing one again. So each reader puts a
random text into the store, its challenge, and replaces it every ten minutes; witnesses repeat the challenges
of all readers in each vote. A vote is new to a reader if it repeats the reader's present or previous
challenge and its number is higher than any that this reader has seen from the same witness process. No other
machine's clock is trusted.

    challenge/<site>/<owner>    of the reader in that process, under the lease of its witness
                                (of a war room, which has none: under a lease of its own)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from typing import Final

from evac.model.errors import LeaseLost
from evac.store.port import Lease, Put, Store

PREFIX: Final = "challenge/"
CHANGE_MS: Final = 600_000
LONGEST: Final = 64
READER_TTL_MS: Final = 60_000
READERS_MOST: Final = 200
_KEPT: Final = 2
"""After so many changes of the challenge, no vote of a replaced witness process can repeat a valid one."""


def key_of(site: str, owner: str) -> str:
    return f"{PREFIX}{site}/{owner}"


async def challenges_in(store: Store) -> list[str]:
    """Challenges of all readers, for votes to repeat. Raises Unavailable."""
    entries = await store.list(PREFIX, limit=READERS_MOST)
    return [entry.value.decode("ascii", "replace") for entry in entries if len(entry.value) <= LONGEST]


class Challenge:
    """The challenge of one reader. monotonic_ms: its own clock. draw: returns that many random bytes in
    hexadecimal.
    """

    def __init__(
        self, monotonic_ms: Callable[[], int], draw: Callable[[int], str] = secrets.token_hex
    ) -> None:
        self._monotonic_ms, self._draw = monotonic_ms, draw
        self._text, self._last = draw(16), ""
        self._since_ms, self._changes = monotonic_ms(), 0
        self._now: dict[str, tuple[str, int]] = {}
        """Key of a vote -> the witness process that writes it and its highest number seen."""
        self._replaced: dict[tuple[str, str], int] = {}
        """(key, earlier witness process) -> the challenge change at which it ended."""

    @property
    def text(self) -> str:
        """What the store should hold now."""
        if self._monotonic_ms() - self._since_ms >= CHANGE_MS:
            self._text, self._last = self._draw(16), self._text
            self._since_ms, self._changes = self._monotonic_ms(), self._changes + 1
            self._replaced = {one: at for one, at in self._replaced.items() if self._changes - at <= _KEPT}
        return self._text

    def takes(self, key: str, process: str, number: int, repeated: Collection[str]) -> bool:
        """Whether this vote is new; a vote once accepted is not new again."""
        if self._text not in repeated and (not self._last or self._last not in repeated):
            return False
        if (key, process) in self._replaced:
            return False
        before, highest = self._now.get(key, (process, -1))
        if before == process and number <= highest:
            return False
        if before != process:
            self._replaced[key, before] = self._changes
        self._now[key] = (process, number)
        return True


class PostedChallenge:
    """Keeps the challenge of a reader that is no witness in the store, for witnesses to repeat."""

    def __init__(
        self, store: Store, site: str, challenge: Challenge, monotonic_ms: Callable[[], int]
    ) -> None:
        self._store, self._challenge, self._monotonic_ms = store, challenge, monotonic_ms
        self._owner = secrets.token_hex(8)
        self._key = key_of(site or "room", self._owner)
        self._lease: Lease | None = None
        self._text, self._renewed_ms = "", 0

    async def keep(self) -> None:
        """Writes it after a change and renews its lease in time. Raises StoreError; the next call repairs
        what this one could not do.
        """
        now_ms = self._monotonic_ms()
        try:
            if self._lease is None:
                self._lease = await self._store.acquire(f"reader/{self._owner}", self._owner, READER_TTL_MS)
                self._text, self._renewed_ms = "", now_ms
            elif now_ms - self._renewed_ms >= READER_TTL_MS // 3:
                await self._store.renew(self._lease)
                self._renewed_ms = now_ms
            text = self._challenge.text
            if text != self._text:
                await self._store.transact((), (Put(self._key, text.encode(), self._lease),))
                self._text = text
        except LeaseLost:
            self._lease = None
            raise

    async def withdraw(self) -> None:
        """Raises StoreError."""
        if self._lease is not None:
            await self._store.release(self._lease)
            self._lease = None
