"""A search that has reached what no plan can get below ends there, with the plan it would have ended with."""

from __future__ import annotations

import pytest

from bench.random_estates import random_estate
from evac.model.plan import Plan
from evac.model.scenario import lose
from evac.planning import plan as planning
from evac.planning.bound import BoundResult, bound
from evac.planning.evacuation import solve
from tests.kernels import fastest

WORK = 120
SEEDS = (7008, 7014, 7020, 7000, 7034)


def searched(monkeypatch: pytest.MonkeyPatch, seed: int, few: int) -> tuple[tuple[Plan, ...], int]:
    """The plans for the loss of each site, and how many descents their searches made."""
    estate, begun = random_estate(seed), []
    anneal = solve._anneal

    def counted(*arguments: object, **more: object) -> solve.Found:
        begun.append(seed)
        return anneal(*arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, fastest():
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


UNKNOWN = range(7100, 7140)


def test_what_no_plan_can_be_sure_of_counts_as_in_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """With unknown facts as well, the floor is never above what a search finds, and one that reaches it ends:
    a service that nothing restores, or that no one can judge, costs every plan the same.
    """
    floors: list[tuple[int, int, int]] = []
    small, found = solve._search_small, list[BoundResult]()

    def kept(*arguments: object, **more: object) -> BoundResult:
        found.append(bound(*arguments, **more))  # type: ignore[arg-type]
        return found[-1]

    def watched(*arguments: object) -> solve.Found:
        best = small(*arguments)  # type: ignore[arg-type]
        if arguments[0].vague and arguments[-1] >= 0:  # type: ignore[attr-defined,operator]
            floors.append((arguments[-1], best.value, found[-1].never))  # type: ignore[arg-type]
        return best

    with monkeypatch.context() as patch, fastest():
        patch.setattr("evac.planning.bound.bound", kept)
        patch.setattr(solve, "_search_small", watched)
        for seed in UNKNOWN:
            estate = random_estate(seed)
            for site in estate.sites:
                planning.plan(estate, lose(site.id), work=12)
    assert all(floor <= value for floor, value, _ in floors)
    assert sum(floor == value and never > 0 for floor, value, never in floors) >= 5
