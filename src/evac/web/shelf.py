"""The bodies that are kept, and the questions that they answered.

A read costs a look-up: no model is built, nothing is serialised. What a body is made of is named by a stamp
(a version, a digest); a new stamp makes a new body. Where the stamp is a function, the question as it was
asked (path and query) is remembered too, and the outermost layer answers it again without looking for its
route, for as long as the stamp is the same. Only what `READER` may see is kept here.

Bounded: the least used bodies and questions are dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope, Send

from evac.model.access import Role
from evac.web.answering import JSON, matches, tag_of, tagged

READER: Final[Role] = "viewer"
KEPT_MOST: Final = 512
KEPT_BYTES: Final = 64 << 20
QUESTIONS_MOST: Final = 2_048
QUESTION_LONGEST: Final = 1_024

Stamp = Callable[[], object]
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Kept:
    """One body with its tag and its headers, for an answer with it and for one that says it is the same.

    stamp: what it was made of.
    """

    stamp: object
    body: bytes
    tag: str
    media: str
    whole: Headers
    same: Headers

    async def send(self, known: str | None, send: Send) -> None:
        """The body, or 304 where `known`, the value of `If-None-Match`, names its tag."""
        same = known is not None and matches(known, self.tag)
        start: Message = {
            "type": "http.response.start",
            "status": 304 if same else 200,
            "headers": self.same if same else self.whole,
        }
        await send(start)
        await send({"type": "http.response.body", "body": b"" if same else self.body})


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked before. name: of the body that answered it; route: as figures name it."""

    name: str
    stamp: Stamp
    route: Any


class Shelf:
    """The bodies of one application."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._questions: OrderedDict[tuple[str, bytes], Question] = OrderedDict()
        self._bytes = 0

    def answer(
        self, request: Request, name: str, stamp: object, make: Callable[[], bytes], media: str = JSON
    ) -> Response:
        """The body of that name and stamp, or 304 where whoever asks has it already."""
        now = stamp() if callable(stamp) else stamp
        found = self._kept.get(name)
        if found is None or found.stamp != now:
            found = self._put(name, now, make(), media)
        else:
            self._kept.move_to_end(name)
        if callable(stamp):
            self._remember(request.scope, Question(name, stamp, request.scope.get("route")))
        return tagged(request, found.body, found.tag, found.media)

    def asked_before(self, scope: Scope) -> Kept | None:
        """The body for a question that was answered before, if nothing changed since. Raises what its stamp
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

    def _remember(self, scope: Scope, question: Question) -> None:
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
