"""How well a service is where its traffic was moved to: what its own endpoint there says, or answers.

http endpoint with `metrics`: a URL whose JSON says {"requests": N, "errors": N}, both counted for ever
any other http endpoint: a handful of requests as a user makes them; 5xx and silence are errors
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
import orjson

from evac.model.estate import Endpoint, Estate
from evac.run.pacing import SAMPLES_LEAST, Health
from evac.watch.probes import MAX_ANSWER_BYTES

ASK_S: Final = 2.0
AT_ONCE: Final = 5


class ServiceHealth:
    """Looks when it is asked. A counter that was never read before, or fell, says nothing yet."""

    def __init__(self, estate: Estate, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._ends: dict[tuple[str, str], Endpoint] = {}
        self._counted: dict[str, tuple[int, int]] = {}
        self.adopt(estate)

    def adopt(self, estate: Estate) -> None:
        """Endpoints of an estate, instead of those known before."""
        self._ends = {}
        for end in estate.endpoints:
            if end.driver == "http" and (end.settings.get("url") or end.settings.get("observe_url")):
                self._ends.setdefault((end.subject, end.at), end)

    async def __call__(self, service: str, site: str) -> Health | None:
        """What was seen since the last time; None where the service has no endpoint there."""
        end = self._ends.get((service, site))
        if end is None:
            return None
        metrics = str(end.settings.get("metrics", ""))
        if metrics:
            return await self._from_counters(metrics)
        return await self._from_answers(str(end.settings.get("observe_url") or end.settings["url"]))

    async def _from_counters(self, url: str) -> Health:
        status, body = await self._get(url)
        try:
            told = orjson.loads(body)
            now = (int(told["requests"]), int(told["errors"]))
        except (ValueError, KeyError, TypeError):
            return Health(0, 0)
        before = self._counted.get(url)
        if status != 200 or min(now) < 0:
            return Health(0, 0)
        self._counted[url] = now
        if before is None or now[0] < before[0] or now[1] < before[1]:
            return Health(0, 0)
        requests = now[0] - before[0]
        return Health(requests, min(now[1] - before[1], requests))

    async def _from_answers(self, url: str) -> Health:
        gate = asyncio.Semaphore(AT_ONCE)

        async def failed() -> bool:
            async with gate:
                status, _ = await self._get(url)
                return not 200 <= status < 500

        found = await asyncio.gather(*(failed() for _ in range(SAMPLES_LEAST)))
        return Health(len(found), sum(found))

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Status 0 where nothing answered in time."""
        try:
            async with (
                asyncio.timeout(ASK_S),
                self._session.get(url, allow_redirects=False) as response,
            ):
                return response.status, await response.content.read(MAX_ANSWER_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, b""
