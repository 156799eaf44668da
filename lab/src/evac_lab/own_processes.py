"""evac's own processes in a site: the files of its agent and its controller, and how they start.

The agent runs the messenger as a unit. It is told to by a signed order, as any leader would tell it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Final

from evac.drivers.port import Action, Order
from evac.drivers.process.driver import ProcessDriver
from evac.drivers.process.peers import Peer
from evac_lab import agent_certificates, commands, proc_table
from evac_lab.journal_facts import store_url
from evac_lab.process import Process
from evac_lab.site_servers import Ground, messenger_config
from evac_lab.topology import PORTS, SERVICE, Site

INSTANCES_MOST: Final = 4
_START_SECONDS: Final = 15.0


def agent(ground: Ground, site: Site, env: Mapping[str, str]) -> Process:
    """The agent of a site, with its file written, not started. env: more variables."""
    path = ground.folder.data(site.name, "agent") / "agent.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(agent_file(ground, site), encoding="utf-8")
    log = ground.folder.logs / f"{site.name}-agent.log"
    return Process(f"agent {site.name}", commands.agent(path), log, prefix=site.prefix, env=env)


def controller(ground: Ground, site: Site, env: Mapping[str, str]) -> Process:
    """The controller of a site, not started. It stands on the etcd of all sites, its own member first."""
    store = store_url(ground.topology, site.name)
    argv = commands.controller(ground.folder.estate, site.name, store)
    log = ground.folder.logs / f"{site.name}-controller.log"
    # A mistake of ours shall leave its trace in the log.
    known = agent_certificates.environment(ground.folder.certificates, site.name)
    debug = {**env, **known, "EVAC_DEBUG": "1"}
    return Process(f"controller {site.name}", argv, log, prefix=site.prefix, env=debug)


def agent_file(ground: Ground, site: Site) -> str:
    """TOML. The unit carries the lab's mark itself, because an agent passes on no variable of its own."""
    argv = commands.messenger(messenger_config(ground, site))
    mark = f"{ground.folder.mark}{site.name}"
    certificates = ground.folder.certificates
    names = [agent_certificates.client_name(one.name) for one in ground.topology.sites]
    names.append(agent_certificates.client_name())
    return "\n".join(
        [
            f"site = {_toml(site.name)}",
            f"host = {_toml(site.host('agent'))}",
            f"port = {PORTS['agent']}",
            'state = "state"',
            f"secret = {_toml(ground.secrets.reference('agent'))}",
            "",
            "[tls]",
            f"cert = {_toml(f'file:{certificates}/agent-{site.name}.pem')}",
            f"key = {_toml(f'file:{certificates}/agent-{site.name}.key')}",
            f"ca = {_toml(f'file:{certificates}/ca.pem')}",
            f"names = [{', '.join(_toml(name) for name in names)}]",
            "",
            "[[units]]",
            f"name = {_toml(SERVICE)}",
            f"argv = [{', '.join(_toml(word) for word in argv)}]",
            f"check_url = {_toml(site.url('messenger') + '/health')}",
            f"most = {INSTANCES_MOST}",
            "stop_ms = 1000",
            f"env = {{ {proc_table.MARK} = {_toml(mark)} }}",
            "",
        ]
    )


def _toml(text: str) -> str:
    """A basic string of TOML is a string of JSON."""
    return json.dumps(text)


def start_messenger(ground: Ground, site: Site) -> None:
    """Orders one instance and waits until it answers. Raises `ActionError`.

    The token is the lowest there is, so that the first leader is obeyed after it.
    """
    settings = {"agent": site.url("agent"), "secret": ground.secrets.reference("agent"), "unit": SERVICE}
    action = Action("scale", SERVICE, "process", site.name, settings, {"replicas": 1})
    order = Order("lab", "up", 1, 1, 0, "the lab comes up", _START_SECONDS, f"lab/{site.name}")
    asyncio.run(_execute(action, order, agent_certificates.operator(ground.folder.certificates)))


async def _execute(action: Action, order: Order, peer: Peer) -> None:
    driver = ProcessDriver(peer)
    try:
        await driver.execute(action, order)
    finally:
        await driver.close()
