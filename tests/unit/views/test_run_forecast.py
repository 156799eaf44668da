"""The forecast in words and as JSON."""

from __future__ import annotations

from dataclasses import replace

from evac.run.forecast import Forecast
from evac.views.documents import RunShown, run_document
from evac.views.run_report import run_text
from evac.views.wait_words import Forecaster, clock, forecast_facts, forecast_row
from tests.unit.run.test_forecast import fleet
from tests.unit.run.waves import Wave

DAY = 1_764_000_000_000 - 1_764_000_000_000 % 86_400_000
SAID = Forecast(
    DAY,
    32_000,
    12_345,
    612,
    DAY + 53_520_000,
    DAY + 53_160_000,
    DAY + 60_000_000,
    {"web": DAY + 43_200_000, "mail": DAY + 43_260_000},
    (),
    False,
)


def words(said: Forecast) -> str:
    row = forecast_row(said)
    assert row is not None
    return "; ".join(f"{name}: {text}" for name, text, _ in forecast_facts(row))


def test_it_says_when_all_is_on_beside_the_plan_and_who_goes_to_the_floor() -> None:
    told = words(SAID)
    assert "12,345 of 32,000 up; all on at 14:52, 6 min later than planned" in told
    assert "612 of 19,655 not yet up are left to on-site staff" in told
    assert "web 12:00, mail 12:01" in told
    assert "as planned" in words(replace(SAID, on_ms=SAID.planned_on_ms + 59_000))
    assert "earlier than planned" in words(replace(SAID, on_ms=SAID.planned_on_ms - 600_000))
    assert "assuming that everything waiting" in words(replace(SAID, waits=True))
    assert "31,388 of 32,000 up; the others failed to boot and are left" in words(replace(SAID, up=31_388))
    assert "servers: 32,000 of 32,000 up; back" in words(replace(SAID, up=32_000, floor=0))


def test_show_has_it_as_text_and_json_while_servers_boot_and_not_after() -> None:
    world = Wave(fleet(100), trouble=0.0)
    world.now_ms = DAY
    world.begin()
    for _ in range(4):
        world.step()
    shown = RunShown(world.view, "c1", world.now_ms)
    said = run_document(shown).forecast
    assert said is not None
    assert said.servers == 100
    assert said.services.keys() == {"web"}
    assert f"all on at {clock(world.now_ms)[:3]}" in run_text(run_document(shown, 12), 120, False)
    world.finish()
    assert run_document(RunShown(world.view, "c1", world.now_ms)).forecast is None
    assert forecast_row(None) is None


def test_a_large_run_is_not_played_forward_at_every_look() -> None:
    world = Wave(fleet(2_100), trouble=0.0)
    world.now_ms = DAY
    world.begin()
    world.settle()
    forecaster = Forecaster()
    first = forecaster.of(world.view, DAY + 1_000)
    assert forecaster.of(world.view, DAY + 10_999) is first
    assert forecaster.of(world.view, DAY + 11_000) is not first
