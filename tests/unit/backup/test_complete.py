"""A run restores no backup that evac found incomplete, although its tool lists it like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.backup.complete import as_kept, recorded, restoring_complete
from evac.backup.evidence import KNOWN, Evidence
from evac.backup.known import Begun
from evac.drivers.backups import BackupDriver, Filled, Filling
from evac.drivers.capabilities import BACKUP, DOUBTS, CopyReport, Listing
from evac.drivers.port import Action, Checked, Order
from evac.engine.runs.reading import events_of
from evac.model.backup import BackupEvent, Doubt, Incomplete, Lacks
from evac.model.errors import Permanent, Unavailable
from evac.run.values import RunStep
from evac.run.view import RunView
from evac.store.port import MemoryStore, Put, host_monotonic_ms
from tests.unit.engine.worlds import Ground, WorldDriver, run_async, spec_of
from tests.unit.virtual_time import LOOP_MS

FENCE = RunStep("fence:db", "fence", "db", 0, 10)
STEP = RunStep("restore:db", "restore", "db", 1, 10, ("fence:db",))
ORDER = Order("r", "restore:db", 1, 1, 1, "a test", 30.0, "r/restore:db")


class Folder(BackupDriver):
    """Restores a file that names the backup."""

    name = "restic"

    def __init__(self, *copies: CopyReport) -> None:
        self.copies = copies

    async def _list(self, action: Action, timeout_s: float) -> Listing:
        return Listing("one", self.copies, self.name, "1")

    async def _fill(self, into: Filling) -> Filled:
        (into.folder / "copy").write_text(into.copy.id)
        return Filled(1, None, {})


def lists(*ids: str) -> Folder:
    return Folder(*(CopyReport(one, at, 1) for at, one in enumerate(ids, 1)))


def restore(place: Path, **parameters: Any) -> Action:
    return Action("restore", "db", "restic", "south", {"place": str(place)}, {BACKUP: "near", **parameters})


def taken(at_ms: int, snapshot: str, copy: str = "near", *, whole: bool = False) -> BackupEvent:
    outcome, code = ("done", "") if whole else ("failed", "backup-incomplete")
    return BackupEvent("taken", at_ms, "db", copy, outcome=outcome, snapshot=snapshot, code=code)  # type: ignore[arg-type]


def run_of(
    driver: Folder, place: Path, *events: BackupEvent, during: Iterable[BackupEvent] = ()
) -> tuple[RunView, list[str]]:
    """A run of one restore after these events, and others while it is open; how it stands then, and the
    messages in its journal.
    """

    async def story() -> tuple[RunView, list[str]]:
        store = MemoryStore(LOOP_MS)
        evidence = Evidence(store)
        for event in events:
            await evidence.add(event)
        drivers: dict[str, Any] = {"restic": driver, "world": WorldDriver()}
        ground = Ground(spec_of(FENCE, STEP), store=store, actions={STEP.id: (restore(place),)})
        ground.drivers = restoring_complete(drivers.__getitem__, recorded(store))
        leading = await ground.lead()
        execution = await ground.begin(leading)
        for event in during:
            await evidence.add(event)
        running = asyncio.create_task(execution.run())
        while not running.done() and execution.view.phases[1] != "failed":
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        told = [str(one.data.get("message", "")) for one in await events_of(store, "run-1")]
        await leading.release()
        return execution.view, told

    return run_async(story())


def test_a_run_restores_the_backup_before_an_incomplete_one(tmp_path: Path) -> None:
    place = tmp_path / "db"
    view, _ = run_of(lists("c1", "c2"), place, taken(1, "c1", whole=True), taken(2, "c2"))
    assert (view.phase, (place / "copy").read_text()) == ("succeeded", "c1")


def test_a_backup_that_ends_incomplete_while_the_run_is_open_is_passed_over(tmp_path: Path) -> None:
    place = tmp_path / "db"
    view, _ = run_of(lists("c1", "c2"), place, during=(taken(2, "c2"),))
    assert (view.phase, (place / "copy").read_text()) == ("succeeded", "c1")


def test_a_copy_of_an_incomplete_backup_is_passed_over_and_an_equal_id_elsewhere_is_not(
    tmp_path: Path,
) -> None:
    copies = lists("k1", "k2").copies
    driver = Folder(copies[0], replace(copies[1], original="c2"))
    view, _ = run_of(driver, tmp_path / "a", taken(2, "c2", "far"))
    assert (view.phase, (tmp_path / "a" / "copy").read_text()) == ("succeeded", "k1")
    view, _ = run_of(lists("c1", "c2"), tmp_path / "b", taken(2, "c2", "far"))
    assert (view.phase, (tmp_path / "b" / "copy").read_text()) == ("succeeded", "c2")


def test_with_only_incomplete_backups_the_run_waits_for_a_person_and_says_so(tmp_path: Path) -> None:
    place = tmp_path / "db"
    view, told = run_of(lists("c1", "c2"), place, taken(1, "c1"), taken(2, "c2"))
    assert view.phases[1] == "failed"
    assert view.phase != "succeeded"
    assert any("no complete backup of it: all 2 are incomplete or failed" in one for one in told), told
    assert not place.exists()


def test_an_incomplete_backup_is_restored_by_name(tmp_path: Path) -> None:
    found = as_kept({"db": Lacks((Incomplete("near", "c2"),))})
    driver = restoring_complete(lambda name: lists("c1", "c2"), found)("restic")
    asyncio.run(driver.execute(restore(tmp_path / "db", copy="c2"), ORDER))
    assert (tmp_path / "db" / "copy").read_text() == "c2"


def test_a_run_of_an_older_version_restores_what_is_complete_in_every_copy(tmp_path: Path) -> None:
    """Its action does not name the backup."""
    found = as_kept({"db": Lacks((Incomplete("far", "c2"),))})
    driver = restoring_complete(lambda name: lists("c1", "c2"), found)("restic")
    older = Action("restore", "db", "restic", "south", {"place": str(tmp_path / "db")})
    asyncio.run(driver.execute(older, ORDER))
    assert (tmp_path / "db" / "copy").read_text() == "c1"


def test_nothing_is_restored_while_the_records_cannot_be_read(tmp_path: Path) -> None:
    store = MemoryStore(host_monotonic_ms)
    place = tmp_path / "db"

    async def silent(data_set: str) -> Lacks:
        raise Unavailable("no majority answers")

    async def story() -> None:
        await store.transact((), (Put(f"{KNOWN}db", b"{"),))
        for found, words in ((recorded(store), "cannot read"), (silent, "no majority answers")):
            driver = restoring_complete(lambda name: lists("c1"), found)("restic")
            checked = await driver.check(restore(place), ORDER)
            assert checked.error is not None
            assert checked.error.code == "backup-records"
            assert words in checked.problems[0]
            with pytest.raises(type(checked.error)):
                await driver.execute(restore(place), ORDER)
            assert not place.exists()

    asyncio.run(story())


def test_an_agent_that_would_restore_an_incomplete_backup_is_refused(tmp_path: Path) -> None:
    """Its version is older: it does not read what it is given."""

    class Older(Folder):
        async def check(self, action: Action, order: Order) -> Checked:
            return await super().check(replace(action, parameters={}), order)

    found = as_kept({"db": Lacks((Incomplete("near", "c2"),))})
    older = Older(*lists("c1", "c2").copies)
    checked = asyncio.run(
        restoring_complete(lambda name: older, found)("restic").check(restore(tmp_path), ORDER)
    )
    assert checked.error is not None
    assert (checked.error.code, checked.error.hint[:17]) == ("backup-incomplete", "upgrade the agent")
    whole = Older(*lists("c1").copies)
    checked = asyncio.run(
        restoring_complete(lambda name: whole, found)("restic").check(restore(tmp_path), ORDER)
    )
    assert checked.problems == ()


def test_a_backup_in_doubt_is_passed_over_by_its_time_and_restored_by_name(tmp_path: Path) -> None:
    """Also a copy of one, at the time of its original."""
    copies = [CopyReport(f"c{at}", at * 1_000, 1) for at in (1, 2, 3)]
    own = as_kept({"db": Lacks((), (Doubt("near", 1_500, 2_500), Doubt("near", 2_600, None, ("x",))))})
    driver = restoring_complete(lambda name: Folder(*copies), own)("restic")
    asyncio.run(driver.execute(restore(tmp_path / "own"), ORDER))
    assert (tmp_path / "own" / "copy").read_text() == "c1"
    asyncio.run(driver.execute(restore(tmp_path / "named", copy="c3"), ORDER))
    assert (tmp_path / "named" / "copy").read_text() == "c3"
    there = [replace(one, id=f"k{one.id}", original=one.id) for one in copies]
    other = as_kept({"db": Lacks((), (Doubt("far", 2_500, None, ("c3",)),))})
    for found, chosen in ((there, "kc3"), ([*there[:2], replace(there[2], original="c4")], "kc2")):
        driver = restoring_complete(lambda name, found=found: Folder(*found), other)("restic")  # type: ignore[misc]
        asyncio.run(driver.execute(restore(tmp_path / chosen), ORDER))
        assert (tmp_path / chosen / "copy").read_text() == chosen


def test_a_run_passes_over_a_backup_that_is_being_taken(tmp_path: Path) -> None:
    """Its tool may list it before evac knows how it ended."""

    async def story() -> None:
        store = MemoryStore(host_monotonic_ms)
        evidence = Evidence(store)
        await evidence.add(taken(1_000, "c1", whole=True))
        await evidence.begin("db", Begun("near", 2_000_000))
        copies = [CopyReport("c1", 1, 1), CopyReport("c2", 2_000, 1)]
        driver = restoring_complete(lambda name: Folder(*copies), recorded(store))("restic")
        await driver.execute(restore(tmp_path / "db"), ORDER)
        assert (tmp_path / "db" / "copy").read_text() == "c1"

    asyncio.run(story())


def test_an_agent_that_would_restore_a_backup_in_doubt_is_refused(tmp_path: Path) -> None:
    class Older(Folder):
        async def check(self, action: Action, order: Order) -> Checked:
            return await super().check(replace(action, parameters={}), order)

    found = as_kept({"db": Lacks((), (Doubt("near", 2, None),))})
    older = restoring_complete(lambda name: Older(*lists("c1", "c2").copies), found)("restic")
    checked = asyncio.run(older.check(restore(tmp_path / "db"), ORDER))
    assert checked.error is not None
    assert checked.error.code == "backup-incomplete"


@pytest.mark.parametrize("text", ["", "{", "5", "[1]", "[1,2,3]", '["1",2,[]]', "[1,2.5,[]]"])
def test_doubts_that_cannot_be_read_restore_nothing(tmp_path: Path, text: str) -> None:
    action = restore(tmp_path / "db", **{DOUBTS: (text,)})
    with pytest.raises(Permanent, match="cannot be read which backups may be incomplete"):
        asyncio.run(lists("c1").execute(action, ORDER))
    assert not (tmp_path / "db").exists()
