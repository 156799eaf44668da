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
from evac.planning.evacuation.board import HELD, NEVER, SHED, START, Board
from evac.planning.evacuation.solve import first_plan, prepare
from evac.planning.evacuation.timing import begin_item, earliest, hands, lift, release_to, reserve, soonest
from tests.unit.planning.instances import random_variant


@kernel
def differences(board: Board, tries: int) -> int:
    """Starts and sheds in all pools, by tools and by hand, held one after the other and removed now and then,
    the last ones and others: how often a search that goes on differs from one that begins anew."""
    found = 0
    for k in range(tries):
        pool, ticks, count = k % len(board.pool), 1 + k * 7 % 4 * 9, 1 + k * 5 % 3
        kind = START if k % 5 > 1 else SHED
        uses = board.pool[pool].start_set if kind == START else board.pool[pool].shed_set
        people = hands(board, kind, k % 4 == 0)
        since = k * k * 13 % board.horizon if k % 6 == 0 else k % 60
        at = soonest(board, uses, people, ticks, count, since)
        found += at != earliest(board, uses, people, ticks, count, since)
        if at < NEVER and board.size[HELD] < len(board.held):
            reserve(board, uses, people, ticks, count, at)
        if k % 7 == 6 and board.size[HELD] > 9:
            line = board.held[board.size[HELD] - 9]
            lift(board, line.uses, line.hands, line.ticks, line.count, line.at)
        if k % 11 == 10:
            begin_item(board)
        if k % 17 == 16:
            release_to(board, max(0, board.size[HELD] - 5))
        if k % 97 == 96:
            release_to(board, max(0, board.size[HELD] - 40))
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
