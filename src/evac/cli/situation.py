"""What commands that reason about an estate know of the situation."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from evac.cli.target import Where

if TYPE_CHECKING:
    from evac.model.estate import Estate
    from evac.model.observation import Observation
    from evac.model.situation import Situation

LINES_MOST = 8


def situation_of(estate: Estate, path: Path, where: Where, observe: bool) -> Situation:
    """The declared estate, unless a store or a server is named, or systems are to be asked.

    Raises Unavailable where the store or the server does not answer.
    """
    from evac.derive import situation
    from evac.model.observation import Observation as Facts

    if not (where.server or where.store or os.environ.get("EVAC_STORE") or observe):
        return situation.of(estate, Facts(0))
    if where.server or where.store or os.environ.get("EVAC_STORE") or has_default_store():
        return situation.of(estate, where.do(lambda control: control.facts(path, observe)))
    return situation.of(estate, _looked(estate))


def has_default_store() -> bool:
    from evac.app.runs import default_store

    return Path(default_store().removeprefix("sqlite:")).exists()


def _looked(estate: Estate) -> Observation:
    """What systems say, where no store is known."""
    import asyncio

    from evac.app.situations import facts_now
    from evac.drivers.registry import Drivers

    async def look() -> Observation:
        drivers = Drivers()
        try:
            return await facts_now(estate, None, drivers, time.time_ns() // 1_000_000)
        finally:
            await drivers.close()

    return asyncio.run(look())


def lines(found: Situation) -> list[str]:
    """What differs from the files, as far as it is read before a plan."""
    from evac.views.situation_view import lines_of

    every = list(lines_of(found, time.time_ns() // 1_000_000))
    more = len(every) - LINES_MOST
    return every if more <= 0 else [*every[:LINES_MOST], f"and {more} more: evac status ESTATE"]
