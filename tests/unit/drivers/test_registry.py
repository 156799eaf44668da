"""The registry of drivers: every name makes a driver of that name, late, and says what is missing."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from evac.drivers import registry
from evac.drivers.manual import ManualDriver
from evac.drivers.registry import DRIVERS, Drivers, acts, create
from evac.drivers.spec import DriverSpec
from evac.model.errors import Permanent


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_every_name_makes_its_driver(name: str) -> None:
    driver = create(name)
    assert driver.name == name
    asyncio.run(driver.close())


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    program = (
        "import sys, evac.drivers.registry as r; r.create('manual');"
        "print([m for m in ('aiohttp', 'dns', 'asyncpg', 'redis', 'lightkube') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_a_name_nobody_has_is_said_with_those_there_are() -> None:
    with pytest.raises(Permanent) as caught:
        create("cisco")
    assert caught.value.code == "driver-unknown"
    assert "haproxy" in caught.value.hint


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightkube", None)
    for name in [name for name in sys.modules if name.startswith("evac.drivers.kubernetes")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(Permanent) as caught:
        create("kubernetes")
    assert caught.value.code == "driver-library-missing"
    assert "pip install 'evac[k8s]'" in caught.value.hint


def test_a_mistake_of_ours_is_not_taken_for_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = DriverSpec("wrong", "", (), (), "evac.drivers.nowhere:Driver", extra="k8s")
    monkeypatch.setattr(registry, "DRIVERS", {"wrong": wrong})
    with pytest.raises(ModuleNotFoundError):
        create("wrong")


class Closes(ManualDriver):
    """Remembers that it was closed, and may fail at it."""

    def __init__(self, closed: list[str], fails: bool = False) -> None:
        self.closed, self.fails = closed, fails

    async def close(self) -> None:
        self.closed.append(self.name)
        if self.fails:
            raise OSError("cannot close")


def test_drivers_are_made_once_and_all_are_closed() -> None:
    closed: list[str] = []
    drivers = Drivers({"one": lambda: Closes(closed, fails=True), "two": lambda: Closes(closed)})
    assert drivers.get("one") is drivers.get("one")
    drivers.get("two")
    assert isinstance(drivers.get("manual"), ManualDriver)
    with pytest.raises(OSError, match="cannot close"):
        asyncio.run(drivers.close())
    assert len(closed) == 2
    asyncio.run(drivers.close())


@pytest.mark.parametrize("name", ["manual", "noop"])
def test_what_plans_use_by_themselves_can_be_made(name: str) -> None:
    """No file names them, so nothing else would miss them."""
    assert create(name).name == name
    assert not acts(name)
