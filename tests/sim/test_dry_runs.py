"""A dry run says what becomes of the plan: of 200 plans in worlds with some trouble, of all 200."""

from __future__ import annotations

import pytest

from tests.sim.dry_runs import Told, told

PLANS = 200


@pytest.mark.parametrize("part", range(4))
def test_a_dry_run_predicts_what_becomes_of_a_plan(part: int) -> None:
    found: dict[int, Told] = {seed: told(seed) for seed in range(part, PLANS, 4)}
    assert {seed: one for seed, one in found.items() if not one.agrees} == {}
    stuck = sum(bool(one.predicted) for one in found.values())
    assert 5 <= stuck <= len(found) - 5, "some of them work, and some do not"
