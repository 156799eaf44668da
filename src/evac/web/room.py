"""What every route of the war room gets (office, access, cached answers) and how it answers: bodies with an
ETag, pages of rows, streams.

A read costs a look-up: no model is built, nothing is serialised. A stamp (a version, a digest) names what a
body is made from; a new stamp makes a new body. Where the stamp is a function, the question as it was asked
(path and query) is remembered too, and the outermost layer answers it again without looking for its route,
for as long as the stamp is the same. Only what `READER` may see is kept; the least used bodies and questions
are dropped.

The id of a server-sent event is its number in the journal, so that a viewer that was cut off continues
where it was: first what the journal has after `Last-Event-ID`, then each new message as the one follower of
this process hears of it. A comment each `heartbeat_s` shows that the line is alive. A viewer that is too
slow is disconnected, and comes back.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from datetime import date
from typing import Any, Final

import orjson
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Scope, Send

from evac.model.access import Role
from evac.model.errors import EvacError, InvalidInput, Unavailable
from evac.model.records import dataclass
from evac.office.facts import EstateFacts
from evac.office.office import Office
from evac.office.requests import Counter
from evac.office.values import Hub, News
from evac.web.access.port import Access
from evac.web.metrics import Metrics
from evac.web.setting import WebSetting

JSON: Final = "application/json"
PART: Final = "."
"""Separates, in a tag, the state from the body that shows it."""
_BODY: Final = re.compile(r'\.[0-9a-f]{24}"')


def tagged(request: Request, body: bytes, tag: str = "", media: str = JSON) -> Response:
    """The body, or 304 if `If-None-Match` names its tag. tag: by default that of its bytes."""
    tag = tag or tag_of(body)
    headers = {"etag": tag, "cache-control": "no-cache"}
    known = request.headers.get("if-none-match")
    if known is not None and matches(known, tag):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media)


def answer(request: Request, value: object) -> Response:
    """A value as JSON, or 304 if `If-None-Match` names its tag."""
    return tagged(request, dump(value))


def listing(request: Request, items: Sequence[object], total: int, following: str | None) -> Response:
    """Part of a list. following: `after` of the next part; None after the last."""
    return answer(request, {"items": items, "total": total, "next": following})


def tag_of(body: bytes) -> str:
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def matches(header: str, tag: str) -> bool:
    """Whether a list of tags names this one; weak tags count as well (RFC 9110, 13.1.2)."""
    return header.strip() == "*" or tag in {part.strip().removeprefix("W/") for part in header.split(",")}


class Changed(EvacError):
    """`If-Match` names a state that is no longer current."""

    def __init__(self, what: str) -> None:
        super().__init__("changed-meanwhile", f"{what} has changed", "review it again, then decide")


def check_match(request: Request, tag: str, what: str) -> None:
    """Raises Changed if `If-Match` is given and does not name the current state. The part of a tag after
    `PART` concerns only the body.
    """
    known = request.headers.get("if-match")
    if known is not None and not matches(_BODY.sub('"', known), tag):
        raise Changed(what)


def dump(value: object) -> bytes:
    """Compact JSON of dataclasses and plain values; keys keep their order."""
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
    """`{"items": [...], "next": ...}`: rows after the cursor, in their order. Raises EvacError for a cursor
    that names no row.
    """
    begin = 0
    if after:
        try:
            begin = ids.index(after) + 1
        except ValueError as error:
            raise EvacError(
                "cursor-unknown", f"no such row: {after[:80]}", "start again without after"
            ) from error
    end = begin + limit
    following = ids[end - 1] if end < len(ids) and end > begin else None
    head = dump({**more, "total": len(ids), "next": following})
    return b"".join((b'{"items":[', b",".join(rows[begin:end]), b"],", head[1:]))


READER: Final[Role] = "viewer"
KEPT_MOST: Final = 512
KEPT_BYTES: Final = 64 << 20
QUESTIONS_MOST: Final = 2_048
QUESTION_LONGEST: Final = 1_024

Stamp = Callable[[], object]
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Kept:
    """One body with its tag and headers, for a full response and for a 304. `stamp`: what it was
    made from.
    """

    stamp: object
    body: bytes
    tag: str
    media: str
    whole: Headers
    same: Headers

    async def send(self, known: str | None, send: Send) -> None:
        """The body, or 304 if `known`, the value of `If-None-Match`, names its tag."""
        same = known is not None and matches(known, self.tag)
        start: Message = {
            "type": "http.response.start",
            "status": 304 if same else 200,
            "headers": self.same if same else self.whole,
        }
        await send(start)
        await send({"type": "http.response.body", "body": b"" if same else self.body})


@dataclass(frozen=True, slots=True)
class AskedBefore:
    """A question answered before. `name`: of the body that answered it; `route`: as in metrics."""

    name: str
    stamp: Stamp
    route: Any


class Shelf:
    """The cached bodies of one application."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._questions: OrderedDict[tuple[str, bytes], AskedBefore] = OrderedDict()
        self._bytes = 0

    def answer(
        self, request: Request, name: str, stamp: object, make: Callable[[], bytes], media: str = JSON
    ) -> Response:
        """The body with that name and stamp, or 304 if the client already has it."""
        now = stamp() if callable(stamp) else stamp
        found = self._kept.get(name)
        if found is None or found.stamp != now:
            found = self._put(name, now, make(), media)
        else:
            self._kept.move_to_end(name)
        if callable(stamp):
            self._remember(request.scope, AskedBefore(name, stamp, request.scope.get("route")))
        return tagged(request, found.body, found.tag, found.media)

    def asked_before(self, scope: Scope) -> Kept | None:
        """The body for a question answered before, if nothing has changed since. Raises what its stamp
        raises.
        """
        question = self._questions.get((scope["path"], scope["query_string"]))
        if question is None:
            return None
        found = self._kept.get(question.name)
        if found is None or found.stamp != question.stamp():
            return None
        self._kept.move_to_end(question.name)
        scope["route"] = question.route
        return found

    def _remember(self, scope: Scope, question: AskedBefore) -> None:
        key = (scope["path"], scope["query_string"])
        if len(key[0]) + len(key[1]) > QUESTION_LONGEST:
            return
        self._questions[key] = question
        self._questions.move_to_end(key)
        while len(self._questions) > QUESTIONS_MOST:
            self._questions.popitem(last=False)

    def _put(self, name: str, stamp: object, body: bytes, media: str) -> Kept:
        old = self._kept.pop(name, None)
        self._bytes -= len(old.body) if old else 0
        tag = tag_of(body)
        headers = {"etag": tag, "cache-control": "no-cache"}
        whole = Response(body, 200, headers, media).raw_headers
        new = Kept(stamp, body, tag, media, whole, Response(None, 304, headers).raw_headers)
        self._kept[name] = new
        self._bytes += len(body)
        while len(self._kept) > 1 and (len(self._kept) > KEPT_MOST or self._bytes > KEPT_BYTES):
            _, gone = self._kept.popitem(last=False)
            self._bytes -= len(gone.body)
        return new


