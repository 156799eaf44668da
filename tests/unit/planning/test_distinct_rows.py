"""Rows of a table that are the same."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evac.planning.distinct_rows import alike

rows = st.tuples(st.integers(-2, 2), st.integers(0, 1), st.integers(0, 2**40))


@given(st.lists(rows, max_size=60), st.integers(0, 60))
def test_rows_that_are_alike_are_found_in_order(table: list[tuple[int, int, int]], most: int) -> None:
    values = np.array(table, np.int64).reshape(len(table), 3)
    expected = list(dict.fromkeys(table))
    found = alike(values, most)
    if len(expected) > most:
        assert found is None
        return
    assert found is not None
    first, group = found
    assert [table[row] for row in first.tolist()] == expected
    assert [table.index(row) for row in table] == first[group].tolist()
