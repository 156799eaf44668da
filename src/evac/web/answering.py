"""Answers to reads: bytes made once for each state of the world, with an ETag, and served until it changes.

A read costs a look-up: no model is built, nothing is serialised. What a body is made of is named by a stamp
(a version, a digest); a new stamp makes a new body. Bounded: the least used answers are dropped.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from evac.model.errors import EvacError

JSON: Final = "application/json"
KEPT_MOST: Final = 512
KEPT_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """One body with its tag. stamp: what it was made of."""

    stamp: object
    body: bytes
    tag: str
    media: str


class Shelf:
    """The bodies of one application."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0

    def answer(
        self, request: Request, name: str, stamp: object, make: Callable[[], bytes], media: str = JSON
    ) -> Response:
        """The body of that name and stamp, or 304 where whoever asks has it already."""
        found = self._kept.get(name)
        if found is None or found.stamp != stamp:
            found = self._put(name, stamp, make(), media)
        else:
            self._kept.move_to_end(name)
        return tagged(request, found.body, found.tag, found.media)

    def _put(self, name: str, stamp: object, body: bytes, media: str) -> Kept:
        old = self._kept.pop(name, None)
        self._bytes -= len(old.body) if old else 0
        new = Kept(stamp, body, tag_of(body), media)
        self._kept[name] = new
        self._bytes += len(body)
        while len(self._kept) > 1 and (len(self._kept) > KEPT_MOST or self._bytes > KEPT_BYTES):
            _, gone = self._kept.popitem(last=False)
            self._bytes -= len(gone.body)
        return new


def tagged(request: Request, body: bytes, tag: str, media: str = JSON) -> Response:
    """The body, or 304 where `If-None-Match` names its tag."""
    headers = {"etag": tag, "cache-control": "no-cache"}
    known = request.headers.get("if-none-match")
    if known is not None and matches(known, tag):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media)


def tag_of(body: bytes) -> str:
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def matches(header: str, tag: str) -> bool:
    """Whether a list of tags names this one; weak tags count as well (RFC 9110, 13.1.2)."""
    return header.strip() == "*" or tag in {part.strip().removeprefix("W/") for part in header.split(",")}


class Changed(EvacError):
    """`If-Match` names a state that is over."""

    def __init__(self, what: str) -> None:
        super().__init__("changed-meanwhile", f"{what} is not as it was", "read it again, then decide")


def check_match(request: Request, tag: str, what: str) -> None:
    """Raises Changed where `If-Match` is given and does not name the present state."""
    known = request.headers.get("if-match")
    if known is not None and not matches(known, tag):
        raise Changed(what)


def dump(value: object) -> bytes:
    """Compact JSON of dataclasses and plain values; keys as they stand."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON")


def page(rows: list[bytes], ids: list[str], after: str, limit: int, more: Mapping[str, Any]) -> bytes:
    """`{"items": [...], "next": ...}`: rows whose id comes after a cursor, in the order of the rows.

    Raises EvacError for a cursor that names no row.
    """
    begin = 0
    if after:
        try:
            begin = ids.index(after) + 1
        except ValueError as error:
            raise EvacError(
                "cursor-unknown", f"no row is called {after[:80]}", "begin again without after"
            ) from error
    end = begin + limit
    following = ids[end - 1] if end < len(ids) and end > begin else None
    head = dump({**more, "total": len(ids), "next": following})
    return b"".join((b'{"items":[', b",".join(rows[begin:end]), b"],", head[1:]))
