"""What one job leaves behind: events, proofs that were earned, and an empty place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.backup.known import SKEW_S, Known
from evac.backup.schedule import entry_for
from evac.derive.backups import verdicts
from evac.derive.domains import topology
from evac.drivers.capabilities import CopyReport
from evac.model.backup import (
    COMPARED,
    READ,
    RESTORED,
    BackupEvent,
    BackupFacts,
    CopyState,
    ProofOutcome,
    expected_repositories,
)
from evac.model.backup_policy import BackupPolicy
from evac.model.errors import LockHeld, OutcomeUnknown, Permanent, Retryable
from evac.model.estate import Backup
from evac.model.units import moment_words
from tests.unit.backup.world import Clocks, Repository, World, endpoint, estate_of, task, world_of
from tests.unit.virtual_time import LoopClock, run_virtually


def done(
    monkeypatch: pytest.MonkeyPatch, folder: Path, repository: Repository, *jobs: Any, **rest: Any
) -> tuple[list[BackupEvent], Known]:
    """The events of these jobs, one after the other, and what is known then."""

    async def story() -> tuple[list[BackupEvent], Known]:
        world = world_of(monkeypatch, folder, {"r-wiki": repository})
        events = [await world.worker.do(task(job, **rest)) for job in jobs]
        return events, await world.evidence.known("wiki")

    return run_virtually(story())


@pytest.fixture
def do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return lambda repository, *jobs, **rest: done(monkeypatch, tmp_path, repository, *jobs, **rest)


def test_a_backup_is_listed_and_its_source_witnessed(do: Any) -> None:
    (event,), known = do(Repository(), "take")
    assert (event.kind, event.outcome, event.snapshot, event.bytes_read) == ("taken", "done", "c0", 1_000)
    assert known.copies[0].taken_at_ms == 1_000
    assert known.copies[0].deletable is False
    assert known.witnesses[0].facts == {"rows": 7}


def test_restored_data_is_as_of_the_restore_point(do: Any, tmp_path: Path) -> None:
    """The newest write in it, or the backup, may be much older."""
    _, at_once = do(Repository(), "take", "restore", place=str(tmp_path / "one"))[0]
    assert ", as of 1970-01-01 00:00:01 UTC" in at_once.detail
    _, later = do(Repository(), "take", "restore", place=str(tmp_path / "two"), until_s=86_400)[0]
    assert ", as of 1970-01-02 00:00:00 UTC" in later.detail


def test_a_backup_that_lacks_a_path_has_failed_whatever_the_tool_says(do: Any) -> None:
    (event,), known = do(Repository(missing=("/srv/missing",)), "take")
    assert (event.outcome, event.code) == ("failed", "backup-incomplete")
    assert "/srv/missing" in event.detail
    assert known.witnesses == ()


def test_copies_that_the_tool_calls_failed_do_not_count(do: Any) -> None:
    copies = [CopyReport("old", 100, 5), CopyReport("bad", 900, 5, failed=True)]
    _, known = do(Repository(copies), "list")
    assert (known.copies[0].taken_at_ms, known.copies[0].count) == (100_000, 1)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Permanent("backup-password", "wrong password"), "failed"),
        (Retryable("backup-locked", "the repository is locked"), "failed"),
        (OutcomeUnknown("backup-unknown", "it did not end in time"), "unknown"),
    ],
)
def test_what_a_driver_refuses_is_an_event_with_its_reason(do: Any, error: Any, outcome: str) -> None:
    events, known = do(Repository(error=error), "take", "list", "prove", "restore-test")
    assert [event.outcome for event in events[:1]] == [outcome]
    assert {event.code for event in events} == {error.code}
    assert {proof.outcome for proof in known.proofs} == {"could-not-run"}


def test_a_check_that_read_nothing_could_not_run(do: Any) -> None:
    """Also where the driver lets it pass, which `Proof` refuses."""
    with pytest.raises(ValueError, match="proves nothing"):
        do(Repository(bytes_read=0), "prove")


def test_a_restore_that_agrees_with_the_witness_is_compared(do: Any) -> None:
    repository = Repository()
    events, known = do(repository, "take", "restore-test")
    proof = known.proofs[-1]
    assert (proof.level, proof.outcome, proof.bytes_read, proof.snapshot) == (COMPARED, "passed", 1_000, "c0")
    assert repository.places == set(), "the place is empty again"
    assert events[1].took_ms == 1_000


def test_a_witness_that_disagrees_proves_damage(do: Any) -> None:
    repository = Repository(restored={"rows": 6})
    _, known = do(repository, "take", "restore-test")
    proof = known.proofs[-1]
    assert (proof.level, proof.outcome, proof.code) == (COMPARED, "damaged", "witness-disagrees")
    assert "rows is 6, but was 7 when the backup was taken; use another backup" in proof.detail
    assert repository.places == set()


@pytest.mark.parametrize("job", ["prove", "restore-test", "take", "list"])
def test_what_was_proven_stops_counting_once_any_job_meets_another_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, job: str
) -> None:
    """A check does not list; what it proves is of the other repository, and counts for that one."""

    async def story() -> tuple[Known, Known, float]:
        repository = Repository()
        world = world_of(monkeypatch, tmp_path, {"r-wiki": repository})
        for one in ("take", "prove", "restore-test"):
            await world.worker.do(task(one))
        before, swapped_ms = await world.evidence.known("wiki"), LoopClock().now_ms()
        repository.id, repository.copies = "r2", [CopyReport("c0", 0, 1_000)]
        await world.worker.do(task(job))
        return before, await world.evidence.known("wiki"), swapped_ms

    before, known, swapped_ms = run_virtually(story())
    assert {proof.level for proof in before.proofs} == {READ, COMPARED}
    assert [one.code for one in known.alarms] == ["repository-changed"]
    assert all(proof.at_ms >= swapped_ms for proof in known.proofs)
    made = {"prove": {READ}, "restore-test": {RESTORED}}.get(job, set())
    assert {proof.level for proof in known.proofs} == made, "the witness saw the other one's data"


def test_a_proof_of_another_repository_that_cannot_be_listed_counts_for_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def story() -> Known:
        repository = Repository()
        world = world_of(monkeypatch, tmp_path, {"r-wiki": repository})
        await world.worker.do(task("take"))
        repository.id, repository.unlisted = "r2", Retryable("backup-silent", "it does not answer")
        event = await world.worker.do(task("prove"))
        assert (event.outcome, event.code) == ("failed", "backup-silent")
        return await world.evidence.known("wiki")

    known = run_virtually(story())
    assert {proof.outcome for proof in known.proofs} == {"could-not-run"}
    assert expected_repositories(BackupFacts(known.copies)) == (("wiki", "r-wiki", "r1"),)


def test_a_backup_whose_repository_cannot_be_listed_afterwards_is_an_alarm_until_it_can(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a listing no one sees that the backup is encrypted, or that others are gone."""

    async def story() -> None:
        repository = Repository()
        world = world_of(monkeypatch, tmp_path, {"r-wiki": repository})

        async def after(job: str) -> tuple[list[tuple[str, str]], list[str]]:
            events = await world.worker.events_of(task(job))
            alarms = (await world.evidence.known("wiki")).alarms
            return [(one.kind, one.outcome) for one in events], [f"{one.code} {one.at_ms}" for one in alarms]

        assert await after("take") == ([("taken", "done")], [])
        repository.unlisted = Retryable("backup-silent", "it does not answer")
        assert await after("list") == ([("listed", "failed")], []), "nothing was made since the last listing"
        raised = ["backup-unlisted 2000"]
        assert await after("take") == ([("taken", "done"), ("listed", "failed")], raised)
        assert await after("list") == ([("listed", "failed")], raised), "it is raised once"
        repository.unlisted, repository.size = None, 9_000
        repository.copies[-1] = replace(repository.copies[-1], bytes=9_000)
        found = await after("list")
        assert found == ([("listed", "done")], ["backup-size-jumped 2000"]), "late, but it is seen"

    run_virtually(story())


