"""The watch journal: in order, nothing doubled, nobody waits for it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
from collections.abc import Sequence

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evac.engine.clock import SystemClock
from evac.engine.lead.watch_journal import STREAM, WAITING_MOST, Chronicle, Notice, decode, encode, of_event
from evac.model.errors import Corrupt, LeaseLost, Unavailable
from evac.net.secrets import Secret
from evac.notices.values import State
from evac.office.notices.looking import Looker
from evac.run.values import Event
from evac.store.anchors import key_of, verify_chain
from evac.store.journal import Journal, read, records_after
from evac.store.opening import Seal, SealedStore, repair_journal, seal_of
from evac.store.port import Change, Compare, Delete, Entry, Lease, MemoryStore, Put
from tests.unit.office.test_notices_telling import Told
from tests.unit.virtual_time import LOOP_MS, run_virtually


class _Lossy(MemoryStore):
    """Loses every other answer after it wrote, and is sometimes away."""

    calls = 0
    lossy = False
    deaf = 0
    away = False

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        self.calls += 1
        if self.away:
            raise Unavailable("away")
        revision = await super().transact(compares, changes, guard)
        if self.lossy and self.calls % 2:
            self.deaf = 4
            raise Unavailable("the answer was lost")
        return revision

    async def get(self, key: str) -> Entry | None:
        if self.deaf:
            self.deaf -= 1
            raise Unavailable("and nobody can be asked")
        return await super().get(key)


def _notice(number: int) -> Notice:
    return Notice("run", number, "pangyo", f"notice {number}", {"n": number})


async def _written(store: MemoryStore) -> list[str]:
    return [decode(record).words async for segment in read(store, STREAM) for record in segment.records]


@contextlib.asynccontextmanager
async def _writing(chronicle: Chronicle):  # type: ignore[no-untyped-def]
    task = asyncio.ensure_future(chronicle.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_notice_reads_as_it_was_written() -> None:
    assert decode(encode(_notice(7))) == _notice(7)
    for record in (b"", b"[]", b"{}", b'["run", "x", "", "", {}]'):
        with pytest.raises(Corrupt):
            decode(record)


@pytest.mark.parametrize("lossy", [False, True])
def test_all_are_written_once_and_in_order_over_two_leaders(lossy: bool) -> None:
    async def play() -> None:
        store = _Lossy(LOOP_MS)
        for first in (0, 150):
            guard = await store.acquire("leader", f"c{first}", 60_000)
            store.lossy = lossy
            chronicle = Chronicle(store, guard)
            async with _writing(chronicle):
                for number in range(first, first + 150):
                    chronicle.add(_notice(number))
                    if number % 10 == 0:
                        await asyncio.sleep(0.002)
                await asyncio.sleep(0.3)
                store.lossy = False
                async with asyncio.timeout(10):
                    while not chronicle.idle:
                        await asyncio.sleep(0.05)
            await store.release(guard)
        assert await _written(store) == [f"notice {number}" for number in range(300)]
        assert await verify_chain(store, STREAM) == []

    run_virtually(play())


def test_while_the_store_is_away_the_oldest_are_dropped_and_counted() -> None:
    async def play() -> None:
        store = _Lossy(LOOP_MS)
        chronicle = Chronicle(store, await store.acquire("leader", "c1", 60_000))
        store.away = True
        async with _writing(chronicle):
            for number in range(WAITING_MOST + 5):
                chronicle.add(_notice(number))
            await asyncio.sleep(0.05)
            store.away = False
            await asyncio.sleep(0.6)
        words = await _written(store)
        assert words[0] == "5 records were lost while the store was unreachable"
        assert words[1:] == [f"notice {number}" for number in range(5, WAITING_MOST + 5)]

    run_virtually(play())


def test_it_ends_with_the_lease() -> None:
    async def play() -> None:
        store = MemoryStore(LOOP_MS)
        guard = await store.acquire("leader", "c1", 60_000)
        chronicle = Chronicle(store, guard)
        await store.release(guard)
        chronicle.add(_notice(1))
        with pytest.raises(LeaseLost):
            await chronicle.run()

    run_virtually(play())


def test_a_feed_that_tripped_and_a_boot_server_that_is_given_up_are_told() -> None:
    tripped = Event(
        "feed_tripped", 1, data={"feed": "pangyo/feed-3", "why": "6 of 8 fell silent", "open": False}
    )
    told = of_event("dark", tripped)
    assert told is not None
    words, data = told
    assert words == "dark: a feed tripped (pangyo/feed-3)"
    assert (data["feed"], data["why"]) == ("pangyo/feed-3", "6 of 8 fell silent")
    lost = of_event(
        "dark", Event("boot_server_lost", 1, data={"server": "b1", "other": "b2", "why": "5 in a row"})
    )
    assert lost is not None
    assert lost[0] == "dark: a boot server was abandoned (b1)"
    assert lost[1]["other"] == "b2"


@pytest.mark.parametrize("spoiled", ["next", "middle", "last", "all", "far"])
def test_whatever_is_spoiled_the_leader_writes_on_and_alerts_read_on(
    spoiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By someone who writes the store without its seal: into the next place, over or instead of what is
    there.
    """
    monkeypatch.setenv("EVAC_RED_SEAL", "s" * 32)
    monkeypatch.setattr("evac.engine.lead.watch_journal.BROKEN_S", 0.0)

    async def play() -> None:
        raw = MemoryStore()
        store = SealedStore(raw, seal_of("env:EVAC_RED_SEAL"))
        keys = {
            "next": [key_of(STREAM, 6)],
            "middle": [key_of(STREAM, 3)],
            "last": [key_of(STREAM, 5)],
            "all": [key_of(STREAM, one) for one in range(1, 7)],
            "far": [key_of(STREAM, one) for one in (16, 32, 64, 999_999_999_999)],
        }[spoiled]
        said: list[str] = []
        looker, state = Looker(store, Told(), SystemClock()), State(watched=0)
        written = 0

        async def write(count: int) -> None:
            nonlocal written
            for _ in range(count):
                chronicle.add(Notice("trouble", written, "pangyo", f"notice {written}"))
                written += 1
                while not chronicle.idle:
                    await asyncio.sleep(0)

        heard: list[str] = []

        async def look() -> None:
            nonlocal state
            state, known = await looker.look(state)
            heard.extend(one.words for one in known.news)

        for leader in range(3):
            guard = await store.acquire("leader", f"c{leader}", 60_000)
            chronicle = Chronicle(store, guard)
            task = asyncio.create_task(chronicle.run(said.append))
            async with asyncio.timeout(60):
                await write(5)
            await look()
            if leader == 0:
                await raw.transact([], [Put(key, b"spoiled") for key in keys])
                async with asyncio.timeout(60):
                    await write(5)
                await look()
                await raw.transact([], [Delete(key) for key in keys if spoiled != "next"])
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.release(guard)
        ours = [one for one in heard if one.startswith("notice ")]
        assert ours == [f"notice {number}" for number in range(written)], "each alert came, once"
        words = {"next": "segment 6 ", "middle": "segment 3 ", "last": "segment 5 ", "all": "segment 1 "}
        assert any(words.get(spoiled, "") in one for one in said) is (spoiled != "far"), said

    asyncio.run(play())


