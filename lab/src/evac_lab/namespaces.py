"""The world of network namespaces, and its wide area: a router in user space with delay, loss and cuts.

The router has one TUN device per site and one for the clients, and forwards packets between them. It exists
because many kernels lack sch_netem, and because it makes one-way cuts easy. Links are stored in a JSON file
that is reloaded at SIGHUP. On loopback there are no links to cut without root: isolating a site pauses its
processes.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Final, Protocol

from evac.model.records import dataclass
from evac_lab import process as processes
from evac_lab.process import Process, find_program, run_once
from evac_lab.state import HOSTS, LabError, LabFolder, LabState, Site, Starter, Topology, living

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_CLONE_NEWNET: Final = 0x40000000
_PACKET: Final = 16_384
_BATCH: Final = 64
_LONGEST_WAIT: Final = 0.5
_MOST_WAITING: Final = 20_000
"""Maximum packets in flight; more are dropped, as by a full queue."""


@dataclass(frozen=True, slots=True)
class Links:
    """cut: sites that nothing reaches or leaves. one_way: dropped `from>to`. loss: `from>to` -> share of
    packets. delay_ms: one way between any two; delays: `from>to` exceptions. number grows with each change.
    """

    number: int = 1
    delay_ms: float = 0.0
    cut: tuple[str, ...] = ()
    one_way: tuple[str, ...] = ()
    loss: Mapping[str, float] = field(default_factory=dict)
    delays: Mapping[str, float] = field(default_factory=dict)

    def with_cut(self, site: str) -> Links:
        return replace(self, number=self.number + 1, cut=tuple(sorted({*self.cut, site})))

    def without_cut(self, site: str) -> Links:
        """Resets a site's links: no cut, no loss, no special delay."""
        return replace(
            self,
            number=self.number + 1,
            cut=tuple(one for one in self.cut if one != site),
            one_way=tuple(one for one in self.one_way if site not in one.split(">")),
            loss={way: share for way, share in self.loss.items() if site not in way.split(">")},
            delays={way: delay for way, delay in self.delays.items() if site not in way.split(">")},
        )

    def drops(self, source: str, target: str, chance: float) -> bool:
        """Whether a packet is dropped; chance: a random number from 0 to 1."""
        way = f"{source}>{target}"
        if source in self.cut or target in self.cut or way in self.one_way:
            return True
        return chance < self.loss.get(way, 0.0)

    def delay(self, source: str, target: str) -> float:
        """Seconds."""
        return self.delays.get(f"{source}>{target}", self.delay_ms) / 1_000


Change = Callable[[Links], Links]


def read_links(path: Path) -> Links:
    data = json.loads(path.read_text(encoding="utf-8"))
    return Links(**{**data, "cut": tuple(data["cut"]), "one_way": tuple(data["one_way"])})


def write_links(path: Path, links: Links) -> None:
    """Atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(links)), encoding="utf-8")
    fresh.replace(path)


def seen(path: Path) -> int:
    """Number of the links that the router has loaded."""
    try:
        return int(path.with_suffix(".seen").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def write_config(path: Path, legs: Mapping[str, tuple[str, str, str]], links: Path) -> None:
    """legs: site ("" for the clients) -> (namespace, device, address prefix)."""
    path.write_text(json.dumps({"legs": legs, "links": str(links)}), encoding="utf-8")


class Router:
    """Forwards packets between its legs until killed."""

    def __init__(self, legs: Mapping[str, tuple[int, bytes]], links: Path) -> None:
        self._links_file = links
        self._handles = {handle: site for site, (handle, _) in legs.items()}
        self._routes = {net: (site, handle) for site, (handle, net) in legs.items()}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._links = Links()
        self.reload()

    def reload(self, *_: object) -> None:
        """Reloads the links and records their number."""
        self._links = read_links(self._links_file)
        self._links_file.with_suffix(".seen").write_text(str(self._links.number), encoding="ascii")

    def run(self) -> None:
        """Runs forever."""
        poll = select.epoll()
        for handle in self._handles:
            poll.register(handle, select.EPOLLIN)
        while True:
            wait = _LONGEST_WAIT
            if self._waiting:
                wait = max(0.0, self._waiting[0][0] - time.monotonic())
            for handle, _ in poll.poll(wait):
                self._take(handle)
            self._send_due()

    def _take(self, handle: int) -> None:
        """Reads waiting packets of a leg. Each is sent, kept until due, or dropped."""
        source = self._handles[handle]
        for _ in range(_BATCH):
            try:
                packet = os.read(handle, _PACKET)
            except BlockingIOError:
                return
            # Only IPv4 is routed; the network is the first three bytes of the destination.
            route = self._routes.get(packet[16:19]) if packet[0] >> 4 == 4 else None
            if route is None or self._links.drops(source, route[0], random.random()):
                continue
            delay = self._links.delay(source, route[0])
            if delay <= 0:
                _write(route[1], packet)
            elif len(self._waiting) < _MOST_WAITING:
                self._number += 1
                heapq.heappush(self._waiting, (time.monotonic() + delay, self._number, route[1], packet))

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, handle, packet = heapq.heappop(self._waiting)
            _write(handle, packet)


def _write(handle: int, packet: bytes) -> None:
    try:
        os.write(handle, packet)
    except OSError:
        # The device is down or its queue is full: the packet is lost, as on any network.
        return


def open_device(namespace: str, device: str) -> int:
    """Creates a TUN device inside a namespace ("" is this one); it exists as long as the handle is open."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open("rb") as home:
        if namespace:
            with Path(f"/run/netns/{namespace}").open("rb") as there:
                _set_namespace(libc, there.fileno())
        handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH14x", device.encode(), _IFF_TUN | _IFF_NO_PI))
        if namespace:
            _set_namespace(libc, home.fileno())
    return handle


