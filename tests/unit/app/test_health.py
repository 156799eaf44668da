"""Health of a service where its traffic was moved to: from its counters, or from what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evac import estate as estates
from evac.app.observing import ServiceHealth
from evac.drivers.registry import Drivers
from evac.run.pacing import Health

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

ESTATE = """evac: 1
sites: {{pangyo: {{}}, anyang: {{}}}}
services:
  web: {{tier: 0, people: 1, demand: {{cpu: 1 cores}}, start: 1 s}}
endpoints:
  w: {{for: web, at: anyang, driver: http, settings: {{url: "http://127.0.0.1:{port}/{settings}}}}}
"""


class Service:
    """Answers with what a test says."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.counters: Any = {"requests": 0, "errors": 0}
        self.asked = 0

    async def user(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(status=self.statuses[self.asked % len(self.statuses)])

    async def metrics(self, request: web.Request) -> web.Response:
        return web.json_response(self.counters)


def play(folder: Path, settings: str, story: Callable[[Service, ServiceHealth], Awaitable[None]]) -> None:
    async def run() -> None:
        service, drivers = Service(), Drivers()
        app = web.Application()
        app.router.add_get("/", service.user)
        app.router.add_get("/metrics", service.metrics)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        (folder / "estate.yaml").write_text(ESTATE.format(port=port, settings=settings.format(port=port)))
        try:
            async with asyncio.timeout(15):
                await story(service, ServiceHealth(estates.load(folder), drivers))
        finally:
            await drivers.close()
            await runner.cleanup()

    asyncio.run(run())


def test_answers_as_a_user_gets_them_are_counted(tmp_path: Path) -> None:
    async def story(service: Service, health: ServiceHealth) -> None:
        assert await health("web", "anyang") == Health(20, 0)
        service.statuses = [200, 503]
        assert await health("web", "anyang") == Health(20, 10)
        service.statuses = [404]
        assert await health("web", "anyang") == Health(20, 0), "it answers for itself"
        assert await health("web", "pangyo") is None, "nobody can tell"

    play(tmp_path, '"', story)


def test_counters_are_read_as_differences_and_a_restart_says_nothing(tmp_path: Path) -> None:
    async def story(service: Service, health: ServiceHealth) -> None:
        service.counters = {"requests": 1_000, "errors": 7}
        assert await health("web", "anyang") == Health(0, 0), "the past is not what was moved"
        service.counters = {"requests": 1_100, "errors": 10}
        assert await health("web", "anyang") == Health(100, 3)
        service.counters = {"requests": 4, "errors": 0}
        assert await health("web", "anyang") == Health(0, 0)
        service.counters = ["broken"]
        assert await health("web", "anyang") == Health(0, 0)

    play(tmp_path, '", metrics: "http://127.0.0.1:{port}/metrics"', story)
