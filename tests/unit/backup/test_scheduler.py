"""The timetable in virtual time: in time, fair, bounded, made up for once, never while something blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evac.backup.jobs import Task
from evac.backup.known import Known
from evac.backup.schedule import LIST_EVERY_MS, Entry, entries_of, entry_for
from evac.backup.scheduler import Scheduler
from evac.drivers import registry
from evac.drivers.capabilities import CopyReport, Reply
from evac.model.backup import BackupEvent
from evac.model.backup_policy import BackupPolicy
from evac.model.errors import LeaseLost, Permanent, Retryable
from evac.model.estate import Backup, Dependency, Estate, Service, Store
from evac.store.port import Lease
from tests.unit.backup.world import SPEC, Clocks, Repository, World, endpoint, estate_of, world_of
from tests.unit.virtual_time import LoopClock, run_virtually

HOUR_MS = 3_600_000


@dataclass
class Story:
    """A scheduler at work. blocks: what stands against everything now."""

    world: World
    scheduler: Scheduler
    clocks: Clocks
    said: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    blocks: tuple[str, str] = ("", "")
    work: asyncio.Task[None] | None = None
    terms: int = 0

    def asked(self, name: str, what: str) -> list[float]:
        return [at for one, at in self.world.repositories[name].asked if one == what]

    async def lead(self) -> None:
        self.terms += 1
        lease = await self.world.store.acquire(f"leader {self.terms}", "one", 10**9)
        self.work = asyncio.create_task(self.scheduler.chore(lease))

    async def stop(self) -> None:
        assert self.work is not None
        self.work.cancel()
        await asyncio.gather(self.work, return_exceptions=True)


def story_of(
    monkeypatch: pytest.MonkeyPatch, folder: Path, estate: Estate, **repositories: Repository
) -> Story:
    held = {end.id: repositories.get(end.id.replace("-", "_"), Repository()) for end in estate.endpoints}
    clocks = Clocks()
    world = world_of(monkeypatch, folder, held, clocks)
    table = entries_of(estate)

    async def blocked(sites: frozenset[str]) -> tuple[str, str]:
        return told.blocks

    scheduler = Scheduler(lambda: table, world.worker, world.evidence, clocks, blocked)
    told = Story(world, scheduler, clocks)
    scheduler.say = lambda words, data: told.said.append((words, data))
    return told


def moment(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000


def test_expressions_are_moments_in_utc() -> None:
    entry = Entry("wiki", "r", "take", endpoint("r"), "15 1 * * SUN")
    assert entry.next_after(moment("2026-11-25T00:00")) == moment("2026-11-29T01:15")
    assert entry.next_after(moment("2026-11-29T01:15")) == moment("2026-12-06T01:15")
    assert entry.last_before(moment("2026-11-29T01:15")) == moment("2026-11-29T01:15")
    assert entry.last_before(moment("2026-11-29T01:14")) == moment("2026-11-22T01:15")
    assert entry.moments_between(moment("2026-11-01T00:00"), moment("2026-11-29T01:15")) == 5
    listing = Entry("wiki", "r", "list", endpoint("r"))
    assert listing.next_after(7) - listing.last_before(7) == LIST_EVERY_MS


def test_the_timetable_has_what_drivers_can_and_policies_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DRIVERS", {**registry.DRIVERS, "vault": SPEC})
    policy = BackupPolicy(schedule="0 1 * * *", prove="0 2 * * *", restore_test="0 3 * * *", parts=9)
    backups = (Backup("anyang", endpoint="near"), Backup("pangyo", endpoint="far", copied_from="near"))
    estate = estate_of(policy, backups)
    lines = {(one.copy, one.job) for one in entries_of(estate)}
    assert lines == {
        *(("near", job) for job in ("take", "prove", "restore-test", "list")),
        *(("far", job) for job in ("copy", "prove", "restore-test", "list")),
    }
    assert entries_of(estate_of(BackupPolicy(waived="rebuilt"), backups)) == ()
    assert {one.job for one in entries_of(estate_of(BackupPolicy(), backups))} == {"list"}
    asked = entry_for(estate_of(BackupPolicy(), backups), "wiki", "near", "take")
    assert asked is not None, "a person may ask for what nothing schedules"
    assert entry_for(estate, "wiki", "elsewhere", "take") is None


def test_promises_come_from_the_services_that_need_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DRIVERS", {**registry.DRIVERS, "vault": SPEC})
    backups = (Backup("anyang", endpoint="near"),)
    store = Store("orders", "shop", "postgresql", backups=backups, backup_policy=BackupPolicy(rpo_ms=5))
    services = tuple(
        Service(name, rto_ms=rto, needs=(Dependency("shop", "store"),)) for name, rto in (("a", 9), ("b", 7))
    )
    estate = Estate("t", services=services, stores=(store,), endpoints=(endpoint("near"),))
    entry = entry_for(estate, "orders", "near", "restore-test")
    assert entry is not None
    assert (entry.rto_ms, entry.rpo_ms) == (7, 5)


def test_a_backup_its_copy_and_its_checks_happen_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = BackupPolicy(level=4, schedule="0 1 * * *", prove="0 2 * * *", restore_test="30 2 * * *")
    backups = (Backup("anyang", endpoint="near"), Backup("pangyo", endpoint="far", copied_from="near"))

    async def story() -> None:
        told = story_of(monkeypatch, tmp_path, estate_of(policy, backups))
        await told.lead()
        await asyncio.sleep(4 * 3_600)
        await told.stop()
        assert told.asked("near", "take") == [3_600.0]
        assert told.asked("near", "copy") == [pytest.approx(3_601, abs=40)], "right after the backup"
        for name in ("near", "far"):
            assert told.asked(name, "prove") == [pytest.approx(7_200, abs=60)]
            assert told.asked(name, "restore") == [pytest.approx(9_000, abs=60)]
        known = await told.world.evidence.known("wiki")
        assert {(proof.copy, proof.level) for proof in known.proofs} == {
            ("near", 2), ("near", 4), ("far", 2), ("far", 4)
        }  # fmt: skip
        assert told.said == []

    run_virtually(story(), 10 * 3_600)


def test_parts_follow_each_other_until_all_was_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def story() -> None:
        policy = BackupPolicy(schedule="0 0 * * *", prove="0 * * * *", parts=3)
        large = Repository(size=1 << 40)
        told = story_of(monkeypatch, tmp_path, estate_of(policy), r_wiki=large)
        await told.world.worker.do(entry_take(told))
        await told.lead()
        await asyncio.sleep(4.5 * 3_600)
        await told.stop()
        assert large.parts == [(1, 3), (2, 3), (3, 3), (1, 3)]

    run_virtually(story(), 10 * 3_600)


def entry_take(told: Story) -> Any:
    entry = next(one for one in told.scheduler.timetable() if one.job == "take")
    return entry.task(0, Known("wiki"))


@pytest.mark.parametrize("code", ["hold", "incident", "maintenance"])
def test_nothing_begins_while_something_blocks_and_it_is_made_up_for_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str
) -> None:
    async def story() -> None:
        told = story_of(monkeypatch, tmp_path, estate_of(BackupPolicy(schedule="0 * * * *")))
        told.blocks = (code, f"{code} by park")
        await told.lead()
        await asyncio.sleep(3.5 * 3_600)
        assert told.world.repositories["r-wiki"].asked == []
        told.blocks = ("", "")
        await asyncio.sleep(60)
        await told.stop()
        assert len(told.asked("r-wiki", "take")) == 1
        (missed,) = [one for one in await told.world.evidence.history("wiki", 99) if one.kind == "missed"]
        assert (missed.code, missed.detail) == (code, f"2 windows of take missed: {code} by park")
        assert any("2 windows of take missed" in words for words, _ in told.said)

    run_virtually(story(), 10 * 3_600)


def test_what_was_missed_while_no_controller_led_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def story() -> None:
        told = story_of(monkeypatch, tmp_path, estate_of(BackupPolicy(schedule="0 * * * *")))
        await told.lead()
        await asyncio.sleep(1.5 * 3_600)
        await told.stop()
        await asyncio.sleep(5 * 3_600)
        await told.lead()
        await asyncio.sleep(60)
        await told.stop()
        assert told.asked("r-wiki", "take") == [3_600.0, pytest.approx(6.5 * 3_600, abs=10)]
        missed = [one.detail for one in await told.world.evidence.history("wiki", 99) if one.kind == "missed"]
        assert missed == ["4 windows of take missed: no controller was leading"]

    run_virtually(story(), 10 * 3_600)


def test_a_failure_is_tried_again_later_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def story() -> None:
        broken = Repository(error=Permanent("backup-password", "wrong password"))
        told = story_of(monkeypatch, tmp_path, estate_of(BackupPolicy(schedule="0 1 * * *")), r_wiki=broken)
        await told.lead()
        await asyncio.sleep(2 * 3_600)
        broken.error = None
        await asyncio.sleep(2 * 3_600)
        await told.stop()
        tries = told.asked("r-wiki", "take")
        assert tries[0] == 3_600.0
        gaps = [later - before for before, later in pairwise(tries)]
        assert gaps == [pytest.approx(60 << number, abs=10) for number in range(len(gaps))]
        assert len(tries) >= 6
        known = await told.world.evidence.known("wiki")
        assert known.copies[0].count == 1
        failures = [words for words, _ in told.said if words.startswith("take")]
        assert failures == ["take of wiki at r-wiki failed: wrong password"], "said once"

    run_virtually(story(), 10 * 3_600)


def test_a_request_that_fails_is_tried_again_later_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its copy is restored and compared each time, which does not end the job."""

    async def story() -> None:
        silent = Repository(reply=Retryable("request-silent", "no answer"))
        copied = Repository([CopyReport("c0", 1, 1_000)])
        estate = estate_of(BackupPolicy(level=5, request="asked", restore_test="0 1 * * *"))
        estate = replace(estate, endpoints=(*estate.endpoints, endpoint("asked")))
        told = story_of(monkeypatch, tmp_path, estate, r_wiki=copied, asked=silent)
        await told.world.evidence.add(
            BackupEvent("taken", 1_000, "wiki", "r-wiki", snapshot="c0", facts={"rows": 7})
        )
        await told.lead()
        await asyncio.sleep(8 * 3_600)
        tries = told.asked("asked", "ask")
        gaps = [later - before for before, later in pairwise(tries)]
        assert gaps == [pytest.approx(min(60 << number, 3_600), abs=10) for number in range(len(gaps))]
        assert len(tries) >= 8
        silent.reply = Reply("404", "pager", False)
        await asyncio.sleep(2 * 3_600)
        await told.stop()
        assert len(told.asked("asked", "ask")) == len(tries) + 1, "a wrong answer is a result"
        known = await told.world.evidence.known("wiki")
        assert {one.outcome for one in known.proofs} == {"passed", "answer-differs"}

    run_virtually(story(), 20 * 3_600)


