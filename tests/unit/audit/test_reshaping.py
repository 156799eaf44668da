"""Shapes after a change of servers are those of a new audit, also where few of them are wanted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evac.audit import audit, reshaping, room, update
from evac.audit.room import Room
from evac.estate.examples import pangyo
from evac.model.estate import Estate
from evac.planning.packing.alike import alike

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


def _wanted(monkeypatch: pytest.MonkeyPatch, shapes: int) -> None:
    for module in (room, reshaping):
        monkeypatch.setattr(module, "SHAPES_WANTED", shapes)
    monkeypatch.setattr(room, "_TOLD_APART", shapes + 20)


def _same(one: Room, other: Room) -> None:
    for name in ("free", "count", "pool", "stage", "server_shape", "levels", "row_start", "row_server"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.bits == other.bits


def _changed(estate: Estate, first: int, count: int, state: int) -> Estate:
    states = estate.fleet.state.copy()
    states[first : first + count] = state
    return replace(estate, fleet=replace(estate.fleet, state=states))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.sampled_from((60, 150, 250, 330, 400)),
    changes=st.lists(
        st.tuples(st.integers(0, 990), st.integers(1, 60), st.integers(0, 3)), min_size=1, max_size=5
    ),
)
def test_shapes_are_as_fine_as_those_of_a_new_audit(
    monkeypatch: pytest.MonkeyPatch, shapes: int, changes: list[tuple[int, int, int]]
) -> None:
    with monkeypatch.context() as patched:
        _wanted(patched, shapes)
        report = audit(pangyo(servers=1_000, mended=True), domains=("pangyo", "gasan"))
        for change in changes:
            report = update(report, _changed(report.impacts.estate, *change))
        fresh = audit(report.impacts.estate, domains=("pangyo", "gasan"))
        _same(report.impacts.capacity.supply.room, fresh.impacts.capacity.supply.room)
        assert report.findings == fresh.findings
