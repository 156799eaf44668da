"""Each rule about backups finds its flaw in an estate whose backups are sound, and nothing there."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from evac.audit import audit
from evac.derive.backups import day_ms
from evac.model.backup import (
    COMPARED,
    READ,
    RESTORED,
    BackupFacts,
    CopySeen,
    CredentialsChange,
    ProofOutcome,
    ProofRecord,
    Stray,
)
from evac.model.backup_policy import BackupPolicy, ProofAges
from evac.model.estate import Backup, DataSet, Dependency, Estate, Store
from tests.unit.audit.estates import HOUR, TODAY, found, service, sound, with_service
from tests.unit.audit.flaws import Flaw, with_backups

DAY = 24 * HOUR
TAPE = Backup("south", 10, HOUR, 1_000, date(2026, 11, 20), system="tape", deletable=False)
DISK = Backup("west", 10, HOUR, 1_000, date(2026, 11, 20), system="disk", deletable=True)


def unproven_outside(estate: Estate) -> Estate:
    return with_backups(estate, (replace(TAPE, at="north"), replace(DISK, verified=None)), BackupPolicy())


def old_backup(estate: Estate) -> Estate:
    backups = (replace(TAPE, age_ms=3 * DAY), replace(DISK, age_ms=2 * DAY))
    return with_backups(estate, backups, BackupPolicy(rpo_ms=DAY))


def keys_inside(estate: Estate) -> Estate:
    return with_backups(estate, (TAPE, DISK), BackupPolicy(keys_at=("north",)))


def needs_itself(estate: Estate) -> Estate:
    vault = service("vault", needs=(Dependency("orders", "store"),), people=0)
    more = with_service(estate, vault, [("north", 2)])
    return with_backups(more, (TAPE, DISK), BackupPolicy(restore_needs=("vault",)))


def slow_restore(estate: Estate) -> Estate:
    return with_backups(
        estate, (replace(TAPE, restore_mbps=1), replace(DISK, restore_mbps=2)), BackupPolicy()
    )


def deletable(estate: Estate) -> Estate:
    return with_backups(estate, (replace(TAPE, deletable=True), DISK), BackupPolicy())


def maybe_deletable(estate: Estate) -> Estate:
    return with_backups(estate, (replace(TAPE, deletable=None), DISK), BackupPolicy())


def too_few(estate: Estate) -> Estate:
    return with_backups(estate, (TAPE,), BackupPolicy())


def perhaps_too_few(estate: Estate) -> Estate:
    return with_backups(estate, (TAPE, replace(DISK, age_ms=None)), BackupPolicy())


def volume_inside(estate: Estate) -> Estate:
    volume = DataSet("wiki", "volume", "north", ("shop",), 5, (replace(TAPE, at="north"),), BackupPolicy())
    return replace(estate, data_sets=(volume,))


def keeps_unlisted(estate: Estate) -> Estate:
    return with_backups(estate, (TAPE, DISK), BackupPolicy(keep_count=30))


def keeps_nothing(estate: Estate) -> Estate:
    return with_backups(
        estate, (replace(TAPE, at="north"), replace(DISK, at="north")), BackupPolicy(keep_ms=DAY)
    )


def changed_since(estate: Estate) -> Estate:
    return with_backups(estate, (replace(TAPE, credentials_changed=TODAY), DISK), BackupPolicy())


def no_policy(estate: Estate) -> Estate:
    return replace(estate, data_sets=(DataSet("wiki"),))


def covered() -> Estate:
    return with_backups(sound(), (TAPE, DISK), BackupPolicy(rpo_ms=DAY, keys_at=("south",)))


def volume_alone(estate: Estate) -> Estate:
    return replace(estate, data_sets=(DataSet("wiki", "volume", "north", ("shop",)),))


FLAWS = (
    Flaw("a volume without any backup", volume_alone, "no-copy-outside", "wiki", "error"),
    Flaw("a volume whose only backup is beside it", volume_inside, "no-copy-outside", "wiki", "error"),
    Flaw("no proven backup outside", unproven_outside, "no-verified-copy-outside", "orders", "warning"),
    Flaw("a volume backed up in place", volume_inside, "no-verified-copy-outside", "wiki", "error"),
    Flaw("a backup that is too old", old_backup, "backup-rpo-missed", "orders", "warning"),
    Flaw("keys in the building", keys_inside, "restore-means-lost", "orders", "error"),
    Flaw("a key store in what it opens", needs_itself, "restore-means-lost", "orders", "error"),
    Flaw("a restore beyond the rto", slow_restore, "restore-too-slow", "orders", "warning"),
    Flaw("backups the source can delete", deletable, "backups-deletable", "orders", "warning"),
    Flaw("backups it may delete", maybe_deletable, "backups-deletable", "orders", "note"),
    Flaw("too few copies", too_few, "too-few-copies", "orders", "warning"),
    Flaw("perhaps too few copies", perhaps_too_few, "too-few-copies", "orders", "note"),
    Flaw("unlisted backups to keep", keeps_unlisted, "backup-retention-missed", "orders", "note"),
    Flaw("nothing kept outside", keeps_nothing, "backup-retention-missed", "orders", "warning"),
    Flaw("credentials changed today", changed_since, "backup-before-credentials", "orders at south", "note"),
    Flaw("data without a policy", no_policy, "no-backup-policy", "backup policies", "note"),
)


def test_sound_backups_have_nothing_to_fix() -> None:
    assert audit(covered()).findings == ()


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda f: f.name)
def test_a_flaw_of_backups_is_found(flaw: Flaw) -> None:
    hits = [f for f in found(audit(flaw.add(covered())), flaw.rule) if f.subject == flaw.subject]
    assert [hit.severity for hit in hits] == [flaw.severity]
    assert hits[0].fix


@pytest.mark.parametrize(
    "data",
    [
        DataSet("wiki", "volume", "north", ("shop",), 5, (replace(TAPE, at="south"),)),
        DataSet("wiki", "volume", "north", ("shop",), 5, (replace(TAPE, at="south", age_ms=None),)),
        DataSet("wiki", "volume", "north", ("shop",), backup_policy=BackupPolicy(waived="a cache")),
        DataSet("wiki", "volume", None, ("shop",)),
    ],
)
def test_a_volume_with_a_copy_elsewhere_or_that_needs_none_is_not_lost(data: DataSet) -> None:
    found = audit(replace(sound(), data_sets=(data,))).findings
    assert "no-copy-outside" not in {one.rule for one in found}


def test_a_policy_that_waives_backups_is_left_alone() -> None:
    waived = BackupPolicy(waived="rebuilt from the source")
    assert audit(with_backups(sound(), (replace(DISK, verified=None),), waived)).findings == ()


@pytest.mark.parametrize(
    ("outcome", "severity"),
    [("damaged", "error"), *((one, "warning") for one in ("too-slow", "too-old", "answer-differs"))],
)
def test_what_a_check_found_is_reported_with_its_day(outcome: ProofOutcome, severity: str) -> None:
    now = day_ms(TODAY)
    proof = ProofRecord("orders", "west", READ, outcome, now - HOUR, 5, detail="pack 17 differs")
    (hit,) = found(audit(covered(), backups=BackupFacts(proofs=(proof,)), at_ms=now), "backup-damaged")
    assert (hit.subject, hit.severity) == ("orders at west", severity)
    assert "2026-11-24" in hit.message
    assert "pack 17 differs" in hit.message


def test_a_check_that_could_not_run_is_no_finding() -> None:
    now = day_ms(TODAY)
    proof = ProofRecord("orders", "west", RESTORED, "could-not-run", now, detail="locked")
    assert audit(covered(), backups=BackupFacts(proofs=(proof,)), at_ms=now).findings == ()


def test_the_retention_that_is_missed_is_named_with_what_there_is() -> None:
    now = day_ms(TODAY)
    estate = with_backups(sound(), (TAPE, DISK), BackupPolicy(keep_ms=30 * DAY, keep_count=8))
    kept = CopySeen("orders", "west", now, now - HOUR, count=7, oldest_at_ms=now - 40 * DAY)
    empty = CopySeen("orders", "south", now, None, oldest_at_ms=None)
    report = audit(estate, backups=BackupFacts((kept, empty)), at_ms=now)
    (hit,) = found(report, "backup-retention-missed")
    assert hit.severity == "warning"
    assert "at least 8 backups and one that is at least 30 d old" in hit.message
    assert "south: no backup; west: 7, the oldest 40 d old" in hit.message
    whole = BackupFacts((replace(kept, count=8), empty))
    assert not found(audit(estate, backups=whole, at_ms=now), "backup-retention-missed")


def _asks_compared(store: Store) -> Store:
    ages = ProofAges(compared_ms=90 * DAY)
    return store if store.id != "orders" else replace(store, backup_policy=BackupPolicy(proof_ages=ages))


@pytest.mark.parametrize("days", [2, 40, 400])
def test_a_backup_of_any_age_is_named_with_it(days: int) -> None:
    backups = (replace(TAPE, age_ms=days * DAY), replace(DISK, age_ms=days * DAY))
    report = audit(with_backups(sound(), backups, BackupPolicy(rpo_ms=DAY)))
    (hit,) = found(report, "backup-rpo-missed")
    assert f"is {days} d old; its policy allows 1 d" in hit.message


def test_each_level_that_is_late_is_named_with_its_age() -> None:
    now = day_ms(TODAY)
    ages = ProofAges(structure_ms=8 * DAY - 1, read_ms=7 * DAY, compared_ms=90 * DAY)
    estate = with_backups(sound(), (TAPE, replace(DISK, verified=None)), BackupPolicy(proof_ages=ages))
    proof = ProofRecord("orders", "west", RESTORED, "passed", now - 8 * DAY, 5)
    report = audit(estate, backups=BackupFacts(proofs=(proof,)), at_ms=now)
    west = next(hit for hit in found(report, "backup-never-verified") if hit.subject == "orders at west")
    assert "was last read on 2026-11-17, which must be every 7 d" in west.message
    old = replace(estate, stores=tuple(_asks_compared(one) for one in estate.stores))
    late = replace(proof, level=COMPARED, at_ms=now - 100 * DAY)
    report = audit(old, backups=BackupFacts(proofs=(late,)), at_ms=now)
    late_hit = next(hit for hit in found(report, "backup-never-verified") if hit.subject == "orders at west")
    assert "which must be every 90 d" in late_hit.message, "longer than any recovery"
    assert "was never compared with a witness; on 2026-11-17 it was restored as a test" in west.message


def test_a_copy_without_a_backup_since_its_credentials_were_changed_is_named() -> None:
    now = day_ms(TODAY)
    old = CopySeen("orders", "west", now, now - 3 * DAY)
    facts = BackupFacts((old,), credentials=(CredentialsChange("orders", "west", now - 2 * DAY),))
    (hit,) = found(audit(covered(), backups=facts, at_ms=now), "backup-before-credentials")
    assert (hit.subject, hit.severity) == ("orders at west", "warning")
    assert "is newer than the change of its credentials on 2026-11-23" in hit.message
    fresh = replace(facts, copies=(replace(old, taken_at_ms=now - DAY),))
    assert not found(audit(covered(), backups=fresh, at_ms=now), "backup-before-credentials")


def test_what_tools_list_decides() -> None:
    now = day_ms(TODAY)
    facts = BackupFacts(
        copies=(CopySeen("orders", "west", now, None), CopySeen("orders", "south", now, now - 3 * DAY)),
        strays=(Stray("restic-west", "oldhost", 12, now),),
    )
    report = audit(covered(), backups=facts, at_ms=now)
    assert {f.rule for f in report.findings} == {"backup-rpo-missed", "too-few-copies", "stray-backup"}
    (stray,) = found(report, "stray-backup")
    assert "12 backups of oldhost" in stray.message
