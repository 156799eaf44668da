"""Kafka Connect and an HTTP bridge for the suites, played by small servers of ours: Kafka itself is not
installed where these tests run. They answer what the REST APIs of Kafka Connect 3.6 and of the Strimzi bridge
say, for two MirrorMakers' worth of connectors.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evac.drivers.capabilities import ReportsRole
from evac.drivers.kafka import DRIVER
from evac.drivers.kafka.driver import KafkaDriver
from evac.drivers.port import Action, Value
from tests.contract.adapters.rabbitmq import PASSWORD, Served, serving
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import until_stopped
from tests.contract.capabilities.suites import Adapter, AskedRole

VARIABLE = "EVAC_TEST_KAFKA"
CLASS = "org.apache.kafka.connect.mirror.MirrorSourceConnector"


class Api(Served):
    """An API whose documents are named by their whole path."""

    def answer(self, documents: dict[str, Any]) -> None:
        super().answer({f"/{path}": found for path, found in documents.items()})


def mirror(state: str = "RUNNING", tasks: tuple[str, ...] = ("RUNNING",), **config: str) -> dict[str, Any]:
    given = {"connector.class": CLASS, "source.cluster.alias": "east", "target.cluster.alias": "west"}
    states = [{"id": number, "state": task} for number, task in enumerate(tasks)]
    status = {"connector": {"state": state}, "tasks": states}
    return {"info": {"config": {**given, **config}}, "status": status}


def offsets(*rows: tuple[str, int, int]) -> dict[str, Any]:
    """Of (topic, partition, offset of the last message that was copied)."""
    return {
        "offsets": [
            {"partition": {"cluster": "east", "topic": topic, "partition": number}, "offset": {"offset": at}}
            for topic, number, at in rows
        ]
    }


def bridge(**ends: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """Topic -> first and end offset of each partition."""
    found: dict[str, Any] = {"topics": [name.replace("_DOT_", ".") for name in ends]}
    for key, partitions in ends.items():
        path = f"topics/{key.replace('_DOT_', '.')}/partitions"
        found[path] = [{"partition": number} for number in range(len(partitions))]
        for number, (first, end) in enumerate(partitions):
            found[f"{path}/{number}/offsets"] = {"beginning_offset": first, "end_offset": end}
    return found


@dataclass
class Mirrored:
    connect: Api
    bridge: Api

    def action(self, cluster: str, **more: Value) -> Action:
        settings: dict[str, Value] = {
            "url": self.connect.url,
            "bridge": self.bridge.url,
            "origin": "east",
            "cluster": cluster,
            "user": "evac",
            "password": f"env:{VARIABLE}",
            **more,
        }
        return Action("verify", "store-events", "kafka", "ansan", settings)


@contextmanager
def mirrored(folder: Path) -> Iterator[Mirrored]:
    found = Mirrored(Api(folder, "connect"), Api(folder, "bridge"))
    found.connect.answer({"connectors": {"m": mirror()}, "connectors/m/offsets": offsets(("orders", 0, 6))})
    found.bridge.answer(bridge(orders=((0, 7),)))
    with serving(VARIABLE, found.connect, found.bridge):
        yield found


@contextmanager
def _roles(folder: Path) -> Iterator[AskedRole]:
    with mirrored(folder) as world:

        async def silence() -> None:
            world.bridge.process.send_signal(signal.SIGSTOP)
            await until_stopped(world.bridge.process.pid)

        async def speak() -> None:
            world.bridge.process.send_signal(signal.SIGCONT)

        through = with_settings(bridge="http://{host}:{port}")
        yield AskedRole(
            KafkaDriver(),
            world.action("east"),
            silence,
            speak,
            (PASSWORD,),
            (TcpWire("127.0.0.1", world.bridge.port, "http", through),),
            replica=world.action("west"),
        )


ADAPTER = Adapter(DRIVER, acts={}, asks={ReportsRole: _roles})
