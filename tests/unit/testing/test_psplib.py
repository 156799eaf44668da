"""Reading PSPLIB instances, and solving a few to their known optimum through the public interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.model.errors import InvalidInput
from evac.planning.schedule import schedule
from evac.testing.psplib import project_of

SMALL = """
4 1
2
0 0 2 2 3
3 2 1 4
2 1 1 4
0 0 0
"""


def test_an_instance_becomes_tasks() -> None:
    tasks = project_of(SMALL)
    assert tasks.duration.tolist() == [0, 3, 2, 0]
    assert tasks.capacity.tolist() == [2]
    assert tasks.predecessor_ptr.tolist() == [0, 0, 1, 2, 4]
    assert tasks.predecessor.tolist() == [0, 0, 1, 2]
    assert tasks.use_hold.tolist() == [3, 2]
    assert schedule(tasks, work=1, seed=0).objective == 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "ends too early"),
        ("two tasks", "no whole number"),
        (SMALL + " 7", "1 numbers are left"),
        (SMALL.replace("1 4", "1 9", 1), "successor 9"),
    ],
)
def test_a_broken_instance_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        project_of(text)


@pytest.mark.data
@pytest.mark.parametrize(("name", "optimum"), [("J30_1", 43), ("J30_2", 47), ("J30_3", 47), ("J60_1", 77)])
def test_known_optima_are_reached(shared_data: Path, name: str, optimum: int) -> None:
    tasks = project_of((shared_data / "rcpsp" / "instances" / f"{name}.txt").read_text(encoding="ascii"))
    assert schedule(tasks, work=20_000, seed=1).objective == optimum
