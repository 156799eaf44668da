"""Real repositories in trouble, of every driver of backups: held by another, damaged in their catalogue,
full, used by two at once, unlike their witness. Each is named, nothing that was there is changed, and the
next window goes on. (A wrong password and a repository of someone else are in `test_backups`.)
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.backup.evidence import Evidence
from evac.backup.jobs import Task, Worker
from evac.backup.known import Job
from evac.drivers.capabilities import (
    EXPECTED,
    INCOMPLETE,
    INCOMPLETE_ELSEWHERE,
    READ,
    RestoresData,
    TakesBackups,
)
from evac.drivers.port import Action, Order
from evac.drivers.registry import Drivers, can
from evac.engine.clock import SystemClock
from evac.model.backup import BackupEvent
from evac.model.errors import ActionError, LockHeld, Permanent, Retryable
from evac.model.estate import Endpoint
from evac.store.port import MemoryStore, host_monotonic_ms
from tests.contract.capabilities.asked import ask
from tests.contract.capabilities.suites import AskedBackups, AskedRestore, asking
from tests.contract.capabilities.test_backups import OTHERS

LONG_S = 60.0
LOCKS = frozenset({"locks", ".lock", "lock.exclusive", "lock.roster"})
CATALOGUE = re.compile(r"(archive|backup)\.info(\.copy)?|(index|hints|integrity)\.\d+|nonce")
"""Files that every backup writes again."""


def digests(folder: Path) -> dict[str, str]:
    """What a repository holds, file by file, without its catalogue. Locks come and go."""
    files = [path for path in folder.rglob("*") if path.is_file() and not LOCKS & {*path.parts}]
    kept = [path for path in files if not CATALOGUE.fullmatch(path.name)]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def controller(folder: Path, store: MemoryStore | None = None, name: str = "one") -> Worker:
    """What one controller does jobs with; two of one store belong together."""
    shared = store or MemoryStore(host_monotonic_ms)
    return Worker(shared, Evidence(shared, 0.0), Drivers(), SystemClock(), folder / "scratch", name)


def task(job: Job, action: Action, origin: Action | None = None) -> Task:
    def of(one: Action, name: str) -> Endpoint:
        return Endpoint(name, one.target, one.at, one.driver, one.settings)

    source = None if origin is None else of(origin, "r-origin")
    return Task(job, "messages", "r-one", of(action, "r-one"), 0, source, level=READ, compare=False)


def is_of_another(asked: AskedBackups) -> bool:
    """Whether its programs are someone else's. Any other driver brings what these stories need."""
    other = asked.action.driver in OTHERS
    assert other or None not in (asked.disk, asked.held, asked.corrupt), "an adapter lacks a trouble"
    return other


@asking(TakesBackups, real=True)
def test_what_another_program_holds_is_waited_for(asked: AskedBackups) -> None:
    """Nothing is taken, nothing is proven, and nothing is called damaged."""

    async def story() -> None:
        assert asked.held is not None
        before = await ask(asked, "list_copies", LONG_S)
        with asked.held():
            error = await ask(asked, "take", LONG_S)
            assert isinstance(error, Retryable), error
            assert error.code == "backup-locked"
            assert error.hint.startswith("wait for it to finish"), error.hint
            proof = await ask(asked, "prove", LONG_S, READ, 1, 1)
            assert (proof.outcome, proof.code) in (("could-not-run", "backup-locked"), ("passed", "")), proof
            assert proof.detail.endswith(error.hint if proof.code else ""), proof.detail
        after = await ask(asked, "list_copies", LONG_S)
        assert [one.id for one in after.copies] == [one.id for one in before.copies]
        assert (await ask(asked, "take", LONG_S)).missing == ()

    if not is_of_another(asked):
        asked.run(story())


@asking(TakesBackups, real=True)
def test_a_damaged_catalogue_is_never_called_verified(asked: AskedBackups, server_folder: Path) -> None:
    """It is damage, or a tool repairs it by itself; then what comes back is what was there."""
    worker = controller(server_folder)

    async def story() -> None:
        assert asked.corrupt is not None
        whole = (await worker.do(task("restore-test", asked.action))).proof
        assert whole is not None
        assert whole.outcome == "passed", whole
        await asked.corrupt()
        proof = await ask(asked, "prove", LONG_S, READ, 1, 1)
        again = (await worker.do(task("restore-test", asked.action))).proof
        assert again is not None
        if again.outcome == "passed":
            assert again.bytes_read == whole.bytes_read
        else:
            assert proof.outcome != "passed", again
        assert proof.outcome in ("passed", "damaged"), proof
        assert not any((server_folder / "scratch").iterdir())

    if not is_of_another(asked):
        asked.run(story())


