"""SQLite when processes are killed, disks are full, and files are torn, foreign or changed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evac.model.errors import Corrupt, LeaseLost, LockHeld, StoreError, Unavailable
from evac.store.anchors import Anchor, verify_chain
from evac.store.journal import Journal, read
from evac.store.port import Compare, Put, Store
from evac.store.sqlite import HostClock, SqliteStore
from tests.promptness import Stopwatch

ROOT = Path(__file__).resolve().parents[3]


def python(*arguments: str, **more: object) -> subprocess.Popen[bytes]:
    """Its output is read without a buffer: `communicate` knows nothing of what `readline` read ahead."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        bufsize=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )  # type: ignore[call-overload, no-any-return]


async def everything(store: Store) -> list[bytes]:
    return [record for segment in [s async for s in read(store, "run-1")] for record in segment.records]


def test_twenty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path, acknowledged, tokens = tmp_path / "evac.db", [], []
    rng = random.Random(7)
    for _ in range(20):
        process = python("-m", "tests.contract.store.appender", str(path))
        assert process.stdout is not None
        first = process.stdout.readline()  # only now it has the lease and appends
        time.sleep(rng.uniform(0.0, 0.12))
        process.send_signal(signal.SIGKILL)
        output, errors = process.communicate(timeout=10)
        assert first.startswith(b"token "), errors.decode()
        tokens.append(int(first.split()[1]))
        whole = output[: output.rfind(b"\n") + 1]
        acknowledged += whole.splitlines()

    async def story() -> None:
        store = SqliteStore(path)
        assert await verify_chain(store, "run-1") == []
        written = await everything(store)
        assert set(acknowledged) <= set(written)
        assert len(written) == len(set(written)), "a record is there twice"
        await store.close()

    asyncio.run(story())
    assert len(acknowledged) > 200
    assert tokens == sorted(set(tokens))


