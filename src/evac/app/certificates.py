"""Certificates that this process presents, when they expire, and those of the agents; warns in time.

own        `EVAC_AGENT_CERT`, which controllers present to agents
agents     as their health pages report
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from evac.app.anchoring import AgentReach
from evac.drivers.process import CERT
from evac.drivers.process.client import Lines
from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import Notice, Tell
from evac.model.errors import EvacError
from evac.net.http_calls import Caller, NotAnswered, NotReached
from evac.net.tls import ends_ms
from evac.store.port import Lease

SOON_MS: Final = 30 * 86_400_000
LOOK_S: Final = 600.0
AGAIN_MS: Final = 86_400_000
ASK_S: Final = 3.0


def own_certificates(environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Name -> file of each certificate that this process presents."""
    return {"agents": Path(environ[CERT])} if environ.get(CERT) else {}


def end_of(path: Path) -> int:
    """Expiry in milliseconds since 1970; 0 if it cannot be read."""
    try:
        return ends_ms(path)
    except EvacError:
        return 0


def words_of(what: str, end_ms: int, now_ms: int) -> str:
    """Warning about a certificate; empty if it is valid for long."""
    if end_ms - now_ms > SOON_MS:
        return ""
    if end_ms == 0:
        return f"{what} cannot be read"
    day = datetime.fromtimestamp(end_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{what} expired on {day}" if end_ms <= now_ms else f"{what} expires on {day}"


class CertificateChore:
    """Runs in the leader: checks every ten minutes, and warns about each expiring certificate once a day."""

    def __init__(
        self,
        agents: Mapping[str, AgentReach],
        clock: Clock,
        tell: Tell,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._agents, self._clock, self._tell, self._pause = agents, clock, tell, pause
        self._told: dict[str, int] = {}

    async def chore(self, guard: Lease) -> None:
        await self.look()
        await self._pause(LOOK_S)

    async def look(self) -> None:
        found = {
            f"our certificate for {name}": ("", end_of(path)) for name, path in own_certificates().items()
        }
        secure = {site: at for site, at in self._agents.items() if at[0].url.startswith("https:")}
        ends = await asyncio.gather(*(self._asked(at) for at in secure.values()))
        for site, end_ms in zip(secure, ends, strict=True):
            if end_ms:
                found[f"the certificate of the agent of {site}"] = (site, end_ms)
        now_ms = self._clock.now_ms()
        for what, (site, end_ms) in found.items():
            words = words_of(what, end_ms, now_ms)
            if words and now_ms - self._told.get(what, -AGAIN_MS) >= AGAIN_MS:
                self._told[what] = now_ms
                self._tell(
                    Notice("trouble", now_ms, site, words, {"code": "certificate-ends", "ends_ms": end_ms})
                )

    async def _asked(self, at: AgentReach) -> int:
        """Expiry reported by an agent; 0 if it does not respond or reports none, which other checks cover."""
        agent, peer = at
        url = agent.url
        try:
            health = f"{url.rstrip('/')}/v1/health"
            async with Caller() as caller:
                answer = await caller.call("GET", health, timeout_s=ASK_S, line=Lines(peer).to(url))
            return int(answer.values()["tls"]["ends_ms"])
        except (NotReached, NotAnswered, EvacError, ValueError, KeyError, TypeError):
            return 0
