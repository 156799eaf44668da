"""Kernels as plain Python give what compiled ones give, to the last bit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

from evac.estate.codecs import plan as plan_codec
from evac.model.instance import Instance
from evac.planning import compiled
from evac.planning.compiled import Grid, interpreted, kernel, result, view
from evac.planning.plan import level_order, plan_instance
from evac.planning.simulation.simulate import Simulation, simulate
from tests.unit.planning.instances import build, random_variant, worked_example
from tests.unit.planning.test_making_way import random_draft


def answers(instance: Instance, work: int, seed: int) -> tuple[bytes, int, Simulation]:
    """The bytes of a plan, the price of the baseline, and 70 trials of the plan."""
    made = plan_instance(instance, work=work, seed=seed, sensitivity=True)
    return plan_codec.encode(made), level_order(instance), simulate(instance, made, trials=70, seed=seed)


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_a_plain_search_finds_the_same_plan_as_a_compiled_one(first: int) -> None:
    for seed in range(first, first + 10):
        instance = random_variant(seed)
        with interpreted():
            plain = answers(instance, 60, seed)
        assert plain == answers(instance, 60, seed), seed


def test_a_plain_search_moves_what_a_compiled_one_moves() -> None:
    for seed in (14, 18, 20):
        instance = build(random_draft(seed))
        with interpreted():
            plain = answers(instance, 30, seed)
        assert b":moved" in plain[0]
        assert plain == answers(instance, 30, seed), seed


def test_the_worked_example_is_the_same_after_a_long_search() -> None:
    with interpreted():
        plain = answers(worked_example(), 600, 3)
    assert plain == answers(worked_example(), 600, 3)


def test_plain_kernels_need_no_compiler() -> None:
    code = """
import sys
from evac.planning.compiled import interpreted
from evac.planning.plan import plan_instance
from evac.planning.simulation.simulate import simulate
from evac.planning.warm import tiny_instance
with interpreted():
    simulate(tiny_instance(), plan_instance(tiny_instance(), work=24), trials=2)
print("numba" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"


def test_a_view_reads_and_writes_the_memory_of_its_array() -> None:
    table = np.zeros(2, np.dtype([("at", np.int64), ("capacity", np.int64, (3,))], align=True))
    cube, column = np.zeros((2, 2, 2), np.int64), np.arange(3, dtype=np.int64)
    rows, cells, numbers = view((table, cube, column))
    rows[1].at, rows[1].capacity[2] = 7, 9
    cells[1, 0, 1], cells[0][1][0] = 5, 6
    numbers[0:2][1] = 4
    assert (table["at"].tolist(), table["capacity"][1].tolist()) == ([0, 7], [0, 0, 9])
    assert cube.tolist() == [[[0, 0], [6, 0]], [[0, 5], [0, 0]]]
    assert (column.tolist(), type(numbers[0])) == ([0, 4, 2], int)
    cells[1] = 3
    assert cube[1].tolist() == [[3, 3], [3, 3]]
    assert isinstance(cells, Grid)
    assert result((numbers, 2))[0] is not None


@kernel
def _read(board: Any, at: int) -> Any:
    return board.columns[at] + board.records[at].number + board.grid[at, 0]


class Board(NamedTuple):
    columns: Any
    records: Any
    grid: Any


def test_a_board_is_viewed_once_and_every_call_reads_what_is_in_it_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[object] = []

    def counted(value: Any) -> Any:
        made.append(value)
        return view(value)

    monkeypatch.setattr(compiled, "view", counted)
    records = np.zeros(4, dtype=[("number", np.int64)])
    board = Board(np.zeros(4, dtype=np.int64), records, np.zeros((4, 2), dtype=np.int64))
    with interpreted():
        for number in range(1, 9):
            board.columns[1], board.records["number"][1], board.grid[1, 0] = number, 10 * number, 100 * number
            assert _read(board, 1) == 111 * number
        assert sum(one is board for one in made) == 1
        boards = [Board(board.columns + row, records, board.grid) for row in range(100)]
        found = [_read(one, 1) for one in boards + boards]
    assert found == [888 + row for row in range(100)] * 2, "a view is of no other board"
    assert not compiled._VIEWS, "nothing is held after the last plain kernel"
