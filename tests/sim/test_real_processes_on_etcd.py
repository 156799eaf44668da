"""The same boundaries on three real etcd members; and members that are killed, torn, or have no room there.

Runs lie side by side under prefixes of their own, so that one cluster serves them all at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evac.model.errors import Unavailable
from evac.store.anchors import verify_chain
from evac.store.opening import open_store
from evac.store.port import Put
from tests.contract.store.members import Members, etcd_program
from tests.sim.crashing import (
    LIMIT_S,
    assert_killed_and_replaced,
    assert_stopped_and_replaced,
    controller,
    effects,
    finish,
    until_stopped,
)
from tests.sim.real_controller import ETCD_TTL_MS, STEPS

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.skipif(etcd_program() is None, reason="etcd is not installed: apt-get install etcd-server"),
]
KILLED = (1, 3, 6, 13)
STOPPED = (2, 7)
PAUSE_S = ETCD_TTL_MS / 1_000 + 0.3
"""The lease is over for its holder long before etcd ends it: nobody else needs to lead meanwhile."""


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    three = Members(tmp_path, 3)
    try:
        three.start()
        yield three
    finally:
        three.stop()


def _store(members: Members, name: str) -> str:
    return f"etcd:{','.join(members.endpoints)}?prefix=/{name}"


def _check_chain(store_url: str) -> None:
    async def check() -> None:
        store = open_store(store_url)
        try:
            assert await verify_chain(store, "run") == []
        finally:
            await store.close()

    asyncio.run(check())


async def _put(store_url: str) -> None:
    store = open_store(store_url)
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                await store.transact((), (Put("anything", b"x"),))
                await asyncio.sleep(0.1)
    finally:
        await store.close()


def _folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_controllers_that_are_killed_or_stopped_there_are_replaced(tmp_path: Path, members: Members) -> None:
    with ThreadPoolExecutor(3) as pool:
        work = []
        for at in KILLED:
            name = f"killed-{at}"
            work.append(
                pool.submit(assert_killed_and_replaced, _folder(tmp_path, name), _store(members, name), at)
            )
        for at in STOPPED:
            name = f"stopped-{at}"
            work.append(
                pool.submit(
                    assert_stopped_and_replaced, _folder(tmp_path, name), _store(members, name), at, PAUSE_S
                )
            )
        for one in work:
            assert one.exception() is None
    for at in KILLED:
        _check_chain(_store(members, f"killed-{at}"))


@pytest.mark.parametrize("at", [3, 6])
def test_the_member_that_leads_is_killed_between_a_record_and_an_effect(
    tmp_path: Path, members: Members, at: int
) -> None:
    """An election takes about as long as the lease: whether the controller goes on or gives up is open, and
    either way every effect is there once.
    """
    folder, store = _folder(tmp_path, "run"), _store(members, "run")
    leader = members.processes[members.leader()]
    with controller(folder, store, at, signal.SIGKILL, leader.pid) as process:
        assert process.wait(LIMIT_S) in (0, 3)
    leader.kill()  # it is dead: this only waits until its port is free
    if len(effects(folder)) < STEPS:
        finish(folder, store)
    leader.start()
    members.wait()
    assert sorted(effects(folder)) == [f"run/s{n}" for n in range(STEPS)]
    _check_chain(store)


def _tear(data: Path, size: int) -> None:
    """As after a power loss in the middle of a write, on a disk that had said it was done."""
    log = max(data.glob("member/wal/*.wal"))
    content = log.read_bytes()
    end = len(content.rstrip(b"\0"))
    with log.open("r+b") as file:
        file.seek(end - size)
        file.write(b"\0" * size)


def test_a_member_whose_log_is_torn_costs_nothing(tmp_path: Path, members: Members) -> None:
    """It mends its log or it stays away; two of three have all that was ever acknowledged."""
    folder, store = _folder(tmp_path, "run"), _store(members, "run")
    with controller(folder, store, 6) as process:
        assert process.wait(LIMIT_S) == -signal.SIGKILL
    torn = members.leader()
    members.processes[torn].kill()
    _tear(tmp_path / f"m{torn}", 300)
    members.processes[torn].start()
    finish(folder, store)
    _check_chain(store)


def test_without_room_on_two_disks_nothing_begins_and_it_goes_on_when_there_is_room(
    tmp_path: Path, members: Members
) -> None:
    folder, store = _folder(tmp_path, "run"), _store(members, "run")
    with controller(folder, store, 4, signal.SIGSTOP) as process:
        assert until_stopped(process.pid)
        full = [members.processes[member] for member in (0, 1)]
        for one in full:
            resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (4_096, 4_096))
        with contextlib.suppress(Unavailable):  # a member finds out when it writes, and ends itself
            asyncio.run(_put(store))
        assert not any(one.alive for one in full)
        before = effects(folder)
        process.send_signal(signal.SIGCONT)
        assert process.wait(LIMIT_S) == 3
        assert len(effects(folder)) <= len(before) + 1, "at most what was begun already"
    for one in full:
        one.kill()
        one.start()
    members.wait()
    finish(folder, store)
    _check_chain(store)
