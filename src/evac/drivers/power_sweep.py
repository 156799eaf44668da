"""Looks at the power of many servers: one question each, and at most one at once to each controller.

Changes nothing. A controller that does not answer is asked once and no more; what is not known is said so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from evac.drivers.capabilities import BootsServers, PowerReport
from evac.drivers.credentials import NothingSent
from evac.drivers.port import Action
from evac.model.collector import collect_seldom
from evac.model.errors import ActionError

ASKERS: Final = 512
ASK_S: Final = 20.0
NOT_ASKED: Final = "not-asked"


async def sweep(asked: Sequence[tuple[BootsServers, Action]], within_s: float) -> list[PowerReport]:
    """One for each action, in their order. Ends within the time; who was not asked by then is unknown."""
    collect_seldom()
    found = [PowerReport(action.target, "", why=NOT_ASKED) for _, action in asked]
    queue = iter(enumerate(asked))
    try:
        async with asyncio.timeout(within_s), asyncio.TaskGroup() as tasks:
            for _ in range(min(ASKERS, len(asked))):
                tasks.create_task(_ask(queue, found))
    except TimeoutError:
        pass  # the rest stays unknown
    return found


async def _ask(queue: Iterable[tuple[int, tuple[BootsServers, Action]]], found: list[PowerReport]) -> None:
    for number, (driver, action) in queue:
        try:
            found[number] = await driver.look(action, ASK_S)
        except NothingSent:
            found[number] = PowerReport(action.target, "", why=NOT_ASKED)
        except ActionError as error:
            found[number] = PowerReport(action.target, "", why=error.code)
