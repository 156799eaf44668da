"""Driver for RabbitMQ: queries the management API, and changes nothing.

A cluster without an incoming federation link or shovel, where messages are published, counts as the primary.
A cluster with one follows while all of its links run. Messages have no time that both sides share, so a lag
is known only if it is zero: nothing waits at the source. Source: the HTTP API reference of RabbitMQ 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from evac.drivers.capabilities import RoleReport
from evac.drivers.observed_api import ObservingDriver
from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.model.errors import Permanent

RUNNING: Final = "running"
PLUGINS: Final[Mapping[str, str]] = {"federation-links": "rabbitmq_federation", "shovels": "rabbitmq_shovel"}
"""What feeds a cluster, as the API names it -> the plugin for it."""
FEDERATED: Final = "federation: "
"""Prefix of the queues in which a source keeps what a link has not fetched yet."""


class RabbitmqDriver(ObservingDriver):
    """Each endpoint is one cluster."""

    name = "rabbitmq"
    what = "management API of RabbitMQ"
    rights = "the account needs the tag monitoring"

    async def _report(self, action: Action, timeout_s: float) -> RoleReport:
        url, vhost = text(action.settings, "url"), quote(text(action.settings, "vhost", "/"), safe="")
        overview = await self._api.ask(action, url, "api/overview", timeout_s)
        if not isinstance(overview, dict) or not isinstance(overview.get("cluster_name"), str):
            raise self._api.unreadable(url)
        links = await self._feeds(action, url, "federation-links", vhost, timeout_s)
        shovels = await self._feeds(action, url, "shovels", vhost, timeout_s)
        states = [one.get("status") for one in links] + [one.get("state") for one in shovels]
        if not states:
            return RoleReport("primary", 0)
        if any(state != RUNNING for state in states):
            return RoleReport("detached")
        source = text(action.settings, "source", "")
        if not source:
            return RoleReport("replica")
        fed = {str(one["src_queue"]) for one in shovels if one.get("src_queue")}
        path = f"api/queues/{vhost}?columns=name,messages"
        queues = self._api.objects(await self._api.ask(action, source, path, timeout_s), source)
        waiting = [
            one.get("messages")
            for one in queues
            if str(one.get("name")).startswith(FEDERATED) or one.get("name") in fed
        ]
        arrived = bool(waiting) and all(type(count) is int and count == 0 for count in waiting)
        return RoleReport("replica", 0 if arrived else None)

    async def _feeds(
        self, action: Action, url: str, what: str, vhost: str, timeout_s: float
    ) -> list[Mapping[str, Any]]:
        """Links or shovels. If the API knows none, there are none only if no node runs their plugin; raises
        `Permanent` if one does.
        """
        found = await self._api.ask(action, url, f"api/{what}/{vhost}", timeout_s)
        if found is not None:
            return self._api.objects(found, url)
        nodes = await self._api.ask(action, url, "api/nodes?columns=name,enabled_plugins", timeout_s)
        for node in self._api.objects(nodes, url):
            plugins = node.get("enabled_plugins")
            if not isinstance(plugins, list) or PLUGINS[what] in plugins:
                words = f"{url} does not show its {what}, but {PLUGINS[what]} may be running"
                raise Permanent("rabbitmq-blind", words, f"enable the plugin {PLUGINS[what]}_management")
        return []