@pytest.mark.parametrize(
    ("ahead_s", "words"), [(-3_600, "3,599 s before the newest backup"), (3_600, "3,600 s ahead"), (1, "")]
)
def test_a_backup_that_is_not_restored_by_default_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ahead_s: int, words: str
) -> None:
    """Its tool dates it by a clock that is wrong, and lists it like any other."""

    async def story() -> None:
        repository = Repository()
        world = world_of(monkeypatch, tmp_path, {"r-wiki": repository})
        await asyncio.sleep(86_400)
        assert (await world.worker.do(task("take"))).code == ""
        repository.ahead_s = ahead_s
        event = await world.worker.do(task("take"))
        assert (event.outcome, event.code) == ("done", "backup-clock" if words else "")
        assert words in event.detail
        assert "correct the clock" in event.detail or not words

    run_virtually(story(), 3 * 86_400)


def test_a_repository_without_a_backup_says_how_to_take_one(do: Any) -> None:
    (event,), _ = do(Repository([CopyReport("c0", 1, 5, failed=True)]), "restore-test")
    assert (event.outcome, event.code) == ("failed", "copy-unknown")
    assert "evac backup run ESTATE DATA_SET" in event.detail


@pytest.mark.parametrize("job", ["list", "take"])
def test_a_listing_says_what_changed_suddenly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, job: str
) -> None:
    """Also one that ends a backup: it went to a repository that no one has seen before."""

    async def story() -> None:
        repository = Repository()
        world = world_of(monkeypatch, tmp_path, {"r-wiki": repository})
        assert [one.detail for one in await world.worker.events_of(task("take"))] == [""]
        await asyncio.sleep(60)
        repository.id = "theirs"
        *_, listed = await world.worker.events_of(task(job))
        assert (listed.kind, listed.outcome) == ("listed", "done")
        assert "this is a listing of theirs, and the last one was of r1" in listed.detail

    run_virtually(story(), 3_600)


