"""What the test of own servers settles, first fit places too."""

from __future__ import annotations

import numpy as np
import pytest

from evac.audit.closure import taken_of
from evac.audit.impacts import impacts
from evac.audit.losses import losses
from evac.audit.own_server import settled, wanted_of
from evac.audit.placing import open_packing, pack
from evac.estate.examples import pangyo
from evac.model.domain import topology


@pytest.mark.parametrize("mended", [False, True])
def test_a_loss_that_passes_leaves_a_place_for_each_replica(mended: bool) -> None:
    top = topology(pangyo(servers=1_000, mended=mended))
    every = losses(top)
    found = impacts(top, every)
    supply, lost = found.capacity.supply, found.ground.lost
    known = found.capacity.room_known
    own = settled(supply, every, wanted_of(taken_of(lost), known, every))
    numbers = np.flatnonzero(own.fits & (lost > 0).any(axis=1)).tolist()
    assert len(numbers) > 50
    for number in numbers:
        wanted = np.where(known[number], lost[number], 0).astype(np.int64)
        gone = supply.room.lost_shapes(every.rows_of(number))
        packing = open_packing(supply.stock, gone, every.sites[number], wanted)
        at_site = supply.presence.per_site.astype(np.int64)
        at_site[int(every.site[number])] -= lost[number]
        placed = pack(packing, supply.wants, wanted, np.zeros_like(wanted), at_site)
        assert (placed.base == wanted).all(), every.ids[number]
