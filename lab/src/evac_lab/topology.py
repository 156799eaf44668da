"""Where everything in the lab stands: three sites, the addresses of their servers, ports and names. Pure.

Two worlds share one plan. On loopback each site is a /16 of 127/8, which needs no rights at all. With network
namespaces each site is a namespace with addresses of 198.18.0.0/15, the range that is set aside for
benchmarks (RFC 2544) and that nothing routes. An offset moves a whole lab, so that several never collide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from evac.model.errors import InvalidInput

World = Literal["loopback", "namespaces"]

SITES: Final = ("pangyo", "anyang", "ansan")
"""Where the primary stands at first, where the synchronous replica, where the asynchronous one."""

HOSTS: Final = {
    "etcd": 2,
    "postgres": 3,
    "redis": 4,
    "dns": 5,
    "haproxy": 6,
    "messenger": 7,
    "agent": 8,
    "controller": 9,
}
PORTS: Final = {
    "etcd": 2379,
    "peer": 2380,
    "postgres": 5432,
    "redis": 6379,
    "dns": 5353,
    "haproxy": 8080,
    "runtime": 9999,
    "messenger": 8000,
    "agent": 7070,
    "controller": 7071,
}
HALLS: Final = {
    "hall-1": ("etcd", "postgres", "controller"),
    "hall-2": ("redis", "dns", "haproxy", "agent", "messenger"),
}
"""What burns together when only half of a site does; an agent stands with the units that it runs."""

ZONE: Final = "lab"
SERVICE: Final = "messenger"
SERVICE_NAME: Final = f"{SERVICE}.{ZONE}"
LOOPBACK_OFFSETS: Final = 60
NAMESPACE_OFFSETS: Final = 16


@dataclass(frozen=True, slots=True)
class Site:
    """One site. number: 1, 2, 3. net: what its addresses begin with. namespace: "" on loopback."""

    name: str
    number: int
    net: str
    namespace: str = ""

    def host(self, role: str) -> str:
        """Address of a server; every kind has its own, so ports are the same everywhere."""
        return f"{self.net}.{HOSTS[role]}"

    def url(self, role: str) -> str:
        return f"http{'s' if role == 'agent' else ''}://{self.host(role)}:{PORTS[role]}"

    @property
    def member(self) -> str:
        """Its name as a PostgreSQL member. The prefix is needed: Patroni reads `anyang` as `ANY`, `ang`."""
        return f"dc-{self.name}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before a command that shall run inside the site."""
        return ("ip", "netns", "exec", self.namespace) if self.namespace else ()


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab. clients: the address from which clients speak, outside every site."""

    world: World
    offset: int
    sites: tuple[Site, ...]
    clients: str

    def site(self, name: str) -> Site:
        """Raises `InvalidInput` for a name that is none of the three."""
        for site in self.sites:
            if site.name == name:
                return site
        raise InvalidInput("lab-site", f"the lab has no site '{name[:40]}'", f"one of: {', '.join(SITES)}")

    def others(self, name: str) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.name != self.site(name).name)

    def hosts(self, role: str) -> tuple[str, ...]:
        return tuple(site.host(role) for site in self.sites)

    def etcd_urls(self, first: str = "") -> tuple[str, ...]:
        """Client URLs of all members, the one of site `first` first."""
        order = sorted(self.sites, key=lambda site: site.name != first)
        return tuple(site.url("etcd") for site in order)


def topology(world: World = "loopback", offset: int = 0) -> Topology:
    """The lab of a world. Raises `InvalidInput` for an offset out of range."""
    if world == "loopback":
        _check_offset(offset, LOOPBACK_OFFSETS)
        first = 1 if offset == 0 else 10 + 4 * (offset - 1)
        nets = [f"127.{first + number}.0" for number in range(len(SITES))]
        clients = "127.9.0.1" if offset == 0 else f"127.{first + 3}.0.1"
        names = [""] * len(SITES)
    else:
        _check_offset(offset, NAMESPACE_OFFSETS)
        nets = [f"198.18.{16 * offset + number + 1}" for number in range(len(SITES))]
        clients = f"198.18.{16 * offset + 9}.1"
        names = [f"evac{offset}-{name}" for name in SITES]
    sites = tuple(
        Site(name, number + 1, net, namespace)
        for number, (name, net, namespace) in enumerate(zip(SITES, nets, names, strict=True))
    )
    return Topology(world, offset, sites, clients)


def _check_offset(offset: int, most: int) -> None:
    if not 0 <= offset < most:
        raise InvalidInput("lab-offset", f"no lab number {offset}", f"one of 0 to {most - 1}")