@pytest.mark.parametrize("days", [2, -2])
def test_once_a_clock_is_right_again_everything_counts_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, days: int
) -> None:
    """It was wrong by days while a backup was taken, listed, read and restored."""

    async def story() -> None:
        clocks = Clocks()
        repository = Repository()
        world = world_of(monkeypatch, tmp_path, {"r-wiki": repository}, clocks)
        await asyncio.sleep(10 * 86_400)
        await world.worker.do(task("take"))
        clocks.turned_ms = days * 86_400_000
        for job in ("take", "prove", "restore-test"):
            await world.worker.do(task(job))
        clocks.turned_ms = 0
        await asyncio.sleep(3_600)
        before_ms = clocks.now_ms()
        repository.copies.clear()
        await world.worker.do(task("list"))
        known = await world.evidence.known("wiki")
        assert (known.copies[0].at_ms, known.copies[0].count) == (before_ms, 0), "it is not the last listing"
        assert [one.code for one in known.alarms] == ["backups-gone"]
        await world.worker.do(task("take"))
        for job in ("prove", "restore-test"):
            await world.worker.do(task(job))
        known = await world.evidence.known("wiki")
        assert all(one.at_ms <= clocks.now_ms() for one in (*known.proofs, *known.runs))
        assert all(one.at_ms > before_ms for one in known.runs), "the schedule goes on"
        newest = {one.level: one.at_ms for one in known.proofs}
        assert all(newest[level] > before_ms for level in (READ, COMPARED))

    run_virtually(story(), 20 * 86_400)


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [(["list", "list"], "r1"), (["take"], "r1"), (["list", "prove"], "r2"), (["restore-test"], "r2")],
)
def test_a_run_restores_from_a_swapped_repository_only_after_a_proof(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: list[str], expected: str
) -> None:
    async def story() -> Known:
        repository = Repository()
        world = world_of(monkeypatch, tmp_path, {"r-wiki": repository})
        for one in ("take", "prove", "list"):
            await world.worker.do(task(one))
        repository.id, repository.copies = "r2", [CopyReport("c0", 0, 1_000)]
        for one in jobs:
            await asyncio.sleep(1)
            await world.worker.do(task(one))
        return await world.evidence.known("wiki")

    known = run_virtually(story())
    assert [id_ for *_, id_ in expected_repositories(BackupFacts(known.copies))] == [expected]


