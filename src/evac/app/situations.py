"""The situation for a command: from the store, and from the systems if no controller observes them.

While a controller leads, its last observation is the truth for everyone: a second one a moment later could
only give two plans of one estate. Without a leader, systems are queried here, on top of what the last leader
knew.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Final

from evac.app.observed_stores import merged
from evac.app.observing import observe
from evac.app.published import Published
from evac.app.quiet_looks import after_runs
from evac.app.store_alarms import rivals_still
from evac.backup.evidence import Evidence
from evac.derive.listed_backups import with_backups
from evac.drivers.registry import Drivers
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import LEADER
from evac.engine.runs.effects import EffectsReader
from evac.engine.stores.datasets import DataSets
from evac.model.errors import Corrupt
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.situation import recorded
from evac.store.port import Store

CAUGHT_UP_S: Final = 3.0
"""How long to wait for a leader that does not yet know what an ended run moved."""


async def facts_now(
    estate: Estate | None, store: Store | None, drivers: Drivers | None, now_ms: int
) -> Observation:
    """Facts beyond the files. store None: nothing of runs; estate or drivers None: no system is queried.

    Raises Unavailable if the store does not respond.
    """
    before, holders = Observation(0), {}
    if store is not None:
        reader, until_s = EffectsReader(store), time.monotonic() + CAUGHT_UP_S
        published = await _published(store)
        while published is not None and _says_something(published) and await store.holder(LEADER) is not None:
            if time.monotonic() > until_s or not await reader.has_newer(published.effects):
                return replace(published, backups=await Evidence(store).facts())
            await asyncio.sleep(0.1)
            published = await _published(store)
        if published is not None and published.effects is not None:
            reader.begin_with(published.effects)
        facts = await Evidence(store).facts()
        effects = recorded(await reader.read(now_ms))
        before = published or before
        before = with_backups(replace(after_runs(before, before, effects), backups=facts), facts, now_ms)
        epochs = await DataSets(store, "", SystemClock()).read_all()
        epochs.refuse()
        holders = {epoch.store: epoch.holder for epoch in epochs.known.values() if epoch.holder}
    if drivers is None or estate is None:
        return before
    looked = await observe(estate, drivers, now_ms)
    return replace(
        merged(before, looked, holders),
        units=before.units,
        traffic=before.traffic,
        effects=before.effects,
        rivals=rivals_still(before.rivals, looked),
        backups=before.backups,
        restores=before.restores,
        repositories=before.repositories,
        listed=before.listed,
    )


def _says_something(published: Observation) -> bool:
    """Of an estate without stores, no member is seen."""
    return bool(published.members or published.units or published.traffic)


async def _published(store: Store) -> Observation | None:
    try:
        return await Published(store).get()
    except Corrupt:
        return None
