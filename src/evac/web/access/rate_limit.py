"""How often somebody may ask: at most so many in any window of a length, by whatever names are counted.

Bounded in both directions: names that were counted least recently are forgotten, and of one name no more
moments are kept than its rate allows.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from evac.model.estate import Rate

NAMES_MOST: Final = 10_000


class Often:
    """now_ms: a clock that never goes back."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._seen: OrderedDict[str, deque[int]] = OrderedDict()

    def wait_ms(self, name: str, rate: Rate) -> int:
        """How long until one more is allowed; 0: now."""
        found, now = self._seen.get(name), self._now_ms()
        if found is None:
            return 0
        while found and now - found[0] >= rate.window_ms:
            found.popleft()
        return found[0] + rate.window_ms - now if len(found) >= rate.count else 0

    def note(self, name: str, rate: Rate) -> None:
        """One more happened."""
        found = self._seen.get(name)
        if found is None:
            while len(self._seen) >= NAMES_MOST:
                self._seen.popitem(last=False)
            found = self._seen[name] = deque()
        self._seen.move_to_end(name)
        while len(found) >= rate.count:
            found.popleft()
        found.append(self._now_ms())

    def take_back(self, name: str) -> None:
        """The last one did not happen after all."""
        found = self._seen.get(name)
        if found:
            found.pop()

    def forget(self, name: str) -> None:
        self._seen.pop(name, None)


def neighbourhood(host: str) -> str:
    """What addresses are counted by: of IPv6 the network of a customer, for its addresses cost nothing."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False).network_address)
    return str(address)
