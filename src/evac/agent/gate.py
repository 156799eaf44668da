"""Which orders an agent accepts: signed with one of its keys, addressed to it, recent, and not repeated.

The signed lines of an order name the agent by site and address (`host:port`). The time by which orders are
judged never goes backwards, even across restarts and clock changes: the newest time that may have been
admitted is on disk before an order is obeyed, and a restarted agent begins after it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from evac.agent.memory import read_values, write_values
from evac.drivers.process import client
from evac.model.errors import EvacError, Permanent, Retryable
from evac.model.records import dataclass
from evac.net import secrets
from evac.net.secrets import Secret

NONCES_KEPT: Final = 20_000
KEYS_MOST: Final = 4
AHEAD_MS: Final = 10_000
"""How far ahead the time on disk is, so that not every order waits for the disk."""
_LEAST_NONCE: Final = 16
_MOST_NONCE: Final = 64

_log = logging.getLogger("evac.agent")


class NotBelieved(EvacError):
    """A request without a valid signature. The only response is this code."""

    def __init__(self) -> None:
        super().__init__("not-signed", "the signature is missing or wrong")


@dataclass(frozen=True, slots=True)
class Believed:
    """An order signed with one of our keys. It may still be old, repeated, or meant for another agent."""

    nonce: str
    at_ms: int
    site: str
    address: str
    key: Secret
    version: str


class Keys:
    """Keys that may sign orders, newest first. A reload never leaves it without keys."""

    def __init__(self, references: Sequence[str]) -> None:
        self._references = tuple(references)
        self.now = _read(self._references)
        self.problem = ""

    def read_again(self, references: Sequence[str] | None = None) -> None:
        """Reload the keys. references: new references, if the agent's file now names others. If keys cannot
        be read, the failure is logged and the previous keys stay in use.
        """
        wanted = self._references if references is None else tuple(references)
        try:
            found = _read(wanted)
        except EvacError as error:
            words = f"{error.message} [{error.code}]"
            if words != self.problem:
                _log.error("the keys of this agent were not reloaded: %s", words)
            self.problem = words
            return
        if found != self.now:
            _log.info("the keys of this agent were reloaded: %d accepted", len(found))
        self._references, self.now, self.problem = wanted, found, ""


def _read(references: Sequence[str]) -> tuple[Secret, ...]:
    """Read the keys. Raises `Permanent`."""
    if not 1 <= len(references) <= KEYS_MOST:
        raise Permanent("secret-count", f"an agent must have 1 to {KEYS_MOST} keys, not {len(references)}")
    found = tuple(secrets.resolve(one) for one in references)
    for key in found:
        if len(key.reveal_bytes()) < client.LEAST_KEY_BYTES:
            raise Permanent("secret-short", f"{key} is shorter than {client.LEAST_KEY_BYTES} bytes")
    return found


@dataclass(frozen=True, slots=True)
class Identity:
    """How orders name this agent."""

    site: str
    addresses: Callable[[], frozenset[str]]
    """All its `host:port` addresses; those from its certificate change with it."""
    older_orders: bool = False
    """Whether to accept orders of an evac version that does not name the agent in them."""


class Gate:
    """Admits each signed order once.

    window_ms: maximum difference between the sender's clock and ours. Ours starts at the wall clock
    (`wall_ms`, read once), never before `kept`, and continues on a clock that cannot be set (`steady_ms`). A
    refusal reports our time to a sender that knows the key, so that a clock jump locks no one out. kept: the
    file with the newest time; None: not kept.
    """

    def __init__(
        self,
        keys: Keys,
        own: Identity,
        window_ms: int,
        wall_ms: Callable[[], int],
        steady_ms: Callable[[], int],
        kept: Path | None = None,
    ) -> None:
        self._keys, self._own, self._window_ms = keys, own, window_ms
        self._steady_ms, self._kept = steady_ms, kept
        self._on_disk = 0 if kept is None else int(read_values(kept).get("newest_ms", 0))
        self._newest = self._on_disk
        self._started_ms = max(wall_ms(), self._on_disk + 1)
        self._ahead_ms = self._started_ms - steady_ms()
        self._seen: set[str] = set()
        self._order: deque[tuple[int, str]] = deque()
        self._logged: set[str] = set()
        """Sites whose refusal was logged: anyone can replay a recorded order as often as they like."""

    def now_ms(self) -> int:
        """The time by which orders are judged."""
        return self._steady_ms() + self._ahead_ms

    def believe(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Believed:
        """Verify the signature of an order. Raises `NotBelieved`."""
        nonce, stamp = headers.get(client.NONCE, ""), headers.get(client.TIMESTAMP, "")
        signature = headers.get(client.SIGNATURE, "")
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 15):
            raise NotBelieved
        if not (_LEAST_NONCE <= len(nonce) <= _MOST_NONCE and nonce.isascii() and nonce.isalnum()):
            raise NotBelieved
        version = client.OLDER if signature.startswith(client.OLDER) else client.VERSION
        at = client.Addressee(headers.get(client.SITE, ""), headers.get(client.ADDRESS, ""))
        for key in self._keys.now:
            wanted = client.order_signature(key, method, path, body, int(stamp), nonce, at, version)
            if client.same(signature, wanted):
                return Believed(nonce, int(stamp), at.site, at.address, key, version)
        raise NotBelieved

    def admit(self, order: Believed) -> None:
        """Admit a verified order once. Raises `Retryable` (clock difference, too many orders), `Permanent`
        (repeated, for another agent, from an older evac).
        """
        self._refuse_other(order)
        now, at_ms = self.now_ms(), order.at_ms
        self._forget(self._steady_ms())
        if order.nonce in self._seen:
            raise Permanent("order-repeated", "this order was already received", "sign a new one")
        if abs(now - at_ms) > self._window_ms:
            raise Retryable(
                "clock-skew",
                f"the clocks of the controller and the agent differ by {abs(now - at_ms)} ms",
                "synchronise the clocks",
                after_ms=5_000,
            )
        if at_ms < self._started_ms:
            raise Retryable(
                "agent-just-started",
                "the order was signed before the agent started",
                after_ms=self._started_ms - at_ms,
            )
        if len(self._order) >= NONCES_KEPT:
            raise Retryable("agent-busy", "too many orders at once", after_ms=1_000)
        if at_ms > self._on_disk:
            try:
                self._write(at_ms + AHEAD_MS)
            except OSError as error:
                words = f"the agent cannot record the orders it accepts: {error.strerror}"
                raise Retryable("agent-disk", words, "free some space on its disk", after_ms=1_000) from error
        self._newest = max(self._newest, at_ms)
        self._seen.add(order.nonce)
        self._order.append((self._steady_ms(), order.nonce))

    def is_from_us(self, order: Believed) -> bool:
        """Whether a read-only query is for this agent and recent. Never waits for the disk."""
        try:
            self._refuse_other(order)
        except Permanent:
            return False
        return abs(self.now_ms() - order.at_ms) <= self._window_ms

    def close(self) -> None:
        """Write the exact time of the last admitted order, so that the next agent need not start ahead of the
        clock.
        """
        if self._newest < self._on_disk:
            self._write(self._newest)

    def _write(self, newest_ms: int) -> None:
        if self._kept is not None:
            write_values(self._kept, {"newest_ms": newest_ms})
        self._on_disk = newest_ms

    def _refuse_other(self, order: Believed) -> None:
        own = self._own
        if order.version == client.OLDER:
            if own.older_orders:
                return
            self._log_once(
                "", "an order from an older version of evac was rejected: it does not name an agent"
            )
            raise Permanent(
                "order-older",
                f"the agent of {own.site} only accepts orders that name it; this one does not name an agent",
                "upgrade this evac; until then, set older_orders = true in the agent's file",
            )
        if order.site != own.site:
            self._log_once(
                order.site,
                f"an order for the agent of {order.site!r} was signed with a key of this one: two agents "
                "share a key, or the endpoint belongs to another site",
            )
            raise Permanent(
                "order-elsewhere",
                f"the order is for the agent of {order.site}, and this is the agent of {own.site}; "
                "both share a key, or the endpoint belongs to another site",
                "give each agent its own key, and check the keys at and agent of the endpoint",
            )
        if order.address not in own.addresses():
            raise Permanent(
                "order-elsewhere",
                f"the order is for the agent at {order.address}; this one is at "
                f"{', '.join(sorted(own.addresses())[:4])}",
                f'if the order is meant for this agent, add addresses = ["{order.address}"] to its file',
            )

    def _log_once(self, site: str, words: str) -> None:
        if site not in self._logged:
            self._logged.add(site)
            _log.error("%s", words)

    def sign(self, status: int, body: bytes, order: Believed) -> str:
        """Sign with the key and version of the order."""
        return client.answer_signature(order.key, status, body, order.nonce, order.version)

    def _forget(self, now: int) -> None:
        """Forget old nonces. Each is kept for two windows: as long as its order could be admitted again."""
        while self._order and now - self._order[0][0] > 2 * self._window_ms:
            self._seen.discard(self._order.popleft()[1])