DAMAGE = st.tuples(
    st.sampled_from(("junk", "gone", "moved", "put back", "strange")), st.integers(1, 9), st.integers(1, 9)
)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.lists(DAMAGE, max_size=5), st.booleans())
@example([2, 2, 2], [("gone", 2, 1)], True)
@example([2, 2], [("junk", 3, 1), ("strange", 1, 1)], False)
@example([1], [("gone", 1, 1)], False)
def test_a_repair_makes_one_chain_of_what_is_left_while_a_leader_writes(
    sizes: list[int], damage: list[tuple[str, int, int]], sealed: bool
) -> None:
    async def play() -> None:
        raw, seal = MemoryStore(), Seal((Secret("s" * 32),)) if sealed else None
        store = SealedStore(raw, seal) if seal else raw
        guard = await store.acquire("leader", "c1", 60_000)
        journal = await Journal.create(store, STREAM, guard)
        records = [encode(_notice(number)) for number in range(sum(sizes))]
        for end, size in zip(itertools.accumulate(sizes), sizes, strict=True):
            if size:
                await journal.append(records[end - size : end], guard)
        before = {entry.key: entry.value for entry in await raw.list("journal/")}
        for kind, place, other in damage:
            key, from_key = key_of(STREAM, place), key_of(STREAM, other)
            changes: dict[str, Change] = {
                "junk": Put(key, b"junk"),
                "gone": Delete(key),
                "moved": Put(key, before.get(from_key, b"")),
                "put back": Put(key, before.get(key, b"x")),
                "strange": Put(f"journal/{STREAM}/{'x' * place}", b"strange"),
            }
            await raw.transact([], [changes[kind]])
        left = {number: record async for number, record in records_after(store, STREAM, 0, proven=False)}
        chronicle = Chronicle(store, guard)
        copies: list[bytes] = []
        async with _writing(chronicle):
            chronicle.add(_notice(1_000))
            async with asyncio.timeout(60):
                while not chronicle.idle:
                    await asyncio.sleep(0)
                damaged = {entry.key: entry for entry in await raw.list("journal/")}
                found = await repair_journal(raw, seal, STREAM, b"lost")
                assert {entry.key: entry for entry in await raw.list("journal/")} == damaged, "it only looks"
                assert await repair_journal(raw, seal, STREAM, b"lost", copies.append) == found
                chronicle.add(_notice(1_001))
                while not chronicle.idle:
                    await asyncio.sleep(0.01)
        assert await verify_chain(store, STREAM) == []
        assert (await repair_journal(raw, seal, STREAM, b"lost")).sound
        now = {number: record async for number, record in records_after(store, STREAM, 0)}
        assert {number: now.get(number) for number in left} == left, "each record has its number"
        assert list(now.values()).count(b"lost") == found.lost
        assert [decode(one).data["n"] for one in now.values() if one != b"lost"][-2:] == [1_000, 1_001]
        if copies:
            rows = [orjson.loads(line) for line in copies[0].splitlines()]
            assert {key: base64.b64decode(value) for key, _, value in rows} == {
                key: entry.value for key, entry in damaged.items()
            }
        assert bool(copies) is not found.sound

    run_virtually(play())