@pytest.mark.parametrize("turned_s", [86_400 * 3, -86_400 * 3])
def test_a_clock_that_jumps_makes_a_new_timetable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, turned_s: int
) -> None:
    async def story() -> None:
        told = story_of(monkeypatch, tmp_path, estate_of(BackupPolicy(schedule="0 * * * *")))
        await told.lead()
        await asyncio.sleep(1.5 * 3_600 + 86_400 * 4)
        before = len(told.asked("r-wiki", "take"))
        told.clocks.turned_ms = turned_s * 1_000
        await asyncio.sleep(3 * 3_600)
        await told.stop()
        after = len(told.asked("r-wiki", "take")) - before
        assert 3 <= after <= 4, "once an hour, and the jump makes up for one at most"
        assert [data["code"] for _, data in told.said].count("clock-jumped") == 1

    run_virtually(story(), 86_400 * 6)


@pytest.mark.parametrize(
    ("copies", "code"),
    [
        ([], "backups-gone"),
        ([CopyReport("a", 100, 1_000)], "newest-backup-gone"),
        ([CopyReport("a", 100, 1_000), CopyReport("c", 300, 400)], "backup-size-jumped"),
        ([CopyReport("a", 100, 1_000), CopyReport("c", 300, 2_500)], "backup-size-jumped"),
        ([CopyReport("a", 100, 1_000), CopyReport("c", 300, 1_900)], ""),
    ],
)
def test_what_no_schedule_changes_is_an_alert(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, copies: list[CopyReport], code: str
) -> None:
    async def story() -> None:
        held = Repository([CopyReport("a", 100, 1_000), CopyReport("b", 200, 1_000)])
        told = story_of(monkeypatch, tmp_path, estate_of(BackupPolicy()), r_wiki=held)
        await asyncio.sleep(500)
        await told.lead()
        await asyncio.sleep(60)
        held.copies = copies
        await asyncio.sleep(2 * 3_600)
        await told.stop()
        assert [data["code"] for _, data in told.said] == ([code] if code else []), "said once"

    run_virtually(story(), 10 * 3_600)


