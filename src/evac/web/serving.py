"""The process of the war room: puts the application together, opens the office, serves it with uvicorn,
ends cleanly.

`python -m evac.web.serving` is what `evac serve --listen` starts beside the controller. It ends with its
parent, whose pipe is its standard input. Where the parts of the application hook in: API subjects in
`api.ROUTERS`, pages in `pages.ROUTERS`, logins through the `Access` port. Everything is wrapped in the
`Gate`.

Anyone can connect, with or without a login, and a process has a limited number of connections. uvicorn closes
those that are silent after a response; this module closes those that send nothing at all, never finish, or
trickle. Uploading a plan over a slow line is allowed, up to a limit. Responses and streams have no limit.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import uvicorn
from fastapi import Depends, FastAPI

from evac import __version__
from evac.app.demo.tour import sign_in_words
from evac.app.runs import who_am_i
from evac.app.side_process import give_way, parent_ends, raise_limit
from evac.app.tracing import tracer_of
from evac.engine.clock import SystemClock
from evac.model.errors import EstateError, EvacError
from evac.net.listening import Listener, Reserve, connections_most
from evac.net.secrets import secret_of
from evac.office.office import Office, OfficeSetting, beside, open_office
from evac.office.requests import Counter
from evac.office.runs import is_spent
from evac.web import api, pages
from evac.web.access import sign_in
from evac.web.access.keeping import neighbourhood
from evac.web.access.opening import access_of, choose, setting_of
from evac.web.access.port import CERTIFICATE, PROVEN, Access, Declared, KeepsLogins
from evac.web.api.shapes import Problem
from evac.web.gate import Gate
from evac.web.metrics import Certificates, Metrics, RoomCertificate
from evac.web.pages import frame
from evac.web.problems import add_handlers
from evac.web.room import WarRoom
from evac.web.setting import Listen, WebSetting, check_listen, listen_of

DESCRIPTION = """Prepare for, run and report on the loss of a site.

