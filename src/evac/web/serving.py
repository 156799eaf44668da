"""The process of the war room: opens the office, serves it with uvicorn, and ends cleanly.

`python -m evac.web.serving` is what `evac serve --listen` starts beside the controller. It ends with its
parent, whose pipe is its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Final

import uvicorn

from evac.app.open_files import raise_limit
from evac.app.runs import who_am_i
from evac.app.side_process import parent_ends
from evac.app.switch_interval import give_way
from evac.app.tracing import tracer_of
from evac.engine.clock import SystemClock
from evac.model.errors import EstateError, EvacError
from evac.office.office import OfficeSetting, beside, open_office
from evac.web.access.opening import access_of, choose, setting_of
from evac.web.access.port import Access
from evac.web.access.renewing import RoomCertificate
from evac.web.application import application
from evac.web.connections import prompt_protocol
from evac.web.pages import frame
from evac.web.setting import Listen, WebSetting, check_listen, listen_of

STOP_S: Final = 3
BACKLOG: Final = 1_024
FAILED: Final = 1
DEMO: Final = "This is a demonstration: the company, its sites and what they do are simulated."


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
        backlog=BACKLOG,
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
    server = uvicorn.Server(config)
    sockets = None if handed is None else [socket.socket(fileno=handed)]

    async def work() -> None:
        async def told_to_end() -> None:
            opened.hub.close()
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: asyncio.ensure_future(told_to_end()))
        told = "" if access.authenticates else "; it tells nobody apart: whoever reaches it acts as its admin"
        print(f"the war room listens on {listen.url(setting.secure)}{told}", file=sys.stderr, flush=True)
        tasks = [asyncio.create_task(parent_ends(told_to_end, opened.hear), name="parent")]
        if certificate is not None:
            tasks.append(asyncio.create_task(certificate.follow(), name="certificate"))
        try:
            await server._serve(sockets)
        finally:
            for task in tasks:
                task.cancel()
            if tracer is not None:
                await asyncio.to_thread(tracer.close)

    await beside(opened, work)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _loops() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: it sends head and body of an answer at once."""
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
    parser.add_argument("--site", default="")
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--as-of", type=date.fromisoformat)
    parser.add_argument("--access", type=Path)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--standing", type=Path, help="how the estate on disk stands, as a controller says")
    parser.add_argument("--demo", type=Path, help="folder of a demonstration; never outlives its parent")
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
        opened = choose(told.estate, listen_of(told.listen), told.access, told.tls_cert, told.tls_key)
        access = access_of(opened, who_am_i(), SystemClock())
        certificate = None if opened.tls is None else RoomCertificate(opened.tls)
        with asyncio.Runner(loop_factory=_loops()) as runner:
            runner.run(serve(setting, opened.listen, access, setting_of(opened), certificate, told.socket))
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
