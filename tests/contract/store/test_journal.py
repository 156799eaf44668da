"""Journals on every driver: what was appended is read, in order, once; whoever tampers is found out."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from evac.model.errors import Conflict, Corrupt, LeaseLost, StoreError
from evac.store.anchors import (
    MAX_BODY_BYTES,
    MAX_RECORDS,
    Anchor,
    Segment,
    decode,
    encode,
    key_of,
    verify_chain,
)
from evac.store.journal import Journal, head_of, read, records_after, tail
from evac.store.port import Compare, Delete, Lease, Put, Store
from tests.contract.store.conftest import Case, create, opened, tell


def lines(count: int, start: int = 0) -> list[bytes]:
    return [b'["step_started",%d]' % number for number in range(start, start + count)]


async def everything(store: Store, stream: str) -> list[bytes]:
    return [record for segment in [s async for s in read(store, stream)] for record in segment.records]


async def leading(store: Store) -> Lease:
    return await store.acquire("leader", "me", 30_000)


def test_records_come_back_in_order_with_their_numbers(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await leading(store)
        journal = await Journal.create(store, "run-1", lease, records=lines(2))
        for start, count in ((2, 1), (3, 700), (703, 5)):
            head = await journal.append(lines(count, start), lease)
            assert (head, head.records) == (journal.head, start + count)
        assert await everything(store, "run-1") == lines(708)
        again = await Journal.open(store, "run-1")
        assert again.head == journal.head == await head_of(store, "run-1")
        assert [pair async for pair in records_after(store, "run-1", 705)] == [
            (706, lines(1, 705)[0]),
            (707, lines(1, 706)[0]),
            (708, lines(1, 707)[0]),
        ]
        assert [n async for n, _ in records_after(store, "run-1", 257, limit=2)] == [258, 259]
        assert [n async for n, _ in records_after(store, "run-1", 708)] == []
        assert await verify_chain(store, "run-1", [journal.head]) == []
        await store.release(lease)

    tell(case, story)


def test_a_run_is_created_once_with_what_belongs_to_it(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await leading(store)
        once = ([Compare("incident/1", 0)], [Put("incident/1", b"{}")])
        await Journal.create(store, "run-1", lease, *once, lines(1))
        for stream in ("run-1", "run-2"):
            with pytest.raises(Conflict):
                await Journal.create(store, stream, lease, *once, lines(1))
        assert await head_of(store, "run-2") is None
        with pytest.raises(Corrupt, match="no such journal"):
            await Journal.open(store, "run-2")
        await store.release(lease)

    tell(case, story)


def test_changes_ride_with_the_first_segment_and_a_failed_compare_writes_nothing(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await leading(store)
        journal = await Journal.create(store, "run-1", lease)
        request = await create(store, "request/run-1/1", b"pause")
        change = ([Compare("request/run-1/1", request)], [Delete("request/run-1/1")])
        await journal.append(lines(300), lease, *change)
        assert await store.get("request/run-1/1") is None
        with pytest.raises(Conflict) as caught:
            await journal.append(lines(1, 300), lease, *change)
        assert caught.value.key == "request/run-1/1"
        await journal.append(lines(1, 300), lease)
        assert await everything(store, "run-1") == lines(301)
        await store.release(lease)

    tell(case, story)


def test_appends_that_wait_together_share_segments_and_keep_their_order(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await leading(store)
        journal = await Journal.create(store, "run-1", lease)
        sizes = [1 + number % 7 for number in range(400)]
        starts = [sum(sizes[:number]) for number in range(400)]
        appends = [
            journal.append(lines(size, start), lease) for size, start in zip(sizes, starts, strict=True)
        ]
        heads = await asyncio.gather(*appends)
        assert await everything(store, "run-1") == lines(sum(sizes))
        assert journal.head.segment < 20
        assert [head.segment for head in heads] == sorted(head.segment for head in heads)
        segments = [segment async for segment in read(store, "run-1")]
        ends = {segment.last for segment in segments}
        assert ends <= {start + size for start, size in zip(starts, sizes, strict=True)} | {0}
        await store.release(lease)

    tell(case, story)


def test_large_records_are_split_by_size(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await leading(store)
        journal = await Journal.create(store, "run-1", lease)
        records = [bytes([65 + number]) * (MAX_BODY_BYTES // 2 - 10) for number in range(5)]
        await journal.append(records, lease, [], [Put("plan/1", b"p" * 500_000)])
        assert await everything(store, "run-1") == records
        assert [len(s.records) async for s in read(store, "run-1")] == [0, 2, 2, 1]
        for bad in (b"two\nlines", b"x" * MAX_BODY_BYTES):
            with pytest.raises(StoreError):
                await journal.append([bad], lease)
        await store.release(lease)

    tell(case, story)


def test_a_lost_lease_writes_nothing_and_the_successor_goes_on(case: Case) -> None:
    async def story(store: Store) -> None:
        old = await leading(store)
        journal = await Journal.create(store, "run-1", old, records=lines(1))
        await store.release(old)
        new = await store.acquire("leader", "other", 30_000)
        successor = await Journal.open(store, "run-1")
        await successor.append(lines(1, 1), new)
        with pytest.raises(LeaseLost):
            await journal.append([b"late"], old)
        with pytest.raises(Conflict):
            await journal.append([b"under a lease that is not its own"], new)
        assert await everything(store, "run-1") == lines(2)
        assert await verify_chain(store, "run-1", [successor.head]) == []
        await store.release(new)

    tell(case, story)


def test_a_follower_sees_each_segment_once_and_soon(case: Case) -> None:
    async def story() -> None:
        async with opened(case) as store, opened(case) as other:
            lease = await leading(store)
            journal = await Journal.create(store, "run-1", lease, records=lines(3))
            seen: list[Segment] = []

            async def follow() -> None:
                async with aclosing(tail(other, "run-1")) as segments:
                    async for segment in segments:
                        seen.append(segment)
                        if segment.last >= 40:
                            return

            following = asyncio.create_task(follow())
            for number in range(3, 40):
                await journal.append(lines(1, number), lease)
                await asyncio.sleep(0.005)
            await asyncio.wait_for(following, 5)
            assert [record for segment in seen for record in segment.records] == lines(40)
            await store.release(lease)

    asyncio.run(story())


def test_opening_after_an_anchor_reads_only_what_is_new_and_refuses_a_wrong_one(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await leading(store)
        journal = await Journal.create(store, "run-1", lease, records=lines(5))
        anchor = await journal.append(lines(5, 5), lease)
        await journal.append(lines(5, 10), lease)
        visited: list[Segment] = []
        again = await Journal.open(store, "run-1", visited.append, anchor)
        assert [segment.number for segment in visited] == [3]
        assert again.head == journal.head
        assert (await Journal.open(store, "run-1", after=journal.head)).head == journal.head
        wrong = Anchor("run-1", anchor.segment, anchor.records, "0" * 64)
        with pytest.raises(Corrupt, match="anchored"):
            await Journal.open(store, "run-1", after=wrong)
        await store.release(lease)

    tell(case, story)


async def _chain(store: Store) -> list[Anchor]:
    """Five segments, and the anchor of each."""
    lease = await leading(store)
    journal = await Journal.create(store, "run-1", lease, records=lines(2))
    anchors = [journal.head]
    for number in range(4):
        anchors.append(await journal.append(lines(2, 2 + 2 * number), lease))
    await store.release(lease)
    return anchors


async def _kinds(store: Store, anchors: list[Anchor]) -> set[tuple[str, int]]:
    return {(problem.kind, problem.segment) for problem in await verify_chain(store, "run-1", anchors)}


async def _forge(store: Store, number: int, **changes: object) -> None:
    """Writes a segment again, well formed, with other fields."""
    entry = await store.get(key_of("run-1", number))
    assert entry is not None
    old = decode("run-1", number, entry.value)
    fields = {
        "stream": "run-1",
        "number": number,
        "first": old.first,
        "token": old.token,
        "previous": old.previous,
        "records": old.records,
        **changes,
    }
    await store.transact([], [Put(key_of("run-1", number), encode(**fields))])  # type: ignore[arg-type]


def test_a_changed_record_is_found(case: Case) -> None:
    async def story(store: Store) -> None:
        anchors = await _chain(store)
        assert await _kinds(store, anchors) == set()
        await _forge(store, 3, records=(b"a", b"b"))
        assert ("changed", 4) in await _kinds(store, [])
        assert {("changed", 3), ("changed", 4)} <= await _kinds(store, anchors)
        with pytest.raises(Corrupt):
            await Journal.open(store, "run-1")

    tell(case, story)


def test_a_changed_end_is_found_by_its_anchor_alone(case: Case) -> None:
    async def story(store: Store) -> None:
        anchors = await _chain(store)
        await _forge(store, 5, records=(b"a", b"b"))
        assert await _kinds(store, []) == set()
        assert await _kinds(store, anchors) == {("changed", 5)}

    tell(case, story)


def test_a_removed_segment_is_found(case: Case) -> None:
    async def story(store: Store) -> None:
        anchors = await _chain(store)
        await store.transact([], [Delete(key_of("run-1", 2))])
        assert await _kinds(store, anchors) == {("missing", 2)}
        await store.transact([], [Delete(key_of("run-1", 1))])
        assert await _kinds(store, []) == {("missing", 1)}
        with pytest.raises(Corrupt, match="missing"):
            await Journal.open(store, "run-1")

    tell(case, story)


def test_a_cut_off_end_is_found_by_its_anchor_alone(case: Case) -> None:
    async def story(store: Store) -> None:
        anchors = await _chain(store)
        await store.transact([], [Delete(key_of("run-1", 4)), Delete(key_of("run-1", 5))])
        assert await _kinds(store, []) == set()
        assert await _kinds(store, anchors) == {("cut-off", 4), ("cut-off", 5)}
        await store.transact([], [Delete(key_of("run-1", number)) for number in (1, 2, 3)])
        assert await _kinds(store, anchors[-1:]) == {("cut-off", 5)}

    tell(case, story)


def test_a_token_that_fell_is_found(case: Case) -> None:
    async def story(store: Store) -> None:
        anchors = await _chain(store)
        await _forge(store, 5, token=0)
        assert ("token-fell", 5) in await _kinds(store, anchors)
        with pytest.raises(Corrupt, match="token"):
            await Journal.open(store, "run-1")

    tell(case, story)


def test_segments_in_each_others_place_and_rubbish_are_found(case: Case) -> None:
    async def story(store: Store) -> None:
        anchors = await _chain(store)
        third, fourth = await store.get(key_of("run-1", 3)), await store.get(key_of("run-1", 4))
        assert third is not None
        assert fourth is not None
        await store.transact([], [Put(third.key, fourth.value), Put(fourth.key, third.value)])
        assert {("changed", 3), ("changed", 4)} <= await _kinds(store, anchors)
        for rubbish in (
            b"",
            b"{",
            b"[]",
            b'{"v":1}',
            third.value.replace(b'"v":1', b'"v":2'),
            b"\xff" * 9_000,
        ):
            await store.transact([], [Put(third.key, rubbish), Put(fourth.key, fourth.value)])
            assert ("changed", 3) in await _kinds(store, [])
        await _forge(store, 5, first=100)
        assert ("changed", 5) in await _kinds(store, [])
        await store.transact([], [Put("journal/run-1/notes", b"")])
        assert ("changed", 5) in await _kinds(store, [])

    tell(case, story)


def test_streams_do_not_mix(case: Case) -> None:
    async def story(store: Store) -> None:
        lease = await leading(store)
        for stream in ("run-1", "run-10", "run-2"):
            await Journal.create(store, stream, lease, records=[stream.encode()] * (MAX_RECORDS // 2))
        assert set(await everything(store, "run-1")) == {b"run-1"}
        for name in ("", "a/b", "a\n"):
            with pytest.raises(StoreError):
                await head_of(store, name)
        await store.release(lease)

    tell(case, story)
