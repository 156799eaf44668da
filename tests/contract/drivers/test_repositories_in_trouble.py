"""Real repositories that two controllers write to, that the network leaves in the middle, or that are full:
each is named, nothing that was there is changed, and the next window goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from evac.backup.evidence import Evidence
from evac.backup.jobs import Task, Worker
from evac.backup.known import Job
from evac.drivers.capabilities import READ
from evac.drivers.port import Action
from evac.drivers.registry import Drivers
from evac.engine.clock import SystemClock
from evac.model.backup import BackupEvent
from evac.model.errors import LockHeld
from evac.model.estate import Endpoint
from evac.store.port import MemoryStore, host_monotonic_ms
from tests.contract.adapters import pgbackrest, restic
from tests.contract.ports import free_port

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
DAY_S = 86_400.0
How = Literal["silent", "reset"]


def digests(folder: Path, *but: str) -> dict[str, str]:
    """What a repository holds, file by file; locks come and go."""
    files = (path for path in folder.rglob("*") if path.is_file() and not {*but, "locks"} & {*path.parts})
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def controller(folder: Path, store: MemoryStore | None = None, name: str = "one") -> Worker:
    """What one controller does jobs with; two of one store belong together."""
    shared = store or MemoryStore(host_monotonic_ms)
    return Worker(shared, Evidence(shared, 0.0), Drivers(), SystemClock(), folder / "scratch", name)


def task(job: Job, action: Action, origin: Action | None = None) -> Task:
    def of(one: Action, name: str) -> Endpoint:
        return Endpoint(name, one.target, one.at, one.driver, one.settings)

    source = None if origin is None else of(origin, "r-origin")
    return Task(job, "messages", "r-one", of(action, "r-one"), 0, source, level=READ, compare=False)


@contextmanager
def days() -> Iterator[Callable[[], None]]:
    """A function that lets a day pass for all that waits in this loop: limits of hours end at once, and only
    after what they wait for has gone wrong.
    """
    loop, passed = asyncio.get_running_loop(), 0.0
    true_time = loop.time

    def one_passes() -> None:
        nonlocal passed
        passed += DAY_S

    loop.time = lambda: true_time() + passed  # type: ignore[method-assign]
    try:
        yield one_passes
    finally:
        loop.time = true_time  # type: ignore[method-assign]


class Wire:
    """A connection to a server that lets so many bytes through to it, and then is silent or breaks."""

    def __init__(self, port: int) -> None:
        self.port, self.to = free_port(), port
        self.left: int | None = None
        self.how: How = "silent"
        self.passed = 0
        self.is_cut = False
        self._serving: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[None]:
        with days() as self._day_passes:
            server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            try:
                yield
            finally:
                server.close()
                for serving in self._serving:
                    serving.cancel()
                await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = asyncio.current_task()
        assert mine is not None
        self._serving.append(mine)
        if self.is_cut:
            self._day_passes()
        ends = [writer]
        try:
            there = await asyncio.open_connection("127.0.0.1", self.to)
            ends.append(there[1])
            await asyncio.gather(self._pass(reader, there[1], True), self._pass(there[0], writer, False))
        except OSError:
            pass
        finally:
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: bool) -> None:
        with contextlib.suppress(OSError):
            while part := await reader.read(16_384):
                if there and self.left is not None and self.passed + len(part) > self.left:
                    self._cut()
                if self.is_cut:
                    if self.how == "reset":
                        writer.transport.abort()
                        raise ConnectionResetError
                    await asyncio.Event().wait()
                self.passed += len(part) if there else 0
                writer.write(part)
                await writer.drain()
        writer.close()

    def _cut(self) -> None:
        if not self.is_cut:
            self.is_cut = True
            self._day_passes()

    def mend(self) -> None:
        self.left, self.is_cut, self.passed = None, False, 0


@pytest.mark.parametrize("how", ["silent", "reset"])
@pytest.mark.parametrize("job", ["take", "copy"])
def test_a_network_that_goes_away_in_the_middle_costs_one_window(
    server_folder: Path, job: Job, how: How
) -> None:
    async def story(world: restic.Copies) -> None:
        wire = Wire(world.port)
        name = "one" if job == "take" else "two"
        where = f"rest:http://127.0.0.1:{wire.port}/{name}/"
        there = world.action(name, repository=where)
        origin = None if job == "take" else world.action()
        worker = controller(server_folder)
        async with wire.laid():
            assert (await worker.do(task(job, there, origin))).outcome == "done"
            whole, wire.passed = wire.passed, 0
            for number, share in enumerate((0.3, 0.8)):
                restic.write_files(world.data / f"more-{how}-{number}", 20)
                if job == "copy":
                    assert (
                        await controller(server_folder).do(task("take", world.action()))
                    ).outcome == "done"
                before = digests(server_folder / "served")
                wire.left, wire.how, wire.passed = int(whole * share), how, 0
                cut = await worker.do(task(job, there, origin))
                assert wire.is_cut
                assert cut.outcome in ("unknown", "failed"), cut
                assert cut.code in ("backup-unknown", "backup-silent", "backup-killed"), cut
                assert cut.detail
                wire.mend()
                after = digests(server_folder / "served")
                assert {path: after.get(path) for path in before} == before, "nothing was overwritten"
                again = await worker.do(task(job, there, origin))
                assert (again.outcome, again.code) == ("done", "")
                proof = (await worker.do(task("prove", there))).proof
                assert proof is not None
                assert (proof.outcome, proof.bytes_read > 0) == ("passed", True)
            newest = await worker.do(task("restore-test", there))
            assert newest.proof is not None
            assert newest.proof.outcome == "passed", newest

    with restic.copies(server_folder) as world:
        asyncio.run(story(world))


async def both(*jobs: Any) -> list[BackupEvent | BaseException]:
    return await asyncio.gather(*jobs, return_exceptions=True)


@contextmanager
def repository(folder: Path, tool: str) -> Iterator[tuple[Action, Path]]:
    """A repository with a backup in it and a source that can be backed up again."""
    if tool == "restic":
        with restic.copies(folder) as world:
            yield world.action(), folder / "served" / "one"
    else:
        with pgbackrest.store(folder, runs=True) as store:
            yield store.action(), folder / "repo1"


def snapshots(event: BackupEvent) -> int:
    assert event.seen is not None
    return event.seen.count


@pytest.mark.parametrize("tool", ["restic", "pgbackrest"])
def test_of_two_controllers_of_one_store_one_works_on_a_copy(server_folder: Path, tool: str) -> None:
    async def story(action: Action) -> None:
        store = MemoryStore(host_monotonic_ms)
        one, two = (controller(server_folder, store, name) for name in ("one", "two"))
        listed = await one.do(task("list", action))
        ended = await both(one.do(task("take", action)), two.do(task("take", action)))
        assert [type(end) for end in ended] == [BackupEvent, LockHeld]
        now = await two.do(task("list", action))
        assert snapshots(now) == snapshots(listed) + 1

    with repository(server_folder, tool) as (action, _):
        asyncio.run(story(action))


@pytest.mark.parametrize("tool", ["restic", "pgbackrest"])
@pytest.mark.parametrize("other", ["take", "prove"])
def test_two_who_know_nothing_of_each_other_leave_a_whole_repository(
    server_folder: Path, tool: str, other: Job
) -> None:
    """Two installations with stores of their own, pointed at one repository by mistake."""

    async def story(action: Action, folder: Path) -> None:
        before = digests(folder, "archive.info", "archive.info.copy", "backup.info", "backup.info.copy")
        one, two = controller(server_folder), controller(server_folder, name="two")
        ended = await both(one.do(task("take", action)), two.do(task(other, action)))
        for worker, job, event in ((one, "take", ended[0]), (two, other, ended[1])):
            assert isinstance(event, BackupEvent), event
            if event.outcome != "done":
                assert event.code in ("backup-locked", "backup-changed"), event
                assert event.detail
                assert (await worker.do(task(job, action))).outcome == "done", "the next window goes on"
        after = digests(folder)
        assert {path: after.get(path) for path in before} == before, "nothing was overwritten"
        proven = await one.do(task("prove", action))
        assert proven.proof is not None
        assert proven.proof.outcome == "passed", proven
        listed = await one.do(task("list", action))
        assert snapshots(listed) >= 2

    with repository(server_folder, tool) as (action, folder):
        asyncio.run(story(action, folder))


@contextmanager
def small_disk(folder: Path, spare_bytes: int) -> Iterator[None]:
    """The folder on a disk of its own, which has so much space left."""
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.mkdir()
    used = sum(-(-path.stat().st_size // 4_096) * 4_096 for path in aside.rglob("*") if path.is_file())
    size = f"size={used + spare_bytes}"
    if subprocess.run(("mount", "-t", "tmpfs", "-o", size, "none", folder), check=False).returncode:
        aside.rename(folder)
        pytest.skip("no mount of its own can be had here")
    try:
        subprocess.run(("cp", "-a", f"{aside}/.", folder), check=True)
        os.chown(folder, aside.stat().st_uid, aside.stat().st_gid)
        yield
    finally:
        subprocess.run(("umount", "--lazy", folder), check=True)


@pytest.mark.parametrize("tool", ["restic", "pgbackrest"])
def test_a_full_disk_is_named_and_a_larger_one_is_gone_on_with(server_folder: Path, tool: str) -> None:
    async def story(action: Action, folder: Path) -> None:
        worker = controller(server_folder)
        before = digests(folder)
        full = await worker.do(task("take", action))
        assert (full.outcome, full.code) == ("failed", "backup-full"), full
        assert "space" in full.detail
        after = digests(folder)
        assert {path: after.get(path) for path in before} == before, "nothing was overwritten"
        subprocess.run(("mount", "-o", "remount,size=1g", folder), check=True)
        again = await worker.do(task("take", action))
        assert (again.outcome, again.code) == ("done", ""), again
        proven = await worker.do(task("prove", action))
        assert proven.proof is not None
        assert proven.proof.outcome == "passed", proven

    with repository(server_folder, tool) as (action, folder):
        if tool == "restic":
            restic.write_files(server_folder / "data" / "more", 200)
        with small_disk(folder, 1 << 20):
            asyncio.run(story(action, folder))
