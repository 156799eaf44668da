"""The public page where users subscribe to status updates by email: a form, and what the links in mails open.

A process of its own, so that the war room stays where only operators reach it. It needs the store and the
channel's key, and sends nothing itself. Every page works without a script. Links in mails open a page with a
button, because programs that check mail open links too (GET, HEAD); a mail program's own unsubscribe button
posts (RFC 8058). Answers never say whether an address is subscribed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import parse_qs, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from evac.incident.components import Language
from evac.model.errors import EvacError, InvalidInput, StoreError
from evac.notices.values import Channel
from evac.office.notices.subscribers import ask, confirm, leaver_of, remove, vault_of
from evac.store.port import Store
from evac.views import rendered
from evac.views.status_page import LANGUAGE_NAMES, said_in
from evac.web.access.keeping import neighbourhood
from evac.web.serving import prompt_protocol
from evac.web.setting import Listen

BODY_MOST: Final = 4_096
ASKS_MOST: Final = 5
"""Requests from one client in an hour."""
HOUR_MS: Final = 3_600_000
CLIENTS_MOST: Final = 10_000
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Desk:
    """Answers requests. page: address of the status page, empty without one; title: what it is about."""

    def __init__(self, store: Store, channel: Channel, page: str, now_ms: Callable[[], int]) -> None:
        self._store, self._vault, self._now_ms = store, vault_of(channel), now_ms
        self._page, self._base = page, urlsplit(channel.join).path.rstrip("/")
        self._clients: OrderedDict[str, list[int]] = OrderedDict()

    def application(self) -> Starlette:
        pages = (("", self.subscribe), ("/confirm", self.confirm), ("/leave", self.leave))
        return Starlette(
            routes=[Route(self._base + path or "/", page, methods=["GET", "POST"]) for path, page in pages]
        )

    async def subscribe(self, request: Request) -> Response:
        language = _language(request.query_params.get("language", ""))
        if request.method != "POST":
            return self._answer(language, "form")
        address = ""
        try:
            fields = await _fields(request)
            language = _language(fields.get("language", ""))
            self._count(request)
            address = fields.get("address", "")
            await ask(self._store, self._vault, address, language, self._now_ms())
        except EvacError as error:
            return self._refused(language, error, "form", address)
        return self._answer(language, "sent")

    async def confirm(self, request: Request) -> Response:
        language, link = _language(""), request.query_params.get("link", "")
        try:
            if request.method != "POST":
                language = _language(str(self._vault.opened("confirm", link)["language"]))
                return self._answer(language, "confirm")
            language = await confirm(self._store, self._vault, link, self._now_ms())
        except EvacError as error:
            return self._refused(language, error)
        return self._answer(language, "confirmed")

    async def leave(self, request: Request) -> Response:
        language = _language(request.query_params.get("language", ""))
        try:
            reader = leaver_of(self._vault, request.query_params.get("link", ""))
            if request.method != "POST":
                return self._answer(language, "leave")
            await remove(self._store, self._vault, reader)
        except EvacError as error:
            return self._refused(language, error)
        return self._answer(language, "left")

    def _count(self, request: Request) -> None:
        """Raises EvacError above the limit of a client."""
        now_ms, client = self._now_ms(), neighbourhood(request.client.host if request.client else "")
        times = [at_ms for at_ms in self._clients.pop(client, []) if at_ms + HOUR_MS > now_ms]
        self._clients[client] = [*times, now_ms][-ASKS_MOST:]
        while len(self._clients) > CLIENTS_MOST:
            self._clients.popitem(last=False)
        if len(times) >= ASKS_MOST:
            raise EvacError("too-many-requests", "too many requests from here", "try again in an hour")

    def _refused(
        self, language: Language, error: EvacError, state: str = "problem", address: str = ""
    ) -> Response:
        """The reason in words that anyone may read; a store that is away is none of their business."""
        status = 400 if isinstance(error, InvalidInput) else 429
        code = error.code
        if isinstance(error, StoreError):
            status, code = 503, "away"
        return self._answer(language, state, status, PROBLEMS.get(code, PROBLEMS["away"]), address)

    def _answer(
        self, language: Language, state: str, status: int = 200, problem: str = "", address: str = ""
    ) -> Response:
        body = rendered(
            "subscribe.html.j2",
            say=partial(said_in, language),
            language=language,
            state=state,
            problem=problem,
            address=address,
            page=self._page,
            base=self._base or "/",
            names=LANGUAGE_NAMES,
        )
        return HTMLResponse(body, status, HEADERS)


PROBLEMS: Final = {
    "address-invalid": "This is not an email address. Use the form name@example.com.",
    "link-invalid": "This link is not valid. Use the link in the latest email.",
    "link-expired": "This link has expired. Subscribe again.",
    "too-many-requests": "Too many requests. Try again later.",
    "too-many-subscribers": "No more people can subscribe. Follow the RSS feed instead.",
    "away": "This is not possible now. Try again later.",
}


def _language(text: str) -> Language:
    return "ko" if text == "ko" else "en"


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form. Raises InvalidInput if it is too long or truncated."""
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > BODY_MOST:
                raise InvalidInput("address-invalid", "the form is too long", "send less")
    except ClientDisconnect as error:
        raise InvalidInput("address-invalid", "the form was truncated", "send it again") from error
    try:
        return {name: values[0] for name, values in parse_qs(body.decode(), max_num_fields=8).items()}
    except ValueError as error:
        raise InvalidInput("address-invalid", "the form cannot be read", "send it again") from error


async def run_desk(
    store: Store, channel: Channel, page: str, listen: Listen, now_ms: Callable[[], int]
) -> None:
    """Serve until it is stopped. A proxy on this machine says who its clients are (`X-Forwarded-For`)."""
    config = uvicorn.Config(
        Desk(store, channel, page, now_ms).application(),
        host=listen.host,
        port=listen.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        lifespan="off",
        limit_concurrency=200,
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1,::1",
        http=prompt_protocol(),
        ws="none",
    )
    await uvicorn.Server(config).serve()
