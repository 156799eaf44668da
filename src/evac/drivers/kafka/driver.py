"""Driver for Kafka: queries Kafka Connect and an HTTP bridge, and changes nothing.

The cluster `origin`, where messages are produced, is the primary. Another cluster follows while every
MirrorSourceConnector from the origin runs with all of its tasks. Offsets are counts, not times, so a lag is
known only if it is zero: every copied topic of the origin was copied to its end. Sources: the REST API of
Kafka Connect (KIP-875 for offsets), KIP-382 (MirrorMaker 2), and the reference of the Strimzi HTTP bridge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from evac.drivers.capabilities import RoleReport
from evac.drivers.observed_api import ObservingDriver
from evac.drivers.parameters import text
from evac.drivers.port import Action

RUNNING: Final = "RUNNING"
MIRROR: Final = "MirrorSourceConnector"
PARTITIONS_MOST: Final = 2_000
"""Partitions whose end is queried; with more, the lag is unknown."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_INTERNAL: Final = ("-internal", ".internal", ".replica")
"""Suffixes of topics that MirrorMaker excludes unless `topics.exclude` says otherwise."""


class KafkaDriver(ObservingDriver):
    """Each endpoint is one cluster."""

    name = "kafka"
    what = "REST API of Kafka Connect or a bridge"
    rights = "the account only needs read access"

    async def _report(self, action: Action, timeout_s: float) -> RoleReport:
        url, origin = text(action.settings, "url"), text(action.settings, "origin")
        if text(action.settings, "cluster") == origin:
            await self._topics(action, timeout_s)
            return RoleReport("primary", 0)
        found = await self._api.ask(action, url, "connectors?expand=info&expand=status", timeout_s)
        if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
            raise self._api.unreadable(url)
        mirrors = {
            name: config
            for name, one in found.items()
            if _is_mirror(config := _mapping(_mapping(one.get("info")).get("config")), action)
        }
        if not mirrors or not all(_runs(_mapping(found[name].get("status"))) for name in mirrors):
            return RoleReport("detached")
        arrived = await self._have_arrived(action, mirrors, timeout_s)
        return RoleReport("replica", 0 if arrived else None)

    async def _topics(self, action: Action, timeout_s: float) -> list[str]:
        bridge = text(action.settings, "bridge")
        found = await self._api.ask(action, bridge, "topics", timeout_s)
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self._api.unreadable(bridge)
        return found

    async def _have_arrived(
        self, action: Action, mirrors: Mapping[str, Mapping[str, Any]], timeout_s: float
    ) -> bool:
        """Whether everything currently in the origin was copied; False also if that is unknown."""
        url, bridge = text(action.settings, "url"), text(action.settings, "bridge")
        named = [str(config.get("topics", ".*")).replace(" ", "").split(",") for config in mirrors.values()]
        wanted = {name for names in named for name in names}
        copies_all = ".*" in wanted
        if not copies_all and not all(_PLAIN.fullmatch(name) for name in wanted):
            return False
        leaves_out = not any("topics.exclude" in config for config in mirrors.values())
        topics = [
            topic
            for topic in await self._topics(action, timeout_s)
            if not topic.startswith("__")
            and not (leaves_out and topic.endswith(_INTERNAL))
            and (copies_all or topic in wanted)
        ]
        if not copies_all and wanted - set(topics):
            return False
        copied: dict[tuple[str, int], int] = {}
        for name in mirrors:
            told = await self._api.ask(action, url, f"connectors/{quote(name, safe='')}/offsets", timeout_s)
            for row in self._api.objects(_mapping(told).get("offsets", []), url):
                partition, offset = _mapping(row.get("partition")), _mapping(row.get("offset")).get("offset")
                topic, number = partition.get("topic"), partition.get("partition")
                if isinstance(topic, str) and type(number) is int and type(offset) is int:
                    copied[topic, number] = max(offset, copied.get((topic, number), -1))
        asked = 0
        for topic in topics:
            path = f"topics/{quote(topic, safe='')}/partitions"
            for row in self._api.objects(await self._api.ask(action, bridge, path, timeout_s), bridge):
                number, asked = row.get("partition"), asked + 1
                if type(number) is not int or asked > PARTITIONS_MOST:
                    return False
                ends = await self._api.ask(action, bridge, f"{path}/{number}/offsets", timeout_s)
                first, end = _mapping(ends).get("beginning_offset"), _mapping(ends).get("end_offset")
                if type(first) is not int or type(end) is not int:
                    return False
                if first < end and copied.get((topic, number), -1) + 1 < end:
                    return False
        return True


def _is_mirror(config: Mapping[str, Any], action: Action) -> bool:
    """Whether a connector copies from the origin into this cluster."""
    return (
        str(config.get("connector.class")).rpartition(".")[2] == MIRROR
        and config.get("source.cluster.alias") == text(action.settings, "origin")
        and config.get("target.cluster.alias") == text(action.settings, "cluster")
    )


def _runs(status: Mapping[str, Any]) -> bool:
    tasks = status.get("tasks")
    return (
        _mapping(status.get("connector")).get("state") == RUNNING
        and isinstance(tasks, list)
        and bool(tasks)
        and all(_mapping(task).get("state") == RUNNING for task in tasks)
    )


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}
