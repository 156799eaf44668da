"""What boots of a group are worth, tick by tick: the same in 64 bits as in whole numbers of any length."""

from __future__ import annotations

import numpy as np
import pytest

from evac.verify.bound_capacity import BootGroup
from evac.verify.bound_rows import _booted


@pytest.mark.parametrize("slots", [None, 0, 1, 3, 50])
@pytest.mark.parametrize("factor", [1, 2**70])
def test_a_group_boots_what_is_worth_most_first_and_so_many_at_once(slots: int | None, factor: int) -> None:
    amounts = [7, 0, 3, 9, 9, 1, 4]
    kind = np.int64 if factor == 1 else object
    worth = np.array([amount * factor for amount in amounts], kind)
    group = BootGroup(np.arange(7), slots, 5, 2)
    expected: dict[int, int] = {}
    for position, amount in enumerate(sorted(amounts, reverse=True) if slots != 0 else []):
        tick = 2 if slots is None else 2 + 5 * (position // slots)
        expected[tick] = expected.get(tick, 0) + amount * factor
    assert dict(_booted(group, worth)) == expected


def test_a_group_of_nothing_brings_nothing() -> None:
    assert _booted(BootGroup(np.arange(0), None, 5, 2), np.zeros(0, np.int64)) == []
