"""Documents as frozen values: read from JSON by their own types, so that no second list of keys is kept.

Keys that a document does not have are ignored, because a newer program may say more; a key with a default
may be missing, because an older one says less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import orjson

Document = TypeVar("Document")


class Mismatch(ValueError):
    """What was read is not such a document; the text is the place where it differs."""


def document_json(document: object) -> str:
    """For people and programs: two spaces a level, keys in the order of the fields."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


def read(shape: type[Document], value: Any, place: str) -> Document:
    """The document in parsed JSON. Raises Mismatch."""
    found: Document = _read(shape, value, place)
    return found


def _read(shape: Any, value: Any, place: str) -> Any:
    origin, parts = get_origin(shape), get_args(shape)
    if shape is Any:
        return value
    if origin in (Union, UnionType):
        return _first(parts, value, place)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(parts[0], one, place) for one in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {str(key): _read(parts[1], one, f"{place}.{key}") for key, one in value.items()}
    if is_dataclass(shape) and isinstance(value, Mapping):
        return _whole(shape, value, place)
    plain = str if origin is Literal else shape  # a newer program may know more words
    is_plain = isinstance(plain, type) and isinstance(value, plain)
    if is_plain and (plain is bool or not isinstance(value, bool)):
        return value
    raise Mismatch(place)


def _first(shapes: tuple[Any, ...], value: Any, place: str) -> Any:
    """By the first shape that fits; where none does, the place where the first one differs."""
    if value is None and NoneType in shapes:
        return None
    wrong: Mismatch | None = None
    for shape in shapes:
        try:
            return _read(shape, value, place)
        except Mismatch as error:
            wrong = wrong or error
    raise wrong or Mismatch(place)


def _whole(shape: Any, value: Mapping[str, Any], place: str) -> Any:
    given: dict[str, Any] = {}
    for name, (kind, is_needed) in _fields(shape).items():
        if name in value:
            given[name] = _read(kind, value[name], f"{place}.{name}")
        elif is_needed:
            raise Mismatch(f"{place}.{name}")
    return shape(**given)


@cache
def _fields(shape: Any) -> Mapping[str, tuple[Any, bool]]:
    """Name -> type, and whether it has no default."""
    hints = get_type_hints(shape)
    return {
        one.name: (hints[one.name], one.default is MISSING and one.default_factory is MISSING)
        for one in fields(shape)
    }
