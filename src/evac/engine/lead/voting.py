"""Votes through the store: one key a witness and target, under a lease of the witness, aged by their reader.

A vote vanishes with its witness. Its age is counted by the reader's own monotonic clock from the moment it
saw the number change, because the clocks of two sites may be minutes apart.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from evac.engine.clock import Clock
from evac.model.errors import LeaseLost, LockHeld, StoreError, Unavailable
from evac.model.run_policy import WatchProfile
from evac.store.port import MAX_CHANGES, Entry, Lease, Put, Store
from evac.watch.values import Vote
from evac.watch.verdict import Ballot

PREFIX: Final = "votes/"
_OPINIONS: Final = frozenset({"up", "down", "unknown"})
_MOST_VOTES: Final = 1_000


def key_of(vote: Vote) -> str:
    return f"{PREFIX}{vote.target}/{vote.witness}"


def encode(vote: Vote) -> bytes:
    return orjson.dumps(
        {
            "opinion": vote.opinion,
            "evidence": dict(vote.evidence),
            "since_ms": vote.since_ms,
            "at_ms": vote.at_ms,
            "number": vote.number,
            "reason": vote.reason,
        }
    )


def decode(entry: Entry) -> Vote | None:
    """The vote under a key; None for what is no vote, which therefore counts as silence."""
    try:
        _, target, witness = entry.key.split("/")
        document: dict[str, Any] = orjson.loads(entry.value)
        evidence = tuple(sorted(document["evidence"].items()))
        opinions = {document["opinion"], *(opinion for _, opinion in evidence)}
        if not opinions <= _OPINIONS:
            return None
        return Vote(
            witness,
            target,
            document["opinion"],
            evidence,
            int(document["since_ms"]),
            int(document["at_ms"]),
            int(document["number"]),
            str(document.get("reason", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class VotePublisher:
    """Writes the newest vote on each target. owner: unlike that of any other process, also of the same site.

    `publish` never waits: what could not be written yet is replaced by the next vote.
    """

    def __init__(self, store: Store, site: str, owner: str, profile: WatchProfile) -> None:
        self._store, self._site, self._owner, self._profile = store, site, owner, profile
        self._waiting: dict[str, Vote] = {}
        self._news = asyncio.Event()

    def publish(self, vote: Vote) -> None:
        self._waiting[vote.target] = vote
        self._news.set()

    async def run(self) -> None:
        """Writes votes until cancelled. Where the store does not answer the votes age, and that is the
        truth.
        """
        lease: Lease | None = None
        try:
            while True:
                try:
                    lease = lease or await self._acquire()
                    await self._write(lease)
                except LeaseLost:
                    lease = None
                except (Unavailable, LockHeld):
                    await asyncio.sleep(self._profile.period_ms / 1_000)
        finally:
            await self._leave(lease)

    async def _acquire(self) -> Lease:
        name = f"witness/{self._site}/{self._owner}"
        return await self._store.acquire(name, self._owner, self._profile.vote_ttl_ms)

    async def _write(self, lease: Lease) -> None:
        """One turn: the votes that wait, or after a third of the lease a renewal."""
        try:
            async with asyncio.timeout(self._profile.vote_ttl_ms / 3_000):
                await self._news.wait()
        except TimeoutError:
            await self._store.renew(lease)
            return
        self._news.clear()
        votes = [self._waiting.pop(target) for target in sorted(self._waiting)[:MAX_CHANGES]]
        if self._waiting:
            self._news.set()
        await self._store.renew(lease)
        await self._store.transact((), [Put(key_of(vote), encode(vote), lease) for vote in votes])

    async def _leave(self, lease: Lease | None) -> None:
        """A witness that stops takes its votes back at once, if the store still answers."""
        if lease is None:
            return
        try:
            async with asyncio.timeout(1):
                await self._store.release(lease)
        except (StoreError, TimeoutError):
            return


class VoteReader:
    """All votes with the moment at which this reader saw each change.

    A vote that was there before the reader first looked, or that changed while the reader slept, is not
    proven: nobody can say how old it is until it changes again.
    """

    def __init__(self, store: Store, clock: Clock, profile: WatchProfile) -> None:
        self._store, self._clock, self._profile = store, clock, profile
        self._ballots: dict[str, Ballot] = {}
        self._values: dict[str, bytes] = {}
        self._read_at_ms: int | None = None

    @property
    def ballots(self) -> tuple[Ballot, ...]:
        return tuple(self._ballots.values())

    async def refresh(self) -> tuple[Ballot, ...]:
        """Reads all votes. Raises `Unavailable`, and then what was read before only grows older."""
        entries = await self._store.list(PREFIX, limit=_MOST_VOTES)
        now_ms = self._clock.monotonic_ms()
        awake = self._read_at_ms is not None and now_ms - self._read_at_ms <= self._profile.vote_ttl_ms
        found: dict[str, Ballot] = {}
        for entry in entries:
            known = self._ballots.get(entry.key)
            if known is not None and self._values.get(entry.key) == entry.value:
                found[entry.key] = known
                continue
            vote = decode(entry)
            if vote is None:
                continue
            if known is not None and known.vote.number == vote.number:
                found[entry.key] = known
            else:
                found[entry.key] = Ballot(vote, now_ms, proven=awake)
        self._ballots, self._read_at_ms = found, now_ms
        self._values = {entry.key: entry.value for entry in entries}
        return tuple(found.values())
