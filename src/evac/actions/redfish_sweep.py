"""Looks at the power of many servers at once: one request each, at most one at once to each controller.

Changes nothing. A controller that does not answer is asked once and no more; what is not known is said so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from evac.actions.port import Action
from evac.actions.redfish import RedfishDriver
from evac.model.errors import ActionError

ASKERS: Final = 512
ASK_S: Final = 10.0


class PowerSeen(NamedTuple):
    """power: on, off, rising, falling, or "" where it was not told; why: then a code of `boot_codes`."""

    server: str
    power: str
    progress: str = ""
    health: str = ""
    why: str = ""


async def sweep(driver: RedfishDriver, asked: Sequence[Action], within_s: float) -> list[PowerSeen]:
    """One for each action, in their order. Ends within the time; who was not asked by then is unknown."""
    found = [PowerSeen(one.target, "", why="bmc-silent") for one in asked]
    queue = iter(enumerate(asked))
    try:
        async with asyncio.timeout(within_s):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(ASKERS, len(asked))):
                    tasks.create_task(_ask(driver, queue, found))
    except TimeoutError:
        pass
    return found


async def _ask(driver: RedfishDriver, queue: Iterable[tuple[int, Action]], found: list[PowerSeen]) -> None:
    for number, action in queue:
        try:
            seen = await driver.look(action, ASK_S)
        except ActionError as error:
            found[number] = PowerSeen(action.target, "", why=error.code)
        else:
            found[number] = PowerSeen(action.target, seen.power, seen.progress, seen.health)
