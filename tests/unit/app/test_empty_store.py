"""A failback with a store that records no run, because it is new or lost its history in a fire."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from evac.app.published import Published, decode, encode, facts_from
from evac.app.situations import facts_now
from evac.cli.main import run
from evac.derive.situation import of
from evac.estate.loading import load
from evac.model.observation import Observation, UnitsSeen
from evac.model.situation import Effects
from evac.store.port import MemoryStore

ESTATE = """evac: 1
name: burnt
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: 9 cores, memory: 9 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 2}, demand: {cpu: 1 cores, memory: 1 GiB}, start: 1 s}
  wiki: {tier: 1, people: 9, replicas: {pa: 1, pb: 1}, demand: {cpu: 1 cores, memory: 1 GiB}, start: 1 s}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "estate").mkdir()
    (tmp_path / "estate" / "estate.yaml").write_text(ESTATE)
    return tmp_path / "estate"


def planned(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[tuple[str, str]]:
    """Kind and target of each step of a failback to `a`."""
    words = ["plan", str(folder), "--failback", "a", "--budget", "0s", "--output", "json", *more]
    assert run(words) == 0
    return sorted((step["kind"], step["target"]) for step in json.loads(capsys.readouterr().out)["steps"])


def test_a_failback_with_a_new_store_starts_what_one_without_a_store_starts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rebuilt store does not say that everything still runs at the site that burnt."""
    found = planned(folder, capsys, "--store", f"sqlite:{tmp_path}/new.sqlite")
    assert {target for kind, target in found if kind == "start"} == {"shop", "wiki"}
    assert found == planned(folder, capsys)


def test_a_store_without_records_says_nothing_of_what_runs_did() -> None:
    async def story() -> None:
        store = MemoryStore()
        assert (await facts_now(None, store, None, 5)).effects is None

    asyncio.run(story())


def test_a_leader_that_found_no_record_publishes_none() -> None:
    """Nor do leaders and servers of older versions, which publish an empty list of runs."""
    for effects in (None, Effects()):
        assert decode(encode(Observation(7, effects=effects), "sha256:x", {})).effects is None
    older = {"at_ms": 7, "effects": {"lost": [], "moved": []}, "members": [], "units": [], "traffic": []}
    assert facts_from({**older, "rivals": []}).effects is None
    assert asyncio.run(Published(MemoryStore()).get()) is None


@pytest.mark.parametrize("missing", ["", "shop", "wiki"])
def test_without_records_the_files_count_as_home_if_drivers_see_all_of_it(folder: Path, missing: str) -> None:
    estate = load(folder)
    units = [
        UnitsSeen("shop", "a", 2, "k8s"),
        UnitsSeen("wiki", "a", 1, "k8s"),
        UnitsSeen("wiki", "b", 1, "k8s"),
    ]
    seen = Observation(7, units=tuple(one for one in units if one.service != missing))
    now = of(estate, seen).estate
    assert (now.home is None) == bool(missing)
