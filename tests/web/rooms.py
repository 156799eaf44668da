"""War rooms for tests: a small estate, a store in memory, and the application without a server."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI

from evac.engine.clock import SystemClock
from evac.office.office import Office
from evac.office.reckoning import Worker
from evac.store.port import MemoryStore, Store
from evac.web.access.port import Access, Loopback
from evac.web.serving import application
from evac.web.setting import WebSetting

ESTATE = Path(__file__).resolve().parents[1] / "fixtures" / "estates" / "small"
BASE = "http://127.0.0.1:8400"
PATIENCE_S = 120.0


def unwrapped(page: str) -> str:
    """The page, with each command in one piece."""
    return re.sub(r'<span class="nowrap">([^<]*)</span>', r"\1", page)


def until(what: Callable[[], Any], words: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline, words
        time.sleep(0.1)
    return found


def office_of(store: Store | None = None, estate: Path = ESTATE) -> Office:
    return Office(store or MemoryStore(), Worker(estate, apart=False), SystemClock(), "north")


async def primed(office: Office) -> Office:
    """Looked and reckoned once; nothing follows in the background."""
    await office.look()
    await office.reckon()
    office.refresh()
    return office


def room_of(office: Office, access: Access | None = None, **setting: Any) -> FastAPI:
    return application(office, access or Loopback("tester"), WebSetting(**setting))


Story = Callable[[httpx2.AsyncClient, Office], Awaitable[None]]


def play(story: Story, store: Store | None = None, access: Access | None = None, **setting: Any) -> None:
    """Tells a story to a room that was primed."""

    async def run() -> None:
        office = await primed(office_of(store))
        transport = httpx2.ASGITransport(room_of(office, access, **setting))
        try:
            async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
                await story(client, office)
        finally:
            await office.close()

    asyncio.run(run())
