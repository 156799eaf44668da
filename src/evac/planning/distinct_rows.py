"""Finds equal rows of a table without sorting them all: most servers look like many others."""

from __future__ import annotations

import numpy as np

from evac.model.fleet import IndexColumn, IntColumn
from evac.planning.compiled import inner, kernel

_FREE = -1
_MULTIPLIER = 0x5851F42D4C957F2D
"""Odd, with bits all over it (Knuth, MMIX)."""
_SHIFT = 29


def alike(table: IntColumn, most: int) -> tuple[IndexColumn, IndexColumn] | None:
    """First row of each distinct kind (G,), in row order, and the kind of each row (n,).

    None if there are more than `most` kinds; linear in rows.
    """
    capacity = min(most, len(table))
    first, group = np.empty(capacity + 1, np.int32), np.empty(len(table), np.int32)
    slots = np.full(1 << (2 * capacity + 1).bit_length(), _FREE, np.int32)
    count = _alike(table, capacity, slots, first, group)
    return None if count > capacity else (first[:count], group)


@kernel
def _alike(table: IntColumn, most: int, slots: IndexColumn, first: IndexColumn, group: IndexColumn) -> int:
    """Number of distinct rows, at most one more than requested. slots: a power of two, more than twice as
    many as requested, all free.
    """
    count, mask = 0, slots.shape[0] - 1
    for row in range(table.shape[0]):
        mixed = 0
        for column in range(table.shape[1]):
            mixed = (mixed ^ table[row, column]) * _MULTIPLIER
            mixed ^= mixed >> _SHIFT
        slot = mixed & mask
        while slots[slot] != _FREE and not _same(table, first[slots[slot]], row):
            slot = (slot + 1) & mask
        if slots[slot] == _FREE:
            if count == most:
                return count + 1
            first[count], slots[slot] = row, count
            count += 1
        group[row] = slots[slot]
    return count


@inner
def _same(table: IntColumn, one: int, other: int) -> bool:
    for column in range(table.shape[1]):  # noqa: SIM110  (numba compiles the loop, not the generator)
        if table[one, column] != table[other, column]:
            return False
    return True


@kernel
def least_of(values: IntColumn, group: IndexColumn, found: IntColumn) -> None:
    """Lowers found (G, R) to the least values (n, R) of each group (n,)."""
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            found[group[row], column] = min(found[group[row], column], values[row, column])
