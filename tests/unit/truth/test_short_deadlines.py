"""An evacuation has a plan that holds, however little time is left until its deadline."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from evac.derive import lost_stores
from evac.derive.stores import kept_up_to
from evac.estate import load
from evac.model.estate import Estate, Store
from evac.model.scenario import Policy, Scenario
from evac.planning.plan import plan
from evac.steps.kind import Way
from evac.verify import check
from evac.views.moves import writes_words
from tests.unit.truth.written import written


@pytest.mark.parametrize("seed", range(12))
def test_evacuations_with_waived_stores_are_accepted(seed: int, project_root: Path) -> None:
    """Stores that are waived, times that stops take and the deadline are drawn."""
    draw = random.Random(seed)
    estate = load(project_root / "tests" / "fixtures" / "estates" / "small")
    services = tuple(replace(one, shed_ms=draw.choice((0, 3_000, 40_000))) for one in estate.services)
    estate = replace(estate, services=services)
    waived = tuple(sorted(store.id for store in estate.stores if draw.random() < 0.7))
    deadline_ms = (None, 0, 1, 10_000, 60_000, 3_600_000)[seed % 6]
    scenario = Scenario("evacuate", (draw.choice(("north", "south")),), deadline_ms)
    made = plan(estate, scenario, policy=Policy(waivers=waived))
    assert check(estate, made).violations == ()


TOOLS = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: CORES cores, memory: 9 GiB}}
tools: {deploy: deploy}
limits: {manual: {start: 20 s}}
services:
  deploy: {tier: 0, people: 1, replicas: {pa: 1}, start: 9 s, demand: {cpu: 1 core, memory: 1 GiB},
           shed_time: 4 s, traffic: {kind: none}}
  shop: {tier: 1, people: 1, replicas: {pa: 1}, start: 9 s, demand: {cpu: 1 core, memory: 1 GiB},
         shed_time: 6 s, traffic: {kind: none}}
"""


@pytest.mark.parametrize(
    ("deadline_ms", "deploy_ms", "shop_ms"),
    [(0, 20_000, 20_000), (5_000, 1_000, 20_000), (6_000, 2_000, 0), (60_000, 20_000, 20_000)],
)
def test_what_stops_too_slowly_waits_for_its_tools(
    tmp_path: Path, deadline_ms: int, deploy_ms: int, shop_ms: int
) -> None:
    """A longer stop than the site still runs waits until its tools serve elsewhere."""
    estate = written(tmp_path, TOOLS.replace("CORES", "9"))
    made = plan(estate, Scenario("evacuate", ("a",), deadline_ms))
    assert check(estate, made).violations == ()
    begins = {step.target: step.start_ms for step in made.steps if step.kind == "stop"}
    assert begins == {"deploy": deploy_ms, "shop": shop_ms}


def test_what_no_tool_can_stop_any_more_has_no_step(tmp_path: Path) -> None:
    """Elsewhere is no room for the tools, and the site is dark before they can stop the shop."""
    estate = written(tmp_path, TOOLS.replace("CORES", "0"))
    made = plan(estate, Scenario("evacuate", ("a",), 5_000))
    assert check(estate, made).violations == ()
    assert [step.target for step in made.steps if step.kind == "stop"] == ["deploy"]


COPY = """
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: 9 cores, memory: 9 GiB}}
services:
  app: {tier: 0, people: 1 K, rto: 5 min, start: 10 s, share: 1/2, replicas: {pa: 1, pb: 1},
        demand: {cpu: 1 core, memory: 1 GiB}, needs: [{store: db}], shed_time: 1 s, traffic: {kind: none}}
stores:
  db: {rpo: RPO, fence: 10 s, promote: 20 s, MORE
       members: [{at: a, mode: primary}, {at: b, mode: async, LAG}]}
"""


def copied(folder: Path, rpo: str = "1 h", lag: str = "lag: 30 min", more: str = "") -> Estate:
    return written(folder, COPY.replace("RPO", rpo).replace("LAG", lag).replace("MORE", more))


@pytest.mark.parametrize(
    ("deadline_s", "loss_s"),
    [(0, 1_800), (5, 1_800), (10, 1_800), (70, 1_740), (1_809, 1), (1_810, 0), (90_000, 0)],
)
def test_what_a_copy_has_not_received_by_the_deadline_is_lost(
    tmp_path: Path, deadline_s: int, loss_s: int
) -> None:
    """The fence takes 10 s, and then the copy is still 30 min behind."""
    estate = copied(tmp_path)
    made = plan(estate, Scenario("evacuate", ("a",), deadline_s * 1_000))
    assert check(estate, made).violations == ()
    assert [(one.candidate, one.loss_ms) for one in made.stores] == [("b", loss_s * 1_000)]


def test_the_backup_before_a_move_counts_until_the_deadline(tmp_path: Path) -> None:
    estate = copied(tmp_path, more="backup_before_move: true, backup_time: 100 s,")
    made = plan(estate, Scenario("evacuate", ("a",), 1_810_000))
    assert check(estate, made).violations == ()
    assert [one.loss_ms for one in made.stores] == [100_000]


@pytest.mark.parametrize("lag", ["lag: 30 min", ""])
def test_an_evacuation_keeps_the_rpo_like_a_loss(tmp_path: Path, lag: str) -> None:
    """A copy that lacks more than the RPO by the deadline, or may, takes over only with a waiver."""
    estate = copied(tmp_path, "0 s", lag)
    scenario = Scenario("evacuate", ("a",), 5_000)
    refused = plan(estate, scenario)
    accepted = plan(estate, scenario, policy=Policy(waivers=("db",)))
    for made in (refused, accepted):
        assert check(estate, made).violations == ()
    assert [one.state for one in refused.outcomes] == ["unplaced" if lag else "unknown"]
    assert [one.candidate for one in refused.stores] == [""]
    assert [(one.waiver, one.loss_ms) for one in accepted.stores] == [("db", 1_800_000 if lag else None)]


def test_the_checker_finds_a_loss_that_the_planner_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner forgets the deadline; the checker shares that code but derives the loss by its own."""

    def forgotten(store: Store, way: Way, fenced: bool, backup: bool, dark_ms: int | None) -> Way:
        return kept_up_to(store, way, fenced, backup, None)

    estate = copied(tmp_path, "0 s")
    monkeypatch.setattr(lost_stores, "kept_up_to", forgotten)
    made = plan(estate, Scenario("evacuate", ("a",), 5_000))
    assert [(one.candidate, one.loss_ms) for one in made.stores] == [("b", 0)]
    assert {"F19"} <= {one.rule for one in check(estate, made).violations}


@pytest.mark.parametrize("lag", ["lag: 30 min", ""])
def test_writes_stop_for_an_unknown_time_if_the_lag_is_not_stated(tmp_path: Path, lag: str) -> None:
    estate = copied(tmp_path, lag=lag)
    made = plan(estate, Scenario("evacuate", ("a",), estate.horizon_ms))
    assert check(estate, made).violations == ()
    is_unknown = not lag
    assert ("stores/db/lag" in made.unknown) is is_unknown
    assert ("for at least" in writes_words(made)) is is_unknown
