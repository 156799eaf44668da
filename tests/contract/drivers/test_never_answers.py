"""A server that accepts a connection and never answers: reported in time, in words that people use."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from evac.drivers.capabilities import ReportsRole
from evac.drivers.port import Action
from evac.drivers.registry import Drivers
from evac.model.errors import Retryable

pytestmark = [pytest.mark.enable_socket]


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a socket whose connections the kernel accepts, and nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("name", ["mariadb", "postgres", "redis"])
def test_a_database_that_accepts_and_never_answers_is_named_as_silent(
    name: str, mute: int, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("quiet-harbour-419")
    (tmp_path / "password").chmod(0o600)
    settings = {"host": "127.0.0.1", "port": mute, "password": f"file:{tmp_path}/password"}
    more = {} if name == "redis" else {"name": "dc-a"}
    action = Action("verify", "orders", name, "a", {**settings, **more}, {})

    async def story() -> None:
        drivers = Drivers()
        try:
            async with asyncio.timeout(10.0):
                with pytest.raises(Retryable) as silent:
                    await drivers.able(name, ReportsRole).report_role(action, 1.0)
            assert silent.value.message == f"127.0.0.1:{mute} did not answer in time"
        finally:
            await drivers.close()

    asyncio.run(story())
