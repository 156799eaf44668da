"""The simulated systems of `evac serve --demo` answer whatever evac asks of the real ones."""

from __future__ import annotations

import asyncio
import shutil
from importlib import resources
from pathlib import Path

import pytest

from evac import estate as estates
from evac.app.demo.room import FILES, Company, company_of
from evac.app.observing import observe_units, units_endpoints
from evac.drivers.port import Action, Order
from evac.drivers.registry import DRIVERS, Drivers
from evac.model.estate import Estate

SPEED = 1_000.0


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    for name in FILES:
        with resources.as_file(resources.files("evac.app") / "demo_company" / name) as file:
            shutil.copy(file, tmp_path / name)
    return estates.load(tmp_path)


@pytest.fixture
def company(estate: Estate) -> Company:
    return company_of(estate, 1, speed=SPEED)


def test_they_can_be_asked_all_that_their_drivers_declare(estate: Estate, company: Company) -> None:
    names, made = {one.driver for one in estate.endpoints}, company.hands()
    missing = [
        f"{name}.{query}"
        for name in sorted(names)
        for capability in DRIVERS[name].capabilities
        for query in vars(capability)
        if not query.startswith("_") and not hasattr(made[name](), query)
    ]
    assert names
    assert missing == []


def test_replicas_are_what_steps_have_set(estate: Estate, company: Company) -> None:
    end = next(one for one in units_endpoints(estate) if one.at == "anyang")
    order = Order("run", "step", 1, 1, 1, "a test", 60.0, "key")

    async def story() -> list[int | None]:
        drivers = Drivers(company.hands())
        driver = drivers.get(end.driver)
        scale = Action(
            "scale", end.subject, end.driver, end.at, end.settings, {"replicas": 7, "from_replicas": 4}
        )
        counts = []
        for act in (None, driver.execute, driver.undo):
            if act is not None:
                await act(scale, order)
            seen, silent = await observe_units(estate, drivers, 0, 1)
            assert not silent
            counts.append(
                next((one.replicas for one in seen if (one.service, one.site) == (end.subject, end.at)), None)
            )
        company.burnt.add(end.at)
        seen, silent = await observe_units(estate, drivers, 0, 1)
        assert (end.subject, end.at) in silent
        return counts

    assert asyncio.run(story()) == [None, 7, 4]
