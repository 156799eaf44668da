"""The controller and a dry run know which backups are incomplete, and restore none of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evac.app.applying import LoadedPlan, dry_run
from evac.app.backups import kept_facts
from evac.app.controlling import Setting, compose
from evac.backup.evidence import Evidence
from evac.drivers.registry import Drivers
from evac.estate.loading import load
from evac.model.run_policy import RunPolicy
from evac.model.scenario import Policy, lose
from evac.planning.plan import plan
from evac.store.opening import open_store
from tests.unit.backup.test_complete import ORDER, lists, restore, taken
from tests.unit.engine.test_restoring import NAMED
from tests.unit.steps.test_restore import ESTATE

pytestmark = pytest.mark.enable_socket


def written(folder: Path) -> Path:
    place = folder / "place"
    words = ESTATE.replace("restore: 1 Gbit/s", "restore: 1 Gbit/s, endpoint: copies")
    (folder / "estate.yaml").write_text(words + NAMED.replace("place: /srv/db", f"place: {place}"))
    return folder


def test_a_leader_restores_no_backup_that_its_store_calls_incomplete(tmp_path: Path) -> None:
    setting = Setting(written(tmp_path), "south", f"sqlite:{tmp_path / 'store'}", watch=False, drawer=False)

    async def story() -> tuple[str, ...]:
        hands = {"restic": lambda: lists("c1", "c2")}
        made = await compose(setting, lambda notice: None, hands=hands)
        try:
            for event in (taken(1, "c1"), taken(2, "c2")):
                await Evidence(made.store).add(event)
            driver = made.controller.parts.desk.driver("restic")
            return (await driver.check(restore(tmp_path / "db"), ORDER)).problems
        finally:
            await made.close()

    (problem,) = asyncio.run(story())
    assert "no complete backup of it: all 2 are incomplete or failed" in problem


def test_a_dry_run_says_that_only_incomplete_backups_are_left(tmp_path: Path) -> None:
    estate = load(written(tmp_path))
    made = plan(estate, lose("north"), policy=Policy(waivers=("db",)))
    loaded = LoadedPlan(made, b"", "sha256:0", estate, RunPolicy())

    async def asked(*incomplete: str) -> tuple[str, ...]:
        store = open_store(f"sqlite:{tmp_path / 'store'}")
        drivers = Drivers({"restic": lambda: lists("c1", "c2")})
        try:
            for at, one in enumerate(incomplete):
                await Evidence(store).add(taken(at, one, "copies"))
            found = await dry_run(loaded, drivers, 1_000, await kept_facts(store))
        finally:
            await drivers.close()
            await store.close()
        return next(step.problems for step in found.steps if step.id == "restore:db")

    assert asyncio.run(asked("c2")) == ()
    (problem,) = asyncio.run(asked("c1"))
    assert "no complete backup of it: all 2 are incomplete or failed" in problem
