"""A probe over TLS leaves no connection open, also if its peer does not answer that it closes."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from threading import Event, Thread

import pytest

from evac.net.http_calls import Caller, Prober
from evac_lab.authorities import make_for_fleet

pytestmark = [pytest.mark.enable_socket, pytest.mark.filterwarnings("always::ResourceWarning")]
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Ask = Callable[[str, ssl.SSLContext], Coroutine[None, None, bytes]]


async def probed(url: str, line: ssl.SSLContext) -> bytes:
    prober = Prober()
    try:
        return (await prober.get(url, line))[1]
    finally:
        await prober.close()


async def called(url: str, line: ssl.SSLContext) -> bytes:
    async with Caller() as caller:
        return (await caller.call("GET", url, timeout_s=60.0, line=line)).body


@pytest.mark.parametrize("ask", [probed, called])
def test_a_peer_that_keeps_its_end_open_leaves_none_of_ours(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, ask: Ask
) -> None:
    files, over = make_for_fleet(tmp_path), Event()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(files.chain, files.key)
    ours = ssl.create_default_context(cafile=files.authority)
    ours.check_hostname = False

    def answer(door: socket.socket) -> None:
        with theirs.wrap_socket(door.accept()[0], server_side=True) as line:
            line.recv(4_096)
            line.sendall(GOOD)
            over.wait()

    with socket.create_server(("127.0.0.1", 0)) as door:
        peer = Thread(target=answer, args=(door,))
        peer.start()
        try:
            assert asyncio.run(ask(f"https://127.0.0.1:{door.getsockname()[1]}/", ours)) == b"ok"
            gc.collect()
            assert [str(one.message) for one in recwarn] == []
        finally:
            over.set()
            peer.join()
