"""A journal whose store loses questions, answers and itself: what is uncertain is settled, never doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from evac.model.errors import Conflict, LeaseLost, Unavailable
from evac.store.anchors import verify_chain
from evac.store.journal import Journal, read
from evac.store.port import Compare, Lease, MemoryStore, Put
from tests.unit.store.lossy import LossyStore


async def opened() -> tuple[LossyStore, Lease, Journal]:
    store = LossyStore(MemoryStore())
    lease = await store.acquire("leader", "me", 10_000)
    return store, lease, await Journal.create(store, "run-1", lease, records=[b"first"])


async def everything(store: LossyStore) -> list[bytes]:
    assert await verify_chain(store, "run-1") == []
    return [record for segment in [s async for s in read(store, "run-1")] for record in segment.records]


def tell(story: Callable[[LossyStore, Lease, Journal], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        await story(*await opened())

    asyncio.run(told())


@pytest.mark.parametrize(
    "faults", [["answer"], ["question"], ["question", "answer"], ["late"], ["late", "answer"], ["late"] * 2]
)
def test_a_lost_message_costs_nothing(faults: list[str]) -> None:
    async def story(store: LossyStore, lease: Lease, journal: Journal) -> None:
        store.faults = faults
        await journal.append([b"second"], lease)
        await journal.append([b"third"], lease)
        assert await everything(store) == [b"first", b"second", b"third"]

    tell(story)


def test_a_lost_answer_with_changes_is_not_a_conflict_with_oneself() -> None:
    async def story(store: LossyStore, lease: Lease, journal: Journal) -> None:
        store.faults = ["answer"]
        store.read_faults = 1
        await journal.append([b"second"], lease, [Compare("once", 0)], [Put("once", b"")])
        assert await everything(store) == [b"first", b"second"]

    tell(story)


@pytest.mark.parametrize(("last", "there"), [("question", False), ("answer", True), ("late", None)])
def test_what_stays_uncertain_is_in_doubt_until_it_is_settled(last: str, there: bool | None) -> None:
    async def story(store: LossyStore, lease: Lease, journal: Journal) -> None:
        store.faults, store.read_faults = ["question", "question", last], 3
        with pytest.raises(Unavailable):
            await journal.append([b"second"], lease)
        assert journal.in_doubt
        with pytest.raises(Unavailable, match="resolve that first"):
            await journal.append([b"third"], lease)
        store.faults, store.read_faults = ["question"] * 3, 3
        with pytest.raises(Unavailable):
            await journal.settle(lease)
        found = await journal.settle(lease)
        assert found == ((b"second",) if there is not False else ())
        assert not journal.in_doubt
        assert await journal.settle(lease) == ()
        await journal.append([b"third"], lease)
        assert await everything(store) == [b"first", *found, b"third"]

    tell(story)


def test_a_doubt_goes_on_where_the_lease_is_lost_and_the_successor_reads_the_truth() -> None:
    async def story(store: LossyStore, lease: Lease, journal: Journal) -> None:
        store.faults, store.read_faults = ["answer"] + ["question"] * 2, 3
        with pytest.raises(Unavailable):
            await journal.append([b"second"], lease)
        await store.release(lease)
        successor = await Journal.open(store, "run-1")
        new = await store.acquire("leader", "other", 10_000)
        await successor.append([b"third"], new)
        assert await journal.settle(lease) == (b"second",)
        with pytest.raises(LeaseLost):
            await journal.append([b"fourth"], lease)
        assert await everything(store) == [b"first", b"second", b"third"]

    tell(story)


def test_somebody_else_writing_is_a_conflict_and_nothing_of_ours_is_there() -> None:
    async def story(store: LossyStore, lease: Lease, journal: Journal) -> None:
        other = await Journal.open(store, "run-1")
        await other.append([b"theirs"], lease)
        store.faults = ["question"]
        for _ in range(2):
            with pytest.raises(Conflict):
                await journal.append([b"ours"], lease)
        assert await everything(store) == [b"first", b"theirs"]

    tell(story)


def test_whoever_waits_is_answered_when_the_writer_dies() -> None:
    async def story(store: LossyStore, lease: Lease, journal: Journal) -> None:
        store.faults = ["never"]
        appends = [asyncio.create_task(journal.append([b"second"], lease)) for _ in range(3)]
        await asyncio.sleep(0.01)
        (writing,) = [task for task in asyncio.all_tasks() if task.get_name() == "journal run-1"]
        writing.cancel()
        answers = await asyncio.gather(*appends, return_exceptions=True)
        assert all(isinstance(answer, Unavailable) for answer in answers)
        assert await journal.settle(lease) == (b"second",) * 3
        assert await everything(store) == [b"first"] + [b"second"] * 3

    tell(story)


def test_a_caller_that_gives_up_harms_nobody_else() -> None:
    async def story(store: LossyStore, lease: Lease, journal: Journal) -> None:
        appends = [asyncio.create_task(journal.append([b"%d" % n], lease)) for n in range(5)]
        await asyncio.sleep(0)
        appends[2].cancel()
        answers = await asyncio.gather(*appends, return_exceptions=True)
        assert [type(answer).__name__ for answer in answers].count("Anchor") == 4
        await journal.close()
        assert await everything(store) == [b"first", b"0", b"1", b"2", b"3", b"4"]

    tell(story)
