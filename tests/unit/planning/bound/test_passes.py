"""The compiled passes find the heads that plain Python finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from bench.wild_instances import wild_instance
from evac.derive.planning_instance import derive
from evac.estate.examples import pangyo
from evac.model.instance import Instance
from evac.model.scenario import lose
from evac.planning.bound.facts import facts_of
from evac.planning.bound.heads import Heads
from tests.unit.planning.bound.plain_passes import plain_passes
from tests.unit.planning.instances import random_variant, worked_example

FOUND = ("base", "top", "store", "begin", "verified", "shifting", "fenced")


def compared(instance: Instance) -> tuple[Heads, Heads]:
    """Heads as compiled, and as found anew."""
    facts = facts_of(instance)
    empty = {name: [0] * len(getattr(facts.heads, name)) for name in FOUND}
    again = replace(facts.heads, **empty, waits={}, boot_wait=0)  # type: ignore[arg-type]
    return facts.heads, plain_passes(instance, facts.needs, facts.capacity, again)


def check(instance: Instance) -> None:
    ours, plain = compared(instance)
    for field in fields(Heads):
        assert getattr(ours, field.name) == getattr(plain, field.name), field.name


def test_of_the_worked_example() -> None:
    check(worked_example())


@pytest.mark.parametrize("make", [random_variant, wild_instance])
@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_of_instances_of_all_kinds(make: Callable[[int], Instance], seed: int) -> None:
    check(make(seed))


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize("lost", [("pangyo",), ("anyang", "pangyo"), ("pangyo/hall-1",)])
def test_of_a_company_whose_tools_are_lost(mended: bool, lost: tuple[str, ...]) -> None:
    """Tools wait for what they start themselves: many passes."""
    check(derive(pangyo(servers=1_000, mended=mended), lose(*lost)))
