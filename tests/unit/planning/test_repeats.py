"""A search does not run again what would only repeat the generation that it has, to the last bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench.random_estates import random_estate, strange_estate
from bench.small_instances import small_instance
from evac.model.estate import Estate
from evac.model.scenario import Scenario, ScenarioKind, lose
from evac.planning import plan as planning
from evac.planning.compiled import interpreted
from evac.planning.evacuation import search
from evac.planning.evacuation.board import NEVER, SHEDS, STARTS
from evac.planning.evacuation.solve import solve, value_of
from tests.unit.planning.instances import random_variant

WORK = 60
DAY_MS = 24 * 3_600_000


class Watched:
    """The search in plain Python, counting what it runs and what it does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world: dict[str, Any] = search._run.plain.__globals__  # type: ignore[attr-defined]
        self.count: Counter[str] = Counter()
        self.monkeypatch = monkeypatch

    def replace(self, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self.monkeypatch.setitem(self.world, name, make(self.world[name]))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with interpreted():
        yield Watched(monkeypatch)


def outcome(board: Any) -> tuple[Any, ...]:
    """What a generation has decided."""
    starts = [(s.service, s.mile, s.row, s.at) for s in board.started[: board.size[STARTS]]]
    sheds = [(s.entry, s.count, s.at) for s in board.shed[: board.size[SHEDS]]]
    stores = [(s.primary_at, s.candidate) for s in board.store]
    services = [(s.base_at, s.top_at, s.shift_at, s.again) for s in board.service]
    return starts, sheds, stores, services


def checks_each(watched: Watched) -> None:
    """Runs what the search leaves out, and expects what it has kept."""
    kept: list[tuple[Any, ...]] = []
    generation = watched.world["_generation"]

    def keeping(keep: Callable[..., int]) -> Callable[..., int]:
        def kept_events(board: Any) -> int:
            kept[:] = [outcome(board)]
            return keep(board)

        return kept_events

    def comparing(differs: Callable[..., bool]) -> Callable[..., bool]:
        def checked(board: Any, order: Any, options: Any, *rest: Any) -> bool:
            found = differs(board, order, options, *rest)
            watched.count["run" if found else "left out"] += 1
            if not found:
                generation(board, order, options, NEVER)
                assert [outcome(board)] == kept
            return found

        return checked

    watched.replace("keep_events", keeping)
    watched.replace("_differs", comparing)


@contextmanager
def runs_everything(watched: Watched) -> Iterator[None]:
    with watched.monkeypatch.context() as patch:
        patch.setitem(watched.world, "_differs", lambda *arguments: True)
        yield


def scenarios(estate: Estate) -> Iterator[Scenario]:
    kinds: tuple[ScenarioKind, ...] = ("evacuate", "restore")
    for site in estate.sites:
        yield lose(site.id)
    for kind in kinds:
        yield Scenario(kind, (estate.sites[0].id,), DAY_MS if kind == "evacuate" else None)


@pytest.mark.parametrize("seed", range(7200, 7204))
def test_what_is_left_out_would_have_been_the_same(watched: Watched, seed: int) -> None:
    checks_each(watched)
    estate = random_estate(seed) if seed % 2 else strange_estate(seed)
    for scenario in scenarios(estate):
        planning.plan(estate, scenario, work=WORK)


def test_a_good_part_is_left_out(watched: Watched) -> None:
    checks_each(watched)
    for seed in range(7220, 7222):
        estate = random_estate(seed)
        for site in estate.sites:
            planning.plan(estate, lose(site.id), work=WORK)
    assert watched.count["left out"] > watched.count["run"] / 2


@pytest.mark.parametrize("first", range(0, 20, 10))
def test_the_plan_is_that_of_a_search_that_runs_everything(watched: Watched, first: int) -> None:
    for seed in range(first, first + 10):
        instance = random_variant(seed)
        few = planning.plan_instance(instance, work=WORK, seed=seed)
        with runs_everything(watched):
            assert planning.plan_instance(instance, work=WORK, seed=seed) == few, seed


def test_a_limit_ends_what_is_left_out_as_it_ends_what_is_run(watched: Watched) -> None:
    """What an item costs in its turn can be more than in the end, so a lower temperature may end a generation
    that was accepted before. This seed ends elsewhere if it does not.
    """
    instance = small_instance("boots", 5033)
    few = value_of(solve(instance, 4_000, 5033))
    with runs_everything(watched):
        assert value_of(solve(instance, 4_000, 5033)) == few