@dataclass(frozen=True, slots=True)
class WarRoom:
    """One per application, under `app.state.room`."""

    office: Office
    access: Access
    setting: WebSetting
    counter: Counter
    metrics: Metrics
    shelf: Shelf = field(default_factory=Shelf)
    tables: dict[str, Any] = field(default_factory=dict)
    proving: dict[str, asyncio.Lock] = field(default_factory=dict)
    """By person: their proofs of journals run one after another, so that they delay no page for long."""

    @property
    def facts(self) -> EstateFacts:
        """Raises Unavailable, with the reason, until the estate is loaded."""
        facts = self.office.facts
        if facts is None:
            error = Unavailable(self.office.situation.problem or "the estate is being read")
            error.hint = "reload this page in a moment; the Now page says what is wrong"
            raise error
        return facts


def room_of(connection: HTTPConnection) -> WarRoom:
    room: WarRoom = connection.app.state.room
    return room


STREAM_MEDIA: Final = "text/event-stream"
RETRY_MS: Final = 2_000
BACKLOG: Final = 500
"""Messages read from the journal at a time."""
NUMBER_MOST: Final = 2**53
LAST_EVENT: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "Number of the last message read; takes precedence over `after`.",
    "schema": {"type": "string", "pattern": "^[0-9]{0,15}$"},
}

Backlog = Callable[[int, int], Awaitable[Sequence[tuple[int, str, Any]]]]
"""(number, limit) -> (number, name, data) of messages after that number."""


def event_message(name: str, data: object, number: int = 0) -> bytes:
    """One message; without a number it has no id, and a viewer that reconnects does not ask for it."""
    head = f"id: {number}\n" if number else ""
    return f"{head}event: {name}\ndata: ".encode() + dump(data) + b"\n\n"


def after_of(request: Request) -> int | None:
    """Where to resume: `Last-Event-ID`, else `after`; None to start now. Raises InvalidInput."""
    given = request.headers.get("last-event-id") or request.query_params.get("after")
    if given is None or given == "":
        return None
    if not (given.isascii() and given.isdigit()) or int(given[:20]) > NUMBER_MOST:
        raise InvalidInput("cursor", f"'{given[:40]}' is not a message number", "remove it")
    return int(given)


def stream_answer(
    hub: Hub,
    topics: Sequence[str],
    backlog: Backlog,
    after: int,
    say: Callable[[News], bytes | None],
    heartbeat_s: float,
    ends: Callable[[], bool] = lambda: False,
) -> StreamingResponse:
    """A streaming response. Raises TooManyViewers before it begins. `say`: the bytes of one update, None if
    it is not for this stream. `ends`: whether nothing more can come.
    """
    hub.check_room()
    body = _body(hub, topics, backlog, after, say, heartbeat_s, ends)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(body, 200, headers, STREAM_MEDIA)


async def _body(
    hub: Hub,
    topics: Sequence[str],
    backlog: Backlog,
    after: int,
    say: Callable[[News], bytes | None],
    heartbeat_s: float,
    ends: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """The viewer subscribes before the journal is read, so that nothing is lost in between."""
    last = after
    with hub.viewer(*topics) as viewer:
        yield f"retry: {RETRY_MS}\n\n".encode()
        while rows := await backlog(last, BACKLOG):
            for number, name, data in rows:
                yield event_message(name, data, number)
            last = rows[-1][0]
        over = ends()
        async for news in viewer.news(heartbeat_s if not over else 0.0):
            if news is None:
                if over:
                    break
                yield b": alive\n\n"
            elif not news.number or news.number > last:
                last = max(last, news.number)
                told = say(news)
                if told is not None:
                    yield told
            if ends() and not viewer.waiting:
                break
        else:
            return  # too slow, or the room closes: whoever comes back goes on after `last`
        for number, name, data in await backlog(last, BACKLOG):
            yield event_message(name, data, number)
        yield event_message("end", {"run": "over"})
