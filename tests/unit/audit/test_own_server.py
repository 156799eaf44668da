"""What is kept of the test of own servers after a change is what a test from nothing says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.audit import AuditReport, update
from evac.audit.own_server import settled
from evac.model.estate import Estate
from tests.unit.audit.test_updating import CHANGES, before


def _bounds_hold(report: AuditReport) -> None:
    room, losses = report.impacts.capacity, report.impacts.losses
    known, fresh = room.settled, settled(room.supply, losses, room.wanted, None)
    assert np.array_equal(known.fits, fresh.fits)
    assert np.array_equal(known.boots, fresh.boots)
    asked = fresh.low == fresh.high
    assert asked.any()
    assert (known.low[asked] <= fresh.low[asked]).all()
    assert (known.high[asked] >= fresh.high[asked]).all()


@settings(max_examples=40)
@given(
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(CHANGES), st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=4
    ),
)
def test_the_slack_of_every_loss_lies_between_its_bounds(
    mended: bool, changes: list[tuple[Callable[[Estate, int, int], Estate], int, int]]
) -> None:
    report = before(mended)
    for apply, pick, other in changes:
        report = update(report, apply(report.impacts.estate, pick, other))
        _bounds_hold(report)
