"""What is particular to the observer of RabbitMQ: who is fed, by what, and when all has arrived."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.rabbitmq.driver import RabbitmqDriver
from evac.model.errors import ActionError
from tests.contract.adapters.rabbitmq import QUEUE, link, pair, shovel

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]
NOTHING_WAITS = [{"name": QUEUE, "messages": 0}, {"name": "mail", "messages": 0}]


def ask(action: Any) -> Any:
    async def story() -> Any:
        driver = RabbitmqDriver()
        try:
            return await driver.report_role(action, 30.0)
        except ActionError as error:
            return error
        finally:
            await driver.close()

    return asyncio.run(story())


@pytest.mark.parametrize(
    ("documents", "role", "lag_ms"),
    [
        ({}, "primary", 0),
        ({"federation_links": [], "shovels": []}, "primary", 0),
        ({"federation_links": [link()]}, "replica", 0),
        ({"federation_links": [link(), link("starting")]}, "detached", None),
        ({"shovels": [shovel()]}, "replica", 0),
        ({"shovels": [shovel("terminated")]}, "detached", None),
        ({"federation_links": [link()], "shovels": [shovel("terminated")]}, "detached", None),
        ({"federation_links": [{}]}, "detached", None),
    ],
)
def test_a_cluster_that_is_fed_by_links_that_run_follows(
    server_folder: Path, documents: Any, role: str, lag_ms: int | None
) -> None:
    with pair(server_folder) as world:
        world.upstream.say(queues=NOTHING_WAITS)
        world.downstream.say(**documents)
        found = ask(world.replica())
        assert (found.role, found.lag_ms) == (role, lag_ms)


@pytest.mark.parametrize(
    "queues",
    [
        [],
        [{"name": QUEUE, "messages": 3}],
        [{"name": QUEUE}],
        [{"name": QUEUE, "messages": 0}, {"name": f"{QUEUE} 2", "messages": 1}],
    ],
)
def test_what_waits_or_is_not_counted_is_no_lag_that_is_known(server_folder: Path, queues: Any) -> None:
    with pair(server_folder) as world:
        world.upstream.say(queues=queues)
        assert (ask(world.replica()).role, ask(world.replica()).lag_ms) == ("replica", None)
        world.upstream.say(queues=NOTHING_WAITS)
        assert ask(world.replica()).lag_ms == 0
        assert ask(world.action(world.downstream)).lag_ms is None, "the source was not asked"


def test_a_wrong_password_and_a_silent_source_are_named(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pair(server_folder) as world:
        monkeypatch.setenv("EVAC_TEST_OTHER", "another one")
        refused = ask(world.replica(password="env:EVAC_TEST_OTHER"))
        assert refused.code == "rabbitmq-refused"
        world.upstream.process.kill()
        world.upstream.process.wait()
        assert ask(world.replica()).code == "rabbitmq-unreachable"
        assert ask(world.action(world.downstream)).role == "replica"


@pytest.mark.parametrize(
    "plugins", [None, ["rabbitmq_federation"], ["rabbitmq_shovel", "rabbitmq_management"]]
)
def test_a_cluster_whose_links_cannot_be_seen_is_no_primary(server_folder: Path, plugins: Any) -> None:
    with pair(server_folder) as world:
        world.downstream.say(plugins=plugins)
        blind = ask(world.replica())
        assert blind.code == "rabbitmq-blind"
        assert "_management" in blind.hint
