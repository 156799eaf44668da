"""What every driver refuses alike before anything is sent: keys, values, transactions beyond the limits."""

from __future__ import annotations

from collections.abc import Sequence

from evac.model.errors import StoreError
from evac.store.port import (
    MAX_CHANGES,
    MAX_KEY_BYTES,
    MAX_TRANSACTION_BYTES,
    MAX_VALUE_BYTES,
    SEAL_BYTES,
    Change,
    Compare,
    Put,
    SealedPut,
)

PREFIX_END = "\U0010ffff"
"""Greater than every character that a key may hold."""


def check_key(key: str) -> int:
    """The size of a key in bytes. Raises `StoreError` when it is empty, too long or not printable."""
    size = len(key) if key.isascii() else len(key.encode("utf-8", "replace"))
    if 0 < size <= MAX_KEY_BYTES and key.isprintable():
        return size
    raise _beyond(f"a key has 1 to {MAX_KEY_BYTES} bytes of printable text, not {key[:80]!r}")


def check_transaction(compares: Sequence[Compare], changes: Sequence[Change]) -> None:
    """Raises `StoreError` for what no driver takes, so that a plan that fits one store fits them all."""
    if len(compares) > MAX_CHANGES or len(changes) > MAX_CHANGES:
        raise _beyond(f"a transaction has at most {MAX_CHANGES} compares and {MAX_CHANGES} changes")
    for compare in compares:
        check_key(compare.key)
    total = 0
    for change in changes:
        total += _size(change)
    if total > MAX_TRANSACTION_BYTES:
        raise _beyond(f"a transaction of {total} bytes is above {MAX_TRANSACTION_BYTES}")
    if len(changes) > 1 and len({change.key for change in changes}) != len(changes):
        raise _beyond("a transaction changes a key at most once")


def check_lease(name: str, ttl_ms: int) -> None:
    """Raises `StoreError` for a lease that no driver can keep."""
    check_key(name)
    if ttl_ms <= 0:
        raise _beyond(f"a lease of {ttl_ms} ms is over before it begins")


def _size(change: Change) -> int:
    size = check_key(change.key)
    if not isinstance(change, Put):
        return size
    value = len(change.value) - (SEAL_BYTES if isinstance(change, SealedPut) else 0)
    if value > MAX_VALUE_BYTES:
        raise _beyond(f"the value of {change.key} has {value} bytes, above {MAX_VALUE_BYTES}")
    return size + value


def _beyond(message: str) -> StoreError:
    return StoreError("store-limit", message, "split it into smaller parts")