def _set_namespace(libc: ctypes.CDLL, handle: int) -> None:
    if libc.setns(handle, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")


def main(arguments: list[str]) -> None:
    """Entry point of the process: `python -m evac_lab.namespaces CONFIG`."""
    config = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    legs = {}
    for site, (namespace, device, net) in config["legs"].items():
        legs[site] = (open_device(namespace, device), bytes(int(part) for part in net.split(".")))
    router = Router(legs, Path(config["links"]))
    signal.signal(signal.SIGHUP, router.reload)
    router.run()


class Isolation(Protocol):
    """What faults require of a world's network."""

    def isolate(self, site: str) -> None:
        """Blocks all traffic in and out."""
        ...

    def join(self, site: str) -> None:
        """Allows traffic again."""
        ...


class StandStill:
    """The loopback world."""

    def __init__(self, folder: LabFolder, state: LabState) -> None:
        self._folder = folder
        self._state = state

    def isolate(self, site: str) -> None:
        processes.pause(living(self._state, self._folder, site))

    def join(self, site: str) -> None:
        processes.resume(living(self._state, self._folder, site))


def network_of(folder: LabFolder, state: LabState) -> Isolation:
    """The network of the running lab."""
    if state.world == "loopback":
        return StandStill(folder, state)
    return Network(folder, state)


DEVICE: Final = "wan0"
PACKAGE: Final = "iproute2"
_ROUTER: Final = "router"
_READY_SECONDS: Final = 5.0


def why_not() -> str:
    """Why this machine cannot have the namespaces world now; "" if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "this kernel has no TUN device"
    if shutil.which("ip") is None and not Path("/usr/sbin/ip").exists():
        return "the program ip is not installed"
    return ""


def build(starter: Starter, topology: Topology, delay_ms: float) -> None:
    """Creates namespaces, router, addresses and routes. Raises `LabError` if impossible."""
    if reason := why_not():
        raise LabError("lab-namespaces", reason, "evac lab up --world loopback")
    for site in topology.sites:
        _ip("netns", "add", site.namespace)
    links = Links(delay_ms=delay_ms)
    write_links(links_file(starter.folder), links)
    config = starter.folder.path / "router.json"
    legs = {site.name: (site.namespace, DEVICE, site.net) for site in topology.sites}
    legs[""] = ("", client_device(topology), topology.clients.rpartition(".")[0])
    write_config(config, legs, links_file(starter.folder))
    log = starter.folder.logs / "router.log"
    router = starter.launch(
        "", _ROUTER, Process(_ROUTER, (sys.executable, "-m", "evac_lab.namespaces", str(config)), log)
    )
    router.wait_until(lambda: _exists(topology), _READY_SECONDS)
    for site in topology.sites:
        _address(site)
    _ip("addr", "add", f"{topology.clients}/32", "dev", client_device(topology))
    _ip("link", "set", client_device(topology), "up", "mtu", "9000")
    networks = f"198.18.{16 * topology.offset}.0/20"  # the sixteen of one lab
    _ip("route", "add", networks, "dev", client_device(topology), "src", topology.clients)
    starter.tell("network")


def remove(state: LabState) -> None:
    """Removes the namespaces that exist."""
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


def _address(site: Site) -> None:
    inside = ("-n", site.namespace)
    _ip(*inside, "link", "set", "lo", "up")
    for number in HOSTS.values():
        _ip(*inside, "addr", "add", f"{site.net}.{number}/32", "dev", DEVICE)
    _ip(*inside, "link", "set", DEVICE, "up", "mtu", "9000")
    _ip(*inside, "route", "add", "default", "dev", DEVICE)


def _exists(topology: Topology) -> bool:
    """Whether the router has created all devices."""
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
    """How faults change the links of a lab of namespaces."""

    def __init__(self, folder: LabFolder, state: LabState) -> None:
        self._folder = folder
        self._state = state

    def isolate(self, site: str) -> None:
        """Drops all packets in and out silently."""
        self.change(lambda links: links.with_cut(site))

    def join(self, site: str) -> None:
        self.change(lambda links: links.without_cut(site))

    def change(self, to: Change) -> None:
        """Changes the links and notifies the router; returns once it has loaded them."""
        path = links_file(self._folder)
        links = to(read_links(path))
        write_links(path, links)
        routers = [one for one in self._state.processes if one.role == _ROUTER and one.alive]
        processes.send([one.pid for one in routers], signal.SIGHUP)
        deadline = time.monotonic() + 1.0
        while routers and seen(path) != links.number and time.monotonic() < deadline:
            time.sleep(0.002)


if __name__ == "__main__":
    main(sys.argv[1:])
