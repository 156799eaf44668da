"""Heads, where only what tools wait for is looked at again, are those of looking at everything every time."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from bench.wild_instances import wild_instance
from evac.model.instance import Instance, ToolNeed
from evac.verify import bound_heads
from evac.verify.bound_capacity import capacity_of
from evac.verify.bound_heads import Heads, heads_of
from tests.unit.planning.instances import random_variant

KINDS: tuple[str, ...] = ("fence", "promote", "boot", "start", "verify", "shift")


def with_tools(instance: Instance, seed: int) -> Instance:
    """The same with other tools: such as need each other, or themselves, with and without a way by hand."""
    rng, count = Random(seed), len(instance.services)
    tools = {
        kind: ToolNeed(
            kind,
            tuple(sorted(rng.sample(range(count), rng.randint(1, min(3, count))))),
            rng.choice((None, 0, 20, 300)),
            (),
        )
        for kind in KINDS
        if rng.random() < 0.5
    }
    return replace(instance, tools=tools)


def said(heads: Heads) -> dict[str, Any]:
    names = ("base", "top", "store", "entry", "verified", "fenced", "outside", "_waits", "_boot_wait")
    return {name: getattr(heads, name) for name in names}


def everything(heads: Heads, facts: object) -> set[int]:
    return set(heads.members)


def both_ways(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> tuple[Heads, Heads]:
    quick = heads_of(instance, capacity_of(instance))
    with monkeypatch.context() as patched:
        patched.setattr(bound_heads, "_behind_tools", everything)
        return quick, heads_of(instance, capacity_of(instance))


@pytest.mark.parametrize("seed", range(120))
def test_heads_are_the_same_whatever_is_looked_at_again(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for instance in (wild_instance(seed), random_variant(seed)):
        for one in (instance, with_tools(instance, seed), with_tools(replace(instance, horizon=40), seed)):
            quick, plain = both_ways(one, monkeypatch)
            assert said(quick) == said(plain)


def test_some_of_these_heads_still_rise_in_the_last_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparison would say nothing of passes that end for their number."""
    rising = 0
    for seed in range(40):
        instance = replace(with_tools(wild_instance(seed), seed), horizon=10**6)
        quick, plain = both_ways(instance, monkeypatch)
        assert said(quick) == said(plain)
        monkeypatch.setattr(bound_heads, "_PASSES", 65)
        rising += said(heads_of(instance, capacity_of(instance))) != said(quick)
        monkeypatch.undo()
    assert rising > 3
