"""The bound of a wave against every schedule there is, on cases small enough to try them all."""

from random import Random

import numpy as np
import pytest

from evac.planning.assembly.waves import Tools, limit_bound

HORIZON = 60


def best_makespan(capacity: int, boots: list[tuple[int, int, int, int, int]], since: int, early: int) -> int:
    """Least tick at which all boots (ready, ticks, units, offset, hold) can be over; at most `early` of them
    begin before `since`. Tries every start tick."""
    held = [0] * (3 * HORIZON)
    best = HORIZON

    def place(number: int, end: int, spare: int) -> None:
        nonlocal best
        if number == len(boots):
            best = min(best, end)
            return
        ready, ticks, units, offset, hold = boots[number]
        for start in range(ready, best - ticks):
            if start < since and not spare:
                continue
            window = range(start + offset, start + offset + hold)
            if all(held[tick] + units <= capacity for tick in window):
                for tick in window:
                    held[tick] += units
                place(number + 1, max(end, start + ticks), spare - (start < since))
                for tick in window:
                    held[tick] -= units

    place(0, 0, early)
    return best


def random_case(seed: int) -> tuple[int, np.ndarray, list[tuple[int, int, int, int, int]]]:
    rng = Random(seed)
    capacity = rng.randint(1, 6)
    lines, boots = [], []
    for _ in range(rng.randint(1, 3)):
        ticks = rng.randint(1, 5)
        offset = rng.randint(0, ticks)
        hold = rng.randint(1, 6 if rng.random() < 0.3 else max(1, ticks - offset))
        line = (rng.randint(0, 4), ticks, rng.randint(1, capacity), offset, hold)
        count = rng.randint(1, 2)
        lines.append((*line, count, 0))
        boots += [line] * count
    return capacity, np.array(lines, np.int64), boots


@pytest.mark.parametrize("seed", range(120))
def test_no_schedule_beats_the_bound(seed: int) -> None:
    capacity, lines, boots = random_case(seed)
    if len(boots) > 4:
        boots = boots[:4]
        lines = np.array([(*boot, 1, 0) for boot in boots], np.int64)
    assert limit_bound(capacity, lines) <= best_makespan(capacity, boots, 0, 0)


@pytest.mark.parametrize("seed", range(120, 200))
def test_no_schedule_beats_the_bound_with_late_tools(seed: int) -> None:
    capacity, _, boots = random_case(seed)
    boots = boots[:3]
    lines = np.array([(*boot, 1, 0) for boot in boots], np.int64)
    rng = Random(seed)
    since, early = rng.randint(1, 8), rng.randint(0, 2)
    found = limit_bound(capacity, lines, Tools(since, early))
    assert found <= best_makespan(capacity, boots, since, early)


def test_it_is_exact_where_one_limit_and_equal_boots_are_all_there_is() -> None:
    lines = np.array([(3, 5, 1, 0, 5, 7, 0)], np.int64)
    assert limit_bound(2, lines) == 3 + 4 * 5


def test_a_hold_that_outlives_its_boot_does_not_count_at_the_end() -> None:
    lines = np.array([(0, 2, 1, 0, 10, 3, 0)], np.int64)
    assert limit_bound(1, lines) == 22


def test_a_boot_that_needs_more_than_there_is_never_ends() -> None:
    assert limit_bound(1, np.array([(0, 2, 2, 0, 2, 1, 0)], np.int64)) > 10**9
