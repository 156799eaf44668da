"""How well a service is where its traffic was moved to: what its own endpoint there says, or answers.

an endpoint with `metrics`: a URL whose JSON says {"requests": N, "errors": N}, both counted for ever
any other endpoint: a handful of requests as a user makes them; 5xx and silence are errors
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
import orjson

from evac.drivers.capabilities import HealthReport
from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.net.probing import Prober

AT_ONCE: Final = 5


class Health:
    """Looks when it is asked. A counter that was never read before, or fell, says nothing yet."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._counted: dict[str, tuple[int, int]] = {}

    async def report(self, action: Action, timeout_s: float, samples: int) -> HealthReport:
        metrics = text(action.settings, "metrics", "")
        if metrics:
            return await self._from_counters(metrics, timeout_s)
        url = text(action.settings, "observe_url", "") or text(action.settings, "url")
        return await self._from_answers(url, timeout_s, samples)

    async def _from_counters(self, url: str, timeout_s: float) -> HealthReport:
        status, body = await self._get(url, timeout_s)
        try:
            told = orjson.loads(body)
            now = (int(told["requests"]), int(told["errors"]))
        except (ValueError, KeyError, TypeError):
            return HealthReport(0, 0)
        before = self._counted.get(url)
        if status != 200 or min(now) < 0:
            return HealthReport(0, 0)
        self._counted[url] = now
        if before is None or now[0] < before[0] or now[1] < before[1]:
            return HealthReport(0, 0)
        requests = now[0] - before[0]
        return HealthReport(requests, min(now[1] - before[1], requests))

    async def _from_answers(self, url: str, timeout_s: float, samples: int) -> HealthReport:
        gate = asyncio.Semaphore(AT_ONCE)

        async def failed() -> bool:
            async with gate:
                status, _ = await self._get(url, timeout_s)
                return not 200 <= status < 500

        found = await asyncio.gather(*(failed() for _ in range(samples)))
        return HealthReport(len(found), sum(found))

    async def _get(self, url: str, timeout_s: float) -> tuple[int, bytes]:
        """Status 0 where nothing answered in time."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._prober.get(url)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, b""
