"""What is particular to the observer of Kafka: which connectors count, and when all has arrived."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.kafka.driver import KafkaDriver
from evac.model.errors import ActionError
from tests.contract.adapters.kafka import Mirrored, bridge, mirror, mirrored, offsets

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def ask(world: Mirrored, cluster: str = "west", **settings: Any) -> Any:
    async def story() -> Any:
        driver = KafkaDriver()
        try:
            return await driver.report_role(world.action(cluster, **settings), 30.0)
        except ActionError as error:
            return error
        finally:
            await driver.close()

    return asyncio.run(story())


@pytest.mark.parametrize(
    ("connectors", "role", "lag_ms"),
    [
        ({"m": mirror()}, "replica", 0),
        ({}, "detached", None),
        ({"m": mirror("PAUSED")}, "detached", None),
        ({"m": mirror(tasks=())}, "detached", None),
        ({"m": mirror(tasks=("RUNNING", "FAILED"))}, "detached", None),
        ({"m": mirror(), "n": mirror("FAILED")}, "detached", None),
        ({"m": mirror(), "other": mirror("FAILED", **{"target.cluster.alias": "north"})}, "replica", 0),
        ({"m": mirror(**{"connector.class": "io.example.FileStreamSource"})}, "detached", None),
        ({"m": mirror(**{"source.cluster.alias": "north"})}, "detached", None),
        ({"m": {}}, "detached", None),
    ],
)
def test_a_cluster_follows_while_every_mirror_of_its_origin_runs(
    server_folder: Path, connectors: Any, role: str, lag_ms: int | None
) -> None:
    with mirrored(server_folder) as world:
        world.connect.answer({"connectors": connectors, "connectors/m/offsets": offsets(("orders", 0, 6))})
        found = ask(world)
        assert (found.role, found.lag_ms) == (role, lag_ms)
        assert (ask(world, "east").role, ask(world, "east").lag_ms) == ("primary", 0)


@pytest.mark.parametrize(
    ("config", "copied", "ends", "lag_ms"),
    [
        ({}, (("orders", 0, 5),), {"orders": ((0, 7),)}, None),
        ({}, (("orders", 0, 6),), {"orders": ((0, 7), (0, 1))}, None),
        ({}, (("orders", 0, 6), ("orders", 1, 0)), {"orders": ((0, 7), (0, 1))}, 0),
        ({}, (), {"orders": ((4, 4),)}, 0),
        ({}, (("orders", 0, 6),), {"orders": ((0, 7),), "mail": ((0, 1),)}, None),
        ({"topics": "orders, pay"}, (("orders", 0, 6),), {"orders": ((0, 7),), "mail": ((0, 1),)}, None),
        ({"topics": "orders"}, (("orders", 0, 6),), {"orders": ((0, 7),), "mail": ((0, 1),)}, 0),
        ({"topics": "ord.*"}, (("orders", 0, 6),), {"orders": ((0, 7),)}, None),
        ({}, (("orders", 0, 6),), {"orders": ((0, 7),), "x_DOT_internal": ((0, 9),), "__acl": ((0, 9),)}, 0),
        (
            {"topics.exclude": "a"},
            (("orders", 0, 6),),
            {"orders": ((0, 7),), "x_DOT_internal": ((0, 9),)},
            None,
        ),
    ],
)
def test_the_lag_is_nothing_only_if_every_topic_was_copied_to_its_end(
    server_folder: Path, config: Any, copied: Any, ends: Any, lag_ms: int | None
) -> None:
    with mirrored(server_folder) as world:
        world.connect.answer(
            {"connectors": {"m": mirror(**config)}, "connectors/m/offsets": offsets(*copied)}
        )
        world.bridge.answer(bridge(**ends))
        found = ask(world)
        assert (found.role, found.lag_ms) == ("replica", lag_ms)


def test_a_connect_that_shows_no_offsets_leaves_the_lag_unknown(server_folder: Path) -> None:
    with mirrored(server_folder) as world:
        world.connect.answer({"connectors": {"m": mirror()}})
        found = ask(world)
        assert (found.role, found.lag_ms) == ("replica", None)


def test_a_wrong_password_and_a_silent_origin_are_named(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirrored(server_folder) as world:
        monkeypatch.setenv("EVAC_TEST_OTHER", "another one")
        assert ask(world, password="env:EVAC_TEST_OTHER").code == "kafka-refused"
        world.bridge.process.kill()
        world.bridge.process.wait()
        assert ask(world, "east").code == "kafka-unreachable", "a cluster that is gone is no primary"
        assert ask(world).code == "kafka-unreachable"
