"""Plans and audits use the store of this user, like every other command, and work without one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from evac.backup.evidence import Evidence
from evac.cli import console
from evac.cli.main import run
from evac.cli.options import now_ms
from evac.model.backup import BackupEvent, CopySeen
from evac.planning.compiled import interpreted
from evac.store.opening import open_store
from tests.unit.steps.test_restore import ESTATE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("EVAC_STORE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    (tmp_path / "estate.yaml").write_text(ESTATE)
    return tmp_path / "home"


def list_backup(home: Path, age_ms: int) -> None:
    async def keep() -> None:
        store = open_store(f"sqlite:{home / 'evac' / 'evac.sqlite'}")
        seen = CopySeen("db", "south", now_ms(), now_ms() - age_ms)
        await Evidence(store).add(BackupEvent("listed", seen.at_ms, "db", "south", seen=seen))
        await store.close()

    (home / "evac").mkdir(parents=True)
    asyncio.run(keep())


def planned(home: Path) -> tuple[str, str, int]:
    """The estate, a plan of it, and how much data that plan loses."""
    estate, plan = str(home.parent / "estate.yaml"), home.parent / "plan.json"
    argv = ["plan", estate, "--lose", "north", "--waive", "db", "--budget", "0", "-o", str(plan)]
    assert run(argv) == console.DONE
    (store,) = json.loads(plan.read_text())["stores"]
    return estate, str(plan), store["loss_ms"]


def test_without_a_store_the_files_count_and_nothing_is_created(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with interpreted():
        estate, plan, loss_ms = planned(home)
        assert run(["verify", plan, estate]) == console.DONE
        assert run(["audit", estate, "--fail-on", "never"]) == console.DONE
    assert loss_ms == 3_600_000
    assert "facts from" not in capsys.readouterr().err
    assert not home.exists()


def test_a_plan_is_made_and_checked_with_what_the_store_knows(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = f"facts from sqlite:{home}/evac/evac.sqlite: backups listed at 20"
    list_backup(home, 5 * 3_600_000)
    with interpreted():
        estate, plan, loss_ms = planned(home)
        assert loss_ms == 6 * 3_600_000
        capsys.readouterr()
        assert run(["verify", plan, estate]) == console.DONE
        assert run(["simulate", plan, estate, "--trials", "2"]) == console.DONE
        assert run(["audit", estate, "--fail-on", "never"]) == console.DONE
        assert capsys.readouterr().err.count(files) == 3
        assert run(["audit", estate, "--fail-on", "never", "-q"]) == console.DONE
        assert run(["verify", plan, estate, "--store", "memory:"]) == console.STALE
    assert files not in capsys.readouterr().err


def test_a_plan_from_the_files_says_why_it_is_stale(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with interpreted():
        estate, plan, _ = planned(home)
        list_backup(home, 2 * 3_600_000)
        assert run(["verify", plan, estate]) == console.STALE
    assert "and now more is known of the backups of db [plan-stale]" in capsys.readouterr().err


def test_a_store_that_cannot_be_read_is_no_empty_store(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "evac").mkdir(parents=True)
    (home / "evac" / "evac.sqlite").write_text("no database")
    assert run(["audit", str(home.parent / "estate.yaml")]) == console.FAILED
    assert "[store-corrupt]" in capsys.readouterr().err
