"""A search that goes on where the last one ended finds what a search from the beginning finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.wild_instances import wild_instance
from evac.derive.planning_instance import derive
from evac.estate.examples import pangyo
from evac.model.instance import Instance
from evac.model.scenario import lose
from evac.planning.compiled import kernel
from evac.planning.evacuation.board import HELD, NEVER, START, Board
from evac.planning.evacuation.solve import first_plan, prepare
from evac.planning.evacuation.timing import hands, release_to, reserve, start_when, when
from tests.unit.planning.instances import random_variant


@kernel
def differences(board: Board, tries: int) -> int:
    """Starts in all pools, held one after the other and released now and then: how often a search that goes
    on differs from one that begins anew."""
    found = 0
    for k in range(tries):
        pool, ticks, since = k % len(board.pool), 1 + k * 7 % 40, k * k * 13 % board.horizon
        uses = board.pool[pool].start_set
        at, length, by_hand = start_when(board, pool, ticks, since)
        plain = when(board, START, uses, ticks, 1, since)
        found += at != plain[0] or length != plain[1] or by_hand != plain[2]
        if at < NEVER and board.size[HELD] < len(board.held):
            reserve(board, uses, hands(board, START, by_hand), length, 1, at)
        if k % 37 == 36:
            release_to(board, max(0, board.size[HELD] - 9))
    return found


def check(instance: Instance) -> None:
    board, items = prepare(instance)
    first_plan(board, items)
    assert differences(board, 600) == 0


@pytest.mark.parametrize("make", [random_variant, wild_instance])
@pytest.mark.parametrize("seed", range(0, 36, 4))
def test_in_instances_of_all_kinds(make: Callable[[int], Instance], seed: int) -> None:
    check(make(seed))


def test_where_people_start_what_tools_cannot() -> None:
    check(derive(pangyo(servers=1_000, mended=True), lose("anyang", "pangyo")))
