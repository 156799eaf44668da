"""The power of a fleet: what every feed, rack, hall and the site carries, and when a breaker opens.

Two accounts a domain. A server that is switched on adds its watts to the steady account and its inrush to the
inrush account of every domain above it: a rack with two feeds counts in full on both. A sum above its budget,
for one sample, opens the breaker; it stays open until somebody closes it. Knows no clock and no network.

Invariant: the accounts of a closed domain are the sums over the servers behind it that are on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from evac.model.errors import InvalidInput
from evac_lab.fleet.ground import Ground, RackPlace

Account = Literal["steady", "inrush"]
NO_LIMIT: Final = 2**62
STEADY: Final = 0
INRUSH: Final = 1
_ACCOUNTS: Final[tuple[Account, Account]] = ("steady", "inrush")


@dataclass(frozen=True, slots=True)
class Trip:
    """A breaker that opened by itself. lost: servers that were on and are off now."""

    at_ms: int
    domain: str
    kind: str
    account: Account
    watts: int
    budget_watts: int
    lost: int


class PowerGrid:
    """The accounts of all domains. `on` and `rushing` say of each server what it adds to them."""

    def __init__(self, ground: Ground, closed: bool) -> None:
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
        """Raises `InvalidInput` where there is no such domain."""
        if id not in self._number:
            raise InvalidInput("fleet-domain", f"there is no {id[:80]}", "GET /power names them all")
        return self._number[id]

    def has_power(self, server: int) -> bool:
        return bool(self.rack_live[self.rack_of[server]])

    def _is_live(self, rack: int) -> bool:
        """A rack is live when one of its feeds is, and nothing else above it is open."""
        feeds = self._feeds[rack]
        rest = [domain for domain in self._above[rack] if domain not in feeds]
        return all(self.closed[domain] for domain in rest) and (
            not feeds or any(self.closed[feed] for feed in feeds)
        )

    def switch_on(self, server: int) -> list[int]:
        """Adds a server; returns the domains that are above their budget now."""
        assert not self.on[server]
        assert self.has_power(server)
        self.on[server] = self.rushing[server] = True
        return self._add(server, int(self.watts[server]), int(self.inrush_watts[server]))

    def start_with(self, running: npt.NDArray[np.bool_]) -> list[int]:
        """These are on, as after years of work; returns the domains that cannot carry them."""
        self.on[:] = running
        for domain, closed in enumerate(self.closed):
            self.load[domain] = self.sums(domain) if closed else [0, 0]
        return [domain for domain, closed in enumerate(self.closed) if closed and self._measure(domain)]

    def rush(self, server: int) -> list[int]:
        """A server that is on draws its inrush again: it was restarted."""
        if self.rushing[server]:
            return []
        self.rushing[server] = True
        return self._add(server, 0, int(self.inrush_watts[server]))

    def calm(self, server: int) -> None:
        """Its inrush is over."""
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
        """One sample of a domain; whether it is above its budget."""
        self.samples += 1
        load, peak, budget = self.load[domain], self.peak[domain], self.budget[domain]
        peak[STEADY] = max(peak[STEADY], load[STEADY])
        peak[INRUSH] = max(peak[INRUSH], load[INRUSH])
        return load[STEADY] > budget[STEADY] or load[INRUSH] > budget[INRUSH]

    def over(self, domain: int) -> Account | None:
        """The account that is above its budget."""
        if not self.closed[domain]:
            return None
        pairs = zip(_ACCOUNTS, self.load[domain], self.budget[domain], strict=True)
        return next((name for name, load, budget in pairs if load > budget), None)

    def open(self, domain: int) -> npt.NDArray[np.int64]:
        """Opens a breaker; returns the servers that lost power by it, switched off already."""
        if not self.closed[domain]:
            return np.empty(0, np.int64)
        self.closed[domain] = False
        self.load[domain] = [0, 0]
        lost = self._changed(domain)
        for server in lost.tolist():
            self.switch_off(server)
        return lost

    def close(self, domain: int) -> bool:
        """Closes a breaker: the servers that are on already count on it at once. Whether it is above."""
        if self.closed[domain]:
            return False
        self.closed[domain] = True
        self.tripped[domain] = False
        self._changed(domain)
        self.load[domain] = self.sums(domain)
        return self._measure(domain)

    def sums(self, domain: int) -> list[int]:
        """What the servers behind a domain draw, added up anew."""
        behind = self.servers_behind(domain)
        steady = self.watts[behind][self.on[behind]].sum()
        return [int(steady), int(self.inrush_watts[behind][self.rushing[behind]].sum())]

    def set_budget(self, domain: int, power: int | None, inrush: int | None) -> bool:
        """A new budget holds at once. Whether the domain is above it."""
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
        """Learns anew which racks are live; returns the servers that are on without power."""
        for rack in self._racks_behind[domain]:
            self.rack_live[rack] = self._is_live(rack)
        behind = self.servers_behind(domain)
        return behind[self.on[behind] & ~self.rack_live[self.rack_of[behind]]]


def _limit(watts: int | None) -> int:
    return NO_LIMIT if watts is None else watts