FILL = """
import asyncio, resource, signal, sys
from evac.model.errors import Unavailable
from evac.store.journal import Journal
from evac.store.sqlite import SqliteStore

async def main(path):
    store = SqliteStore(path)
    lease = await store.acquire("leader", "me", 60_000)
    journal = await Journal.create(store, "run-1", lease)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    for number in range(1_000):
        try:
            await journal.append([b"%d %s" % (number, b"x" * 20_000)], lease)
        except Unavailable as error:
            print("refused:", error.code, error.hint, flush=True)
            break
        print(number, flush=True)
    print("doubt", journal.in_doubt, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_is_unavailable_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "evac.db"
    output, errors = python("-c", FILL, str(path)).communicate(timeout=20)
    lines = output.decode().splitlines()
    acknowledged = [int(line) for line in lines if line.isdigit()]
    assert len(acknowledged) > 5, errors.decode()
    assert any(line.startswith("refused: store-unavailable") and "disk" in line for line in lines)

    async def story() -> None:
        store = SqliteStore(path)
        written = [int(record.split()[0]) for record in await everything(store)]
        assert written in (acknowledged, [*acknowledged, len(acknowledged)])
        assert await verify_chain(store, "run-1") == []
        await store.close()

    asyncio.run(story())


def test_sqlites_own_full_is_unavailable_and_the_store_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async def story() -> None:
        store = SqliteStore(tmp_path / "evac.db")
        await store.transact([], [Put("a", b"1")])
        pages = store._writer._connection
        pages.execute("PRAGMA max_page_count = 20")
        with pytest.raises(Unavailable) as caught:
            await store.transact([], [Put("b", b"2" * 500_000), Put("c", b"3")])
        assert "free some space" in caught.value.hint
        assert [entry.key for entry in await store.list("")] == ["a"]
        pages.execute("PRAGMA max_page_count = 1000000")
        await store.transact([], [Put("b", b"2" * 500_000)])
        assert [entry.key for entry in await store.list("")] == ["a", "b"]
        await store.close()

    asyncio.run(story())


async def _written(path: Path, segments: int = 40) -> Anchor:
    store = SqliteStore(path)
    lease = await store.acquire("leader", "me", 60_000)
    journal = await Journal.create(store, "run-1", lease)
    for number in range(segments):
        await journal.append([b"%d " % number + b"x" * 5_000], lease)
    await store.close()
    return journal.head


def test_a_torn_log_loses_only_what_was_torn(tmp_path: Path) -> None:
    """As after a power loss in the middle of a write: the last frames of the log are cut."""
    path, copy = tmp_path / "evac.db", tmp_path / "copy.db"

    async def story() -> None:
        store = SqliteStore(path)
        lease = await store.acquire("leader", "me", 60_000)
        journal = await Journal.create(store, "run-1", lease)
        for number in range(10):
            await journal.append([b"%d" % number], lease)
        log = path.with_name("evac.db-wal").read_bytes()
        copy.write_bytes(path.read_bytes())
        copy.with_name("copy.db-wal").write_bytes(log[:-1_000])
        await store.close()
        torn = SqliteStore(copy)
        assert await everything(torn) == [b"%d" % number for number in range(9)]
        assert await verify_chain(torn, "run-1") == []
        (problem,) = await verify_chain(torn, "run-1", [journal.head])
        assert problem.kind == "cut-off"
        await torn.close()

    asyncio.run(story())


@pytest.mark.parametrize("damage", ["zeros", "header", "cut"])
def test_a_damaged_file_is_corrupt_with_a_hint(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "evac.db"
    asyncio.run(_written(path))
    content = bytearray(path.read_bytes())
    if damage == "zeros":
        content[4_096 * 2 : 4_096 * 40] = bytes(4_096 * 38)
    elif damage == "header":
        content[:100] = b"\x01" * 100
    else:
        del content[4_096 * 5 + 100 :]
    path.write_bytes(content)

    async def story() -> None:
        store = SqliteStore(path)
        try:
            await Journal.open(store, "run-1")
        finally:
            await store.close()

    with pytest.raises(Corrupt) as caught:
        asyncio.run(story())
    assert "copy" in caught.value.hint


def test_a_value_that_the_disk_changed_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "evac.db"
    head = asyncio.run(_written(path, 3))
    content = path.read_bytes()
    assert content.count(b"1 xxxx") == 1
    path.write_bytes(content.replace(b"1 xxxx", b"1 xxyx"))

    async def story() -> None:
        store = SqliteStore(path)
        with pytest.raises(Corrupt, match="not what was written"):
            await Journal.open(store, "run-1")
        (problem,) = await verify_chain(store, "run-1", [head])
        assert problem.kind == "unreadable"
        await store.close()

    asyncio.run(story())


def test_files_of_others_and_of_the_future_are_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE contacts (name)")
    other.close()
    with pytest.raises(StoreError) as foreign:
        SqliteStore(path)
    assert foreign.value.code == "store-foreign"
    newer = tmp_path / "newer.db"
    asyncio.run(_written(newer, 1))
    with sqlite3.connect(newer) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(StoreError) as future:
        SqliteStore(newer)
    assert future.value.code == "store-newer"
    text = tmp_path / "text.db"
    text.write_text("This is not a database, it is a note of some length." * 40)
    with pytest.raises(Corrupt):
        SqliteStore(text)
    assert text.read_text().startswith("This is not")
    with pytest.raises(Unavailable):
        SqliteStore(tmp_path / "no-such-folder" / "evac.db")


REQUESTS = """
import asyncio, sys
from evac.store.port import Compare, Put
from evac.store.sqlite import SqliteStore
from evac.model.errors import LockHeld

async def main(path):
    store = SqliteStore(path)
    for key in [f"request/r/{number:03d}" for number in range(50)]:
        await store.transact([Compare(key, 0)], [Put(key, b"pause")])
    try:
        await store.acquire("leader", "second controller", 1_000)
    except LockHeld as error:
        print("held by", error.owner, flush=True)
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


def test_another_process_appends_requests_but_cannot_lead(tmp_path: Path) -> None:
    path = tmp_path / "evac.db"

    async def story() -> None:
        store = SqliteStore(path)
        lease = await store.acquire("leader", "controller", 60_000)
        journal = await Journal.create(store, "run-1", lease)
        process = python("-c", REQUESTS, str(path))
        written = 0
        while process.poll() is None:
            await journal.append([b"%d" % written], lease)
            written += 1
        output, errors = process.communicate()
        assert output == b"held by controller\n", errors.decode()
        assert len(await store.list("request/")) == 50
        assert await everything(store) == [b"%d" % number for number in range(written)]
        await store.close()

    asyncio.run(story())


