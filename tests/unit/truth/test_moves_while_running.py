"""What a site still runs until its deadline helps what moves; what was down before is down from the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.derive.situation import estate_after
from evac.model.estate import Estate
from evac.model.plan import Outcome
from evac.model.scenario import Scenario
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import servers, written

ESTATE = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: CORES cores, memory: 9 GiB}}
services:
  one: {tier: 0, people: 1 K, start: 10 s, replicas: {pa: 1}, shed_time: 2 s, traffic: {kind: none},
        demand: {cpu: 1 core, memory: 1 GiB}, needs: [{service: two, needed_to: start}]}
  two: {tier: 0, people: 1 K, start: 10 s, replicas: {pa: 1}, shed_time: 1 s, traffic: {kind: none},
        demand: {cpu: 1 core, memory: 1 GiB}, needs: [{service: one, needed_to: start}]}
LIMITS
"""


def cycle(folder: Path, limits: str = "", cores: int = 9) -> Estate:
    return written(folder, ESTATE.replace("LIMITS", limits).replace("CORES", str(cores)))


def states(estate: Estate, scenario: Scenario) -> list[tuple[str, int]]:
    """What becomes of each service, and its outage in seconds; the checker accepts the plan and its bound."""
    made = plan(estate, scenario)
    assert check(estate, made).violations == ()
    assert made.bound == made.objective
    return [(one.state, one.base_outage_ms // 1_000) for one in made.outcomes]


@pytest.mark.parametrize("deadline_s", [12, 3_600, 86_400])
def test_services_that_need_each_other_start_while_both_run(tmp_path: Path, deadline_s: int) -> None:
    """A stop of 2 s begins 2 s before the deadline."""
    scenario = Scenario("evacuate", ("a",), deadline_s * 1_000)
    assert states(cycle(tmp_path), scenario) == [("restored", 0), ("restored", 0)]


@pytest.mark.parametrize(
    ("limits", "deadline_s", "is_back"),
    [
        ("", 11, False),
        ("", 12, True),
        ("limits: {starts: 1 per minute}", 71, False),
        ("limits: {starts: 1 per minute}", 72, True),
    ],
)
def test_services_that_need_each_other_start_before_the_first_of_them_stops(
    tmp_path: Path, limits: str, deadline_s: int, is_back: bool
) -> None:
    estate = cycle(tmp_path, limits)
    made = plan(estate, Scenario("evacuate", ("a",), deadline_s * 1_000))
    assert check(estate, made).violations == ()
    assert [one.state for one in made.outcomes] == ["restored" if is_back else "unplaced"] * 2
    if not is_back:
        words = "start cycle: starting one needs two, which needs one"
        assert made.outcomes[0].reason.startswith(words)
        assert not [step for step in made.steps if step.kind == "start"]


def test_a_loss_still_leaves_both_down(tmp_path: Path) -> None:
    assert states(cycle(tmp_path), Scenario("lose", ("a",))) == [("unplaced", 86_400)] * 2


def test_a_start_after_the_deadline_is_found(tmp_path: Path) -> None:
    estate = cycle(tmp_path)
    made = plan(estate, Scenario("evacuate", ("a",), 3_600_000))
    late = replace(made, scenario=replace(made.scenario, deadline_ms=5_000), grace_ms=5_000)
    found = [one.message for one in check(estate, late).violations if one.rule == "F12"]
    assert "starts after what it needs to start has stopped" in found


def test_both_return_home_while_both_run_elsewhere(tmp_path: Path) -> None:
    estate = cycle(tmp_path)
    for kind in ("evacuate", "restore"):
        estate = estate_after(estate, plan(estate, Scenario(kind, ("a",), 86_400_000)))
    assert states(estate, Scenario("failback", ("a",))) == [("restored", 0), ("restored", 0)]


DOWN = """
sites: {a: {}, b: {}}
classes: {c: {cpu: 8 cores, memory: 64 GiB}}
services:
  user: {tier: 0, people: 1 K, start: 10 s, shed_time: 1 s, traffic: {kind: none}, needs: [off],
         demand: {cpu: 1 core, memory: 1 GiB}}
  fine: {tier: 0, people: 1 K, start: 10 s, shed_time: 1 s, traffic: {kind: none},
         demand: {cpu: 1 core, memory: 1 GiB}}
  half: {tier: 0, people: 1 K, start: 10 s, shed_time: 1 s, traffic: {kind: none}, share: "50 %",
         demand: {cpu: 1 core, memory: 1 GiB}}
  off: {tier: 0, people: 1 K, start: 10 s, shed_time: 1 s, traffic: {kind: none},
        demand: {cpu: 1 core, memory: 1 GiB}}
"""


def outages_of(outcome: Outcome) -> tuple[int, int]:
    return outcome.base_outage_ms // 1_000, outcome.top_outage_ms // 1_000


def test_what_is_down_before_an_evacuation_is_down_until_it_is_back(tmp_path: Path) -> None:
    """Nothing of `off` runs, so `user` does not serve; `half` lacks a replica."""
    table = servers("off,a,,c,condemned,", "on,a,,c,serving,", "b1,b,,c,serving,", "b2,b,,c,serving,")
    replicas = "service,target,count\nfine,on,1\nhalf,on,1\nhalf,off,1\noff,off,1\nuser,on,1\n"
    estate = written(tmp_path, DOWN, servers=table, replicas=replicas)
    made = plan(estate, Scenario("evacuate", ("a",), 3_600_000))
    assert check(estate, made).violations == ()
    found = {one.service: outages_of(one) for one in made.outcomes}
    assert found == {"fine": (0, 0), "half": (0, 10), "off": (10, 10), "user": (10, 10)}
    assert made.bound == made.objective
    back = {one.service: one.recovery_ms for one in made.outcomes}
    assert back == {"fine": 0, "half": 0, "off": 10_000, "user": 10_000}
