"""The driver of RabbitMQ: asks the management API, and changes nothing.

A cluster that no federation link and no shovel feeds takes messages in by itself: it counts as the primary.
One that is fed follows while all of its links run. Messages carry no time that both sides share, so a lag is
known only as nothing: nothing waits at the source. Source: the HTTP API reference of RabbitMQ 4.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson

from evac.drivers.capabilities import ReportsRole, RoleReport
from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.model.errors import Permanent, Retryable
from evac.net import secrets
from evac.net.http_calls import Caller, NotAnswered, NotReached

RUNNING: Final = "running"
PLUGINS: Final[Mapping[str, str]] = {"federation-links": "rabbitmq_federation", "shovels": "rabbitmq_shovel"}
"""What feeds a cluster, as the API calls it -> the plugin that does it."""
FEDERATED: Final = "federation: "
"""How the queues begin in which a source keeps what a link has not fetched yet."""


class RabbitmqDriver(ReportsRole):
    """One cluster for each endpoint."""

    name = "rabbitmq"

    def __init__(self) -> None:
        self._caller = Caller()

    async def close(self) -> None:
        await self._caller.close()

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                return await self._report(action, timeout_s)
        except TimeoutError as error:
            words = f"{text(action.settings, 'url')} did not answer in {timeout_s:.1f} s"
            raise Retryable("rabbitmq-unreachable", words, after_ms=200) from error

    async def _report(self, action: Action, timeout_s: float) -> RoleReport:
        url, vhost = text(action.settings, "url"), quote(text(action.settings, "vhost", "/"), safe="")
        overview = await self._ask(action, url, "overview", timeout_s)
        if not isinstance(overview, dict) or not isinstance(overview.get("cluster_name"), str):
            raise _unreadable(url)
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
        path = f"queues/{vhost}?columns=name,messages"
        queues = _objects(await self._ask(action, source, path, timeout_s), source)
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
        """Links or shovels. Where the API knows of none, there are none only if no node runs their plugin.
        Raises `Permanent` where one does.
        """
        found = await self._ask(action, url, f"{what}/{vhost}", timeout_s)
        if found is not None:
            return _objects(found, url)
        nodes = await self._ask(action, url, "nodes?columns=name,enabled_plugins", timeout_s)
        for node in _objects(nodes, url):
            plugins = node.get("enabled_plugins")
            if not isinstance(plugins, list) or PLUGINS[what] in plugins:
                words = f"{url} does not show its {what}, and {PLUGINS[what]} may run"
                raise Permanent("rabbitmq-blind", words, f"enable the plugin {PLUGINS[what]}_management")
        return []

    async def _ask(self, action: Action, url: str, path: str, timeout_s: float) -> Any:
        """The document; None for a path that is not there. Raises `Retryable`, `Permanent`."""
        user = text(action.settings, "user")
        password = secrets.resolve(text(action.settings, "password")).reveal()
        signed = b64encode(f"{user}:{password}".encode()).decode()
        try:
            answer = await self._caller.call(
                "GET",
                f"{url.rstrip('/')}/api/{path}",
                headers={"Authorization": f"Basic {signed}"},
                timeout_s=max(0.0, timeout_s),
            )
        except (NotReached, NotAnswered) as error:
            raise Retryable("rabbitmq-unreachable", str(error), after_ms=200) from error
        if answer.status == 404 and path != "overview":
            return None
        if answer.status in (401, 403):
            words = f"{url} refuses this user: {answer.status}"
            raise Permanent("rabbitmq-refused", words, "check user and password; it needs the tag monitoring")
        if answer.status != 200:
            raise Retryable("rabbitmq-trouble", f"{url} answers {answer.status}", after_ms=500)
        try:
            return orjson.loads(answer.body)
        except orjson.JSONDecodeError as error:
            raise _unreadable(url) from error


def _objects(found: Any, url: str) -> list[Mapping[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _unreadable(url)
    return found


def _unreadable(url: str) -> Retryable:
    return Retryable("rabbitmq-unreadable", f"{url} answers like no management API of RabbitMQ", after_ms=500)
