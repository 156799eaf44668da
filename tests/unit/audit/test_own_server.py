"""What is kept of the test of own servers after a change is what a test from nothing says."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.audit import AuditReport
from evac.audit.own_server import settled
from tests.unit.audit.test_updating import Changes, one_by_one, some


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
@given(st.booleans(), some(1, 4))
def test_the_slack_of_every_loss_lies_between_its_bounds(mended: bool, changes: Changes) -> None:
    for report in one_by_one(mended, changes):
        _bounds_hold(report)
