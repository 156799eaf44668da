"""The ground of a fleet: addresses, racks and feeds, faults of servers, and their power draw.

BMCs are at 127.64.x.y. Linux treats all of 127.0.0.0/8 as local, so one socket listening on every address can
tell from an accepted connection's address which controller was called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from evac.model.errors import InvalidInput
from evac.model.records import dataclass

PREFIX: Final = "127.64"
CIRCUITS_ADDRESS: Final = f"{PREFIX}.255.1"
"""The switchgear controller, for the feeds' breakers."""
PER_BLOCK: Final = 254
SERVERS_MOST: Final = 254 * PER_BLOCK
CIRCUITS: Final = -1
"""The number of the switchgear's controller."""
NOBODY: Final = -2


def address_of(server: int) -> str:
    """127.64.0.1 is server 0; the last octet is 1 to 254."""
    block, last = divmod(server, PER_BLOCK)
    return f"{PREFIX}.{block}.{last + 1}"


def server_at(address: str, servers: int) -> int:
    """The number of the server at an address; `CIRCUITS`; or `NOBODY`."""
    if address == CIRCUITS_ADDRESS:
        return CIRCUITS
    first, second, block, last = address.split(".")
    number = int(block) * PER_BLOCK + int(last) - 1
    mine = f"{first}.{second}" == PREFIX and 1 <= int(last) <= PER_BLOCK and number < servers
    return number if mine else NOBODY


def is_loopback(address: str) -> bool:
    """Connections to other addresses than 127.x.y.z are refused: the fleet stays on the machine."""
    return address.startswith("127.")


