"""What the witness's question to a database says of its site."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evac.app.observing import _answers, _ping
from evac.drivers.registry import Drivers
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac.model.estate import Endpoint
from evac.watch import probes

END = Endpoint("messages-pangyo", "messages", "pangyo", "postgres", {"host": "127.0.0.1"})


class Database:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def facts(self, *asked: Any) -> Any:
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        return None


def ask(error: Exception | None) -> str:
    drivers = Drivers({"postgres": lambda: Database(error)})  # type: ignore[dict-item,return-value]
    return asyncio.run(probes.database(_answers(END, drivers, 1.0), END.id)()).opinion


@pytest.mark.parametrize(
    ("error", "opinion"),
    [
        (None, "up"),
        (Permanent("postgres-refused", "password authentication failed"), "up"),
        (Retryable("postgres-silent", "no answer in time"), "down"),
        (Retryable("postgres-unreachable", "connection refused"), "down"),
        (OutcomeUnknown("postgres-cut", "it broke off"), "down"),
    ],
)
def test_whoever_refuses_us_answers(error: Exception | None, opinion: str) -> None:
    assert ask(error) == opinion


@pytest.mark.parametrize("code", ["secret-missing", "setting-wrong", "driver-library-missing"])
def test_what_is_wrong_with_us_says_nothing_of_the_site(code: str) -> None:
    with pytest.raises(Permanent, match="ours"):
        ask(Permanent(code, "ours"))


@pytest.mark.parametrize("port", ["many", 70_000, True])
def test_a_port_that_is_none_says_nothing_of_the_site(port: str | int) -> None:
    end = Endpoint("presence", "presence", "pangyo", "redis", {"host": "127.0.0.1", "port": port})
    with pytest.raises(Permanent, match="port"):
        asyncio.run(_ping(end)())