def test_a_source_that_changes_during_the_backup_has_no_witness(do: Any) -> None:
    _, known = do(Repository(changes=True), "take", "restore-test")
    assert known.witnesses == ()
    assert (known.proofs[-1].level, known.proofs[-1].outcome) == (RESTORED, "passed")


def test_a_witness_that_cannot_look_stops_no_backup_and_is_said(do: Any) -> None:
    """One unreadable folder must not cost the backup of all the others, nor pass as compared."""
    (taken, tested), known = do(Repository(unseen="/srv/x cannot be read"), "take", "restore-test")
    assert (taken.outcome, taken.snapshot) == ("done", "c0")
    assert "cannot be compared" in taken.detail
    assert "/srv/x cannot be read" in taken.detail
    assert known.witnesses == ()
    assert tested.proof is not None
    assert tested.proof.level == RESTORED


def test_without_a_witness_a_restore_is_a_restore(do: Any) -> None:
    _, known = do(Repository([CopyReport("old", 0, 5)]), "restore-test")
    assert (known.proofs[-1].level, known.proofs[-1].outcome) == (RESTORED, "passed")


@pytest.mark.parametrize(
    ("rest", "outcome"), [({"rto_ms": 500}, "too-slow"), ({"rpo_ms": 0}, "too-old"), ({}, "passed")]
)
def test_a_restore_is_measured_against_its_promises(do: Any, rest: Any, outcome: ProofOutcome) -> None:
    _, known = do(Repository(), "take", "restore-test", **rest)
    assert known.proofs[-1].outcome == outcome


@pytest.mark.parametrize("code", ["archive-damaged", "backup-corrupt", "restore-incomplete"])
def test_a_restore_that_fails_on_damaged_data_proves_damage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str
) -> None:
    async def story() -> None:
        repository = Repository()
        world = world_of(monkeypatch, tmp_path, {"r-wiki": repository})
        await world.worker.do(task("take"))
        restore = world.vault.restore

        async def broken(*values: Any) -> Any:
            await restore(*values)
            raise Permanent(code, "203 of 204 files")

        monkeypatch.setattr(world.vault, "restore", broken)
        event = await world.worker.do(task("restore-test"))
        assert event.proof is not None
        assert (event.proof.outcome, event.proof.detail) == ("damaged", "203 of 204 files")
        assert repository.places == set(), "half a restore is removed too"

    run_virtually(story())


def test_a_copy_keeps_the_witness_of_what_it_was_copied_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def story() -> None:
        world = world_of(monkeypatch, tmp_path, {"r-wiki": Repository(), "far": Repository()})
        await world.worker.do(task("take"))
        made = await world.worker.do(task("copy", "far", origin=endpoint("r-wiki")))
        assert (made.kind, made.snapshot) == ("copied", "k0")
        proof = (await world.worker.do(task("restore-test", "far"))).proof
        assert proof is not None
        assert (proof.level, proof.outcome) == (COMPARED, "passed")

    run_virtually(story())


CHAIN = (
    Backup("sejong", endpoint="third", copied_from="far"),
    Backup("pangyo", endpoint="far", copied_from="r-wiki"),
    Backup("anyang", endpoint="r-wiki"),
)
TAKES = st.sampled_from(["good", "good", "refused", "incomplete"])


async def _one_round(world: World, ends: str) -> dict[str, BackupEvent]:
    """A backup that ends in this way, and the copies made after it."""
    source = world.repositories["r-wiki"]
    source.unread = Retryable("source-unread", "the source does not answer") if ends == "refused" else None
    source.missing = ("/srv/missing",) if ends == "incomplete" else ()
    entries = [entry_for(estate_of(BackupPolicy(), CHAIN), "wiki", one.name, "copy") for one in CHAIN[:2]]
    events = {"r-wiki": await world.worker.do(task("take"))}
    for entry in sorted(filter(None, entries), key=lambda entry: entry.after):
        await asyncio.sleep(1)
        events[entry.copy] = await world.worker.do(entry.task(0, await world.evidence.known("wiki")))
    return events


