"""A search that has reached what no plan can get below ends there, with the plan it would have ended with."""

from __future__ import annotations

import pytest

from bench.random_estates import random_estate
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.planning import plan as planning
from evac.planning.compiled import interpreted
from evac.planning.evacuation import solve

WORK = 120
SEEDS = (7008, 7014, 7020, 7000, 7034)


def searched(monkeypatch: pytest.MonkeyPatch, seed: int, few: int) -> tuple[tuple[Plan, ...], int]:
    """The plans for the loss of each site, and how many descents their searches made."""
    estate, begun = random_estate(seed), []
    anneal = solve._anneal

    def counted(*arguments: object, **more: object) -> solve.Found:
        begun.append(seed)
        return anneal(*arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, interpreted():
        patch.setattr(planning, "FEW", few)
        patch.setattr(solve, "_anneal", counted)
        plans = tuple(planning.plan(estate, lose(site.id), work=WORK) for site in estate.sites)
    return plans, len(begun)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_plan_is_the_same(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    ended, fewer = searched(monkeypatch, seed, planning.FEW)
    whole, all_of_them = searched(monkeypatch, seed, 0)
    assert ended == whole
    assert fewer <= all_of_them


def test_a_first_plan_that_is_as_good_as_can_be_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [searched(monkeypatch, seed, few)[1] for seed in SEEDS[:3] for few in (planning.FEW, 0)]
    assert sum(found[::2]) < sum(found[1::2])
