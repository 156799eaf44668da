"""The planner's evaluation and the checker's, written apart from the same page, agree to the last unit."""

from __future__ import annotations

import pytest

from bench.wild_instances import wild_instance
from evac.planning.bound import bound
from evac.planning.bound.evaluate import evaluate
from evac.planning.bound.facts import facts_of
from evac.verify.bound import certified_bound
from tests.unit.planning.bound.certificates import Drawer


@pytest.mark.parametrize("seed", range(40))
def test_random_certificates(seed: int) -> None:
    instance = wild_instance(seed)
    facts = facts_of(instance)
    drawer = Drawer(facts, seed)
    for _ in range(5):
        certificate = drawer.certificate()
        assert certified_bound(instance, certificate) == (evaluate(facts, certificate), [])


@pytest.mark.parametrize("seed", range(40, 60))
def test_found_certificates(seed: int) -> None:
    instance = wild_instance(seed)
    found = bound(instance, work=60)
    assert certified_bound(instance, found.certificate) == (found.bound, [])
