"""The plan of a run under way, mended for servers that do not come up. Pure work, done beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from evac.engine.drawer import get_plan
from evac.engine.mending import Mend, Trouble
from evac.estate import plan_codec
from evac.model.derive import derive
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.policy import Policy
from evac.planning.repair import repair
from evac.store.port import Store


def mended(estate: Estate, data: bytes, trouble: Trouble) -> bytes | None:
    """The mended plan, of the estate as it stands now; None where no replica finds another place. Raises
    InvalidInput for what is no plan.
    """
    plan = plan_codec.decode(data)
    instance = derive(estate, plan.scenario, Policy(plan.waivers, plan.tier_weights), plan.tick_ms)
    found = repair(instance, plan, trouble.failed, trouble.begun)
    if not found.moved:
        return None
    return plan_codec.encode(replace(found.plan, estate_digest=estate_digest(estate)))


def mender(store: Store, estate: Callable[[], Estate]) -> Mend:
    """Mends plans that lie in a store, in a thread of its own. estate: as it is seen now."""

    async def mend(digest: str, trouble: Trouble) -> bytes | None:
        return await asyncio.to_thread(mended, estate(), await get_plan(store, digest), trouble)

    return mend
