"""A plan does not give up what is certain for capacity of unknown size."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from bench.random_estates import random_estate, strange_estate
from evac.derive.planning_instance import derive
from evac.model.instance import BootKind, Instance, Limit, Use, Vague
from evac.model.scenario import lose
from evac.planning import plan as planning
from evac.planning.assembly.draft import doubt_of
from evac.planning.compiled import interpreted
from evac.planning.evacuation.board import Board
from evac.planning.evacuation.doubts import mark_doubts
from evac.planning.evacuation.solve import solve
from evac.planning.plan import plan_instance
from evac.verify import check_instance
from tests.kernels import fastest
from tests.unit.planning.instances import Draft, ServerDraft, ServiceDraft, build

_GIB = 1_024


def _service(name: str, tier: int, people: int, cpu: int, replicas: int = 1) -> ServiceDraft:
    return ServiceDraft(name, tier, people, replicas, (1, replicas), cpu, _GIB, shift=False, per_server=2)


def _instance(*services: ServiceDraft) -> Instance:
    """A dark server of 4 CPU, which takes 200 s to boot, and one of unknown size that is on."""
    servers = (
        ServerDraft("dark", "east", 4, 64 * _GIB, dark=True),
        ServerDraft("open", "east", 64, 64 * _GIB),
    )
    boots = (BootKind("server", 200, (Use(0, 1),)),)
    made = build(Draft(3_600, services, servers, limits=(Limit("boots", 1),), boots=boots))
    row = made.row_names.index("open")
    return replace(made, vague=Vague(rows=MappingProxyType({row: ((0, "servers/open/cpu"),)})))


@pytest.mark.parametrize("work", [0, 600])
def test_a_search_does_not_give_up_a_certain_base_for_an_earlier_one_in_doubt(work: int) -> None:
    """Only the server of unknown size may take the large one, and small would be back sooner there."""
    instance = _instance(_service("small", 0, 1_000, 4), _service("large", 0, 10, 8))
    with fastest():
        made = plan_instance(instance, work=work)
    assert {one.service: one.state for one in made.outcomes} == {"small": "restored", "large": "unknown"}
    assert check_instance(instance, made).violations == ()


@pytest.mark.parametrize("work", [0, 600])
def test_a_search_does_not_give_up_a_certain_top_for_an_earlier_one_in_doubt(work: int) -> None:
    instance = _instance(_service("small", 0, 1_000, 2, replicas=2), _service("large", 0, 10, 8))
    with fastest():
        made = plan_instance(instance, work=work)
    assert {one.service: one.state for one in made.outcomes} == {"small": "restored", "large": "unknown"}
    assert check_instance(instance, made).violations == ()


def test_what_may_hold_is_better_than_nothing() -> None:
    """Both need a server of unknown size; in doubt, the one that more people wait for still comes first."""
    with fastest():
        made = plan_instance(_instance(_service("a", 0, 1_000, 8), _service("b", 0, 10, 8)), work=600)
    assert {one.service: one.state for one in made.outcomes} == {"a": "unknown", "b": "unknown"}


@pytest.mark.parametrize("first", [900, 910, 920, 930])
def test_kernels_doubt_what_the_plan_says_it_doubts(first: int) -> None:
    marked = 0
    for seed in range(first, first + 10):
        estate = (strange_estate if seed % 2 else random_estate)(seed)
        for site in estate.sites:
            instance = derive(estate, lose(site.id))
            with interpreted():  # only kernels call `mark_doubts`
                board = solve(instance, 0)
                mark_doubts(board)
            doubt = doubt_of(instance, board)
            base, top = (
                set(np.flatnonzero(board.service[name]).tolist()) for name in ("base_doubt", "top_doubt")
            )
            assert base == doubt.base.keys(), (seed, site.id)
            assert top - base == doubt.top.keys() - base, (seed, site.id)
            marked += len(base) + len(top)
    assert marked > 20


def test_known_capacity_that_is_enough_is_solved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """That gives the plan which solving it again gives."""
    found, sure, count = list[Board](), planning._sure_first, 0

    def counted(*arguments: Any, **more: Any) -> Board:
        found.append(solve(*arguments, **more))
        return found[-1]

    monkeypatch.setattr("evac.planning.evacuation.solve.solve", counted)
    with fastest():
        for seed in range(900, 912):
            estate = (strange_estate if seed % 2 else random_estate)(seed)
            for instance in (derive(estate, lose(site.id)) for site in estate.sites):
                if sure(instance)[1] is None:
                    continue
                found.clear()
                made = plan_instance(instance, work=0)
                assert len(found) == 1
                with monkeypatch.context() as patch:
                    patch.setattr(planning, "_sure_first", lambda given: (sure(given)[0], None))
                    assert plan_instance(instance, work=0) == made
                count += 1
    assert count >= 5
