"""Three etcd members, of which one or two are killed or hang: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from evac.model.errors import Conflict, Unavailable
from evac.store.anchors import verify_chain
from evac.store.journal import Journal, read
from evac.store.port import Compare, Lease, Put
from tests.contract.capabilities.story import until_stopped
from tests.contract.store.conftest import connected
from tests.contract.store.members import Members, etcd_program
from tests.promptness import Stopwatch

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.skipif(etcd_program() is None, reason="etcd is not installed: apt-get install etcd-server"),
]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path, 3)
    try:
        members.start()
        yield members
    finally:
        members.stop()


class Appending:
    """Appends numbered records, as the engine would: settles each doubt before it goes on."""

    def __init__(self, journal: Journal, lease: Lease) -> None:
        self.journal, self.lease = journal, lease
        self.acknowledged: list[bytes] = []
        self.longest_s = 0.0
        self.doubts = 0
        self.going = True

    async def run(self, width: int) -> None:
        number = 0
        while self.going:
            records = [b"%d" % (number + one) for one in range(width)]
            number += width
            watch = Stopwatch()
            while records:
                records = await self._append(records)
            self.longest_s = max(self.longest_s, watch.counted_s)

    async def _append(self, records: list[bytes]) -> list[bytes]:
        """What is left to do of them."""
        try:
            await self.journal.append(records, self.lease)
        except Unavailable:
            self.doubts += 1
        else:
            self.acknowledged += records
            return []
        while self.journal.in_doubt:
            with suppress(Unavailable):
                found = await self.journal.settle(self.lease)
                self.acknowledged += found
                return [] if found else records
        return records


async def more(appending: Appending, count: int) -> None:
    """Until more records than that are acknowledged."""
    async with asyncio.timeout(60):
        while len(appending.acknowledged) <= count:
            await asyncio.sleep(0.02)


def test_a_leader_that_is_killed_or_hangs_costs_seconds_and_no_record(three: Members) -> None:
    async def story() -> None:
        async with connected(*three.endpoints) as store:
            lease = await store.acquire("leader", "me", 30_000)
            appending = Appending(await Journal.create(store, "run-1", lease), lease)
            running = asyncio.create_task(appending.run(20))
            for fault in ("kill", "hang"):
                await more(appending, 0)
                leader = await asyncio.to_thread(three.leader)
                if fault == "kill":
                    three.processes[leader].kill()
                else:
                    three.hang(leader)
                watch = Stopwatch()
                await more(appending, len(appending.acknowledged) + 20)  # it goes on without the leader
                assert watch.counted_s < 15, fault
                if fault == "kill":
                    three.processes[leader].start()
                else:
                    three.go_on(leader)
                await asyncio.to_thread(three.wait)
            await store.renew(lease)
            appending.going = False
            await running
            written = [record for s in [s async for s in read(store, "run-1")] for record in s.records]
            assert written == appending.acknowledged
            assert len(set(written)) == len(written)
            assert await verify_chain(store, "run-1", [appending.journal.head]) == []
            assert appending.longest_s < 4

    asyncio.run(story())


def test_two_members_gone_is_unavailable_in_time_and_over_when_one_is_back(three: Members) -> None:
    async def story() -> None:
        async with connected(*three.endpoints, attempt_s=0.5, deadline_s=1.5) as store:
            await store.transact([], [Put("a", b"1")])
            three.processes[1].kill()
            three.hang(2)
            await until_stopped(three.processes[2].pid)  # until then it may complete a majority
            for call in (lambda: store.get("a"), lambda: store.transact([Compare("b", 0)], [Put("b", b"2")])):
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    await call()
                assert time.monotonic() - began < 20, "without its deadline it would wait for ever"
            three.go_on(2)
            deadline = time.monotonic() + 8
            while time.monotonic() < deadline:
                with suppress(Unavailable, Conflict):
                    await store.transact([Compare("c", 0)], [Put("c", b"3")])
                with suppress(Unavailable):
                    if await store.get("c") is not None:
                        break
            assert {"a", "c"} <= {entry.key for entry in await store.list("")}

    asyncio.run(story())


def test_a_preferred_member_that_hangs_is_left_for_another(three: Members) -> None:
    async def story() -> None:
        async with connected(*three.endpoints, attempt_s=0.7) as store:
            await store.transact([], [Put("a", b"1")])
            three.hang(0)
            await store.transact([Compare("b", 0)], [Put("b", b"2")])
            took = []
            for _ in range(11):
                watch = Stopwatch()
                assert await store.get("b") is not None
                took.append(watch.counted_s)
            assert sorted(took)[5] < 0.7, "most do not wait for the one that hangs"
            three.go_on(0)

    asyncio.run(story())


def test_a_watch_survives_the_loss_of_its_member(three: Members) -> None:
    async def story() -> None:
        async with connected(*three.endpoints) as store, connected(three.endpoints[1]) as other:
            seen: list[float] = []

            async def look() -> None:
                async for _ in store.watch("w/"):
                    seen.append(time.monotonic())

            async def seen_since(began: float) -> None:
                async with asyncio.timeout(60):
                    while not seen or seen[-1] < began:
                        await asyncio.sleep(0.01)

            looking = asyncio.create_task(look())
            await seen_since(0.0)
            three.processes[0].kill()
            await asyncio.to_thread(three.leader, [1, 2])
            await seen_since(time.monotonic())
            await other.transact([], [Put("w/1", b"")])
            written, watch = time.monotonic(), Stopwatch()
            while seen[-1] < written:
                assert watch.counted_s < 2.5
                await asyncio.sleep(0.01)
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    asyncio.run(story())