def test_a_backup_that_could_not_be_listed_afterwards_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def story() -> None:
        held = Repository(unlisted=Retryable("backup-silent", "it does not answer"))
        told = story_of(monkeypatch, tmp_path, estate_of(BackupPolicy(schedule="0 * * * *")), r_wiki=held)
        await told.lead()
        await asyncio.sleep(3.5 * 3_600)
        held.unlisted = None
        await asyncio.sleep(2 * 3_600)
        await told.stop()
        said = [words for words, data in told.said if data["code"] == "backup-unlisted"]
        assert len(said) == 1
        assert said[0].startswith("wiki at r-wiki: a backup was made, but its repository could not be listed")
        assert (await told.world.evidence.known("wiki")).alarms == ()

    run_virtually(story(), 10 * 3_600)


def test_a_leader_that_stops_cancels_its_work_and_leaves_places_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def story() -> None:
        slow = Repository(takes_s=600.0)
        told = story_of(monkeypatch, tmp_path, estate_of(BackupPolicy(restore_test="0 1 * * *")), r_wiki=slow)
        await told.world.worker.do(Task("take", "wiki", "r-wiki", endpoint("r-wiki"), 0))
        await told.lead()
        await asyncio.sleep(3_600 - 500)
        assert len(slow.places) == 1
        await told.stop()
        assert slow.places == set()
        assert await told.world.store.holder("backup/r-wiki") is None

    run_virtually(story(), 10 * 3_600)


