"""The verdict on backups: every digit, every proof, and that what is unknown never improves it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.derive.backups import day_ms, verdicts
from evac.derive.domains import topology
from evac.derive.stores import observed
from evac.model.backup import (
    COMPARED,
    EXISTS,
    READ,
    RESTORED,
    SERVED,
    STRUCTURE,
    WHOLE,
    BackupFacts,
    CopySeen,
    CopyState,
    CredentialsChange,
    DataVerdict,
    Digit,
    ProofOutcome,
    ProofRecord,
)
from evac.model.backup_policy import BackupPolicy, ProofAges
from evac.model.digest import estate_digest
from evac.model.estate import Backup, DataSet, Estate, SharedFate, Site, Store, StoreMember
from evac.model.observation import Observation
from evac.model.restore_times import measured_restores
from evac.steps.restore import restoration

NOW = day_ms(date(2026, 11, 25))
HOUR, DAY = 3_600_000, 86_400_000
SITES = ("ansan", "bundang", "pangyo")
POLICY = BackupPolicy(copies=3, systems=2, rpo_ms=DAY, proof_age_ms=30 * DAY)
GOOD = (
    Backup("bundang", 10, HOUR, 1_000, date(2026, 11, 20), system="disk", deletable=False),
    Backup("ansan", 10, 2 * HOUR, 1_000, date(2026, 11, 20), system="tape", deletable=True),
)


def estate_of(backups: tuple[Backup, ...], policy: BackupPolicy | None = POLICY) -> Estate:
    store = Store(
        "db", "db", "postgresql", (StoreMember("pangyo", "primary"),), backups, backup_policy=policy
    )
    groups = (SharedFate("campus", "campus", ("bundang", "pangyo")),)
    return Estate("t", sites=tuple(Site(name) for name in SITES), groups=groups, stores=(store,))


def judged(
    backups: tuple[Backup, ...] = GOOD,
    policy: BackupPolicy | None = POLICY,
    copies: tuple[CopySeen, ...] = (),
    proofs: tuple[ProofRecord, ...] = (),
) -> DataVerdict:
    (found,) = verdicts(topology(estate_of(backups, policy)), BackupFacts(copies, proofs), NOW)
    return found


def digit(verdict: DataVerdict, name: str) -> Digit:
    return next(one for one in verdict.digits if one.name == name)


def proof(level: int, outcome: Any = "passed", days_ago: int = 1, **rest: Any) -> ProofRecord:
    values = {"bytes_read": 1_000, "share_read": WHOLE, "tool": "restic", **rest}
    return ProofRecord("db", "ansan", level, outcome, NOW - days_ago * DAY, **values)


def at_ansan(verdict: DataVerdict) -> CopyState:
    return next(one for one in verdict.copies if one.at == "ansan")


def test_all_digits_are_met_by_what_the_files_state() -> None:
    found = judged()
    assert found.state == "met"
    assert {one.name: (one.state, one.known) for one in found.digits} == {
        "copies": ("met", 3),
        "systems": ("met", 3),
        "outside": ("met", 1),
        "undeletable": ("met", 1),
        "errors": ("met", 2),
    }
    assert (found.rpo, found.age_ms) == ("met", 2 * HOUR)


def test_a_copy_on_the_same_campus_is_not_outside() -> None:
    found = judged((GOOD[0], replace(GOOD[0], system="tape")))
    assert digit(found, "outside").state == "missed"
    assert found.state == "missed"
    assert found.rpo == "missed", "no copy that survives the campus is new enough"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"age_ms": None}, "copies"),
        ({"system": None}, "systems"),
        ({"deletable": None}, "undeletable"),
        ({"verified": None}, "errors"),
    ],
)
def test_what_is_not_known_is_said_and_is_not_met(change: dict[str, Any], name: str) -> None:
    policy = replace(POLICY, systems=3)
    assert digit(judged(policy=policy), name).state == "met"
    found = judged((replace(GOOD[0], **change), GOOD[1]), policy)
    assert digit(found, name).state == "unknown"
    assert found.state == "unknown"


def test_policies_that_are_missing_or_waived_are_no_verdict() -> None:
    assert (judged(policy=None).state, judged(policy=None).digits) == ("undecided", ())
    waived = judged(policy=BackupPolicy(waived="rebuilt from the source within an hour"))
    assert (waived.state, waived.digits) == ("waived", ())


def test_what_a_tool_lists_wins_over_what_the_files_state() -> None:
    empty = judged(copies=(CopySeen("db", "ansan", NOW, None),))
    assert digit(empty, "outside").state == "missed", "the repository is empty"
    old = judged(copies=(CopySeen("db", "ansan", NOW, NOW - 3 * DAY),))
    assert (old.rpo, old.age_ms) == ("missed", 3 * DAY)
    ahead = judged(copies=(CopySeen("db", "ansan", NOW, NOW + DAY),))
    assert (ahead.rpo, ahead.age_ms) == ("unknown", None), "a clock is wrong, and nobody knows which"


def test_one_who_can_delete_is_believed() -> None:
    deletes = CopySeen("db", "bundang", NOW, NOW - HOUR, deletable=True)
    assert digit(judged(copies=(deletes,)), "undeletable").state == "missed"


@pytest.mark.parametrize("declared", [None, False, True])
@pytest.mark.parametrize("seen", [None, False, True])
@pytest.mark.parametrize("why", ["", "1 of 4 objects is not locked"])
def test_what_a_repository_was_asked_for_is_never_taken_from_a_declaration(
    declared: bool | None, seen: bool | None, why: str
) -> None:
    listed = CopySeen("db", "bundang", NOW, NOW - HOUR, deletable=seen, deletable_why=why)
    (copy,) = judged((replace(GOOD[0], deletable=declared),), copies=(listed,)).copies
    if True in (declared, seen):
        assert copy.deletable is True
    elif why or declared is None:
        assert copy.deletable is seen
    else:
        assert copy.deletable is False
    assert copy.deletable_why == why


def test_zero_bytes_read_prove_nothing() -> None:
    bare = (GOOD[0], replace(GOOD[1], verified=None))
    for level in range(READ, SERVED + 1):
        found = judged(bare, proofs=(proof(level, bytes_read=0),))
        assert (at_ansan(found).level, at_ansan(found).proven) == (None, "unknown"), level
        assert at_ansan(judged(bare, proofs=(proof(level),))).level == level
    assert at_ansan(judged(bare, proofs=(proof(STRUCTURE, bytes_read=0),))).level == STRUCTURE
    assert at_ansan(judged(bare, proofs=(proof(EXISTS, bytes_read=0),))).level == EXISTS


def test_bytes_are_proven_once_every_part_was_read_recently() -> None:
    bare = (GOOD[0], replace(GOOD[1], verified=None))
    parts = tuple(
        proof(READ, days_ago=9 - part, part=part, of=4, share_read=250_000) for part in (1, 2, 3, 4)
    )
    some, every = at_ansan(judged(bare, proofs=parts[:3])), at_ansan(judged(bare, proofs=parts))
    assert (some.level, some.coverage) == (None, 750_000)
    assert (every.level, every.coverage) == (READ, WHOLE)
    assert every.proof == parts[0], "as old as the part that was read first"
    old = replace(parts[0], at_ms=NOW - 31 * DAY)
    assert at_ansan(judged(bare, proofs=(old, *parts[1:]))).level is None


def test_damage_counts_until_the_same_part_is_read_again() -> None:
    bad = proof(READ, "damaged", 3, part=2, of=4, detail="pack 17 differs")
    found = judged(proofs=(bad,))
    assert (digit(found, "errors").state, at_ansan(found).failed) == ("missed", bad)
    assert at_ansan(found).level is None, "earlier proofs say nothing any more"
    assert digit(found, "outside").state == "missed", "a damaged copy is not a copy"
    for no_answer in (
        proof(STRUCTURE, days_ago=1),
        proof(READ, days_ago=1, part=1, of=4, share_read=250_000),
        proof(RESTORED, days_ago=1),
        proof(READ, days_ago=1, part=2, of=4, bytes_read=0),
        proof(READ, "could-not-run", 1, part=2, of=4),
    ):
        assert at_ansan(judged(proofs=(bad, no_answer))).failed == bad, no_answer
    again = proof(READ, days_ago=1, part=2, of=4, share_read=250_000)
    whole = proof(READ, days_ago=1)
    assert at_ansan(judged(proofs=(bad, again))).failed is None
    assert at_ansan(judged(proofs=(bad, whole))).failed is None


def test_too_slow_and_too_old_are_errors_until_a_restore_passes() -> None:
    for outcome in ("too-slow", "too-old"):
        found = judged(proofs=(proof(RESTORED, outcome, 2),))
        assert digit(found, "errors").state == "missed"
        assert digit(found, "copies").state == "met", "the copy is there all the same"
        assert digit(judged(proofs=(proof(RESTORED, outcome, 2), proof(COMPARED))), "errors").state == "met"


def test_what_could_not_run_is_neither_good_nor_bad_and_is_visible() -> None:
    silent = proof(RESTORED, "could-not-run", 0, detail="the repository is locked")
    found = judged(proofs=(silent,))
    assert found.digits == judged().digits
    assert at_ansan(found).not_run == silent


def test_an_old_proof_is_a_miss_and_no_proof_is_unknown() -> None:
    old = (GOOD[0], replace(GOOD[1], verified=date(2026, 6, 1)))
    assert digit(judged(old), "errors").state == "missed"
    assert at_ansan(judged(old)).last is not None


TIERS = replace(POLICY, level=RESTORED, proof_ages=ProofAges(read_ms=7 * DAY, compared_ms=90 * DAY))


@pytest.mark.parametrize(
    ("proofs", "states"),
    [
        ((proof(COMPARED, days_ago=5),), ("met", "met", "met")),
        ((proof(COMPARED, days_ago=8), proof(READ, days_ago=6)), ("met", "met", "met")),
        ((proof(COMPARED, days_ago=8),), ("missed", "met", "met")),
        ((proof(COMPARED, days_ago=91), proof(RESTORED, days_ago=1)), ("met", "met", "missed")),
        ((proof(COMPARED, days_ago=40), proof(READ, days_ago=6)), ("met", "missed", "met")),
        ((proof(RESTORED, days_ago=6),), ("met", "met", "unknown")),
        ((), ("unknown", "unknown", "unknown")),
    ],
)
def test_every_level_has_an_age_of_its_own(proofs: tuple[ProofRecord, ...], states: tuple[str, ...]) -> None:
    bare = (GOOD[0], replace(GOOD[1], verified=None))
    found = at_ansan(judged(bare, TIERS, proofs=proofs))
    assert [(one.level, one.age_ms // DAY) for one in found.due] == [
        (READ, 7),
        (RESTORED, 30),
        (COMPARED, 90),
    ]
    assert tuple(one.state for one in found.due) == states
    worst = next((one for one in ("missed", "unknown") if one in states), "met")
    assert found.proven == worst


def test_a_proof_that_is_too_old_for_its_level_still_counts_for_a_lower_one() -> None:
    policy = replace(POLICY, proof_ages=ProofAges(compared_ms=90 * DAY, served_ms=7 * DAY))
    bare = (GOOD[0], replace(GOOD[1], verified=None))
    for days, level in ((6, SERVED), (60, COMPARED), (91, None)):
        served = proof(SERVED, days_ago=days)
        found = at_ansan(judged(bare, policy, proofs=(served,)))
        assert (found.level, found.proof) == (level, None if level is None else served)


def test_of_two_ages_for_the_level_of_the_policy_the_smaller_one_counts() -> None:
    longer = replace(POLICY, proof_ages=ProofAges(restored_ms=300 * DAY))
    assert longer.proofs_asked == ((RESTORED, POLICY.proof_age_ms),)
    assert longer.proof_age_of(RESTORED) == POLICY.proof_age_ms
    policy = replace(POLICY, proof_ages=ProofAges(restored_ms=3 * DAY))
    assert policy.proofs_asked == ((RESTORED, 3 * DAY),)
    assert at_ansan(judged(policy=policy)).proven == "missed", "it was restored five days ago"
    assert at_ansan(judged(policy=policy)).level == READ, "its proof still counts for lower levels"


def test_data_that_is_no_store_is_judged_the_same_way() -> None:
    volume = DataSet("wiki", "volume", "pangyo", (), 10, GOOD, POLICY)
    estate = replace(estate_of(()), stores=(), data_sets=(volume,))
    (found,) = verdicts(topology(estate), BackupFacts(), NOW)
    assert (found.data_set, found.kind, found.state) == ("wiki", "volume", "met")
    (homeless,) = verdicts(
        topology(replace(estate, data_sets=(replace(volume, at=None),))), BackupFacts(), NOW
    )
    assert digit(homeless, "outside").state == "unknown"


BACKUPS = st.builds(
    Backup,
    st.sampled_from(SITES),
    st.none() | st.integers(1, 100),
    st.none() | st.integers(0, 3 * DAY),
    st.none() | st.integers(1, 1_000),
    st.none() | st.dates(date(2026, 8, 1), date(2026, 11, 25)),
    system=st.sampled_from([None, "disk", "tape"]),
    deletable=st.sampled_from([None, True, False]),
    credentials_changed=st.none() | st.dates(date(2026, 11, 22), date(2026, 11, 26)),
)
POLICIES = st.builds(
    BackupPolicy,
    copies=st.integers(1, 4),
    systems=st.integers(1, 3),
    outside=st.integers(0, 2),
    undeletable=st.integers(0, 2),
    rpo_ms=st.none() | st.integers(0, 3 * DAY),
    level=st.integers(0, 5),
    proof_age_ms=st.integers(1, 60 * DAY),
    keep_ms=st.none() | st.integers(1, 60 * DAY),
    keep_count=st.none() | st.integers(1, 20),
    proof_ages=st.builds(ProofAges, *[st.none() | st.integers(1, 60 * DAY) for _ in range(5)]),
)
SEEN = st.builds(
    CopySeen,
    st.just("db"),
    st.sampled_from(SITES),
    st.integers(NOW - 40 * DAY, NOW + DAY),
    st.none() | st.integers(NOW - 3 * DAY, NOW),
    count=st.integers(0, 20),
    oldest_at_ms=st.none() | st.integers(NOW - 90 * DAY, NOW + DAY),
)
PROOFS = st.builds(
    ProofRecord,
    st.just("db"),
    st.sampled_from(SITES),
    st.integers(0, 5),
    st.sampled_from(get_args(ProofOutcome)),
    st.integers(NOW - 90 * DAY, NOW + DAY),
    st.none() | st.integers(0, 3),
    st.integers(0, WHOLE),
    st.integers(1, 3),
    st.just(3),
)
UNKNOWN = ("age_ms", "verified", "deletable", "system", "size_gib")


def met(verdict: DataVerdict) -> set[str]:
    rest = (("rpo", verdict.rpo), ("retention", verdict.retention), ("renewed", verdict.renewed))
    return {one.name for one in verdict.digits if one.state == "met"} | {
        name for name, state in rest if state == "met"
    }


@given(st.lists(BACKUPS, max_size=3), POLICIES, st.lists(PROOFS, max_size=5), st.data())
def test_forgetting_a_fact_never_improves_a_verdict(
    backups: list[Backup], policy: BackupPolicy, proofs: list[ProofRecord], data: st.DataObject
) -> None:
    known = judged(tuple(backups), policy, proofs=tuple(proofs))
    less = tuple(
        replace(one, **dict.fromkeys(data.draw(st.sets(st.sampled_from(UNKNOWN))))) for one in backups
    )
    assert met(judged(less, policy, proofs=tuple(proofs))) <= met(known)


@given(st.lists(BACKUPS, max_size=3), POLICIES, st.lists(PROOFS, max_size=5), PROOFS)
def test_a_bad_or_empty_check_never_improves_a_verdict(
    backups: list[Backup], policy: BackupPolicy, proofs: list[ProofRecord], last: ProofRecord
) -> None:
    before = met(judged(tuple(backups), policy, proofs=tuple(proofs)))
    empty = replace(last, outcome="passed", bytes_read=0, level=max(last.level, READ))
    for added in (empty, replace(last, outcome="could-not-run")):
        assert met(judged(tuple(backups), policy, proofs=(*proofs, added))) == before
    damage = replace(last, outcome="damaged", at_ms=NOW)
    after = judged(tuple(backups), policy, proofs=(*proofs, damage))
    assert met(after) <= before
    assert not any(one.name == last.copy and one.usable for one in after.copies)


@given(st.lists(BACKUPS, max_size=3), POLICIES, st.lists(PROOFS, max_size=5))
def test_counts_and_states_agree(
    backups: list[Backup], policy: BackupPolicy, proofs: list[ProofRecord]
) -> None:
    found = judged(tuple(backups), policy, proofs=tuple(proofs))
    for one in found.digits:
        assert one.known <= one.possible
        if one.name != "errors":
            assert (one.state == "met") == (one.known >= one.asked)
            assert (one.state == "missed") == (one.possible < one.asked)
    rest = {found.rpo, found.retention, found.renewed} <= {None, "met"}
    assert (found.state == "met") == (all(one.state == "met" for one in found.digits) and rest)


@given(st.lists(BACKUPS, max_size=3), POLICIES, st.lists(PROOFS, max_size=5))
def test_one_more_required_age_never_improves_a_verdict(
    backups: list[Backup], policy: BackupPolicy, proofs: list[ProofRecord]
) -> None:
    more = judged(tuple(backups), policy, proofs=tuple(proofs))
    plain = judged(tuple(backups), replace(policy, proof_ages=ProofAges()), proofs=tuple(proofs))
    if digit(more, "errors").state == "met":
        assert digit(plain, "errors").state == "met"
    for one in more.copies:
        assert (one.level or 0) >= max((due.level for due in one.due if due.state == "met"), default=0)
        assert (one.proven == "met") == all(due.state == "met" for due in one.due)


def listed(count: int, oldest_days: int | None, at: str = "ansan", seen_days: int = 0) -> CopySeen:
    oldest_ms = None if oldest_days is None else NOW - oldest_days * DAY
    seen_ms = NOW - seen_days * DAY
    return CopySeen("db", at, seen_ms, seen_ms - HOUR, count=count, oldest_at_ms=oldest_ms)


MONTH = replace(POLICY, keep_ms=30 * DAY, keep_count=10)


@pytest.mark.parametrize(
    ("copies", "state"),
    [
        ((listed(10, 30),), "met"),
        ((listed(9, 300),), "missed"),
        ((listed(300, 29),), "missed"),
        ((listed(9, None),), "missed"),
        ((listed(10, None),), "unknown"),
        ((), "unknown"),
        ((listed(300, 300, "bundang"),), "unknown"),
        ((listed(300, 300, "bundang"), listed(9, 300)), "missed"),
        ((listed(0, None),), "missed"),
    ],
)
def test_retention_is_judged_by_the_listing_of_a_copy_outside(
    copies: tuple[CopySeen, ...], state: str
) -> None:
    """The copy at bundang burns with the original."""
    found = judged(policy=MONTH, copies=copies)
    assert found.retention == state
    assert (found.state == "met") == (state == "met")
    assert judged(copies=copies).retention is None, "nothing is required"


def test_one_copy_must_keep_both_the_number_and_the_age() -> None:
    backups = (replace(GOOD[1], at="bundang"), GOOD[1])
    policy = replace(MONTH, outside=0)
    copies = (listed(300, 1, "bundang"), listed(1, 300))
    assert judged(backups, policy, copies).retention == "missed"
    assert judged(backups, policy, (listed(10, 30, "bundang"), listed(1, 1))).retention == "met"


@pytest.mark.parametrize(("seen_days", "state"), [(0, "met"), (2, "met"), (3, "unknown"), (200, "unknown")])
def test_what_an_old_listing_named_may_be_gone(seen_days: int, state: str) -> None:
    found = judged(policy=MONTH, copies=(listed(40, 300, seen_days=seen_days),))
    assert found.retention == state


def test_a_listing_proves_no_age_beyond_its_own_day() -> None:
    """What was old enough since may have been deleted."""
    assert judged(policy=MONTH, copies=(listed(10, 31, seen_days=2),)).retention == "missed"
    ahead = replace(listed(10, 60), at_ms=NOW + DAY)
    assert judged(policy=MONTH, copies=(ahead,)).retention == "unknown", "the clock is wrong"


def test_damaged_backups_keep_nothing() -> None:
    bad = proof(READ, "damaged")
    assert judged(policy=MONTH, copies=(listed(10, 30),), proofs=(bad,)).retention == "missed"


def test_data_without_any_backup_misses_its_retention() -> None:
    assert judged((), replace(POLICY, keep_count=1)).retention == "missed"


@given(
    st.lists(BACKUPS, max_size=3),
    POLICIES,
    st.lists(SEEN, max_size=3, unique_by=lambda one: one.copy),
    st.data(),
)
def test_a_listing_that_says_less_never_improves_the_retention(
    backups: list[Backup], policy: BackupPolicy, copies: list[CopySeen], data: st.DataObject
) -> None:
    known = judged(tuple(backups), policy, tuple(copies))
    less = [
        replace(one, oldest_at_ms=None) if data.draw(st.booleans()) else replace(one, count=one.count // 2)
        for one in copies
        if data.draw(st.booleans())
    ]
    if judged(tuple(backups), policy, tuple(less)).retention == "met":
        assert known.retention == "met"


CHANGED_MS = NOW - DAY


def renewed(taken_ms: int | None, changed_ms: int = CHANGED_MS, **backup: Any) -> DataVerdict:
    copies = (CopySeen("db", "ansan", NOW, taken_ms),)
    facts = BackupFacts(copies, credentials=(CredentialsChange("db", "ansan", changed_ms),))
    estate = estate_of((GOOD[0], replace(GOOD[1], **backup)))
    (found,) = verdicts(topology(estate), facts, NOW)
    return found


@pytest.mark.parametrize(
    ("taken_ms", "state"),
    [
        (CHANGED_MS + HOUR, "met"),
        (CHANGED_MS + 300_000, "unknown"),
        (CHANGED_MS + 1, "unknown"),
        (CHANGED_MS, "missed"),
        (None, "missed"),
        (NOW + HOUR, "unknown"),
    ],
)
def test_a_backup_must_begin_after_the_last_change_of_credentials(taken_ms: int | None, state: str) -> None:
    """Clocks may differ by five minutes."""
    found = renewed(taken_ms)
    assert (found.renewed, at_ansan(found).renewed, at_ansan(found).credentials_ms) == (
        state,
        state,
        CHANGED_MS,
    )
    assert (found.state == "met") == (state == "met")
    assert judged().renewed is None, "no change is known"


def test_of_a_change_in_the_files_and_a_recorded_one_the_later_counts() -> None:
    day = date(2026, 11, 24)
    assert renewed(NOW - HOUR, NOW - 9 * DAY, credentials_changed=day).renewed == "unknown", "on that day"
    assert renewed(NOW - 25 * HOUR, NOW - 9 * DAY, credentials_changed=day).renewed == "missed"
    assert renewed(NOW - HOUR, NOW - 9 * DAY, credentials_changed=date(2026, 11, 23)).renewed == "met"
    assert renewed(NOW - HOUR, NOW - 1, credentials_changed=date(2026, 11, 1)).renewed == "missed"


def test_an_age_in_the_files_never_proves_that_a_backup_is_older_than_a_change() -> None:
    for day, state in (
        (date(2026, 11, 23), "met"),
        (date(2026, 11, 24), "unknown"),
        (date(2026, 12, 1), "unknown"),
    ):
        assert judged((GOOD[0], replace(GOOD[1], credentials_changed=day))).renewed == state
    unaged = replace(GOOD[1], age_ms=None, credentials_changed=date(2026, 11, 1))
    assert judged((GOOD[0], unaged)).renewed == "unknown"


@given(
    st.lists(BACKUPS, max_size=3),
    POLICIES,
    st.lists(SEEN, max_size=3, unique_by=lambda one: one.copy),
    st.sampled_from(SITES),
    st.integers(NOW - 5 * DAY, NOW + DAY),
)
def test_one_more_change_of_credentials_never_improves_a_verdict(
    backups: list[Backup], policy: BackupPolicy, copies: list[CopySeen], at: str, changed_ms: int
) -> None:
    top = topology(estate_of(tuple(backups), policy))
    (plain,) = verdicts(top, BackupFacts(tuple(copies)), NOW)
    change = CredentialsChange("db", at, changed_ms)
    (more,) = verdicts(top, BackupFacts(tuple(copies), credentials=(change,)), NOW)
    assert met(more) - {"renewed"} == met(plain) - {"renewed"}
    assert more.state != "met" or plain.state == "met"
    if more.renewed == "met":
        assert plain.renewed in (None, "met")


@given(
    st.integers(1, 10**13),
    st.integers(1, 10**9),
    st.integers(1, 10**13),
    st.sampled_from(get_args(ProofOutcome)),
    st.sampled_from([READ, RESTORED, COMPARED]),
)
def test_a_restore_takes_as_long_as_its_test_says(
    read: int, took_ms: int, now_bytes: int, outcome: Any, level: int
) -> None:
    """Or longer, in proportion to its growth since, up to a tenth more. A test that did not come to an end
    measures nothing.
    """
    record = proof(level, outcome, bytes_read=read, took_ms=took_ms)
    seen = CopySeen("db", "ansan", NOW, NOW - HOUR, now_bytes)
    facts = BackupFacts((seen,), (record,))
    found = measured_restores(facts)
    if level < RESTORED or outcome in ("answer-differs", "damaged", "could-not-run"):
        assert found == ()
        return
    ((_, _, takes_ms),) = found
    true_ms = took_ms * max(now_bytes, read) / read
    assert true_ms <= takes_ms <= max(true_ms * 1.1 + 1, 1), "never faster than it was measured"
    now = observed(estate_of(GOOD), Observation(NOW, restores=found))
    ways = {one.at: restoration(one) for one in now.stores[0].backups}
    declared = restoration(GOOD[0])
    assert ways["bundang"] == declared, "nothing measured this one"
    assert ways["ansan"] is not None
    assert ways["ansan"].duration_ms == takes_ms
    assert at_ansan(judged(copies=(seen,), proofs=(record,))).restore_ms == takes_ms, (
        "and the matrix says the same"
    )


def test_a_restore_that_was_never_measured_nor_stated_is_not_known() -> None:
    bare = estate_of((Backup("ansan", 10), Backup("bundang", restore_mbps=100)))
    assert observed(bare, Observation(NOW)) is bare
    assert [restoration(one) for one in bare.stores[0].backups] == [None, None]
    measured = observed(bare, Observation(NOW, restores=(("db", "ansan", 90_000),)))
    assert [way and way.duration_ms for way in map(restoration, measured.stores[0].backups)] == [90_000, None]
    assert estate_digest(measured) != estate_digest(bare), "a plan that was priced otherwise is stale"


@pytest.mark.parametrize(
    ("asks", "counts"),
    [
        ({}, False),
        ({"level": COMPARED}, False),
        ({"request": "asked"}, True),
        ({"level": SERVED}, True),
        ({"proof_ages": ProofAges(served_ms=30 * DAY)}, True),
    ],
)
def test_a_wrong_answer_counts_only_if_the_policy_asks_for_one(asks: dict[str, Any], counts: bool) -> None:
    """Without a request, no later test could clear it. An older proof of level 5 stays without effect."""
    proofs = (proof(SERVED, days_ago=2), proof(SERVED, "answer-differs"))
    found = judged(policy=replace(POLICY, **asks), proofs=proofs)
    copy = at_ansan(found)
    assert (copy.failed is not None, copy.level) == (counts, COMPARED)
    assert (digit(found, "errors").state == "missed") == counts
    damaged = at_ansan(judged(policy=replace(POLICY, **asks), proofs=(*proofs, proof(READ, "damaged"))))
    assert damaged.damaged
