"""Programs of an own engine that do not say which repository their copies are in."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.backup_command.driver import BackupCommandDriver
from evac.drivers.capabilities import EXPECTED
from evac.drivers.port import Order
from evac.model.errors import Permanent
from tests.contract.adapters.backup_command import shed

ORDER = Order("r", "restore", 1, 1, 1, "a test", 60.0, "k")


def test_copies_in_no_known_repository_are_not_the_expected_ones(tmp_path: Path) -> None:
    with shed(tmp_path) as (action, _):
        driver, program = BackupCommandDriver(), tmp_path / "shed.py"
        before = replace(action, parameters={EXPECTED: "shed"})
        assert asyncio.run(driver.check(before, ORDER)).problems == ()
        said = program.read_text(encoding="utf-8")
        program.write_text(said.replace('"repository": "shed", "copies"', '"copies"'), encoding="utf-8")
        checked = asyncio.run(driver.check(before, ORDER))
        assert checked.error is not None
        assert checked.error.code == "backup-other-repository"
        assert checked.problems == ("the listing names no repository, and shed is expected",)
        with pytest.raises(Permanent, match="shed is expected"):
            asyncio.run(driver.execute(before, ORDER))
        assert not (tmp_path / "places" / "here").exists()
        assert asyncio.run(driver.check(action, ORDER)).problems == (), "none is expected"
