"""The planner's evaluation and the checker's, written apart from the same page, agree to the last unit."""

from __future__ import annotations

from functools import lru_cache

import pytest

from bench.wild_instances import wild_instance
from evac.derive.planning_instance import derive
from evac.estate.examples.build import pangyo
from evac.model.estate import Estate
from evac.model.scenario import Scenario, ScenarioKind
from evac.planning.bound import bound
from evac.planning.bound.facts import facts_of
from evac.planning.bound.solve import evaluate
from tests.unit.planning.bound.certificates import Drawer, certified


@pytest.mark.parametrize("seed", range(40))
def test_random_certificates(seed: int) -> None:
    instance = wild_instance(seed)
    facts = facts_of(instance)
    drawer = Drawer(facts, seed)
    for _ in range(5):
        certificate = drawer.certificate()
        assert certified(instance, certificate) == (evaluate(facts, certificate), [])


@pytest.mark.parametrize("seed", range(40, 60))
def test_found_certificates(seed: int) -> None:
    instance = wild_instance(seed)
    found = bound(instance, work=60)
    assert certified(instance, found.certificate) == (found.bound, [])


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize("kind", ["lose", "restore"])
@pytest.mark.parametrize("domain", ["pangyo", "anyang", "gasan-spine-b"])
def test_a_company(mended: bool, kind: ScenarioKind, domain: str) -> None:
    """Tools that need each other, cycles, self-reference, backups, boots: a thousand servers of it all."""
    instance = derive(_company(mended), Scenario(kind, (domain,)))
    found = bound(instance, work=40)
    assert certified(instance, found.certificate) == (found.bound, [])
    assert found.heads <= found.bound


@lru_cache(maxsize=2)
def _company(mended: bool) -> Estate:
    return pangyo(servers=1_000, mended=mended)
