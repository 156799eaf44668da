"""What evac asks a repository of restic by itself, and what it does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evac.drivers import repository_server
from evac.drivers.backups import Stopwatch
from evac.drivers.port import Action, Value
from evac.drivers.restic import repository
from evac.drivers.restic.driver import ResticDriver
from evac.model.errors import ActionError

HOUR_S = 3_600.0


def action(where: str, **more: Value) -> Action:
    settings: dict[str, Value] = {"repository": where, "password": "env:EVAC_TEST_RESTIC", **more}
    return Action("restore", "wiki", "restic", "ansan", settings)


@pytest.mark.parametrize(
    "where",
    [
        "rest:http://backup:port/wiki",
        "rest:http://backup:70000/wiki",
        "rest:http://backup:-1/wiki",
        "rest:http://backup:0/wiki",
        "rest:http://[::1/wiki",
        "rest:http://[v/wiki",
        "rest:http://someone:harbour-88/wiki",
        "s3:https://[::1/wiki",
        "s3:https://store:port/wiki",
    ],
)
@pytest.mark.parametrize("question", ["list_copies", "take", "restore"])
def test_a_url_that_is_not_valid_is_a_wrong_setting(
    where: str, question: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVAC_TEST_RESTIC", "harbour-of-copies-88")
    asked = action(where, paths=("/srv/wiki",), program="false")
    more = ("", str(tmp_path / "place"), None) if question == "restore" else ()
    if where.startswith("s3:"):  # read once restic has answered
        with pytest.raises(ActionError) as raised:
            repository.bucket_of(where, {})
    else:
        with pytest.raises(ActionError) as raised:
            asyncio.run(getattr(ResticDriver(), question)(asked, 20.0, *more))
    assert raised.value.code == "setting-wrong"
    assert "harbour" not in raised.value.message, "what stands for a port may be a password"


@contextmanager
def full(address: str, port: int) -> Iterator[None]:
    """An address that leaves new connections without an answer: its queue is full."""
    with socket.socket() as listener:
        listener.bind((address, port))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex((address, port))
            yield
        finally:
            for one in waiting:
                one.close()


@pytest.mark.enable_socket
@pytest.mark.parametrize("dead", [("127.0.0.2",), ("127.0.0.2", "127.0.0.3")])
def test_a_dead_first_address_of_a_server_does_not_make_it_silent(
    monkeypatch: pytest.MonkeyPatch, dead: tuple[str, ...]
) -> None:
    """It also gets no large share of a long time."""
    monkeypatch.setattr(repository_server, "CONNECT_S", HOUR_S)
    monkeypatch.setattr(repository_server, "ATTEMPT_S", 0.2)

    async def reached(where: str) -> None:
        async with asyncio.timeout(30.0):
            await repository.refuse_silent(action(where), Stopwatch(HOUR_S))

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]

        def found(*given: object, **more: object) -> list[object]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, (address, port)) for address in (*dead, "127.0.0.1")]

        monkeypatch.setattr(socket, "getaddrinfo", found)
        with contextlib.ExitStack() as stack:
            for address in dead:
                stack.enter_context(full(address, port))
            asyncio.run(reached(f"rest:http://repository.example:{port}/wiki"))


@pytest.mark.enable_socket
@pytest.mark.filterwarnings("always::ResourceWarning")
def test_a_call_that_is_given_up_leaves_no_connection_open(recwarn: pytest.WarningsRecorder) -> None:
    async def story(port: int) -> None:
        where = action(f"rest:http://127.0.0.1:{port}/wiki")
        for turn in range(300):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(turn * 4e-6):
                    await repository.refuse_silent(where, Stopwatch(HOUR_S))

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(512)
        asyncio.run(story(server.getsockname()[1]))
    gc.collect()
    assert [str(one.message) for one in recwarn] == []


async def _asked(**more: Value) -> tuple[object, str, object, int]:
    """The answers about a repository whose server takes connections and says nothing, and how many it
    took.
    """
    taken: list[asyncio.StreamWriter] = []

    async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)

    server = await asyncio.start_server(takes, "127.0.0.1", 0)
    asked = action(f"rest:http://127.0.0.1:{server.sockets[0].getsockname()[1]}/wiki", **more)
    try:
        async with asyncio.timeout(20.0):
            names = await repository.names_of(asked, "snapshots", Stopwatch(HOUR_S))
            sealed = await repository.sealed_config(asked, Stopwatch(HOUR_S))
            deletable = await ResticDriver()._can_delete(asked, Stopwatch(HOUR_S))
    finally:
        for writer in taken:
            writer.transport.abort()
        server.close()
    return names, sealed, deletable.verdict, len(taken)


@pytest.mark.enable_socket
def test_what_restic_would_also_say_is_not_waited_for_as_long_as_a_job_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repository, "SHOWN_S", 0.2, raising=False)
    assert asyncio.run(_asked()) == (None, "", None, 3)


@pytest.mark.enable_socket
def test_through_a_proxy_only_restic_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "SHOWN_S", 0.2, raising=False)
    assert asyncio.run(_asked(env=("https_proxy=http://proxy:3128",))) == (None, "", None, 0)
