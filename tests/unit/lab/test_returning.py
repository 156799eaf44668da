"""An old primary runs on where nobody was promoted in its place, and only there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evac.engine.lead.leadership import LEADER
from evac.engine.stores.datasets import Epoch, encode, key_of
from evac.store.opening import open_store
from evac.store.port import Compare, MemoryStore, Put
from evac_lab import restoring
from evac_lab.state import LabFolder
from tests.unit.virtual_time import run_virtually

ESTATE = """evac: 1
sites: {pangyo: {}, anyang: {}}
stores:
  db: {engine: postgresql, members: [{at: pangyo, mode: primary}, {at: anyang, mode: sync, lag: 0 s}]}
"""


async def asked(tmp_path: Path, site: str, epoch: Epoch | None, held_ms: int = 0) -> tuple[bool, int]:
    """What `as_it_was` answers, and how often it started something."""
    folder = LabFolder(tmp_path)
    folder.estate.mkdir()
    (folder.estate / "estate.yaml").write_text(ESTATE)
    url, starts = f"sqlite:{tmp_path}/runs.sqlite", []
    store = open_store(url)
    await store.acquire(LEADER, "anyang/1", 60_000)
    if epoch is not None:
        key = key_of("db")
        await store.transact((Compare(key, 0),), (Put(key, encode(epoch)),))
    if held_ms:
        await store.acquire("store/db", "anyang/1", held_ms)

    def start() -> bool:
        starts.append(site)
        return True

    try:
        return await restoring.as_it_was(folder, url, site, start), len(starts)
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("site", "epoch", "runs_on"),
    [
        ("pangyo", None, True),
        ("anyang", None, False),
        ("pangyo", Epoch("db", 3, "pangyo"), True),
        ("pangyo", Epoch("db", 3, "anyang"), False),
        ("pangyo", Epoch("db", 3, "pangyo", "anyang", "promote", "", "run-1"), False),
    ],
)
def test_who_is_still_the_primary_by_the_epoch_runs_on(
    tmp_path: Path, site: str, epoch: Epoch | None, runs_on: bool
) -> None:
    assert asyncio.run(asked(tmp_path, site, epoch)) == (runs_on, int(runs_on))


def test_whoever_holds_the_store_a_moment_longer_than_its_run_is_waited_for(tmp_path: Path) -> None:
    assert asyncio.run(asked(tmp_path, "pangyo", None, held_ms=1_500)) == (True, 1)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_run_is_followed_as_long_as_its_steps_succeed(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A slow machine takes longer for all steps than a run that is stuck is waited for."""
    each_s = restoring.RUN_SECONDS - 1.0

    async def followed(stuck: bool) -> tuple[str, float]:
        now = asyncio.get_running_loop().time
        began = now()

        async def view_of(*_: Any) -> Any:
            done = min(int((now() - began) / each_s), steps - stuck)
            phases = ["succeeded"] * done + ["running"] * (steps - done)
            return SimpleNamespace(phases=phases, phase="succeeded" if done == steps else "running")

        monkeypatch.setattr(restoring.runs, "view_of", view_of)
        view = await restoring._followed(MemoryStore(), "a-run")
        return view.phase, now() - began

    phase, took_s = run_virtually(followed(False), 1_000.0)
    assert (phase, took_s) == ("succeeded", pytest.approx(steps * each_s, abs=1.0))
    phase, took_s = run_virtually(followed(True), 1_000.0)
    most_s = (steps - 1) * each_s + restoring.RUN_SECONDS
    assert (phase, took_s) == ("running", pytest.approx(most_s, abs=1.0))