def _played(rounds: list[str], after: Callable[[World, dict[str, BackupEvent]], Any]) -> None:
    """Rounds on a chain of three repositories that begin with the same backup; `after` each of them."""

    async def story(folder: Path, patch: pytest.MonkeyPatch) -> None:
        first = CopyReport("c0", 0, 5)
        repositories = {name: Repository([first]) for name in ("r-wiki", "far", "third")}
        world = world_of(patch, folder, repositories)
        await asyncio.sleep(SKEW_S)  # another tool took c0: shortly before a failed backup, it is in doubt
        for ends in rounds:
            await asyncio.sleep(60)
            await after(world, await _one_round(world, ends))

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        run_virtually(story(Path(folder), patch), 3_600)


@given(st.lists(TAKES, min_size=1, max_size=5))
def test_a_copy_of_an_older_backup_says_so(rounds: list[str]) -> None:
    """A copy that says nothing is one of the backup that was just taken, however long the chain."""

    async def check(world: World, events: dict[str, BackupEvent]) -> None:
        taken = events["r-wiki"]
        newest = world.repositories["r-wiki"].copies[-1]
        for name in ("far", "third"):
            event, copied = events[name], world.repositories[name].copies[-1]
            assert copied.taken_at == newest.taken_at
            if event.outcome != "done":
                assert event.code == "backup-incomplete"
                continue
            assert (event.code == "") == (taken.outcome == "done")
            assert event.code in ("", "copied-older")
            if event.code:
                assert f"copy of the backup of {moment_words(copied.taken_at)}: " in event.detail
                assert f"the one at r-wiki failed at {moment_words(taken.at_ms // 1_000)}" in event.detail

    _played(rounds, check)


@given(st.lists(TAKES, min_size=1, max_size=5))
def test_neither_an_incomplete_backup_nor_a_copy_of_it_ever_counts(rounds: list[str]) -> None:
    """Its tool lists it like any other. What counts is the newest complete one, at the end of every chain."""
    whole = [0]
    lacking: list[int] = []

    async def check(world: World, events: dict[str, BackupEvent]) -> None:
        made = world.repositories["r-wiki"].copies[-1].taken_at
        if made != max([*whole, *lacking]):
            (whole if events["r-wiki"].outcome == "done" else lacking).append(made)
        known = await world.evidence.known("wiki")
        for name in ("far", "third"):
            assert (events[name].outcome == "done") == (made in whole)
            seen = known.seen(name)
            assert seen is not None
            assert seen.taken_at_ms == max(whole) * 1_000
            held = [copy.taken_at for copy in world.repositories[name].copies]
            assert seen.count == sum(one in whole for one in held)
            tested = await world.worker.do(task("restore-test", name))
            assert tested.proof is not None
            tested_s = next(
                one.taken_at for one in world.repositories[name].copies if one.id == tested.snapshot
            )
            assert tested_s == max(whole)

    _played(rounds, check)


def test_with_only_incomplete_backups_no_test_can_run_and_one_is_restored_by_name(
    do: Any, tmp_path: Path
) -> None:
    (_, tested), known = do(Repository(missing=("/srv/missing",)), "take", "restore-test")
    assert known.copies[0].taken_at_ms is None
    assert (tested.proof.outcome, tested.proof.code) == ("could-not-run", "copy-unknown")
    again, place = Repository(missing=("/srv/missing",)), str(tmp_path / "one")
    (_, kept), _ = do(again, "take", "restore", place=place, snapshot="c0")
    assert kept.outcome == "done"
    assert "this backup is incomplete" in kept.detail


