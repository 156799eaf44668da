"""Votes through the store: they vanish with their witness, and their reader alone says how old they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from evac.engine.lead.challenges import Challenge
from evac.engine.lead.votes import VotePublisher, VoteReader, decode, encode, key_of
from evac.model.errors import LeaseLost, Unavailable
from evac.model.run_policy import WatchProfile
from evac.store.port import Change, Compare, Entry, Lease, MemoryStore, Put
from evac.watch.verdict import Vote
from tests.unit.virtual_time import LOOP_MS, run_virtually

QUICK = WatchProfile("quick", 20, 10, 3, 60, 0, 100, 2, 200, 300)


class _Clock:
    def __init__(self) -> None:
        self.at_ms = 0

    def now_ms(self) -> int:
        return 1_764_000_000_000 + self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


def _vote(number: int = 1, target: str = "pangyo", witness: str = "ansan") -> Vote:
    return Vote(witness, target, "down", (("data", "down"), ("user", "down")), 5, 6, number, "no answer")


@contextlib.asynccontextmanager
async def _publishing(publisher: VotePublisher) -> AsyncIterator[None]:
    task = asyncio.ensure_future(publisher.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_vote_reads_as_it_was_written_and_nonsense_is_silence() -> None:
    vote = _vote()
    assert decode(Entry(key_of(vote), encode(vote), 1)) == vote
    for value in (b"", b"[]", b"{}", b'{"opinion": 3}', encode(vote).replace(b'"down"', b'"dead"')):
        assert decode(Entry(key_of(vote), value, 1)) is None
    assert decode(Entry("votes/pangyo", encode(vote), 1)) is None


def test_votes_are_written_newest_first_and_vanish_with_their_witness() -> None:
    async def play() -> None:
        store = MemoryStore(LOOP_MS)
        publisher = VotePublisher(store, "ansan", "ansan-1", QUICK)
        async with _publishing(publisher):
            for number in range(1, 50):
                publisher.publish(_vote(number))
            publisher.publish(_vote(7, "anyang"))
            await asyncio.sleep(0.05)
            reader = VoteReader(store, _Clock(), QUICK)
            found = {ballot.vote.target: ballot.vote.number for ballot in await reader.refresh()}
            assert found == {"pangyo": 49, "anyang": 7}
            assert store._revision < 10, "what waited was replaced, not queued"
        assert await store.list("votes/") == [], "a witness that stops takes its votes back"

    run_virtually(play())


def test_a_silent_witness_keeps_its_lease_and_a_lost_lease_is_taken_anew() -> None:
    async def play() -> None:
        store = MemoryStore(LOOP_MS)
        publisher = VotePublisher(store, "ansan", "ansan-1", QUICK)
        async with _publishing(publisher):
            publisher.publish(_vote())
            await asyncio.sleep(0.7)
            assert len(await store.list("votes/")) == 1, "it was renewed over twice its length"
            lease = await store.holder("witness/ansan/ansan-1")
            assert lease is not None
            store._end(lease.name)
            publisher.publish(_vote(2))
            await asyncio.sleep(0.05)
            publisher.publish(_vote(3))
            await asyncio.sleep(0.05)
            assert [entry.key for entry in await store.list("votes/")] == ["votes/pangyo/ansan"]

    run_virtually(play())


def test_a_store_that_does_not_answer_is_asked_again() -> None:
    class Flaky(MemoryStore):
        broken = True

        async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
            if self.broken:
                raise Unavailable("no majority")
            return await super().acquire(name, owner, ttl_ms)

    async def play() -> None:
        store = Flaky(LOOP_MS)
        publisher = VotePublisher(store, "ansan", "ansan-1", QUICK)
        async with _publishing(publisher):
            publisher.publish(_vote())
            await asyncio.sleep(0.05)
            store.broken = False
            await asyncio.sleep(0.1)
            assert len(await store.list("votes/")) == 1

    run_virtually(play())


def test_the_reader_ages_votes_by_its_own_clock_and_trusts_no_vote_it_only_found() -> None:
    async def play() -> None:
        store, clock = MemoryStore(LOOP_MS), _Clock()
        reader = VoteReader(store, clock, QUICK)

        async def write(vote: Vote) -> None:
            await store.transact((), [Put(key_of(vote), encode(vote))])

        await write(_vote(1))
        (ballot,) = await reader.refresh()
        assert (ballot.proven, ballot.seen_at_ms) == (False, 0)
        clock.at_ms = 100
        (ballot,) = await reader.refresh()
        assert (ballot.proven, ballot.seen_at_ms) == (False, 0), "unchanged: as old as before"
        await write(_vote(2))
        (ballot,) = await reader.refresh()
        assert (ballot.proven, ballot.seen_at_ms) == (True, 100)
        clock.at_ms = 200
        await write(_vote(1, "anyang"))
        assert [b.proven for b in await reader.refresh()] == [True, True], "one that appears is new"
        clock.at_ms = 200 + QUICK.vote_ttl_ms + 1
        await write(_vote(3))
        ballots = {b.vote.target: b for b in await reader.refresh()}
        assert not ballots["pangyo"].proven, "the reader slept: it cannot know when that changed"

    run_virtually(play())


def test_a_vote_under_a_lease_that_is_over_is_not_written() -> None:
    async def play() -> None:
        store = MemoryStore(LOOP_MS)
        lease = await store.acquire("witness/ansan/x", "x", 1_000)
        await store.release(lease)
        with contextlib.suppress(LeaseLost):
            await store.transact((), [Put("votes/pangyo/ansan", encode(_vote()), lease)])
        assert await store.list("votes/") == []

    run_virtually(play())


class Counting(MemoryStore):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(LOOP_MS)
        self.calls: Counter[str] = Counter()

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        self.calls["transact"] += 1
        return await super().transact(compares, changes, guard)

    async def renew(self, lease: Lease) -> None:
        self.calls["renew"] += 1
        await super().renew(lease)

    async def list(self, prefix: str, after: str = "", limit: int = 1_000) -> list[Entry]:
        self.calls["list"] += 1
        return await super().list(prefix, after, limit)


def test_votes_of_a_round_that_say_nothing_new_are_one_write_and_the_lease_is_renewed_by_thirds() -> None:
    async def play() -> None:
        store, rounds = Counting(), 60
        publisher = VotePublisher(store, "ansan", "ansan-1", QUICK, Challenge(LOOP_MS))
        period_s = QUICK.period_ms / 1_000
        async with _publishing(publisher):
            for number in range(rounds):
                for target, late_s in (("anyang", 0.05), ("pangyo", 0.05)):
                    publisher.publish(_vote(number, target))
                    await asyncio.sleep(period_s * late_s)
                await asyncio.sleep(period_s * 0.9)
            entries = await store.list("votes/")
            assert {vote.number for one in entries if (vote := decode(one))} == {rounds - 1}
        thirds = rounds * QUICK.period_ms * 3 // QUICK.vote_ttl_ms
        assert store.calls["transact"] <= rounds + 2, "the first two votes are news"
        assert 1 <= store.calls["renew"] <= thirds + 1
        assert store.calls["list"] <= 10, "challenges are read when they change, and not with each vote"

    run_virtually(play())


def test_a_vote_that_says_something_new_is_written_at_once() -> None:
    async def play() -> None:
        store = MemoryStore(LOOP_MS)
        publisher = VotePublisher(store, "ansan", "ansan-1", QUICK)
        async with _publishing(publisher):
            for target in ("anyang", "pangyo"):
                publisher.publish(replace(_vote(1, target), opinion="up"))
            await asyncio.sleep(QUICK.period_ms / 1_000)
            publisher.publish(replace(_vote(2, "pangyo"), opinion="down"))
            began_s = asyncio.get_running_loop().time()
            async for _ in store.watch("votes/"):
                votes = [vote for entry in await store.list("votes/") if (vote := decode(entry))]
                if any(vote.opinion == "down" for vote in votes):
                    break
            assert asyncio.get_running_loop().time() == began_s, "no time went by on the virtual clock"

    run_virtually(play())
