"""The world of network namespaces: one a site, joined by a router in user space. Needs root.

Every site has one TUN device whose other end the router holds (`wan_router`), and so have the clients, who
live in the root namespace and reach the lab's own range only. When the router ends, all devices vanish with
it; what is left then are empty namespaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from evac_lab import commands, proc_table, wan_router
from evac_lab.process import Process, find_program, run_once
from evac_lab.starting import Starter
from evac_lab.state import LabError, LabFolder, LabState
from evac_lab.topology import HOSTS, Site, Topology

DEVICE: Final = "wan0"
PACKAGE: Final = "iproute2"
_ROUTER: Final = "router"
_READY_SECONDS: Final = 5.0


def why_not() -> str:
    """Why this machine cannot have the namespaces world now; "" when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "this kernel has no TUN device"
    if shutil.which("ip") is None and not Path("/usr/sbin/ip").exists():
        return "the program ip is not installed"
    return ""


def build(starter: Starter, topology: Topology, delay_ms: float) -> None:
    """Makes namespaces, router, addresses and routes. Raises `LabError` where that is not possible."""
    if reason := why_not():
        raise LabError("lab-namespaces", reason, "evac lab up --world loopback")
    for site in topology.sites:
        _ip("netns", "add", site.namespace)
    links = wan_router.Links(delay_ms=delay_ms)
    wan_router.write_links(links_file(starter.folder), links)
    config = starter.folder.path / "router.json"
    legs = {site.name: (site.namespace, DEVICE, site.net) for site in topology.sites}
    legs[""] = ("", client_device(topology), topology.clients.rpartition(".")[0])
    wan_router.write_config(config, legs, links_file(starter.folder))
    log = starter.folder.logs / "router.log"
    router = starter.launch("", _ROUTER, Process(_ROUTER, commands.router(config), log))
    router.wait_until(lambda: _exists(topology), _READY_SECONDS)
    for site in topology.sites:
        _address(site)
    _ip("addr", "add", f"{topology.clients}/32", "dev", client_device(topology))
    _ip("link", "set", client_device(topology), "up", "mtu", "9000")
    _ip("route", "add", _range(topology), "dev", client_device(topology), "src", topology.clients)
    starter.tell("network")


def remove(state: LabState) -> None:
    """Removes the namespaces; nothing happens for those that are not there."""
    for site in state.topology.sites:
        if site.namespace:
            subprocess.run(
                [find_program("ip", PACKAGE), "netns", "del", site.namespace],
                check=False,
                capture_output=True,
                timeout=10,
            )


def client_device(topology: Topology) -> str:
    return f"evac{topology.offset}"


def links_file(folder: LabFolder) -> Path:
    return folder.path / "links.json"


def _range(topology: Topology) -> str:
    """The sixteen networks of one lab."""
    return f"198.18.{16 * topology.offset}.0/20"


def _address(site: Site) -> None:
    inside = ("-n", site.namespace)
    _ip(*inside, "link", "set", "lo", "up")
    for number in HOSTS.values():
        _ip(*inside, "addr", "add", f"{site.net}.{number}/32", "dev", DEVICE)
    _ip(*inside, "link", "set", DEVICE, "up", "mtu", "9000")
    _ip(*inside, "route", "add", "default", "dev", DEVICE)


def _exists(topology: Topology) -> bool:
    """Whether the router has made all devices."""
    try:
        for site in topology.sites:
            _ip("-n", site.namespace, "link", "show", "dev", DEVICE)
        _ip("link", "show", "dev", client_device(topology))
    except Exception:
        return False
    return True


def _ip(*arguments: str) -> str:
    return run_once((find_program("ip", PACKAGE), *arguments), timeout_s=10)


class Network:
    """What faults do to the links of a lab of namespaces."""

    def __init__(self, folder: LabFolder, state: LabState) -> None:
        self._folder = folder
        self._state = state

    def isolate(self, site: str) -> None:
        """Nothing goes in or out, without a word: packets are dropped."""
        self.change(lambda links: links.with_cut(site))

    def join(self, site: str) -> None:
        self.change(lambda links: links.without_cut(site))

    def change(self, to: wan_router.Change) -> None:
        """Changes the links and tells the router; returns when it has read them."""
        path = links_file(self._folder)
        links = to(wan_router.read_links(path))
        wan_router.write_links(path, links)
        routers = [one for one in self._state.processes if one.role == _ROUTER and one.alive]
        proc_table.send([one.pid for one in routers], signal.SIGHUP)
        deadline = time.monotonic() + 1.0
        while routers and wan_router.seen(path) != links.number and time.monotonic() < deadline:
            time.sleep(0.002)
