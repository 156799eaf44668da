"""Which servers of a run did not come up, with where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evac.app import runs
from evac.engine.runs.binding import get_bound
from evac.store.port import Store
from evac.views.quarantine import Quarantine, quarantine_of


async def quarantine(store: Store, run: str) -> Quarantine:
    """As the journal stands now. Places are those that each boot was bound with."""
    view = await runs.view_of(store, run)
    bound = {
        plan: (await get_bound(store, view.spec.run, plan)).actions for plan in dict.fromkeys(view.plans)
    }

    def place_of(step: str) -> Mapping[str, Any]:
        plan, there = view.origin_of(step)
        actions = bound[plan].get(there, ())
        return actions[0].parameters if actions else {}

    return quarantine_of(view, place_of)
