"""Connections of the driver `postgres` that are kept between two actions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evac.drivers.postgres.link import KeptLinks, member_of
from tests.contract.adapters.postgres import data_set

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def test_a_call_that_was_given_up_leaves_no_connection_to_the_next_one(server_folder: Path) -> None:
    """The server may be at work on it still: the next try of a step asks over another one."""
    with data_set(server_folder, replicas=()) as world:
        member, links = member_of(world.action("promote", "dc-pangyo")), KeptLinks()

        async def asked(*queries: str) -> object:
            async with links.linked(member, 5.0) as link:
                pids.append(await link.value("SELECT pg_backend_pid()"))
                return [await link.value(query) for query in queries]

        pids: list[object] = []

        async def story() -> object:
            await asked()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await asked("SELECT pg_sleep(4)")
            answer = await asked("SELECT 1")
            await links.close()
            return answer

        assert asyncio.run(story()) == [1]
        assert pids[0] == pids[1], "one that answered is kept"
        assert pids[2] != pids[1], "one that was given up is not"
