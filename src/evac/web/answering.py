"""Answers to reads: bytes with an ETag, 304 for whoever has them, and pages cut out of rows.

What is kept from one read to the next lies in `shelf`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from evac.model.errors import EvacError

JSON: Final = "application/json"
PART: Final = "."
"""In a tag between the state that it names and the body that shows it."""
_BODY: Final = re.compile(r'\.[0-9a-f]{24}"')


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
    """Raises Changed where `If-Match` is given and does not name the present state. What follows `PART` in a
    tag is of its body only.
    """
    known = request.headers.get("if-match")
    if known is not None and not matches(_BODY.sub('"', known), tag):
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
