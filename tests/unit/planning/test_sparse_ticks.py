"""Ticks of limits: all of them are there, and only those that are touched take memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from evac.planning.evacuation.lowering import _sparse

ROWS, WIDTH = 600, 86_552


def _taken_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_few_ticks_of_each_limit_take_a_few_pages() -> None:
    before = _taken_bytes()
    ticks = _sparse(ROWS, WIDTH)
    ticks[:, :100] += 1
    assert _taken_bytes() - before < ticks.nbytes // 4
    assert int(ticks.sum()) == ROWS * 100


def test_they_are_a_plain_table_of_zeros() -> None:
    ticks = _sparse(3, 7)
    assert ticks.shape == (3, 7)
    assert ticks.dtype == np.int32
    assert ticks.flags.c_contiguous
    assert ticks.flags.writeable
    assert not ticks.any()