@asking(TakesBackups, real=True)
def test_a_witness_that_disagrees_is_damage(asked: AskedBackups, server_folder: Path) -> None:
    """Another saw something else in the source when the backup was taken: no bytes make that good."""
    store = MemoryStore(host_monotonic_ms)
    worker, evidence = controller(server_folder, store), Evidence(store, 0.0)

    async def story() -> None:
        (copy,) = (await ask(asked, "list_copies", LONG_S)).copies
        done = (
            await Drivers()
            .able(asked.action.driver, RestoresData)
            .restore(asked.action, LONG_S, "", str(server_folder / "seen"), None)
        )
        facts: dict[str, str | int] = {name: "another" for name in done.facts if name != "started_over"}
        now_ms = SystemClock().now_ms()
        await evidence.add(BackupEvent("taken", now_ms, "messages", "r-one", snapshot=copy.id, facts=facts))
        event = await worker.do(task("restore-test", asked.action))
        assert event.proof is not None
        assert (event.proof.outcome, event.proof.code) == ("damaged", "witness-disagrees"), event
        assert not any((server_folder / "scratch").iterdir())

    if can(asked.action.driver, RestoresData):
        asked.run(story())


@asking(TakesBackups, real=True)
def test_of_two_controllers_one_works_and_two_strangers_leave_it_whole(
    asked: AskedBackups, server_folder: Path
) -> None:
    """Two of one store share its lock. Two installations that know nothing of each other, pointed at one
    repository by mistake, have only the tool's.
    """

    async def both(*jobs: Any) -> list[BackupEvent | BaseException]:
        return await asyncio.gather(*jobs, return_exceptions=True)

    async def count(worker: Worker) -> int:
        listed = await worker.do(task("list", asked.action))
        assert listed.seen is not None
        return listed.seen.count

    async def story() -> None:
        store = MemoryStore(host_monotonic_ms)
        one, two = (controller(server_folder, store, name) for name in ("one", "two"))
        had = await count(one)
        take = task("take", asked.action)
        ended = await both(one.do(take), two.do(take))
        assert [type(end) for end in ended] == [BackupEvent, LockHeld]
        assert await count(two) == had + 1
        before = digests(asked.disk) if asked.disk is not None else {}
        stranger = controller(server_folder, name="three")
        ended = await both(one.do(take), stranger.do(take))
        for worker, event in zip((one, stranger), ended, strict=True):
            assert isinstance(event, BackupEvent), event
            if event.outcome != "done":
                assert event.code in ("backup-locked", "backup-changed"), event
                assert event.detail
                assert (await worker.do(take)).outcome == "done", "the next window goes on"
        after = digests(asked.disk) if asked.disk is not None else {}
        assert {path: after.get(path) for path in before} == before, "nothing was overwritten"
        proven = await one.do(task("prove", asked.action))
        assert proven.proof is not None
        assert proven.proof.outcome == "passed", proven
        assert await count(one) == had + 3

    if asked.takes and not is_of_another(asked):
        asked.run(story())


