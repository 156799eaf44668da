"""Plans of small random instances beside optima that CP-SAT proved: within 1 % on average, 5 % at worst."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

from bench.small_instances import KINDS, small_draft, small_instance
from evac.planning.evacuation.solve import solve, value_of

_OPTIMA = json.loads((Path(__file__).parents[2] / "fixtures" / "small_optima.json").read_text("utf-8"))
_WORK = 4_000


def above(kind: str) -> list[float]:
    """Percent above the optimum, of each instance of a kind."""
    found = []
    for line in _OPTIMA[kind]:
        board = solve(small_instance(kind, line["seed"]), _WORK, line["seed"])
        found.append(100 * value_of(board) / line["objective"] - 100)
    return found


@pytest.mark.parametrize("kind", ["starts", "traffic", "promotions", "boots", "sheds"])
def test_a_plan_is_near_the_best_possible(kind: str) -> None:
    found = above(kind)
    assert len(found) == (6 if kind == "boots" else 4)
    assert min(found) >= 0
    assert max(found) <= 5
    assert mean(found) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_small_instance_each_time(kind: str) -> None:
    assert small_draft(kind, 3) == small_draft(kind, 3) != small_draft(kind, 4)
    assert 3 <= len(small_draft(kind, 3).services) <= 6
