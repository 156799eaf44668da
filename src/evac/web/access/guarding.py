"""What the gate does with requests that are not signed in, and with changes authenticated by a cookie."""

from __future__ import annotations

import hmac
from typing import Final
from urllib.parse import parse_qsl, quote

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from evac.model.errors import InvalidInput, NotAllowed
from evac.web.access.port import CSRF_FIELD, CSRF_HEADER, OPEN_PATHS, SIGN_IN, Actor, Unauthenticated
from evac.web.problems import problem_of

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
STATIC: Final = "/static/"
FORM: Final = b"application/x-www-form-urlencoded"
FIELDS_MOST: Final = 128
NEXT_LONGEST: Final = 2_000


class SignedOut(Exception):
    """The login has ended, and a response that was still streaming under it ends with it."""


def is_open(path: str) -> bool:
    """Whether anyone may request it without a login."""
    return path in OPEN_PATHS or path.startswith(STATIC)


def path_within(text: str) -> str:
    """A path of this war room to continue to; the first page for anything else."""
    plain = text.isascii() and text.isprintable() and len(text) <= NEXT_LONGEST and "\\" not in text
    twice = "//" in text.partition("?")[0]  # with `..` before it, what follows might be read as a host
    if not plain or twice or not text.startswith("/") or text.startswith((SIGN_IN, "/v1")):
        return "/now"
    return text


def to_sign_in(scope: Scope, headers: dict[bytes, bytes], number: str) -> Response:
    """Redirect a browser to the sign-in page, tell a page's script to go there, and send everyone else a
    problem.

    Cookies are not sent with a click on another site's page. Such a click gets a page that reloads
    itself, so that someone who is already signed in is not asked again.
    """
    told = problem_of(Unauthenticated(), number)
    if scope["method"] not in ("GET", "HEAD"):
        return told
    path = scope["raw_path"].partition(b"?")[0].decode("latin-1") if scope.get("raw_path") else scope["path"]
    asked = path_within(
        path + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
    )
    where = f"{SIGN_IN}?next={quote(asked, safe='')}"
    if b"hx-request" in headers:
        told.headers["hx-redirect"] = SIGN_IN
        return told
    if b"text/html" not in headers.get(b"accept", b"") or scope["path"].startswith("/v1"):
        return told
    if headers.get(b"sec-fetch-site") == b"cross-site":
        return going_on(where)
    return Response(None, 303, {"location": where, "cache-control": "no-store"})


def going_on(where: str) -> Response:
    """A page that redirects on its own. It comes from this room, so cookies are sent along."""
    from evac.web.pages import frame

    body = frame.render("moment.html.j2", "", 0, where=where)
    return Response(body, 200, {"cache-control": "no-store"}, frame.HTML)


async def with_token(scope: Scope, headers: dict[bytes, bytes], actor: Actor, receive: Receive) -> Receive:
    """The body of a change, once the login's token was found in it or in a header. Raises NotAllowed."""
    if scope["path"] in OPEN_PATHS:
        return receive
    given = headers.get(CSRF_HEADER.encode(), b"")
    body: bytes | None = None
    if not given and headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == FORM:
        body = await _whole(receive)
        given = _token_in(body)
    if not hmac.compare_digest(given, actor.csrf.encode()):
        raise NotAllowed(
            "csrf",
            "this request does not contain your login's token",
            "reload the page and send it from there; programs use a token: evac access token",
        )
    return receive if body is None else _again(body, receive)


async def _whole(receive: Receive) -> bytes:
    """A request body, within the gate's limits. Raises InvalidInput if the sender disconnected."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidInput("request-invalid", "the form was truncated", "send it again")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _token_in(body: bytes) -> bytes:
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MOST)
    except ValueError:
        return b""
    found = [value for name, value in fields if name == CSRF_FIELD]
    return found[0].encode("utf-8", "surrogatepass") if len(found) == 1 else b""


def _again(body: bytes, receive: Receive) -> Receive:
    """Pass a body that was already read on to the next reader."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def while_signed_in(actor: Actor | None, send: Send) -> Send:
    """End a streaming response when the login that it started under ends."""
    if actor is None or actor.alive is None:
        return send
    alive, parts = actor.alive, 0

    async def watched(message: Message) -> None:
        nonlocal parts
        if message["type"] == "http.response.body" and message.get("more_body", False):
            parts += 1
            if parts > 1 and not await alive():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise SignedOut
        await send(message)

    return watched
