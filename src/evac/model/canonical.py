"""Canonical JSON (RFC 8785, the subset without floating point) and digests over it.

Plans and estates hold integers, strings, booleans, nulls, lists and objects only, so the
canonical form is: keys sorted by UTF-16 code units, no white space, shortest escapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from evac.model.errors import InvalidInput
from evac.model.units import QUANTITY_LIMIT


def canonical_json(value: Any) -> bytes:
    """UTF-8 bytes of the canonical form.

    Raises InvalidInput for a float, a key that is not a string, or an integer beyond 2**53
    (such integers are written as decimal strings by their owner).
    """
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """`sha256:` and the hexadecimal digest of the canonical form."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def _ordered(value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if abs(value) > QUANTITY_LIMIT:
            raise InvalidInput(
                "canonical-integer", f"integer {value} is beyond 2**53", "write it as a string"
            )
        return value
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value, key=_utf16)}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_ordered(item) for item in value]
    raise InvalidInput("canonical-type", f"{type(value).__name__} has no canonical form")


def _utf16(key: object) -> bytes:
    if not isinstance(key, str):
        raise InvalidInput("canonical-key", f"key {key!r} is not a string")
    return key.encode("utf-16-be")
