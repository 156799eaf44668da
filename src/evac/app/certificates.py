"""Certificates that this process presents, when they expire, and those of the agents; warns in time.

own        `EVAC_AGENT_CERT`, which controllers present to agents
agents     as they report themselves, with their clocks
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from evac.app.agent_health import clocks_of, healths
from evac.app.anchoring import AgentReach
from evac.drivers.process import CERT
from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import Notice, Tell
from evac.model.errors import EvacError
from evac.net.tls import ends_ms
from evac.store.port import Lease
from evac.views.doctor_view import SET_CLOCK

SOON_MS: Final = 30 * 86_400_000
LOOK_S: Final = 600.0
AGAIN_MS: Final = 86_400_000


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
    """Runs in the leader: checks every ten minutes, warns about each expiring certificate once a day, and
    about each clock that is off once until it agrees again. site: of this controller.
    """

    def __init__(
        self,
        agents: Mapping[str, AgentReach],
        clock: Clock,
        tell: Tell,
        site: str = "",
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._agents, self._clock, self._tell, self._pause = agents, clock, tell, pause
        self._site, self._off = site, frozenset[str]()
        self._told: dict[str, int] = {}

    async def chore(self, guard: Lease) -> None:
        await self.look()
        await self._pause(LOOK_S)

    async def look(self) -> None:
        found = {
            f"our certificate for {name}": ("", end_of(path)) for name, path in own_certificates().items()
        }
        agents = await healths(self._agents, self._clock.now_ms)
        for site, one in agents.items():
            if one.ends_ms:
                found[f"the certificate of the agent of {site}"] = (site, one.ends_ms)
        self._tell_clocks(clocks_of(agents, f"the controller at {self._site}"))
        now_ms = self._clock.now_ms()
        for what, (site, end_ms) in found.items():
            words = words_of(what, end_ms, now_ms)
            if words and now_ms - self._told.get(what, -AGAIN_MS) >= AGAIN_MS:
                self._told[what] = now_ms
                self._tell(
                    Notice("trouble", now_ms, site, words, {"code": "certificate-ends", "ends_ms": end_ms})
                )

    def _tell_clocks(self, off: Mapping[str, str]) -> None:
        """Names each clock that is off, once until it agrees again."""
        for site, words in off.items():
            if site not in self._off:
                data = {"code": "clock-off", "hint": SET_CLOCK}
                self._tell(Notice("trouble", self._clock.now_ms(), site or self._site, words, data))
        self._off = frozenset(off)