def test_a_locked_file_is_unavailable_in_time_and_usable_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "evac.db"

    async def story() -> None:
        store = SqliteStore(path, deadline_s=0.5)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        watch = Stopwatch()
        with pytest.raises(Unavailable) as caught:
            await store.transact([Compare("a", 0)], [Put("a", b"1")])
        assert watch.counted_s < 2
        assert "another process has locked the file, nothing was written" in caught.value.hint
        assert await store.get("a") is None
        other.execute("ROLLBACK")
        other.close()
        await store.transact([Compare("a", 0)], [Put("a", b"1")])
        await store.close()

    asyncio.run(story())


def test_what_waited_for_a_lock_until_its_deadline_is_never_written(tmp_path: Path) -> None:
    """As long as another process may hold the lock, a call waits, and then it knows that it wrote nothing."""
    path = tmp_path / "evac.db"

    async def story() -> None:
        store = SqliteStore(path, deadline_s=0.6)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(store.transact([], [Put("a", b"1")]))
        await asyncio.sleep(0.1)
        # They wait behind the first: one is given up while it waits, the other when its turn has begun.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await store.transact([], [Put("b", b"2")])
        with pytest.raises(Unavailable):
            await store.transact([], [Put("c", b"3")])
        with pytest.raises(Unavailable) as caught:
            await first
        assert "nothing was written" in caught.value.hint
        other.execute("ROLLBACK")
        other.close()
        await store.transact([], [Put("d", b"4")])  # the writer's thread takes one after the other
        assert [entry.key for entry in await store.list("")] == ["d"]
        await store.close()

    asyncio.run(story())


class SetClock(HostClock):
    """The host's clock in the hand of a test."""

    def __init__(self, boot: str, now_ms: int) -> None:
        super().__init__()
        self.boot, self._now_ms = boot, now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def set(self, now_ms: int) -> None:
        self._now_ms = now_ms


@pytest.mark.parametrize(("boot", "now_ms"), [("boot-2", 1_012_000), ("boot-1", 500)])
def test_leases_end_by_the_clock_since_boot_and_with_the_boot(tmp_path: Path, boot: str, now_ms: int) -> None:
    """Some hosts do not tell one boot from the next: then a lease from the future is over too."""
    path = tmp_path / "evac.db"

    async def story() -> None:
        clock = SetClock("boot-1", 1_000_000)
        store = SqliteStore(path, clock=clock)
        lease = await store.acquire("leader", "me", 10_000)
        await store.transact([], [Put("vote", b"", lease)])
        clock.set(1_009_999)
        with pytest.raises(LockHeld) as held:
            await store.acquire("leader", "other", 10_000)
        assert held.value.ttl_ms == 1
        await store.transact([], [Put("a", b"1")], lease)
        clock.set(1_010_000)
        with pytest.raises(LeaseLost):
            await store.transact([], [Put("a", b"2")], lease)
        assert await store.get("vote") is None
        second = await store.acquire("leader", "other", 10_000)
        await store.close()
        rebooted = SqliteStore(path, clock=SetClock(boot, now_ms))
        assert await rebooted.holder("leader") is None
        third = await rebooted.acquire("leader", "me", 10_000)
        assert lease.token < second.token < third.token
        await rebooted.close()

    asyncio.run(story())


def test_the_wall_clock_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        store = SqliteStore(tmp_path / "evac.db")
        lease = await store.acquire("leader", "me", 60_000)
        monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
        await store.renew(lease)
        with pytest.raises(LockHeld):
            await store.acquire("leader", "other", 60_000)
        await store.close()

    asyncio.run(story())
    assert abs(HostClock().now_ms() - time.clock_gettime(time.CLOCK_BOOTTIME) * 1_000) < 1_000
    assert os.path.exists("/proc/sys/kernel/random/boot_id") == bool(HostClock().boot)  # noqa: PTH110
