"""Connections that are kept, given back or ended in the moment in which the loop ends: none is left open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evac.drivers.postgres.link import KeptLinks, Member, _end_later

MEMBER = Member("127.0.0.1", 5432, "evac", "", "postgres")


class Connection:
    ended = False

    def terminate(self) -> None:
        self.ended = True

    def is_closed(self) -> bool:
        return self.ended

    async def close(self, timeout: float) -> None:
        await asyncio.sleep(timeout)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a while"])
def test_one_that_is_kept_ends_with_the_loop(waits: bool) -> None:
    async def story(connection: Any) -> None:
        KeptLinks()._keep(MEMBER, connection)
        if waits:
            await asyncio.sleep(0.01)

    connection = Connection()
    asyncio.run(story(connection))
    assert connection.ended


def test_one_that_is_taken_is_no_business_of_ours_any_more() -> None:
    async def story(connection: Any) -> None:
        links = KeptLinks()
        links._keep(MEMBER, connection)
        assert await links._take(MEMBER) is connection
        await asyncio.sleep(0.01)

    connection = Connection()
    asyncio.run(story(connection))
    assert not connection.ended


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a while"])
def test_one_that_is_being_ended_ends_with_the_loop(waits: bool) -> None:
    async def story(connection: Any) -> None:
        _end_later(connection)
        if waits:
            await asyncio.sleep(0.01)

    connection = Connection()
    asyncio.run(story(connection))
    assert connection.ended