def test_one_copy_is_worked_on_by_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def story() -> None:
        world = world_of(monkeypatch, tmp_path, {"r-wiki": Repository()})
        await world.store.acquire("backup/r-wiki", "another", 60_000)
        with pytest.raises(LockHeld) as raised:
            await world.worker.do(task("take"))
        assert "if its process is gone, it is released within 60 s" in raised.value.hint
        assert world.repositories["r-wiki"].asked == []

    run_virtually(story())


def test_backups_of_something_else_in_a_repository_are_strays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def story() -> None:
        copies = [
            CopyReport("a", 1, 5, paths=("/srv/wiki",), source="w1"),
            CopyReport("b", 9, 5, paths=("/etc",), source="old"),
        ]
        world = world_of(monkeypatch, tmp_path, {"r-wiki": Repository(copies)})
        ours = task("list")
        settings = {"id": "r-wiki", "paths": ("/srv/wiki",)}
        await world.worker.do(replace(ours, endpoint=replace(ours.endpoint, settings=settings)))
        facts = await world.evidence.facts()
        assert [(stray.source, stray.count) for stray in facts.strays] == [("old /etc", 1)]
        assert facts.copies[0].taken_at_ms == 1_000

    run_virtually(story())


def test_parts_and_levels_reach_the_driver(do: Any) -> None:
    repository = Repository()
    _, known = do(repository, "prove", part=3, of=4)
    assert repository.parts == [(3, 4)]
    proof = known.proofs[-1]
    assert (proof.level, proof.part, proof.of, proof.share_read) == (READ, 3, 4, 250_000)


SILENT = Retryable("backup-silent", "the repository does not answer")
FEW = st.integers(0, 9)
COPIES = st.builds(CopyReport, st.just("c0"), FEW, st.none() | FEW, failed=st.booleans())
ANSWERS = st.fixed_dictionaries(
    {
        "copies": st.lists(COPIES, min_size=1, max_size=3),
        "deletable": st.sampled_from([None, False, True]),
        "error": st.sampled_from([None, None, None, SILENT, Permanent("backup-corrupt", "it is damaged")]),
        "missing": st.sampled_from([(), ("/srv/missing",)]),
        "outcome": st.sampled_from(["passed", "damaged", "could-not-run"]),
        "bytes_read": st.integers(0, 2),
        "restored": st.sampled_from([None, {"rows": 7}, {"rows": 8}, {}]),
        "changes": st.booleans(),
        "size": st.integers(0, 2),
    }
)
JOBS = st.sampled_from(["list", "take", "prove", "restore-test"])


@given(st.lists(st.tuples(JOBS, ANSWERS), min_size=1, max_size=8))
def test_whatever_tools_answer_nothing_unread_is_proven_and_what_could_not_run_is_seen(
    story: list[tuple[Any, dict[str, Any]]],
) -> None:
    """What could not run changes nothing that is met, and is shown until the next check."""
    estate = estate_of(BackupPolicy(level=READ))

    def proven(copy: CopyState) -> object:
        return copy.level, copy.failed, copy.proven

    async def judged(world: Any) -> CopyState:
        (found,) = verdicts(topology(estate), await world.evidence.facts(), 3_600_000)
        return found.copies[0]

    async def played(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        world = world_of(monkeypatch, folder, {"r-wiki": Repository()})
        before = await judged(world)
        for job, answers in story:
            read = max(answers["bytes_read"], int(answers["outcome"] == "passed"))  # else none says so
            world.repositories["r-wiki"] = Repository(**answers | {"bytes_read": read})
            event = await world.worker.do(task(job))
            after = await judged(world)
            if after.level is not None and after.level >= READ:
                assert after.proof is not None
                assert after.proof.bytes_read
            if event.proof is not None and event.proof.outcome == "could-not-run":
                assert after.not_run is not None
                assert proven(after) == proven(before)
            if job in ("list", "take") and event.outcome != "done":
                assert proven(after) == proven(before)
            before = after

    with pytest.MonkeyPatch.context() as monkeypatch, TemporaryDirectory() as folder:
        run_virtually(played(Path(folder), monkeypatch))
