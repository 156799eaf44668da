"""What the witness's question to a database says of its site."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evac.drivers.port import Action
from evac.drivers.postgres.driver import PostgresDriver
from evac.drivers.redis.driver import RedisDriver
from evac.model.errors import OutcomeUnknown, Permanent, Retryable

ACTION = Action("verify", "messages", "postgres", "pangyo", {"host": "127.0.0.1"})


class Database(PostgresDriver):
    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    async def facts(self, *asked: Any) -> Any:
        if self.error is not None:
            raise self.error


def answers(error: Exception | None) -> bool:
    return asyncio.run(Database(error).probe(ACTION, 1.0)).up


@pytest.mark.parametrize(
    ("error", "up"),
    [
        (None, True),
        (Permanent("postgres-refused", "password authentication failed"), True),
        (Retryable("postgres-silent", "no answer in time"), False),
        (Retryable("postgres-unreachable", "connection refused"), False),
        (OutcomeUnknown("postgres-cut", "it broke off"), False),
    ],
)
def test_a_server_that_refuses_us_answers(error: Exception | None, up: bool) -> None:
    assert answers(error) is up


@pytest.mark.parametrize("code", ["secret-missing", "setting-wrong", "driver-library-missing"])
def test_what_is_wrong_with_us_says_nothing_of_the_site(code: str) -> None:
    with pytest.raises(Permanent, match="ours"):
        answers(Permanent(code, "ours"))


@pytest.mark.parametrize("port", ["many", 70_000, True])
def test_a_port_that_is_none_says_nothing_of_the_site(port: str | int) -> None:
    action = Action("verify", "presence", "redis", "pangyo", {"host": "127.0.0.1", "port": port})
    with pytest.raises(Permanent, match="port"):
        asyncio.run(RedisDriver().probe(action, 1.0))
