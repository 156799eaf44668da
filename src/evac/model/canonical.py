"""Canonical JSON (RFC 8785, the subset without floating point) and digests over it.

Plans and estates hold integers, strings, booleans, nulls, lists and objects only, so the
canonical form is: keys sorted by UTF-16 code units, no white space, shortest escapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import orjson

from evac.model.errors import InvalidInput
from evac.model.units import QUANTITY_LIMIT

_FEW_KEYS: Final = 64
_PLAIN: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def canonical_json(value: Any, *, exact: bool = False) -> bytes:
    """UTF-8 bytes of the canonical form.

    exact: write integers beyond 2**53 in full. RFC 8785 knows no such numbers, so a reader must keep
    integers exact (Python, Go, Rust and jq 1.7 do). Raises InvalidInput for a float, a key that is
    not a string, or, unless `exact`, an integer beyond 2**53.
    """
    limit = None if exact else QUANTITY_LIMIT
    return written(ordered(value, limit))


def written(value: Any) -> bytes:
    """The bytes of plain lists and objects whose keys stand in canonical order already; no float in them."""
    try:
        return orjson.dumps(value, option=_PLAIN)
    except orjson.JSONEncodeError:  # integers beyond 64 bits, which `exact` allows
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@lru_cache(maxsize=256)
def fields_in_order(record: type[Any]) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """Names of the fields of a dataclass in canonical order, and what reads them all at once."""
    names = tuple(sorted((f.name for f in fields(record)), key=_utf16))
    if len(names) > 1:
        return names, attrgetter(*names)
    return names, lambda value: tuple(getattr(value, name) for name in names)


def digest(value: Any) -> str:
    """`sha256:` and the hexadecimal digest of the canonical form."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def ordered(value: Any, limit: int | None = QUANTITY_LIMIT) -> Any:
    """Plain lists and objects, keys in canonical order. Raises as `canonical_json`; limit: of integers."""
    # By exact type first: a plan has hundreds of thousands of values, nearly all of these five.
    kind = type(value)
    if kind is str:
        return value
    if kind is dict:
        return {key: ordered(value[key], limit) for key in keys_in_order(tuple(value))}
    if kind is list or kind is tuple:
        return [ordered(item, limit) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if limit is not None and abs(value) > limit:
            raise InvalidInput(
                "canonical-integer", f"integer {value} is beyond 2**53", "write it as a string"
            )
        return value
    if isinstance(value, Mapping):
        return {key: ordered(value[key], limit) for key in keys_in_order(tuple(value))}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [ordered(item, limit) for item in value]
    raise InvalidInput("canonical-type", f"{type(value).__name__} has no canonical form")


def keys_in_order(keys: tuple[Any, ...]) -> Sequence[str]:
    """Keys by their UTF-16 code units. Raises InvalidInput for one that is not a string."""
    return _known_order(keys) if len(keys) <= _FEW_KEYS else sorted(keys, key=_utf16)


@lru_cache(maxsize=1024)
def _known_order(keys: tuple[Any, ...]) -> tuple[str, ...]:
    """Records that are alike have the same keys, so their order is worked out once."""
    return tuple(sorted(keys, key=_utf16))


def _utf16(key: object) -> bytes:
    if not isinstance(key, str):
        raise InvalidInput("canonical-key", f"key {key!r} is not a string")
    return key.encode("utf-16-be")
