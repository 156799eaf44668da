"""Servers that fit one more replica: counted one by one, and after a change counted as from scratch."""

from __future__ import annotations

import numpy as np

from evac.audit import audit
from evac.estate.examples import pangyo
from evac.model.fleet import DARK, ON_SERVER


def test_each_server_with_room_counts_once_and_one_that_holds_the_service_not_at_all() -> None:
    supply = audit(pangyo(servers=1_000, mended=True)).impacts.capacity.supply
    estate, headroom, wants, fits = supply.top.estate, supply.headroom, supply.wants, supply.fits
    for service in (0, 7, 31):
        holds = estate.replicas.target[
            (estate.replicas.service == service) & (estate.replicas.kind == ON_SERVER)
        ]
        for site in range(len(estate.sites)):
            here = np.flatnonzero((headroom.server_shape >= 0) & (estate.fleet.site == site))
            shape = headroom.server_shape[here]
            roomy = (headroom.amounts[shape] >= wants.demand[service]).all(axis=1)
            roomy &= wants.eligible[service, headroom.pool[shape]]
            dark = estate.fleet.state[here] == DARK
            assert fits.on[service, site] == int((roomy & ~dark & ~np.isin(here, holds)).sum())
            assert fits.dark[service, site] == int((roomy & dark).sum())
