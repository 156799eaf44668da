"""The public status page outside all sites: written anew at each change, whole, and again until it is."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from evac.app import incidents, status_export
from evac.app.status_export import REFRESH_MS, About, Exporter, ExportFailed, Target, target_of
from evac.engine.clock import Clock
from evac.model.errors import InvalidInput
from evac.store.port import MemoryStore
from tests.unit.app.test_incidents import ESTATE, ask, burnt
from tests.unit.incident.stories import T0, note

NAMES = {"web": "Web shop", "ads": "Adverts"}
COPY = f"{sys.executable} -c 'import shutil,sys; shutil.copytree(sys.argv[1], sys.argv[2])' {{folder}}"


class Frozen(Clock):
    """Stands still until it is told the time."""

    def __init__(self) -> None:
        self.at_ms = T0 + 60_000

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


class World:
    """A store after a fire, and an exporter of its page."""

    def __init__(self, folder: Path, push: str = "") -> None:
        self.store, self.clock, self.told = MemoryStore(), Frozen(), list[str]()
        self.folder = folder
        about, target = About("example", NAMES), target_of(folder, push)
        self.exporter = Exporter(self.store, about, target, self.told.append, "pangyo", self.clock)

    def shown(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / "status.json").read_text())
        return found

    def states(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in self.shown()["components"]}  # type: ignore[attr-defined]


def tell(folder: Path, story: Callable[[World], Awaitable[None]], push: str = "") -> None:
    async def run() -> None:
        world = World(folder, push)
        try:
            await story(world)
        finally:
            await world.store.close()

    asyncio.run(run())


def test_it_is_written_again_when_an_update_is_published_and_only_then(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await burnt(world.store)
        assert await world.exporter.look()
        assert world.states() == {"Adverts": "operational", "Web shop": "operational"}
        assert not await world.exporter.look()
        first = (tmp_path / "index.html").read_text()
        await incidents.add_note(world.store, note("update", 30_000, "The shop is back.", name="Shop"))
        assert await world.exporter.look()
        assert world.states() == {"Adverts": "major outage", "Web shop": "operational"}
        assert "The shop is back." in (tmp_path / "feed.xml").read_text()
        assert (tmp_path / "index.html").read_text() != first
        assert sorted(path.name for path in tmp_path.iterdir()) == ["feed.xml", "index.html", "status.json"]
        assert stat.S_IMODE((tmp_path / "index.html").stat().st_mode) == 0o644
        world.clock.at_ms += REFRESH_MS
        assert await world.exporter.look(), "it says as of when"

    tell(tmp_path, story)


def test_it_is_written_again_when_the_run_changes_a_component(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        journal, rest, lease = await burnt(world.store, until=3)
        await incidents.add_note(world.store, note("update", 30_000, "We are looking into it."))
        await world.exporter.look()
        assert world.states()["Web shop"] == "major outage"
        await journal.append(rest, lease)
        assert await world.exporter.look()
        assert world.states()["Web shop"] == "operational"

    tell(tmp_path, story)


def test_a_target_that_fails_is_told_once_and_gets_what_is_true_later(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await burnt(world.store)
        (tmp_path / "page").write_text("in the way")
        going_on = asyncio.create_task(world.exporter.run())
        while not world.told:
            await asyncio.sleep(0.01)
        kept = await world.store.get(f"{incidents.EXPORTED}pangyo")
        assert kept is not None
        assert "cannot be written" in json.loads(kept.value)["problem"]
        await incidents.add_note(world.store, note("update", 30_000, "We are back.", name="Back"))
        (tmp_path / "page").unlink()
        while len(world.told) < 2:
            await asyncio.sleep(0.01)
        going_on.cancel()
        assert "We are back." in (tmp_path / "page" / "index.html").read_text()
        assert ["again" in words for words in world.told] == [True, True]
        kept = await world.store.get(f"{incidents.EXPORTED}pangyo")
        assert kept is not None
        assert json.loads(kept.value)["problem"] == ""

    tell(tmp_path / "page", story)


def test_a_command_takes_it_elsewhere_without_a_shell(tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where; touch no"

    async def story(world: World) -> None:
        await burnt(world.store)
        assert await world.exporter.look()
        assert "Web shop" in (elsewhere / "index.html").read_text()
        world.clock.at_ms += REFRESH_MS
        with pytest.raises(ExportFailed, match="ended with 1"):
            await world.exporter.look()
        assert not (tmp_path / "no").exists()

    tell(tmp_path / "page", story, f"{COPY} '{elsewhere}'")


def test_a_command_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    for push in ("rsync -a /srv host:", "rsync '{folder}", "x " * 100 + "{folder}"):
        with pytest.raises(InvalidInput):
            target_of(tmp_path, push)
    missing = replace(target_of(tmp_path), push=("/no/such/program", "{folder}"))
    with pytest.raises(ExportFailed, match="cannot be started"):
        asyncio.run(missing.put({"index.html": b"x"}))
    assert (tmp_path / "index.html").read_bytes() == b"x"
    assert Target(tmp_path).push == ()


def test_several_write_to_one_place_and_nobody_reads_half_of_a_page(tmp_path: Path) -> None:
    bodies = [bytes([letter]) * 200_000 for letter in b"abcd"]

    def write(body: bytes) -> None:
        for _ in range(15):
            asyncio.run(Target(tmp_path).put({"index.html": body}))
            assert (tmp_path / "index.html").read_bytes() in bodies

    with ThreadPoolExecutor(len(bodies)) as pool:
        for done in [pool.submit(write, body) for body in bodies]:
            done.result()
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_command_that_hangs_or_floods_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = tmp_path / "alive"
    hangs = f"sh -c '(while sleep 0.05; do echo x >> {alive}; done) & sleep 60; : {{folder}}'"
    with monkeypatch.context() as short:
        short.setattr(status_export, "PUSH_S", 1.0)
        with pytest.raises(ExportFailed, match="sh did not finish within 1 s"):
            asyncio.run(target_of(tmp_path / "page", hangs).put({"index.html": b"x"}))
    before = alive.read_bytes() if alive.exists() else b""
    time.sleep(0.3)
    assert (alive.read_bytes() if alive.exists() else b"") == before  # its child ended with it
    floods = "sh -c 'head -c 3000000 /dev/zero >&2; : {folder}; exit 3'"
    with pytest.raises(ExportFailed, match=r"^sh ended with 3$"):
        asyncio.run(target_of(tmp_path / "page", floods).put({"index.html": b"x"}))


def test_the_process_writes_the_page_and_ends_with_its_parent(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.sqlite'}"
    ask(url, burnt)
    (tmp_path / "estate.yaml").write_text(ESTATE)
    command = [sys.executable, "-m", "evac.app.status_export", str(tmp_path), "--store", url, "--to"]
    korean_first = [*command, str(tmp_path / "page"), "--languages", "ko,en"]
    process = subprocess.Popen(korean_first, stdin=subprocess.PIPE)
    try:
        while not (tmp_path / "page" / "index.html").exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
    pages = [(tmp_path / "page" / name).read_text() for name in ("index.html", "index.en.html")]
    assert all("Web shop" in page for page in pages)
    assert [re.findall('<html lang="(..)">', page) for page in pages] == [["ko"], ["en"]]
    refused = subprocess.run([*command, "/x", "--push", "rsync /x host:"], capture_output=True, check=False)
    assert b"[status-push]" in refused.stderr


def test_it_ends_when_another_edition_of_the_estate_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever keeps it starts it again, and it reads the names of then."""
    monkeypatch.setattr(status_export, "EDITION_S", 0.01)
    link = tmp_path / "current"
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    link.symlink_to("1")

    async def story() -> None:
        waiting = asyncio.create_task(status_export._moved(link))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        (tmp_path / ".next").symlink_to("2")
        (tmp_path / ".next").replace(link)
        async with asyncio.timeout(20):
            await waiting

    asyncio.run(story())
