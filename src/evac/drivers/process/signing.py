"""Signs orders to a site's agent and the agent's answers. Pure: time and nonce are parameters.

HMAC-SHA256 over the lines method, path with query, timestamp, nonce, SHA-256 of the body; an answer is signed
over the nonce of its order, so that no answer of another order can stand for it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from evac.net.secrets import Secret

TIMESTAMP: Final = "Evac-Timestamp"
NONCE: Final = "Evac-Nonce"
SIGNATURE: Final = "Evac-Signature"
LEAST_KEY_BYTES: Final = 16
_VERSION: Final = "v1="


def order_signature(secret: Secret, method: str, path: str, body: bytes, at_ms: int, nonce: str) -> str:
    """The signature of an order. path: with its query, as it is sent."""
    return _sign(secret, ("order", method.upper(), path, str(at_ms), nonce, _digest(body)))


def answer_signature(secret: Secret, status: int, body: bytes, nonce: str) -> str:
    """The signature of the answer to the order with this nonce."""
    return _sign(secret, ("answer", str(status), nonce, _digest(body)))


def same(one: str, other: str) -> bool:
    """Whether two signatures are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _sign(secret: Secret, lines: tuple[str, ...]) -> str:
    content = "\n".join(lines).encode("utf-8")
    return _VERSION + hmac.new(secret.reveal_bytes(), content, hashlib.sha256).hexdigest()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
