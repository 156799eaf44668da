"""The test of the tester: each of ten planted bugs is found, and within how many seeds."""

from __future__ import annotations

import pytest

from tests.sim.planted_bugs import BUGS, seeds_to_find

MOST = 600
"""A seed takes some 40 ms; whole stories, with witnesses, three times as long."""


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_it_is_found(bug: str) -> None:
    seeds, error = seeds_to_find(bug, MOST)
    assert seeds, f"{bug} was not found in {MOST} seeds"
    assert error