Reads carry an `ETag`; lists are paged by `after` and `limit`. Requests that change something say who and why,
take an `Idempotency-Key`, and, where state may have changed, an `If-Match`. Errors are problems (RFC 9457)
with a stable `code` and a `hint`. Streams are server-sent events whose ids are journal numbers.
"""


def application(office: Office, access: Access, setting: WebSetting) -> FastAPI:
    """The application without a server. The caller that opened the office follows and closes it."""
    app = FastAPI(
        title="evac",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        separate_input_output_schemas=False,
        dependencies=[Depends(Declared())],
    )
    if isinstance(access, KeepsLogins):
        access.keep_in(office.store)
        access.spent = partial(is_spent, office.register)
    metrics = Metrics(office)
    metrics.registry.register(Certificates(dict(setting.certificates)))
    room = app.state.room = WarRoom(office, access, setting, Counter(office.store, office.clock), metrics)
    for router in (*api.ROUTERS, *access.routers(), sign_in.router):
        app.include_router(router)
    for router in pages.ROUTERS:
        app.include_router(router, include_in_schema=False)
    pages.mount_static(app)
    add_handlers(app, frame.problem)
    _describe(app)
    app.add_middleware(Gate, access=access, setting=setting, metrics=metrics, shelf=room.shelf)
    return app


def _describe(app: FastAPI) -> None:
    """The OpenAPI document with the shape of problems, which routes name by reference, with the first clause
    of each description as its summary, and without descriptions that are only a name.
    """
    made = app.openapi

    def openapi() -> dict[str, Any]:
        found = made()
        for operation in (one for path in found["paths"].values() for one in path.values()):
            operation["summary"] = " ".join(re.split(r"[.:;](?:\s|$)", operation["description"])[0].split())
        shapes = found.setdefault("components", {}).setdefault("schemas", {})
        shapes.setdefault("Problem", Problem.model_json_schema())
        for shape in shapes.values():
            if shape.get("description") == shape.get("title"):  # a class without words of its own
                shape.pop("description", None)
        return found

    app.openapi = openapi  # type: ignore[method-assign]


WAIT_S: Final = 15.0
"""Timeout for a request head, and for a body that does not arrive steadily; at most twice as long."""
STEADY: Final = 2_000
"""Minimum bytes per second for a body to be waited for longer."""
WHOLE_S: Final = 130.0
"""Timeout for a whole body, plus or minus `WAIT_S`; clients that upload a plan wait no longer either."""


HEAD_MOST: Final = 131_072
"""Maximum bytes of a head after its first ones: a parser keeps all of it in memory."""
CHUNKS_MOST: Final = 4
"""Minimum bytes of body per byte of chunk lengths."""


class Prompt(asyncio.Protocol):
    """Mixin for a uvicorn protocol whose `cycle` is the last request read."""

    wait_s = WAIT_S
    whole_s = WHOLE_S
    cycle: Any
    app_state: dict[str, Any]
    """Of uvicorn: what requests of this connection begin with as their state."""
    listener: Listener | None = None
    """What accepted the connection, if it is bounded."""
    _before: Any = None
    _came = 0
    _other = 0
    """Bytes of this request that are not body: its head, chunk lengths and trailers."""
    _body = 0
    _since = 0.0
    _line: asyncio.BaseTransport | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        shown = transport.get_extra_info("ssl_object")
        certificate = None if shown is None else shown.getpeercert(binary_form=True)
        if certificate:
            self.app_state = {**self.app_state, CERTIFICATE: hashlib.sha256(certificate).hexdigest()}
        self._line = transport
        if self.listener is not None:
            self.listener.asked(transport)  # from here on, this protocol has the deadlines
            self.app_state = {**self.app_state, PROVEN: self._prove}
        self._again()

    def _prove(self) -> None:
        """The caller of a request on this connection has authenticated."""
        if self.listener is not None:
            self.listener.proven(self._line)
            self.listener = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.wait_s, self._look)

    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        self._other += len(data)
        super().data_received(data)
        if self._line is not None and self._other > HEAD_MOST + self._body // CHUNKS_MOST:
            self._line.close()

    def on_message_begin(self) -> None:
        """A callback of the parser httptools, as is the next one; h11 has a bound of its own."""
        self._other = self._body = 0
        super().on_message_begin()  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        self._other -= len(body)
        self._body += len(body)
        super().on_body(body)  # type: ignore[misc]

    def _look(self) -> None:
        now, time, came = self.cycle, asyncio.get_running_loop().time(), self._came
        self._came = 0
        if now is not self._before:
            self._before, self._since = now, time
        elif self._line is not None and self._waits(now) and not self._comes(now, came, time):
            self._line.close()
            return
        self._again()

    def _waits(self, now: Any) -> bool:
        """Whether the client has to send something next."""
        return now is None or bool(now.response_complete or now.more_body)

    def _comes(self, now: Any, came: int, time: float) -> bool:
        """Whether a body is arriving. `came`: bytes since the last check."""
        body = now is not None and now.more_body and not now.response_complete
        return body and came >= STEADY * self.wait_s and time - self._since < self.whole_s


def prompt_protocol(wait_s: float = WAIT_S, whole_s: float = WHOLE_S) -> type[asyncio.Protocol]:
    """The installed uvicorn protocol, with timeouts for clients that keep it waiting."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    made = type("PromptHTTP", (Prompt, AutoHTTPProtocol), {"wait_s": wait_s, "whole_s": whole_s})
    return cast("type[asyncio.Protocol]", made)


CONNECTIONS_MOST: Final = 4_096
HANDSHAKE_S: Final = 15.0