@contextmanager
def small_disk(folder: Path, room_bytes: int) -> Iterator[None]:
    """The folder on a disk of its own, which has so much space left."""
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.mkdir()
    used = sum(-(-path.stat().st_size // 4_096) * 4_096 for path in aside.rglob("*") if path.is_file())
    size = f"size={used + room_bytes}"
    if subprocess.run(("mount", "-t", "tmpfs", "-o", size, "none", folder), check=False).returncode:
        aside.rename(folder)
        pytest.skip("no mount of its own can be had here")
    try:
        subprocess.run(("cp", "-a", f"{aside}/.", folder), check=True)
        os.chown(folder, aside.stat().st_uid, aside.stat().st_gid)
        yield
    finally:
        subprocess.run(("umount", "--lazy", folder), check=True)


@asking(TakesBackups, real=True)
def test_a_full_disk_is_named_and_a_larger_one_is_gone_on_with(
    asked: AskedBackups, server_folder: Path
) -> None:
    async def story(folder: Path) -> None:
        worker = controller(server_folder)
        await asked.change()
        before = digests(folder)
        full = await worker.do(task("take", asked.action))
        assert (full.outcome, full.code) == ("failed", "backup-full"), full
        assert "space" in full.detail
        after = digests(folder)
        assert {path: after.get(path) for path in before} == before, "nothing was overwritten"
        subprocess.run(("mount", "-o", "remount,size=1g", folder), check=True)
        again = await worker.do(task("take", asked.action))
        assert (again.outcome, again.code) == ("done", ""), again
        proven = await worker.do(task("prove", asked.action))
        assert proven.proof is not None
        assert proven.proof.outcome == "passed", proven

    if asked.takes and not is_of_another(asked):
        assert asked.disk is not None
        with small_disk(asked.disk, asked.room_bytes):
            asked.run(story(asked.disk))


@asking(RestoresData, real=True)
def test_a_run_restores_only_from_the_expected_repository(asked: AskedRestore) -> None:
    """Another one may have been mounted or configured since: none of its backups has been proven."""
    place = str(asked.place)

    async def story() -> None:
        listing = await Drivers().able(asked.action.driver, TakesBackups).list_copies(asked.action, LONG_S)
        assert listing.repository
        order = Order("r", "restore", 1, 1, 1, "a test", LONG_S, "k")
        settings = {**asked.action.settings, "place": place}
        before = await asked.left()
        other = replace(asked.action, settings=settings, parameters={EXPECTED: "another"})
        checked = await asked.driver.check(other, order)
        assert checked.error is not None
        assert checked.error.code == "backup-other-repository"
        assert "evac backup prove ESTATE" in checked.error.hint
        with pytest.raises(Permanent) as refused:
            await asked.driver.execute(other, order)
        assert (refused.value.code, await asked.left()) == ("backup-other-repository", before)
        same = replace(other, parameters={EXPECTED: listing.repository})
        assert (await asked.driver.check(same, order)).problems == ()

    asked.run(story())


@asking(RestoresData, real=True)
def test_a_run_restores_no_incomplete_backup(asked: AskedRestore) -> None:
    """Its tool may list it like any other."""

    async def story() -> None:
        (copy,) = (
            await Drivers().able(asked.action.driver, TakesBackups).list_copies(asked.action, LONG_S)
        ).copies
        order = Order("r", "restore", 1, 1, 1, "a test", LONG_S, "k")
        before = await asked.left()
        action = replace(
            asked.action,
            settings={**asked.action.settings, "place": str(asked.place)},
            parameters={INCOMPLETE: (copy.id,)},
        )
        checked = await asked.driver.check(action, order)
        assert checked.error is not None
        assert (checked.error.code, "incomplete" in checked.error.message) == ("copy-unknown", True)
        with pytest.raises(Permanent) as refused:
            await asked.driver.execute(action, order)
        assert (refused.value.code, await asked.left()) == ("copy-unknown", before)
        other = replace(action, parameters={INCOMPLETE_ELSEWHERE: (copy.id,)})
        assert (await asked.driver.check(other, order)).problems == ()

    asked.run(story())


@asking(RestoresData, real=True)
def test_a_copy_of_the_future_is_restored_by_name_or_in_a_run(
    asked: AskedRestore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock jumped: the copy that is called newest may be older than all the others. In a run the clock
    here may be the wrong one, and nothing stops that.
    """
    place = str(asked.place)

    async def story() -> None:
        driver = Drivers().able(asked.action.driver, TakesBackups)
        (copy,) = (await driver.list_copies(asked.action, LONG_S)).copies
        monkeypatch.setattr("evac.drivers.backups.time.time", lambda: copy.taken_at - 3_600.0)
        before = await asked.left()
        error = await ask(asked, "restore", LONG_S, "", place, None)
        assert isinstance(error, Permanent), error
        assert (error.code, await asked.left()) == ("backup-clock", before)
        assert not isinstance(await ask(asked, "restore", LONG_S, copy.id, place, None), ActionError)
        assert await ask(asked, "clean_up", LONG_S, place) is None
        order = Order("r", "restore", 1, 1, 1, "a test", LONG_S, "k")
        action = replace(asked.action, settings={**asked.action.settings, "place": place})
        assert (await asked.driver.check(action, order)).problems == ()

    asked.run(story())
