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
from evac.model.instance import LostStore
from evac.model.plan import Plan
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


@pytest.mark.parametrize("by_hand", ["", "limits: {manual: {start: 20 s}}"])
def test_tools_that_nothing_ends_move_by_themselves(tmp_path: Path, by_hand: str) -> None:
    """Without a deadline they work until their replacement serves: nothing waits for people, or for ever."""
    text = TOOLS.replace("CORES", "9").replace("limits: {manual: {start: 20 s}}", by_hand)
    estate = written(tmp_path, text)
    made = plan(estate, Scenario("evacuate", ("a",), estate.horizon_ms))
    assert check(estate, made).violations == ()
    assert [one.state for one in made.outcomes] == ["restored", "restored"]
    assert not any(step.manual for step in made.steps)
    assert {step.target for step in made.steps if step.kind == "stop"} == {"deploy", "shop"}


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

    def forgotten(
        store: Store, way: Way, fenced: bool, backup: bool, dark_ms: int | None, tick_ms: int
    ) -> Way:
        return kept_up_to(store, way, fenced, backup, None, tick_ms)

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


QUEUE = """
sites: {a: {}, b: {}, c: {}}
limits: {fences_at_once: FENCES}
pools: {pa: {site: a, cpu: 9 cores, memory: 9 GiB}, pb: {site: b, cpu: 9 cores, memory: 9 GiB}}
services:
  app: {tier: 0, people: 1 K, rto: 5 min, start: 10 s, share: 1/2, replicas: {pa: 1, pb: 1},
        demand: {cpu: 1 core, memory: 1 GiB}, needs: [NEEDS], shed_time: 1 s, traffic: {kind: none}}
stores:
"""


def queued(folder: Path, draw: random.Random) -> Estate:
    """Several stores of one site, few of which can be fenced at once."""
    names = [f"s{number}" for number in range(draw.randint(2, 5))]
    text = QUEUE.replace("FENCES", str(draw.randint(1, 2)))
    text = text.replace("NEEDS", ", ".join(f"{{store: {name}}}" for name in names))
    for name in names:
        backup = draw.choice(("", "", f"backup_before_move: true, backup_time: {draw.randint(1, 30)} s, "))
        rpo = draw.choice(("", "rpo: 1 h, ", f"rpo: {draw.randint(0, 40)} s, "))
        copies = "".join(f", {{at: {at}, mode: async, lag: {draw.randint(0, 60)} s}}" for at in "bc")
        text += f"  {name}: {{fence: {draw.randint(1, 20)} s, promote: {draw.randint(1, 40)} s, {rpo}{backup}"
        text += f"members: [{{at: a, mode: primary}}{copies}]}}\n"
    return written(folder, text)


def lacks_ms(estate: Estate, made: Plan, store: str) -> tuple[str, int]:
    """The copy that takes over, and what the old primary wrote after the last moment that reached it."""
    one = next(s for s in made.stores if s.store == store)
    fence = next(step for step in made.steps if step.kind == "fence" and step.target == store)
    copies = {member.at: member for s in estate.stores if s.id == store for member in s.members}
    lag_ms, dark_ms = copies[one.candidate].lag_ms or 0, made.scenario.deadline_ms or 0
    last_ms = min(fence.end_ms, dark_ms)
    return one.candidate, max(0, last_ms - (dark_ms - lag_ms))


@pytest.mark.parametrize("seed", range(20))
def test_what_a_store_loses_counts_the_wait_for_its_fence(tmp_path: Path, seed: int) -> None:
    """Fences queue, so the later stores write on; a smaller loss in the plan is found, and no RPO is broken
    without a waiver.
    """
    draw = random.Random(seed)
    estate = queued(tmp_path, draw)
    waived = tuple(store.id for store in estate.stores if draw.random() < 0.4)
    scenario = Scenario("evacuate", ("a",), draw.randint(0, 90) * 1_000)
    made = plan(estate, scenario, policy=Policy(waivers=waived))
    assert check(estate, made).violations == ()
    for one in made.stores:
        if not one.candidate:
            continue
        assert (one.candidate, one.loss_ms) == lacks_ms(estate, made, one.store)
        own = next(store for store in estate.stores if store.id == one.store)
        assert own.rpo_ms is None or one.loss_ms <= own.rpo_ms or one.store in waived
        assert own.rpo_ms is not None or not one.loss_ms or one.store in waived or made.unknown
        if one.loss_ms:
            lie = replace(one, loss_ms=one.loss_ms - 1)
            lying = replace(made, stores=tuple(lie if s is one else s for s in made.stores))
            assert "F19" in {found.rule for found in check(estate, lying).violations}


def test_the_store_that_can_wait_least_is_fenced_first(tmp_path: Path) -> None:
    """Both keep their RPO only in one order, whatever their names."""
    text = QUEUE.replace("FENCES", "1").replace("NEEDS", "{store: a1}, {store: a2}")
    store = "fence: 10 s, promote: 1 s, rpo: 0 s, members: [{at: a, mode: primary}, {at: b, mode: async, "
    for names in ("a1", "a2"), ("a2", "a1"):
        lags = zip(names, ("lag: 40 s}]}", "lag: 50 s}]}"), strict=True)
        estate = written(tmp_path, text + "".join(f"  {one}: {{{store}{lag}\n" for one, lag in lags))
        made = plan(estate, Scenario("evacuate", ("a",), 60_000))
        assert check(estate, made).violations == ()
        assert [one.loss_ms for one in made.stores] == [0, 0]
        short = plan(estate, Scenario("evacuate", ("a",), 59_000))
        assert check(estate, short).violations == ()
        assert {one.why.kind for one in short.outcomes if one.why} == {"loss-above-rpo"}


def test_the_checker_finds_a_planner_that_forgets_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = QUEUE.replace("FENCES", "1").replace("NEEDS", "{store: a1}, {store: a2}")
    store = "fence: 10 s, promote: 1 s, rpo: 1 h, members: [{at: a, mode: primary}, {at: b, mode: async, "
    estate = written(tmp_path, text + "".join(f"  {one}: {{{store}lag: 50 s}}]}}\n" for one in ("a1", "a2")))
    monkeypatch.setattr(LostStore, "at", lambda self, way, until_ms: way)
    made = plan(estate, Scenario("evacuate", ("a",), 60_000))
    assert [one.loss_ms for one in made.stores] == [0, 0]
    assert {(found.rule, found.subject) for found in check(estate, made).violations} == {("F19", "a2")}
