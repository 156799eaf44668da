"""Cold starts of many made-up dark sites: whatever their power, policies and tools, the checker agrees."""

from dataclasses import replace
from pathlib import Path
from random import Random
from types import MappingProxyType

import pytest

from evac.model.estate import Estate
from evac.model.scenario import Scenario
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.planning.dark import dark_site

DOMAINS = (("a",), ("a/h1",), ("a/h1", "a/h2"), ("a/h1/r1",), ("a/h1/f1", "a/h1/f2"))


def made_up(seed: int, folder: Path) -> tuple[Estate, Scenario]:
    rng = Random(seed)
    feed = f"inrush_budget: {rng.choice((700, 1000, 1700, 5000))} W, boots_at_once: {rng.randint(1, 4)}"
    estate = dark_site(
        folder,
        per_rack=rng.randint(1, 6),
        POLICY=rng.choice(("on", "last", "dark", "unknown")),
        FEED=f"{feed}, power_budget: {rng.choice((900, 2000, 4000))} W",
        HALL=f"cooling: {rng.choice((1, 2, 5))} kW, network_up: {rng.choice((0, 1, 3))} min",
        LIMITS=f"power_margin: {rng.choice((1, 10))} %",
        MANUAL=f"{rng.choice((1, 5, 40))} min",
        SHOP=rng.choice(("owner: us", "purges: true")),
    )
    if rng.random() < 0.5:
        by_hand = {"boot": 600_000, "start": 60_000, "verify": 1_000} if rng.random() < 0.7 else {}
        manual = MappingProxyType({**estate.limits.manual_ms, **by_hand})
        estate = replace(
            estate,
            tools=MappingProxyType({"time": ("shop",)}),
            limits=replace(estate.limits, manual_ms=manual),
        )
    given = ((rng.choice(("a", "a/h1", "a/h1/f1", "a/h1/r1")), rng.choice((300, 900, 2_500))),)
    return estate, Scenario("restore", rng.choice(DOMAINS), None, given if rng.random() < 0.5 else ())


@pytest.mark.parametrize("seed", range(60))
def test_every_plan_holds_and_no_bound_is_above_it(seed: int, tmp_path: Path) -> None:
    estate, scenario = made_up(seed, tmp_path)
    made = plan(estate, scenario, work=50 if seed % 5 == 0 else 0)
    assert check(estate, made).violations == ()
    if made.wave is not None:
        assert made.wave.bound_ms <= made.wave.on_ms
