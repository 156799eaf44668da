"""No bound above the true optimum: recorded optima of small instances, and OR-Tools where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from bench.wild_instances import wild_instance
from evac.model.instance import Instance
from evac.planning.bound import bound
from evac.planning.bound.facts import facts_of
from evac.planning.bound.solve import evaluate
from tests.unit.planning.bound.certificates import Drawer
from tests.unit.planning.instances import random_variant

_TABLE = json.loads((Path(__file__).parents[3] / "fixtures" / "bound_optima.json").read_text("utf-8"))
_MAKERS = {"variants": random_variant, "wild": wild_instance}


def _cases() -> list[Any]:
    return [
        pytest.param(_MAKERS[kind], entry["seed"], entry["objective"], id=f"{kind}-{entry['seed']}")
        for kind in _MAKERS
        for entry in _TABLE[kind]
        if entry["status"] == "optimal"
    ]


def test_enough_optima_are_recorded() -> None:
    assert len(_cases()) >= 180


@pytest.mark.parametrize(("make", "seed", "optimum"), _cases())
def test_never_above_the_optimum(make: Any, seed: int, optimum: int) -> None:
    instance: Instance = make(seed)
    found = bound(instance, work=150, best_objective=optimum)
    assert found.heads <= found.bound <= optimum


@pytest.mark.parametrize(("make", "seed", "optimum"), _cases()[::2])
def test_any_certificate_is_true(make: Any, seed: int, optimum: int) -> None:
    facts = facts_of(make(seed))
    drawer = Drawer(facts, seed)
    for _ in range(10):
        assert evaluate(facts, drawer.certificate()) <= optimum


@pytest.mark.parametrize("seed", range(0, 120, 3))
def test_never_above_doing_nothing(seed: int) -> None:
    """A plan that restores nothing and sheds nothing is always allowed."""
    instance = wild_instance(seed)
    facts = facts_of(instance)
    nothing = (instance.horizon - instance.grace) * facts.lost_weight
    assert bound(instance, work=50).bound <= nothing


@pytest.mark.skipif(
    importlib.util.find_spec("ortools") is None, reason="OR-Tools is not installed; recorded optima are used"
)
@pytest.mark.parametrize("seed", range(200, 206))
def test_against_the_referee(seed: int) -> None:
    from bench.cpsat_optimum import optimum

    instance = wild_instance(seed)
    answer = optimum(instance, seconds=10.0)
    assert answer.status != "optimal" or bound(instance, work=200).bound <= answer.objective