class BoundedServer(uvicorn.Server):
    """A server with a bound on connections, which no single address can use up: see `evac.net.listening`.
    handed: a socket that listens already.
    """

    def __init__(
        self, config: uvicorn.Config, handed: socket.socket | None = None, most: int = CONNECTIONS_MOST
    ) -> None:
        super().__init__(config)
        self._handed, self._most = handed, most
        self.listener: Listener | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises EvacError if nothing can listen at the address."""
        await super().startup(sockets=[])
        config = self.config
        most = connections_most(self._most)
        self.listener = Listener(self._protocol, config.ssl, Reserve(0), most, HANDSHAKE_S, neighbourhood)
        if self._handed is not None:
            self.listener.take(self._handed)
            return
        try:
            await self.listener.start(config.host, config.port)
        except OSError as error:
            words = f"cannot listen on {config.host}:{config.port}: {error.strerror}"
            raise EvacError(
                "listen-failed", words, "end what listens there, or choose another --listen"
            ) from error

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.listener is not None:
            self.listener.stop()
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        make = cast("Callable[..., Prompt]", self.config.http_protocol_class)
        made = make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        made.listener = self.listener
        return made


STOP_S: Final = 3
FAILED: Final = 1
DEMO: Final = "This is a demonstration of a simulated company."


async def serve(
    office: OfficeSetting,
    listen: Listen,
    access: Access,
    setting: WebSetting,
    certificate: RoomCertificate | None = None,
    handed: int | None = None,
) -> None:
    """Serves until SIGTERM, SIGINT, or until standard input ends. certificate: where TLS ends here. handed:
    the number of a socket that listens there already.

    Raises NotAllowed, StoreError.
    """
    check_listen(listen, tls=certificate is not None, authenticated=access.authenticates)
    opened = open_office(office)
    app = application(opened, access, setting)
    tracer = tracer_of("room", office.site, _say)
    if tracer is not None:
        app.state.room.metrics.also = tracer.request
    config = uvicorn.Config(
        app,
        host=listen.host,
        port=listen.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=True,
        lifespan="off",
        timeout_graceful_shutdown=STOP_S,
        h11_max_incomplete_event_size=setting.header_most,
        proxy_headers=False,
        http=prompt_protocol(),
        ws="none",
    )
    if certificate is not None:
        config.load()
        config.ssl = certificate.context
    server = BoundedServer(config, None if handed is None else socket.socket(fileno=handed))

    async def work() -> None:
        async def told_to_end() -> None:
            opened.hub.close()
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: asyncio.ensure_future(told_to_end()))
        told = "" if access.authenticates else "; no sign-in is configured: anyone who can reach it is admin"
        print(f"the war room listens on {listen.url(setting.secure)}{told}", file=sys.stderr, flush=True)
        tasks = [asyncio.create_task(parent_ends(told_to_end, opened.hear), name="parent")]
        if isinstance(access, KeepsLogins):
            access.seen.site = office.site
            tasks.append(asyncio.create_task(access.seen.follow(opened.store), name="access log"))
        if certificate is not None:
            tasks.append(asyncio.create_task(certificate.follow(), name="certificate"))
        try:
            await server._serve()
        finally:
            for task in tasks:
                task.cancel()
            if tracer is not None:
                await asyncio.to_thread(tracer.close)

    await beside(opened, work)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _loops() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop if it is installed: it sends head and body of a response at once."""
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="evac.web.serving")
    parser.add_argument("estate", type=Path)
    parser.add_argument("--store", required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--credits", type=Path)
    parser.add_argument("--site", default="")
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--as-of", type=date.fromisoformat)
    parser.add_argument("--access", type=Path)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument(
        "--standing", type=Path, help="the state of the estate on disk, according to a controller"
    )
    parser.add_argument("--demo", type=Path, help="folder of a demo; the process ends when its parent does")
    parser.add_argument("--socket", type=int, help="listens at --listen already")
    told = parser.parse_args(arguments)
    parent = os.getppid()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("evac.access").setLevel(logging.INFO)
    give_way()
    raise_limit()
    if told.demo:
        frame.announce(DEMO)
    try:
        setting = OfficeSetting(
            told.estate, told.store, told.site, told.policy, told.as_of, standing=told.standing
        )
        if told.demo:
            from evac.app.demo.room import systems_of  # what only a demonstration needs

            setting = replace(setting, systems=systems_of)
        opened = choose(told.estate, listen_of(told.listen), told.access, told.tls_cert, told.tls_key)
        if told.demo and opened.rules is not None:
            known = opened.rules.people.items()
            passwords = {name: secret_of(one.password).reveal() for name, one in known}
            frame.announce(DEMO, sign_in_words(passwords))
        access = access_of(opened, who_am_i(), SystemClock())
        certificate = None if opened.tls is None else RoomCertificate(opened.tls)
        with asyncio.Runner(loop_factory=_loops()) as runner:
            web = replace(setting_of(opened), credits=told.credits)
            runner.run(serve(setting, opened.listen, access, web, certificate, told.socket))
    except EvacError as error:
        for row in error.diagnostics if isinstance(error, EstateError) else ():
            print(f"{row.place}: {row.message} [{row.code}]", file=sys.stderr)
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return FAILED
    finally:
        if told.demo and os.getppid() != parent:
            shutil.rmtree(told.demo, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
