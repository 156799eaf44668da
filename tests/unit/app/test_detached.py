"""A controller that a command started ends once it is not needed, and is started again when it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evac.app import detached
from evac.app.detached import Background, Started, in_background, last_started, remember, until_idle
from evac.engine.runs.open_runs import OPEN
from evac.store.port import Delete, MemoryStore, Put


def ends_after(
    monkeypatch: pytest.MonkeyPatch, parked: bool, gone_at_s: float, most_s: float = 100.0
) -> float:
    """How long a controller lives whose one run ends after `gone_at_s`, and until then waits for a person."""
    lived_s = 0.0

    async def is_parked(store: Any, run: str) -> bool:
        return parked

    monkeypatch.setattr(detached, "_is_parked", is_parked)

    async def story() -> None:
        store = MemoryStore(lambda: 0)
        await store.transact((), (Put(OPEN + "fire-1", b"{}"),))

        async def pause(seconds: float) -> None:
            nonlocal lived_s
            lived_s += seconds
            if lived_s == gone_at_s:
                await store.transact((), (Delete(OPEN + "fire-1"),))
            if lived_s > 100:
                raise TimeoutError

        await until_idle(store, 20, 60, pause)

    asyncio.run(story())
    return lived_s


def test_it_ends_a_while_after_its_last_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ends_after(monkeypatch, parked=False, gone_at_s=30) == 49


def test_it_ends_once_every_run_has_long_waited_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ends_after(monkeypatch, parked=True, gone_at_s=1_000) == 60


def test_it_goes_on_while_a_run_does_something(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimeoutError):
        ends_after(monkeypatch, parked=False, gone_at_s=1_000)


def test_what_it_was_started_with_is_kept() -> None:
    async def story() -> None:
        store, started = MemoryStore(lambda: 0), Started(7, "/estate", "", 5)
        assert await last_started(store) is None
        await remember(store, started)
        assert await last_started(store) == started
        await store.transact((), (Put(detached.KEY, b"what"),))
        assert await last_started(store) is None

    asyncio.run(story())


def test_controllers_in_the_background_are_found_among_all_processes(tmp_path: Path) -> None:
    def process(pid: str, *words: str) -> None:
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes("\0".join((*words, "")).encode())

    serve = ("python3", "-m", "evac", "serve", "/srv/estate", "--site", "local", "--no-watch")
    process("71", *serve, "--until-idle", "30 s", "--store", "sqlite:/srv/evac.sqlite")
    process("8", *serve, "--store", "sqlite:/srv/evac.sqlite")
    process("9", "vim", "--until-idle", "--store")
    (tmp_path / "12").mkdir()
    assert in_background(tmp_path) == (Background(71, "/srv/estate", "sqlite:/srv/evac.sqlite"),)
    assert in_background(tmp_path / "none") == ()
