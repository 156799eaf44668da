"""Servers that fit one more replica: counted one by one, and after a change counted as from scratch."""

from __future__ import annotations

import numpy as np
import pytest

from evac.audit import update
from evac.audit.fitting import Offer, fits_of
from evac.audit.supply import Supply
from evac.model.fleet import DARK, ON_SERVER
from tests.unit.audit.test_updating import CHANGES, before


def _offer(supply: Supply) -> Offer:
    return Offer(supply.top.estate, supply.room, supply.wants)


def test_each_server_with_room_counts_once_and_one_that_holds_the_service_not_at_all() -> None:
    supply = before(True).impacts.capacity.supply
    estate, room, wants, fits = supply.top.estate, supply.room, supply.wants, supply.fits
    for service in (0, 7, 31):
        holds = estate.replicas.target[
            (estate.replicas.service == service) & (estate.replicas.kind == ON_SERVER)
        ]
        for site in range(len(estate.sites)):
            here = np.flatnonzero((room.server_shape >= 0) & (estate.fleet.site == site))
            shape = room.server_shape[here]
            roomy = (room.amounts[shape] >= wants.demand[service]).all(axis=1)
            roomy &= wants.eligible[service, room.pool[shape]]
            dark = estate.fleet.state[here] == DARK
            assert fits.on[service, site] == int((roomy & ~dark & ~np.isin(here, holds)).sum())
            assert fits.dark[service, site] == int((roomy & dark).sum())


@pytest.mark.parametrize("mended", [True, False])
def test_after_any_change_they_are_counted_as_from_scratch(mended: bool) -> None:
    report = before(mended)
    for number, apply in enumerate(CHANGES):
        report = update(report, apply(report.impacts.estate, 11 + number, 7 * number + 2))
        supply = report.impacts.capacity.supply
        fresh = fits_of(_offer(supply))
        assert np.array_equal(supply.fits.on, fresh.on), number
        assert np.array_equal(supply.fits.dark, fresh.dark), number


def test_they_are_the_same_object_where_nothing_stands_or_asks_otherwise() -> None:
    report = before(True)
    service = report.impacts.estate.services[5]
    again = update(report, CHANGES[5](report.impacts.estate, 5, 77))
    assert again.impacts.estate.services[5].people != service.people
    assert again.impacts.capacity.supply.fits is report.impacts.capacity.supply.fits
