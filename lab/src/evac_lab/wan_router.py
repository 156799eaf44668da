"""The wide area between the sites: a router in user space with delay, loss and cuts for each direction.

Holds one TUN device of every site and one of the clients, and carries packets from one to another. Needed
because many kernels lack sch_netem, and because a one-way cut is easy here and hard elsewhere. The links
stand in a JSON file that is read again at SIGHUP.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_CLONE_NEWNET: Final = 0x40000000
_PACKET: Final = 16_384
_BATCH: Final = 64
_LONGEST_WAIT: Final = 0.5
_MOST_WAITING: Final = 20_000
"""Packets that are under way at most; more are dropped, as a full queue does."""


@dataclass(frozen=True, slots=True)
class Links:
    """cut: sites that nothing reaches or leaves. one_way: `from>to` that is dropped. loss: `from>to` -> share
    of packets. delay_ms: one way between any two; delays: `from>to` instead. number grows with each change.
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
        """Everything about the site is as it was: no cut, no loss, no delay of its own."""
        return replace(
            self,
            number=self.number + 1,
            cut=tuple(one for one in self.cut if one != site),
            one_way=tuple(one for one in self.one_way if site not in one.split(">")),
            loss={way: share for way, share in self.loss.items() if site not in way.split(">")},
            delays={way: delay for way, delay in self.delays.items() if site not in way.split(">")},
        )

    def drops(self, source: str, target: str, chance: float) -> bool:
        """Whether a packet from one to the other is lost; chance: a random number from 0 to 1."""
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
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(links)), encoding="utf-8")
    fresh.replace(path)


def seen(path: Path) -> int:
    """Number of the links that the router has read."""
    try:
        return int(path.with_suffix(".seen").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def write_config(path: Path, legs: Mapping[str, tuple[str, str, str]], links: Path) -> None:
    """legs: site ("" for the clients) -> (namespace, device, what its addresses begin with)."""
    path.write_text(json.dumps({"legs": legs, "links": str(links)}), encoding="utf-8")


class Router:
    """Carries packets between its legs until it is killed."""

    def __init__(self, legs: Mapping[str, tuple[int, bytes]], links: Path) -> None:
        self._links_file = links
        self._handles = {handle: site for site, (handle, _) in legs.items()}
        self._routes = {net: (site, handle) for site, (handle, net) in legs.items()}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._links = Links()
        self.reload()

    def reload(self, *_: object) -> None:
        """Reads the links again, and says which it has read."""
        self._links = read_links(self._links_file)
        self._links_file.with_suffix(".seen").write_text(str(self._links.number), encoding="ascii")

    def run(self) -> None:
        """For ever."""
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
        """Reads what waits at a leg. A packet is either sent, kept until it is due, or dropped."""
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
    """Makes a TUN device inside a namespace ("" is this one); it lives as long as the handle is open."""
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
    """Entry of the process: `python -m evac_lab.wan_router CONFIG`."""
    config = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    legs = {}
    for site, (namespace, device, net) in config["legs"].items():
        legs[site] = (open_device(namespace, device), bytes(int(part) for part in net.split(".")))
    router = Router(legs, Path(config["links"]))
    signal.signal(signal.SIGHUP, router.reload)
    router.run()


if __name__ == "__main__":
    main(sys.argv[1:])
