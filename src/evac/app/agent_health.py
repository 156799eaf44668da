"""What agents report of themselves over TLS: when their certificates end, and how far their clocks are off.

Controllers compare their clocks by the votes of witnesses (`watch.verdict`). Where an agent is the only other
party, its clock shows whether one of the two is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from evac.app.anchoring import AgentReach
from evac.drivers.process.client import Lines
from evac.drivers.process.driver import HEALTH_PATH
from evac.model.errors import EvacError
from evac.model.records import dataclass
from evac.net.http_calls import Caller, NotAnswered, NotReached
from evac.views.words import duration
from evac.watch.verdict import apart

ASK_S: Final = 3.0
MINUTE_MS: Final = 60_000
HERE: Final = ""
"""This machine, among the sites of agents."""


@dataclass(frozen=True, slots=True)
class AgentHealth:
    """One agent. ends_ms: expiry of its certificate, 0 if it reports none; ahead_ms: of our clock."""

    ends_ms: int
    ahead_ms: int


async def healths(agents: Mapping[str, AgentReach], wall_ms: Callable[[], int]) -> dict[str, AgentHealth]:
    """Site -> what its agent reports, of those that answer over TLS. Never raises."""
    secure = {site: at for site, at in agents.items() if at[0].url.startswith("https:")}
    found = await asyncio.gather(*(_asked(at, wall_ms) for at in secure.values()))
    return {site: health for site, health in zip(secure, found, strict=True) if health is not None}


async def _asked(at: AgentReach, wall_ms: Callable[[], int]) -> AgentHealth | None:
    """None if it does not respond as an agent, which other checks cover."""
    agent, peer = at
    url = agent.url
    try:
        asked_ms = wall_ms()
        async with Caller() as caller:
            health = f"{url.rstrip('/')}{HEALTH_PATH}"
            answer = await caller.call("GET", health, timeout_s=ASK_S, line=Lines(peer).to(url))
        values = answer.values()
        half_ms = (wall_ms() - asked_ms) // 2
        return AgentHealth(int(values["tls"]["ends_ms"]), int(values["at_ms"]) - asked_ms - half_ms)
    except (NotReached, NotAnswered, EvacError, ValueError, KeyError, TypeError):
        return None


def clocks_of(found: Mapping[str, AgentHealth], here: str) -> dict[str, str]:
    """Site (`HERE`: this machine) -> what is wrong with its clock. here: what this machine is called."""
    off, agreed = apart({HERE: 0} | {site: one.ahead_ms for site, one in found.items()})
    words = {}
    for site, ahead_ms in off.items():
        whose = f"the agent at {site}" if site else here
        than = "most of the others" if agreed else here
        by = duration(round(abs(ahead_ms) / MINUTE_MS) * MINUTE_MS)
        by += " ahead of" if ahead_ms > 0 else " behind"
        words[site] = f"the clock of {whose} is {by} that of {than}"
    return words
