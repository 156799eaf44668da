"""Forecasts of restores: a start that takes the same time whatever the size, and bytes at a rate."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from evac.backup.known import Known, after
from evac.model.backup import RESTORED, BackupEvent, BackupFacts, CopySeen, MeasuredRestore, ProofRecord
from evac.model.restore_times import REACH, SPREAD, measured_restores

MIB = 1 << 20


def forecast(now_bytes: int, *measured: MeasuredRestore, copy: str = "near") -> int:
    seen = CopySeen("db", copy, 1, 1, now_bytes)
    found = {one[1]: one[2] for one in measured_restores(BackupFacts((seen,), measured=measured))}
    return found[copy]


def took(size: int, took_ms: float, at_ms: int, copy: str = "near", tool: str = "restic") -> MeasuredRestore:
    return MeasuredRestore("db", copy, tool, size, max(1, int(took_ms)), at_ms)


SIZES = st.integers(MIB, 1 << 40)
STARTS = st.integers(1_000, 60_000)
RATES = st.integers(MIB // 1_000, 2 << 20)
"""Bytes per millisecond."""
NOISES = st.lists(st.floats(0.97, 1.03), min_size=3, max_size=3)


@given(SIZES, st.floats(SPREAD, 100), st.floats(1, REACH), STARTS, RATES, NOISES)
def test_a_backup_that_has_grown_is_restored_in_the_forecast_time(
    small: int, more: float, grown: float, start_ms: int, rate: int, noises: list[float]
) -> None:
    """Within 20 %: of that, 10 % are for whole digits, and 3 % here for each measurement."""
    sizes = [small, int(small * more) + 1, int(small * more * grown) + 1]
    first, second, truth_ms = (
        (start_ms + size / rate) * noise for size, noise in zip(sizes, noises, strict=True)
    )
    found = forecast(sizes[2], took(sizes[0], first, 1), took(sizes[1], second, 2))
    assert found >= int(second), "never faster than it was measured"
    if first < second * 0.9:  # what differs less than noise says nothing of the rate
        assert found >= truth_ms * 0.8
    if first < second * 0.5 or grown < 1.05:
        assert found <= truth_ms * 1.25


def test_a_backup_of_unknown_size_is_no_smaller_than_what_was_restored_of_it() -> None:
    """The last test may have restored an old, small one."""
    large, small = took(100 * MIB, 100_000, 1), took(MIB, 1_000, 2)
    unknown = CopySeen("db", "near", 1, 1)
    ((_, _, found),) = measured_restores(BackupFacts((unknown,), measured=(large, small)))
    assert found >= 100_000


@given(SIZES, st.integers(1, 10**9), st.integers(1, 20))
def test_without_another_size_it_grows_in_proportion(size: int, took_ms: int, times: int) -> None:
    once = took(size, took_ms, 1)
    assert took_ms * times <= forecast(size * times, once) <= took_ms * times * 1.1 + 1
    alike = took(size + size // 3, took_ms * 1.3, 0)
    assert took_ms * times <= forecast(size * times, once, alike) <= took_ms * times * 1.1 + 1
    faster = took(size * 8, took_ms * 0.9, 0)
    assert forecast(size * times, once, faster) >= took_ms * times, "noise: nothing is known of the rate"


def test_other_backups_by_the_same_tool_tell_the_start_from_the_rate() -> None:
    """This place is half as fast as theirs."""
    theirs = [took(size * MIB, 5_000 + 10 * size, size, "far") for size in (100, 1_000)]
    mine = took(100 * MIB, 12_000, 5_000)
    assert forecast(1_000 * MIB, mine, *theirs) == 31_000, "12 s as theirs grew, in two digits"
    other = [replace(one, tool="borg") for one in theirs]
    assert forecast(1_000 * MIB, mine, *other) == 120_000, "another tool says nothing"


def test_a_rate_reaches_only_so_far_beyond_what_was_measured() -> None:
    measured = [took(size * MIB, 5_000 + 10 * size, size) for size in (100, 1_000)]
    assert forecast(4_000 * MIB, *measured) == 46_000
    assert forecast(40_000 * MIB, *measured) == 460_000, "in proportion from there"


@given(st.lists(st.tuples(st.integers(1, 1 << 24), st.integers(1, 10**6), st.booleans()), max_size=30))
def test_what_is_kept_says_the_same_as_all_that_was_measured(rows: list[tuple[int, int, bool]]) -> None:
    known, every = Known("db"), []
    for at, (size, took_ms, by_hand) in enumerate(rows, 1):
        event = BackupEvent("restored", at, "db", "near", tool="restic", bytes_read=size, took_ms=took_ms)
        if not by_hand:
            facts = {"bytes_read": size, "took_ms": took_ms, "tool": "restic"}
            proof = ProofRecord("db", "near", RESTORED, "passed", at, **facts)  # type: ignore[arg-type]
            event = replace(event, kind="proven", proof=proof)
        known = after(known, event)
        every.append(took(size, took_ms, at))
    seen = (CopySeen("db", "near", 1, 1, 1 << 26),)
    kept = BackupFacts(seen, known.proofs, measured=known.measured)
    assert measured_restores(kept) == measured_restores(BackupFacts(seen, measured=tuple(every)))
    assert len(known.measured) <= 25
