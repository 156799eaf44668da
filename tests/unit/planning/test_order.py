"""The order of closures: every item once, however badly floating point rounds what is left of a weight."""

from __future__ import annotations

import numpy as np

from evac.planning.evacuation.order import _greedy


def test_a_weight_that_rounds_below_nothing_still_has_its_turn() -> None:
    """1e16 + 1 is 1e16; less 1, less 1e16, is -1: the last item must come all the same."""
    closures = [[0], [1], [0, 1, 2]]
    users: list[list[int]] = [[0, 2], [1, 2], [2]]

    def flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        first = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(one) for one in lists], out=first[1:])
        return first, np.array([value for one in lists for value in one], np.int64)

    order = _greedy(
        np.arange(3), *flat(closures), *flat(users), np.array([10**16, 1, 0]), np.array([1e12, 1e-9, 1.0])
    )
    assert order.tolist() == [1, 0, 2]
