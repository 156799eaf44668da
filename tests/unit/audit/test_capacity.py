"""What the test of own servers settles, first fit places too."""

from __future__ import annotations

import numpy as np
import pytest

from evac.audit.impacts.all_losses import impacts
from evac.audit.impacts.capacity import requested_of, settled
from evac.audit.impacts.dependencies import taken_of
from evac.audit.impacts.losses import losses
from evac.audit.impacts.placing import open_packing, pack
from evac.derive.domains import topology
from evac.estate.examples import pangyo


@pytest.mark.parametrize("mended", [False, True])
def test_a_loss_that_passes_leaves_a_place_for_each_replica(mended: bool) -> None:
    top = topology(pangyo(servers=1_000, mended=mended))
    every = losses(top)
    found = impacts(top, every)
    supply, lost = found.capacity.supply, found.ground.lost
    known = found.capacity.headroom_known
    fits = settled(supply, every, requested_of(taken_of(lost), known, every))
    numbers = np.flatnonzero(fits & (lost > 0).any(axis=1)).tolist()
    assert len(numbers) > 50
    for number in numbers:
        requested = np.where(known[number], lost[number], 0).astype(np.int64)
        gone = supply.headroom.lost_shapes(every.rows_of(number))
        packing = open_packing(supply.stock, gone, every.sites[number], requested)
        at_site = supply.presence.per_site.astype(np.int64)
        at_site[int(every.site[number])] -= lost[number]
        placed = pack(packing, supply.wants, requested, np.zeros_like(requested), at_site)
        assert (placed.base == requested).all(), every.ids[number]