Names = npt.NDArray[np.bytes_]
Whole = npt.NDArray[np.int64]
Index = npt.NDArray[np.int32]
Policy = Literal["on", "dark", "last"]
DomainKind = Literal["feed", "rack", "hall", "site"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A server class. policy: what it does when power returns. Durations in ms."""

    id: str
    watts: int
    boot_ms: int
    inrush_watts: int
    inrush_ms: int
    image_offset_ms: int = 0
    policy: Policy = "dark"
    cpu_millicores: int = 48_000
    memory_gib: int = 256
    disk_gib: int = 4_096


@dataclass(frozen=True, slots=True)
class Domain:
    """What can trip: a feed, a rack, a hall or the site. Budgets in watts, None: unlimited."""

    id: str
    kind: DomainKind
    power_watts: int | None = None
    inrush_watts: int | None = None


@dataclass(frozen=True, slots=True)
class RackPlace:
    """A rack: its place and feeds, as ids of domains; hall "" if unknown."""

    id: str
    hall: str = ""
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FleetGround:
    """The fleet before it runs. name, serial, position: V bytes; rack, kind, boot_server: V indices into the
    tuples, boot_server -1 if none is needed; watts: V.
    """

    site: str
    name: Names
    serial: Names
    position: Names
    rack: Index
    kind: Index
    boot_server: Index
    watts: Whole
    racks: tuple[RackPlace, ...]
    kinds: tuple[Kind, ...]
    boot_servers: tuple[str, ...]
    domains: tuple[Domain, ...]

    def __len__(self) -> int:
        return len(self.name)

    def name_of(self, server: int) -> str:
        return bytes(self.name[server]).decode()

    def serial_of(self, server: int) -> str:
        return bytes(self.serial[server]).decode()

    def without_limits(self) -> FleetGround:
        """The same with unlimited power."""
        free = tuple(replace(one, power_watts=None, inrush_watts=None) for one in self.domains)
        return replace(self, domains=free)

    def position_of(self, server: int) -> str:
        return bytes(self.position[server]).decode()


FAULTS: Final = (
    "none",
    "dead",
    "refusing",
    "slow",
    "hanging",
    "half-dead",
    "lying",
    "boot-loop",
    "no-boot",
    "slow-boot",
    "wrong-serial",
    "wrong-image",
    "degraded",
    "sessions-full",
    "rebooting",
    "crashing",
    "changed-password",
    "read-only",
)
"""The codes of column `fault` are positions in this tuple."""

DEFAULT_SHARES: Final = MappingProxyType(
    {"dead": 0.02, "slow": 0.01, "boot-loop": 0.005, "wrong-serial": 0.002}
)


@dataclass(frozen=True, slots=True)
class Shares:
    """Fault -> share of the servers with it, from 0 to 1."""

    of: Mapping[str, float]

    def __post_init__(self) -> None:
        for fault, share in self.of.items():
            code_of(fault)
            if not 0 <= share <= 1:
                raise InvalidInput(
                    "fleet-faults", f"{share:g} is not a valid share for {fault}", "a number from 0 to 1"
                )
        if sum(self.of.values()) > 1:
            raise InvalidInput("fleet-faults", "the shares of the faults add up to more than 1", "lower them")


def code_of(fault: str) -> int:
    """Raises `InvalidInput` for an unknown fault."""
    if fault not in FAULTS:
        raise InvalidInput("fleet-faults", f"{fault[:40]} is not a fault", f"one of {', '.join(FAULTS)}")
    return FAULTS.index(fault)


def draw(servers: int, shares: Shares, seed: int) -> npt.NDArray[np.uint8]:
    """(V,) codes. Each server has at most one fault; counts are the rounded shares."""
    order = np.random.default_rng([seed, 1]).permutation(servers)
    found = np.zeros(servers, np.uint8)
    first = 0
    for fault, share in sorted(shares.of.items()):
        count = round(share * servers)
        found[order[first : first + count]] = code_of(fault)
        first += count
    return found


def draw_racks(racks: int, count: int, seed: int) -> list[int]:
    """Racks with a dead switch."""
    return sorted(np.random.default_rng([seed, 3]).permutation(racks)[:count].tolist())


def read_shares(words: str) -> dict[str, float]:
    """`dead=2%,slow=0.01`; `none`: no faults. Raises `InvalidInput`."""
    if words.strip() == "none":
        return {}
    found = {}
    for word in words.split(","):
        fault, _, share = word.strip().partition("=")
        code_of(fault)
        try:
            found[fault] = float(share.rstrip("%")) / (100 if share.endswith("%") else 1)
        except ValueError as error:
            raise InvalidInput(
                "fleet-faults", f"{word.strip()[:40]} is not a share for a fault", "write dead=2%,slow=1%"
            ) from error
    return found


Account = Literal["steady", "inrush"]
NO_LIMIT: Final = 2**62
STEADY: Final = 0
INRUSH: Final = 1
_ACCOUNTS: Final[tuple[Account, Account]] = ("steady", "inrush")


@dataclass(frozen=True, slots=True)
class Trip:
    """A breaker that tripped. lost: servers that were on and are off now."""

    at_ms: int
    domain: str
    kind: str
    account: Account
    watts: int
    budget_watts: int
    lost: int


class PowerGrid:
    """Power accounts of all domains. `on` and `rushing`: what each server contributes."""

    def __init__(self, ground: FleetGround, closed: bool) -> None:
        self.ids = tuple(domain.id for domain in ground.domains)
        self.kinds = tuple(domain.kind for domain in ground.domains)
        self._number = {id: row for row, id in enumerate(self.ids)}
        self.rack_of = ground.rack
        self._above = [self._domains_above(ground.site, place) for place in ground.racks]
        self._feeds = [tuple(self._number[feed] for feed in place.feeds) for place in ground.racks]
        count = len(self.ids)
        self.budget: list[list[int]] = [
            [_limit(domain.power_watts), _limit(domain.inrush_watts)] for domain in ground.domains
        ]
        self.load: list[list[int]] = [[0, 0] for _ in range(count)]
        self.peak: list[list[int]] = [[0, 0] for _ in range(count)]
        self.closed = [closed or kind != "feed" for kind in self.kinds]
        self.tripped = [False] * count
        self.watts = ground.watts
        self.inrush_watts = np.array([kind.inrush_watts for kind in ground.kinds], np.int64)[ground.kind]
        self.on = np.zeros(len(ground), np.bool_)
        self.rushing = np.zeros(len(ground), np.bool_)
        self.samples = 0
        self._racks_behind: list[list[int]] = [[] for _ in range(count)]
        for rack, above in enumerate(self._above):
            for domain in above:
                self._racks_behind[domain].append(rack)
        self.rack_live = np.array([self._is_live(rack) for rack in range(len(self._above))], np.bool_)

    def _domains_above(self, site: str, place: RackPlace) -> tuple[int, ...]:
        ids = (site, place.hall, place.id, *place.feeds)
        return tuple(self._number[id] for id in ids if id in self._number)

    def number(self, id: str) -> int:
        """Raises `InvalidInput` if there is no such domain."""
        if id not in self._number:
            raise InvalidInput("fleet-domain", f"there is no {id[:80]}", "GET /power lists them all")
        return self._number[id]

    def has_power(self, server: int) -> bool:
        return bool(self.rack_live[self.rack_of[server]])

    def _is_live(self, rack: int) -> bool:
        """A rack is live if one of its feeds is and nothing else above it is open."""
        feeds = self._feeds[rack]
        rest = [domain for domain in self._above[rack] if domain not in feeds]
        return all(self.closed[domain] for domain in rest) and (
            not feeds or any(self.closed[feed] for feed in feeds)
        )

    def switch_on(self, server: int) -> list[int]:
        """Adds a server; returns the domains now over budget."""
        assert not self.on[server]
        assert self.has_power(server)
        self.on[server] = self.rushing[server] = True
        return self._add(server, int(self.watts[server]), int(self.inrush_watts[server]))

    def start_with(self, running: npt.NDArray[np.bool_]) -> list[int]:
        """Sets servers as on, as after years of operation; returns the domains that cannot carry them."""
        self.on[:] = running
        for domain, closed in enumerate(self.closed):
            self.load[domain] = self.sums(domain) if closed else [0, 0]
        return [domain for domain, closed in enumerate(self.closed) if closed and self._measure(domain)]

    def rush(self, server: int) -> list[int]:
        """A server that is on draws its inrush again after a restart."""
        if self.rushing[server]:
            return []
        self.rushing[server] = True
        return self._add(server, 0, int(self.inrush_watts[server]))

    def calm(self, server: int) -> None:
        """Ends a server's inrush."""
        if self.rushing[server]:
            self.rushing[server] = False
            self._add(server, 0, -int(self.inrush_watts[server]))

    def switch_off(self, server: int) -> None:
        """Takes a server off."""
        if self.on[server]:
            inrush = int(self.inrush_watts[server]) if self.rushing[server] else 0
            self.on[server] = self.rushing[server] = False
            self._add(server, -int(self.watts[server]), -inrush)

    def _add(self, server: int, steady: int, inrush: int) -> list[int]:
        above = []
        for domain in self._above[self.rack_of[server]]:
            if self.closed[domain]:
                load = self.load[domain]
                load[STEADY] += steady
                load[INRUSH] += inrush
                if (steady > 0 or inrush > 0) and self._measure(domain):
                    above.append(domain)
        return above

    def _measure(self, domain: int) -> bool:
        """Samples a domain; returns whether it is over budget."""
        self.samples += 1
        load, peak, budget = self.load[domain], self.peak[domain], self.budget[domain]
        peak[STEADY] = max(peak[STEADY], load[STEADY])
        peak[INRUSH] = max(peak[INRUSH], load[INRUSH])
        return load[STEADY] > budget[STEADY] or load[INRUSH] > budget[INRUSH]

    def over(self, domain: int) -> Account | None:
        """The account that is over budget."""
        if not self.closed[domain]:
            return None
        pairs = zip(_ACCOUNTS, self.load[domain], self.budget[domain], strict=True)
        return next((name for name, load, budget in pairs if load > budget), None)

    def open(self, domain: int) -> npt.NDArray[np.int64]:
        """Opens a breaker; returns the servers that lost power, already switched off."""
        if not self.closed[domain]:
            return np.empty(0, np.int64)
        self.closed[domain] = False
        self.load[domain] = [0, 0]
        lost = self._changed(domain)
        for server in lost.tolist():
            self.switch_off(server)
        return lost

    def close(self, domain: int) -> bool:
        """Closes a breaker; servers that are on draw from it at once. Returns whether it is over budget."""
        if self.closed[domain]:
            return False
        self.closed[domain] = True
        self.tripped[domain] = False
        self._changed(domain)
        self.load[domain] = self.sums(domain)
        return self._measure(domain)

    def sums(self, domain: int) -> list[int]:
        """The draw of the servers behind a domain, recomputed."""
        behind = self.servers_behind(domain)
        steady = self.watts[behind][self.on[behind]].sum()
        return [int(steady), int(self.inrush_watts[behind][self.rushing[behind]].sum())]

    def set_budget(self, domain: int, power: int | None, inrush: int | None) -> bool:
        """Sets a budget at once. Returns whether the domain is over it."""
        if power is not None:
            self.budget[domain][STEADY] = power
        if inrush is not None:
            self.budget[domain][INRUSH] = inrush
        return self.closed[domain] and self._measure(domain)

    def servers_behind(self, domain: int) -> npt.NDArray[np.int64]:
        racks = np.zeros(len(self._above), np.bool_)
        racks[self._racks_behind[domain]] = True
        return np.flatnonzero(racks[self.rack_of])

    def _changed(self, domain: int) -> npt.NDArray[np.int64]:
        """Recomputes which racks are live; returns the servers that are on without power."""
        for rack in self._racks_behind[domain]:
            self.rack_live[rack] = self._is_live(rack)
        behind = self.servers_behind(domain)
        return behind[self.on[behind] & ~self.rack_live[self.rack_of[behind]]]


def _limit(watts: int | None) -> int:
    return NO_LIMIT if watts is None else watts
