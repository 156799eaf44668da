"""Plans of random small estates keep every rule, with facts known exactly and within bounds."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from evac.derive.intervals import good_ends
from evac.estate import load
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.planning.dark import dark_site
from tests.unit.verify.test_intervals import random_estate, truth

SEEDS = (*range(12), 36, 65, 119, 209, 248, 279)
"""The last six once kept what only a service that was down itself needed, in the way of a higher tier."""
SCENARIOS = (lose("east"), lose("west"), Scenario("restore", ("east",)))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_plan_breaks_a_rule(seed: int, tmp_path: Path) -> None:
    estate = random_estate(seed, tmp_path)
    exact = (replace(estate, intervals=()), good_ends(estate), truth(estate, Random(seed)))
    for true in (estate, *exact):
        for scenario in SCENARIOS:
            for work in (0, 30):
                found = check(true, plan(true, scenario, work=work)).violations
                assert not found, (scenario.title, work)


def test_the_bound_on_a_wave_is_proved_of_the_better_ends(tmp_path: Path) -> None:
    dark_site(tmp_path)
    path = tmp_path / "estate.yaml"
    path.write_text(path.read_text().replace("boot: 5 min", "boot: [3 min, 5 min]"))
    estate, back = load(tmp_path), Scenario("restore", ("a",))
    within, worse = plan(estate, back), plan(replace(estate, intervals=()), back)
    better = plan(good_ends(estate), back)
    assert within.wave is not None
    assert worse.wave is not None
    assert better.wave is not None
    assert within.wave.on_ms == worse.wave.on_ms
    assert within.wave.bound_ms < worse.wave.bound_ms
    assert within.wave.bound_ms == better.wave.bound_ms <= better.wave.on_ms
    assert not check(estate, within).violations
    forged = replace(within, wave=replace(within.wave, bound_ms=worse.wave.bound_ms))
    assert {v.rule for v in check(estate, forged).violations} == {"F22"}