def test_a_job_ends_when_its_lock_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def story() -> None:
        slow = Repository(takes_s=600.0)
        told = story_of(monkeypatch, tmp_path, estate_of(BackupPolicy(schedule="0 1 * * *")), r_wiki=slow)
        job = asyncio.create_task(told.world.worker.do(entry_take(told)))
        await asyncio.sleep(5)

        async def lost(lease: Lease) -> None:
            raise LeaseLost(lease.name)

        monkeypatch.setattr(told.world.store, "renew", lost)
        with pytest.raises(LeaseLost):
            await job
        assert slow.copies == []

    run_virtually(story(), 10 * 3_600)


def test_a_thousand_data_sets_are_never_a_minute_late_and_no_one_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every one has a backup an hour, a third of them at the same minute, and eight run at a time."""

    async def story() -> None:
        names = tuple(f"d{number:04d}" for number in range(1_000))
        plans = [
            estate_of(BackupPolicy(schedule=f"{minute} * * * *"), (), names[number::60])
            for number, minute in enumerate(range(60))
        ]
        table = tuple(entry for estate in plans for entry in entries_of(estate))
        held = {end.id: Repository(takes_s=2.0) for estate in plans for end in estate.endpoints}
        world = world_of(monkeypatch, tmp_path, held)

        async def free(sites: frozenset[str]) -> tuple[str, str]:
            return "", ""

        scheduler = Scheduler(lambda: table, world.worker, world.evidence, LoopClock(), free, at_once=8)
        work = asyncio.create_task(scheduler.chore(await world.store.acquire("leader", "one", 10**9)))
        await asyncio.sleep(3_600 + 30)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        takes = [[at for what, at in one.asked if what == "take"] for one in held.values()]
        assert {len(one) for one in takes} == {1}, "each of them once in an hour"
        assert scheduler.latest_ms <= 60_000
        assert world.vault.most_at_once <= 8

    monkeypatch.setattr(registry, "DRIVERS", {**registry.DRIVERS, "vault": SPEC})
    run_virtually(story(), 10 * 3_600)
