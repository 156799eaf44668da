"""What a tool listed of a backup decides, before what the files declare, and never in its favour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evac.app.published import decode, encode
from evac.audit import audit
from evac.derive.backups import verdicts
from evac.derive.domains import topology
from evac.derive.listed_backups import LOOK_MS, with_backups
from evac.derive.planning_instance import derive
from evac.derive.situation import of
from evac.estate.loading import load
from evac.model.backup import BackupFacts, CopySeen, ProofRecord
from evac.model.digest import estate_digest
from evac.model.estate import Estate, Store
from evac.model.instance import Candidate
from evac.model.observation import Observation
from evac.model.scenario import Policy, lose
from evac.model.units import UNLIMITED
from evac.views.backup_view import copy_words
from tests.unit.steps.test_restore import ESTATE

NOW: Final = 1_800_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
SEEN: Final = CopySeen("db", "south", NOW, NOW - HOUR)
DAMAGED: Final = ProofRecord("db", "south", 2, "damaged", NOW - 9, 5, 1_000_000)
ages = st.integers(0, 400 * DAY)
maybe_ages = st.none() | st.integers(1, 400).map(lambda hours: hours * HOUR)


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    folder: Path = tmp_path_factory.mktemp("estate")
    (folder / "estate.yaml").write_text(ESTATE)
    return load(folder)


def stating(estate: Estate, age_ms: int | None, rpo_ms: int | None) -> Estate:
    (store,) = estate.stores
    (backup,) = store.backups
    changed: Store = replace(store, rpo_ms=rpo_ms, backups=(replace(backup, age_ms=age_ms),))
    return replace(estate, stores=(changed,))


def now(estate: Estate, facts: BackupFacts, now_ms: int = NOW) -> Estate:
    """As the leader sees it and as everyone else reads it, which must be the same."""
    seen = with_backups(Observation(now_ms), facts, now_ms)
    found, read = of(estate, seen).estate, of(estate, decode(encode(seen, "", {}))).estate
    assert estate_digest(found) == estate_digest(read)
    return found


def ways(estate: Estate) -> tuple[Candidate, ...]:
    (store,) = derive(estate, lose("north"), Policy(waivers=("db",)), 1_000).stores
    return store.candidates


@settings(max_examples=60, deadline=None)
@given(age_ms=ages, stated_ms=maybe_ages, rpo_ms=maybe_ages | st.just(UNLIMITED))
@example(age_ms=400 * DAY, stated_ms=None, rpo_ms=UNLIMITED)
def test_a_listed_age_decides_and_is_never_younger_than_it_is(
    declared: Estate, age_ms: int, stated_ms: int | None, rpo_ms: int | None
) -> None:
    estate = now(
        stating(declared, stated_ms, rpo_ms), BackupFacts((replace(SEEN, taken_at_ms=NOW - age_ms),))
    )
    ((way,),) = (ways(estate),)
    assert way.loss_ms is not None
    assert age_ms <= way.loss_ms <= max(4 * (age_ms + LOOK_MS) + DAY, HOUR, stated_ms or 0)
    if rpo_ms is not None and age_ms + LOOK_MS <= rpo_ms:
        assert way.loss_ms <= rpo_ms, "rounded beyond a limit"
    if rpo_ms is not None and age_ms > rpo_ms:
        assert way.waived


@settings(max_examples=30, deadline=None)
@given(age_ms=ages, later_ms=st.integers(0, 40 * DAY))
def test_an_old_listing_makes_a_backup_older(declared: Estate, age_ms: int, later_ms: int) -> None:
    facts = BackupFacts((replace(SEEN, taken_at_ms=NOW - age_ms),))
    losses = [ways(now(declared, facts, at_ms))[0].loss_ms or 0 for at_ms in (NOW, NOW + later_ms)]
    assert losses == sorted(losses)
    assert losses[1] >= age_ms + later_ms


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (replace(SEEN, taken_at_ms=NOW + HOUR), "; its newest backup is dated in the future"),
        (replace(SEEN, repository="b" * 64, expected="a" * 64), "; another repository answers"),
    ],
)
def test_an_age_that_a_listing_leaves_unknown_is_not_taken_from_the_files(
    declared: Estate, seen: CopySeen, why: str
) -> None:
    facts = BackupFacts((seen,))
    estate = stating(declared, HOUR, DAY)
    (way,) = ways(now(estate, facts))
    assert way.loss_ms is None
    assert way.waived
    (verdict,) = verdicts(topology(estate), facts, NOW)
    assert verdict.copies[0].age_ms is None, "the matrix says the same"
    assert why in copy_words(verdict.copies[0], NOW)
    (verdict,) = verdicts(topology(estate), BackupFacts((SEEN,)), NOW)
    assert why not in copy_words(verdict.copies[0], NOW)


@pytest.mark.parametrize(
    "facts",
    [BackupFacts((replace(SEEN, taken_at_ms=None),)), BackupFacts((SEEN,), (DAMAGED,))],
    ids=["nothing in it", "damaged"],
)
def test_no_plan_and_no_audit_counts_on_a_backup_that_cannot_be_restored(
    declared: Estate, facts: BackupFacts
) -> None:
    lost = {True: now(declared, facts), False: now(declared, BackupFacts((SEEN,)))}
    assert {gone: bool(ways(estate)) for gone, estate in lost.items()} == {True: False, False: True}
    for gone, estate in lost.items():
        found = {one.rule for one in audit(estate, backups=facts, at_ms=NOW).findings}
        assert ("no-copy-outside" in found) == gone, found


def test_the_same_moment_later_is_the_same_estate(declared: Estate) -> None:
    """So that a plan does not go stale because the clock moved on."""
    facts = BackupFacts((replace(SEEN, taken_at_ms=NOW - 2 * HOUR),))
    one, later = now(declared, facts), now(declared, facts, NOW + HOUR)
    assert estate_digest(one) == estate_digest(later)
    assert topology(one).estate.stores[0].backups[0].age_ms == 6 * HOUR


@settings(max_examples=30, deadline=None)
@given(
    parts=st.tuples(st.floats(0, 1), st.floats(0, 1)), stated_ms=st.integers(1, 400).map(lambda n: n * HOUR)
)
def test_a_backup_on_time_changes_nothing(
    declared: Estate, parts: tuple[float, float], stated_ms: int
) -> None:
    """However many backups are taken: each would make the plans of all who apply one stale."""
    estate = stating(declared, stated_ms, None)
    found = {
        estate_digest(now(estate, BackupFacts((replace(SEEN, taken_at_ms=NOW - age_ms),))))
        for age_ms in (round(part * (stated_ms - LOOK_MS)) for part in parts)
    }
    assert len(found) == 1
