"""A room is not ready and says why where its controller can neither lead nor follow, or its store is ill."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import pytest_socket

from evac.app.side_process import controller_line
from evac.control.server import ServerControl
from evac.control.server_calls import ServerCalls
from evac.model.errors import Corrupt, Unavailable
from evac.office import office as offices
from evac.office.office import Office
from evac.store.port import Entry, Lease, MemoryStore
from evac.views.run_report import run_text
from evac.views.words import moment
from tests.web.conftest import free_port
from tests.web.rooms import BASE, ESTATE, PATIENCE_S, office_of, play, room_of, until
from tests.web.test_run_lists import BACK, ENDED, STARTED, Called, written

LOSABLE = re.compile("You can(&#39;t|'t)? lose")
FULL = "/var/lib/evac.sqlite: database or disk is full"


async def until_silent(office: Office) -> None:
    """The office looks until it knows that its store does not answer."""
    task = asyncio.ensure_future(office._look_again())
    async with asyncio.timeout(PATIENCE_S):
        while office.silence() is None:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    office.refresh()


async def ready(client: httpx2.AsyncClient) -> tuple[int, str]:
    answer = await client.get("/readyz")
    return answer.status_code, str(answer.json().get("detail", ""))


def test_a_controller_that_can_do_neither_is_on_the_page_and_in_readiness() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert await ready(client) == (200, "")
        office.hear(controller_line(False, ""))
        office.refresh()
        assert await ready(client) == (200, ""), "it follows, as far as it knows"
        assert "No controller leads: nothing happens until one does." in (await client.get("/now")).text
        office.hear(controller_line(False, FULL))
        office.refresh()
        status, why = await ready(client)
        assert (status, why) == (503, f"the controller here can neither lead nor follow: {FULL}")
        page = (await client.get("/now")).text
        assert f"No controller leads, so nothing happens; the one here cannot lead: {FULL}." in page
        told = (await client.get("/v1/situation")).json()["controller"]
        assert (told["state"], told["why"]) == ("neither", FULL)
        assert b"evac_ready 0.0" in (await client.get("/metrics")).content
        await office.store.acquire("leader", "south/2/b", 600_000)
        await office.look()
        office.refresh()
        page = (await client.get("/now")).text
        assert f"The controller here can neither lead nor follow: {FULL}. Another one leads." in page
        office.hear(controller_line(True, ""))
        office.refresh()
        assert await ready(client) == (200, "")
        for nonsense in (b"", b"no", b"[]", b'{"state": "neither"}'):
            office.hear(nonsense)
        assert await ready(client) == (200, "")

    play(story)


def test_a_room_that_hears_nothing_for_long_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        office.hear(controller_line(True, ""))
        assert await ready(client) == (200, "")
        monkeypatch.setattr(offices, "SILENT_MS", -1)
        status, why = await ready(client)
        assert (status, "the store has not been read for" in why) == (503, True)
        monkeypatch.setattr(office, "_looked_at", office.clock.monotonic_ms() + 60_000)
        status, why = await ready(client)
        assert (status, "the local controller has been silent for" in why) == (503, True)

    play(story)


class Ill(MemoryStore):
    error: Exception | None = None

    async def holder(self, name: str) -> Lease | None:
        if self.error is not None:
            raise self.error
        return await super().holder(name)

    async def get(self, key: str) -> Entry | None:
        if self.error is not None:
            raise self.error
        return await super().get(key)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Unavailable("no answer in 10 s"), "The store does not answer (no answer in 10 s)"),
        (
            Corrupt("the generation is not a number"),
            "The store cannot be read (the generation is not a number)",
        ),
    ],
)
def test_a_store_that_cannot_be_read_any_more(error: Exception, words: str) -> None:
    store = Ill()

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert await ready(client) == (200, "")
        await store.acquire("leader", "south/2/b", 600_000)
        await office.look()
        office.refresh()
        assert LOSABLE.search((await client.get("/now")).text)
        store.error = error
        task = offices.asyncio.ensure_future(office._look_again())
        async with offices.asyncio.timeout(PATIENCE_S):
            while (await ready(client))[0] == 200:
                await offices.asyncio.sleep(0.01)
        office.refresh()
        assert str(error) in (await ready(client))[1]
        office.hear(controller_line(False, str(error)))
        office.refresh()
        page = (await client.get("/now")).text
        assert words in page
        assert not LOSABLE.search(page), "by a state that may be over"
        waits = "Nothing new starts until it answers; then open runs continue automatically."
        assert (waits in page) is isinstance(error, Unavailable)
        assert isinstance(error, Corrupt) or "Another one leads" not in page, "who leads is not known"
        office.hear(controller_line(True, ""))
        store.error = None
        async with offices.asyncio.timeout(PATIENCE_S):
            while (await ready(client))[0] != 200:
                await offices.asyncio.sleep(0.05)
        task.cancel()
        await offices.asyncio.gather(task, return_exceptions=True)

    play(story, store)


def test_runs_say_that_the_store_is_silent_what_is_known_and_since_when() -> None:
    """An open run is shown as last known, of an ended one its state, and an unknown name may be a run."""
    store = Ill()
    asyncio.run(written(store, (), [STARTED, BACK, ENDED], ended=True, run="run-0"))
    asyncio.run(written(store, (), [STARTED]))

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(office.situation.open_runs) < 1:
                await asyncio.sleep(0.01)
                office.refresh()
        assert (await client.get("/v1/runs/run-1")).json()["silent_since"] is None
        assert "has not answered" not in (await client.get("/runs/run-1")).text
        store.error = Unavailable("no answer in 10 s")
        await until_silent(office)
        since = moment(office.looked_ms)
        told = (await client.get("/v1/runs/run-1")).json()
        assert (told["state"], told["silent_since"]) == ("running", since)
        shown = await ServerControl(cast(ServerCalls, Called(client))).run("run-1")
        assert "has not answered since" in run_text(shown, 120, False)
        for path in ("/runs/run-1", "/runs", "/waiting"):
            page = await client.get(path)
            assert page.status_code == 200, path
            assert "The store has not answered since" in page.text, path
            assert "(no answer in 10 s)" in page.text, path
        assert "The log can be read again when the store answers." in (await client.get("/runs/run-1")).text
        for name, known in (
            ("run-0", "Last known state: "),
            ("run-2", "whether there is a run run-2 is not known"),
        ):
            answer = await client.get(f"/v1/runs/{name}")
            assert answer.status_code == 503, name
            assert known in answer.json()["detail"], name
            assert "the store has not answered since" in answer.json()["detail"]
            page = await client.get(f"/runs/{name}", headers={"accept": "text/html"})
            assert (page.status_code, "no such run" in page.text) == (503, False)
        store.error = None
        await office.look()
        office.refresh()
        assert (await client.get("/v1/runs/run-2")).status_code == 404
        assert "has not answered" not in (await client.get("/runs/run-1")).text

    play(story, store)


def test_a_room_that_never_read_its_store_lists_no_runs_as_if_there_were_none() -> None:
    async def run() -> None:
        store = Ill()
        store.error = Unavailable("no answer in 10 s")
        office = office_of(store)
        transport = httpx2.ASGITransport(room_of(office))
        async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
            for path in ("/v1/runs", "/runs"):
                answer = await client.get(path)
                assert answer.status_code == 503, path
                assert "it is unknown which runs there are" in answer.text, path
            await until_silent(office)
            page = (await client.get("/plans")).text
            assert "The store has not answered yet" in page
            assert "shows the state at that time" not in page, "nothing was read"
        await office.close()

    asyncio.run(run())


@pytest.fixture
def sockets() -> Iterator[None]:
    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.mark.slow
def test_a_real_controller_on_a_full_disk(tmp_path: Path, sockets: None) -> None:
    """No file of it may grow any more; what lies there can be read. The room beside it has room."""
    listen = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "evac", "serve", str(ESTATE), "--site", "local", "--no-watch"]
    command += ["--store", f"sqlite:{tmp_path / 'evac.sqlite'}", "--listen", listen]
    process = subprocess.Popen(command, env={**os.environ, "EVAC_WHO": "kim"})
    try:
        with httpx2.Client(base_url=f"http://{listen}", timeout=PATIENCE_S) as client:

            def asked(path: str) -> Any:
                assert process.poll() is None, "the controller ended"
                try:
                    return client.get(path)
                except httpx2.TransportError:
                    return None

            def is_ready(status: int) -> Any:
                answer = asked("/readyz")
                return answer if answer is not None and answer.status_code == status else None

            def leader() -> str:
                return str(asked("/v1/situation").json()["leader"]["owner"])

            until(lambda: is_ready(200), "it becomes ready")
            until(leader, "it leads")
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, hard))
            answer = until(lambda: is_ready(503), "it is not ready any more")
            assert "can neither lead nor follow" in answer.json()["detail"]
            assert "evac.sqlite" in answer.json()["detail"]
            until(lambda: not leader(), "nobody leads")
            assert asked("/healthz").status_code == 200
            until(lambda: "here cannot lead: " in asked("/now").text, "the page says why nobody leads")
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
            until(lambda: is_ready(200) and leader(), "it leads again")
    finally:
        process.terminate()
        process.wait(60)
