"""The evidence: nothing twice, nothing lost, and a summary that gives the same verdict as everything."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.backup.evidence import SEEN, STREAM, Evidence
from evac.backup.known import ALARM_MS, CHANGES_KEPT, Known, after, sudden_changes
from evac.model.backup import BackupEvent, BackupFacts, CopySeen, ProofRecord, expected_repositories
from evac.store.journal import head_of, read
from evac.store.port import MemoryStore
from tests.unit.derive.test_backups import DAY, GOOD, NOW, POLICY, PROOFS, judged
from tests.unit.virtual_time import LOOP_MS, run_virtually


def event(at_ms: int = 1, **rest: object) -> BackupEvent:
    return replace(BackupEvent("taken", at_ms, "db", "ansan", "park", snapshot="c1"), **rest)  # type: ignore[arg-type]


def proven(proof: ProofRecord) -> BackupEvent:
    return BackupEvent("proven", proof.at_ms, "db", proof.copy, proof=proof)


def test_events_are_kept_once_moved_and_found_again() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        evidence = Evidence(store, 0.0)
        lease = await store.acquire("leader", "one", 60_000)
        for number in (1, 2, 3, 1):
            await evidence.add(event(number))
        assert len(await store.list(SEEN)) == 3
        await evidence.chore(lease)
        assert await store.list(SEEN) == []
        await evidence.add(event(2))
        await evidence.add(event(9, facts={"rows": 5}))
        found = await evidence.history("db", 10)
        assert [one.at_ms for one in found] == [9, 3, 2, 1], "the newest first, each once"
        assert found[0].facts == {"rows": 5}
        assert found[0].who == "park"
        head = await head_of(store, STREAM)
        assert head is not None
        assert head.records == 3
        assert [len(segment.records) async for segment in read(store, STREAM, 0)]

    run_virtually(story())


def test_two_who_add_at_once_lose_nothing() -> None:
    async def story() -> None:
        store = MemoryStore(LOOP_MS)
        one, two = Evidence(store), Evidence(store)
        adds = [who.add(event(at)) for at in range(1, 9) for who in (one, two)]
        await asyncio.gather(*adds)
        assert len(await one.history("db", 99)) == 8

    run_virtually(story())


def test_a_clear_listing_replaces_an_older_one_and_not_a_newer_one() -> None:
    def seen(at_ms: int, taken: int) -> BackupEvent:
        return BackupEvent("listed", at_ms, "db", "ansan", seen=CopySeen("db", "ansan", at_ms, taken, 5))

    known = after(after(Known("db"), seen(5, 3)), seen(9, 8))
    assert [one.taken_at_ms for one in known.copies] == [8]
    assert after(known, seen(7, 6)).copies == known.copies


def test_failures_are_counted_until_one_succeeds() -> None:
    known = Known("db")
    for at, outcome in ((1, "failed"), (2, "unknown"), (2, "failed")):
        known = after(known, event(at, outcome=outcome))
    run = known.run("ansan", "take")
    assert run is not None
    assert (run.failures, run.at_ms) == (2, 2)
    run = after(known, event(3)).run("ansan", "take")
    assert run is not None
    assert run.failures == 0


@given(st.lists(PROOFS, max_size=12))
def test_the_verdict_on_what_is_kept_is_the_verdict_on_everything(proofs: list[ProofRecord]) -> None:
    """In the order in which they ended; a time is never there twice, as no two checks end at once."""
    ordered = sorted({proof.at_ms: proof for proof in proofs}.values(), key=lambda proof: proof.at_ms)
    known = Known("db")
    for proof in ordered:
        known = after(known, proven(proof))
    kept = judged(GOOD, POLICY, proofs=known.proofs)
    every = judged(GOOD, POLICY, proofs=tuple(ordered))
    assert (kept.state, kept.digits, kept.rpo) == (every.state, every.digits, every.rpo)
    for one, other in zip(kept.copies, every.copies, strict=True):
        assert one == other


def test_every_record_of_changed_credentials_is_kept_and_only_the_last_one_is_withdrawn() -> None:
    def changed(at_ms: int, copy: str, moment_ms: int | None) -> BackupEvent:
        return BackupEvent("credentials-changed", at_ms, "db", copy, changed_at_ms=moment_ms)

    async def story() -> None:
        evidence = Evidence(MemoryStore(LOOP_MS))
        for at_ms, copy, moment_ms in ((1, "near", 9), (2, "far", 5), (3, "near", 4)):
            known = await evidence.add(changed(at_ms, copy, moment_ms))
            assert known.runs == (), "no job ran"
        found = (await evidence.facts()).credentials
        rows = {(one.copy, one.at_ms, one.recorded_ms) for one in found}
        assert rows == {("near", 9, 1), ("far", 5, 2), ("near", 4, 3)}
        await evidence.add(changed(4, "near", None))
        found = (await evidence.facts()).credentials
        assert {(one.copy, one.at_ms) for one in found} == {("near", 9), ("far", 5)}
        for at_ms in (5, 6):
            await evidence.add(changed(at_ms, "near", None))
        assert [one.copy for one in (await evidence.facts()).credentials] == ["far"]

    run_virtually(story())


@given(st.lists(st.none() | st.integers(1, 10**6), max_size=60))
def test_the_latest_change_of_credentials_that_was_not_withdrawn_is_known(moments: list[int | None]) -> None:
    known, there = Known("db"), list[int]()
    for at_ms, moment_ms in enumerate(moments, 1):
        known = after(known, BackupEvent("credentials-changed", at_ms, "db", "near", changed_at_ms=moment_ms))
        there = there[:-1] if moment_ms is None else [*there, moment_ms]
        assert max((one.at_ms for one in known.credentials), default=None) == max(there, default=None)


def test_of_many_changes_of_credentials_the_latest_is_never_forgotten() -> None:
    known = Known("db")
    for at_ms in range(1, 3 * CHANGES_KEPT):
        known = after(
            known, BackupEvent("credentials-changed", at_ms, "db", "near", changed_at_ms=1_000 - at_ms)
        )
        assert max(one.at_ms for one in known.credentials) == 999
        assert len(known.credentials) <= CHANGES_KEPT


def test_what_is_kept_of_a_copy_stays_small() -> None:
    known = Known("db")
    for day in range(1, 1_000):
        proof = ProofRecord("db", "ansan", 2, "passed", NOW - (1_000 - day) * DAY, 5, 1, day % 7 + 1, 7)
        known = after(known, proven(proof))
        known = after(known, event(NOW + day, facts={"rows": day}, snapshot=f"c{day}"))
    assert len(known.proofs) <= 8
    assert len(known.witnesses) <= 8
    assert BackupFacts(known.copies, known.proofs).proofs == known.proofs


def test_a_sudden_change_is_shown_for_weeks_and_said_once() -> None:
    def listed(at_ms: int, **rest: int | None) -> BackupEvent:
        values = {"taken_at_ms": at_ms, "bytes": 100, "count": 9, **rest}
        return BackupEvent("listed", at_ms, "db", "ansan", seen=CopySeen("db", "ansan", at_ms, **values))

    known = after(after(Known("db"), listed(1)), listed(2, bytes=1_000))
    assert [(one.code, one.at_ms) for one in known.alarms] == [("backup-size-jumped", 2)]
    assert after(known, listed(2, bytes=1_000)).alarms == known.alarms, "the same event again"
    known = after(known, listed(3, bytes=1_001))
    assert [one.at_ms for one in known.alarms] == [2]
    known = after(known, listed(4, bytes=10))
    assert [one.at_ms for one in known.alarms] == [4], "of each kind the newest"
    assert after(known, listed(4 + ALARM_MS, bytes=10)).alarms == ()


@pytest.mark.parametrize(
    ("first", "second", "is_other"), [("a", "b", True), ("a", "a", False), ("", "b", False), ("a", "", False)]
)
def test_what_was_proven_of_another_repository_does_not_count(
    first: str, second: str, is_other: bool
) -> None:
    """One that was created again, or that a wrong mount shows, has none of the proofs of the old one."""

    def listed(at_ms: int, repository: str, copy: str = "ansan") -> BackupEvent:
        seen = CopySeen("db", copy, at_ms, at_ms, 100, 9, repository=repository)
        return BackupEvent("listed", at_ms, "db", copy, seen=seen)

    known = after(Known("db"), listed(1, first))
    known = after(known, listed(1, "x", "other"))
    for copy in ("ansan", "other"):
        known = after(known, proven(ProofRecord("db", copy, 2, "passed", 2, 5)))
        known = after(known, replace(event(3, facts={"rows": 1}, snapshot="s"), copy=copy))
    known = after(known, listed(4, second))
    assert [one.copy for one in known.proofs] == ([] if is_other else ["ansan"]) + ["other"]
    assert {one.copy for one in known.witnesses} == {"other"} | (set() if is_other else {"ansan"})
    assert [one.code for one in known.alarms] == (["repository-changed"] if is_other else [])
    assert after(known, listed(5, second)).proofs == known.proofs


@pytest.mark.parametrize(
    ("tool", "ids", "words"),
    [
        ("pgbackrest", ("main/1", "main/2"), "this is a listing of main/2, and"),
        ("pgbackrest", ("main/1", "other/1"), "this is a listing of other/1, and"),
        ("restic", (f"{'a' * 60}/b1", f"{'a' * 60}/b2"), "aaa/b2, and the last one was of aaa"),
    ],
)
def test_the_two_repositories_are_named_so_that_they_differ(
    tool: str, ids: tuple[str, str], words: str
) -> None:
    """After an upgrade, pgBackRest keeps another database system in the same repository."""
    one, two = (CopySeen("db", "ansan", 1, 1, 9, 9, tool=tool, repository=id_) for id_ in ids)
    ((_, said),) = sudden_changes(one, two)
    assert words in said.replace("a" * 33, "aaa")


def test_a_listing_without_an_id_or_a_late_proof_does_not_hide_another_repository() -> None:
    def listed(at_ms: int, repository: str) -> BackupEvent:
        seen = CopySeen("db", "ansan", at_ms, at_ms, 100, 9, repository=repository)
        return BackupEvent("listed", at_ms, "db", "ansan", seen=seen)

    old, new = (proven(ProofRecord("db", "ansan", 2, "passed", at_ms, 5)) for at_ms in (2, 6))
    known = Known("db")
    for one in (listed(1, "a"), old, listed(3, ""), listed(4, ""), listed(5, "b")):
        known = after(known, one)
    assert (known.proofs, [one.code for one in known.alarms]) == ((), ["repository-changed"])
    known = after(after(known, old), new)
    assert known.proofs == (new.proof,), "the old one is of the other repository, whenever its event comes"


FAILED_OR_READ = st.sampled_from([("passed", 2, 5), ("passed", 3, 5), ("passed", 1, 0), ("damaged", 2, 5)])


@given(st.lists(st.sampled_from("abc") | FAILED_OR_READ, max_size=12))
def test_only_a_proof_makes_runs_restore_from_another_repository(
    rows: list[str | tuple[str, int, int]],
) -> None:
    """evac lists by itself every hour, so a listing decides nothing after the first one."""
    known, at, accepted = Known("db"), "", ""
    for at_ms, row in enumerate(rows, 1):
        if isinstance(row, str):
            at = row
            accepted = accepted or row
            seen = CopySeen("db", "ansan", at_ms, at_ms, 100, 9, repository=row)
            known = after(known, BackupEvent("listed", at_ms, "db", "ansan", seen=seen))
            continue
        outcome, level, read_bytes = row
        accepted = at if at and outcome == "passed" and level >= 2 else accepted
        known = after(known, proven(ProofRecord("db", "ansan", level, outcome, at_ms, read_bytes)))  # type: ignore[arg-type]
    expected = [("db", "ansan", accepted)] if accepted else []
    assert list(expected_repositories(BackupFacts(known.copies))) == expected


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_only_what_is_unlike_the_backups_before_is_an_alarm(
    new: int, usual: int, packed: int, usual_packed: int
) -> None:
    before = CopySeen("db", "ansan", 1, 1, 100, 9)
    now = CopySeen(
        "db",
        "ansan",
        2,
        2,
        100,
        9,
        new_share=new,
        usual_share=usual,
        packing=packed,
        usual_packing=usual_packed,
    )
    codes = {code for code, _ in sudden_changes(before, now)}
    assert ("backup-rewritten" in codes) == (new >= 500_000 and usual <= 100_000)
    assert ("backup-incompressible" in codes) == (packed >= 970_000 and usual_packed <= 900_000)
    assert codes <= {"backup-rewritten", "backup-incompressible"}
    assert sudden_changes(before, replace(now, taken_at_ms=1)) == [], "there is no newer backup"
    same_second = sudden_changes(before, replace(now, taken_at_ms=1, count=10))
    assert {code for code, _ in same_second} == codes, "one more began in the same second"
    older = replace(now, count=10)
    assert sudden_changes(replace(older, count=9), older) == [], "an older one was added"
    assert sudden_changes(None, now) == [], "nothing to compare with"
    assert sudden_changes(before, replace(now, usual_share=None, usual_packing=None)) == []
