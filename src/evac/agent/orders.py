"""Which requests an agent believes: signed with its key, fresh, never seen before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from evac.drivers.process import signing
from evac.model.errors import EvacError, Permanent, Retryable
from evac.net.secrets import Secret

NONCES_KEPT: Final = 20_000
_LEAST_NONCE: Final = 16
_MOST_NONCE: Final = 64


class NotBelieved(EvacError):
    """A request without a good signature. It is told nothing more."""

    def __init__(self) -> None:
        super().__init__("not-signed", "the signature is missing or wrong")


class Gate:
    """Admits signed requests once. window_ms: how far the sender's clock may be from ours, which begins at
    the wall clock (`wall_ms`, read once) and goes on with one that nobody sets (`steady_ms`). A refusal tells
    a sender that knows the key what time it is here, so that clocks that jumped keep nobody from acting.
    """

    def __init__(
        self, secret: Secret, window_ms: int, wall_ms: Callable[[], int], steady_ms: Callable[[], int]
    ) -> None:
        least = signing.LEAST_KEY_BYTES
        if len(secret.reveal_bytes()) < least:
            raise Permanent("secret-short", f"{secret} is shorter than {least} bytes")
        self._steady_ms = steady_ms
        self._secret = secret
        self._window_ms = window_ms
        self._started_ms = wall_ms()
        self._ahead_ms = self._started_ms - steady_ms()
        self._seen: set[str] = set()
        self._order: deque[tuple[int, str]] = deque()

    def now_ms(self) -> int:
        """The time by which orders are judged."""
        return self._steady_ms() + self._ahead_ms

    def believe(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> str:
        """The nonce of a request that our key signed. Raises `NotBelieved`. It may yet be old or repeated."""
        nonce = headers.get(signing.NONCE, "")
        stamp = headers.get(signing.TIMESTAMP, "")
        said = headers.get(signing.SIGNATURE, "")
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 15):
            raise NotBelieved
        if not (_LEAST_NONCE <= len(nonce) <= _MOST_NONCE and nonce.isascii() and nonce.isalnum()):
            raise NotBelieved
        wanted = signing.order_signature(self._secret, method, path, body, int(stamp), nonce)
        if not signing.same(said, wanted):
            raise NotBelieved
        return nonce

    def admit(self, at_ms: int, nonce: str) -> None:
        """Lets a believed request in, once. Raises `Retryable` (clocks, too many) and `Permanent` (repeated).

        What was stamped before this agent started is not admitted: its nonces are forgotten.
        """
        now = self.now_ms()
        self._forget(self._steady_ms())
        if nonce in self._seen:
            raise Permanent("order-repeated", "this very order was here before", "sign a new one")
        if abs(now - at_ms) > self._window_ms:
            raise Retryable(
                "clock-skew",
                f"the clocks of controller and agent are {abs(now - at_ms)} ms apart",
                "set the clocks",
                after_ms=5_000,
            )
        if at_ms < self._started_ms:
            raise Retryable(
                "agent-just-started", "the order is older than the agent", after_ms=self._started_ms - at_ms
            )
        if len(self._order) >= NONCES_KEPT:
            raise Retryable("agent-busy", "too many orders at once", after_ms=1_000)
        self._seen.add(nonce)
        self._order.append((self._steady_ms(), nonce))

    def sign(self, status: int, body: bytes, nonce: str) -> str:
        return signing.answer_signature(self._secret, status, body, nonce)

    def _forget(self, now: int) -> None:
        """A nonce is kept for two windows: as long as its order could be admitted again."""
        while self._order and now - self._order[0][0] > 2 * self._window_ms:
            self._seen.discard(self._order.popleft()[1])
