"""An evacuation or a way home takes time, and each primary that moves stops writes: a plan says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from evac.derive import stores
from evac.derive.situation import estate_after
from evac.model.estate import Estate, Store, StoreMember
from evac.model.scenario import Policy, Scenario
from evac.planning.plan import plan
from evac.verify import check
from evac.views.moves import write_outages, writes_words
from evac.views.plan_text import plan_text
from evac.views.plan_view import Planned, answer
from tests.unit.truth.written import written

ESTATE = """
name: forwards
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
stores:
  orders: {engine: postgresql, members: [{at: a, mode: primary}, {at: b, mode: sync}],
           fence: 20 s, promote: 30 s, rpo: 0 s}
services:
  shop: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, needs: [{store: orders}],
         demand: {cpu: 1 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


def test_an_evacuation_says_when_it_is_finished_and_how_long_writes_stop(tmp_path: Path) -> None:
    estate = written(tmp_path, ESTATE)
    made = plan(estate, Scenario("evacuate", ("a",), 3_600_000))
    assert write_outages(made) == [(50_000, "orders")]
    words, _ = answer(Planned(made, "sha256:0"))
    ends = max(step.end_ms for step in made.steps) // 1_000
    assert f"The work is finished {ends // 60} min" in words
    assert "Writes of store orders stop for 50 s while its primary moves." in words
    told = plan_text(made, "sha256:0", 120, False)
    assert "writes of store orders stop for 50 s" in told


def test_a_loss_has_no_write_outage_of_a_move(tmp_path: Path) -> None:
    made = plan(written(tmp_path, ESTATE), Scenario("lose", ("a",)))
    assert write_outages(made) == []
    assert "finished" not in answer(Planned(made, "sha256:0"))[0]


WAIVED: Final = Policy(waivers=("orders",))

MOVED = """
name: moved
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pb: {site: b, cpu: 8 cores, memory: 64 GiB}}
stores:
  orders: {engine: postgresql, fence: 20 s, promote: 30 s, RPO
           members: [{at: a, mode: primary, HOME}, {at: b, MODE}]}
services:
  shop: {tier: 0, people: 9, rto: 5 min, replicas: {pa: 1}, start: 60 s, needs: [{store: orders}],
         demand: {cpu: 1 cores, memory: 1 GiB}, traffic: {kind: none}}
"""


def moved(folder: Path, mode: str, home: str = "", rpo: str = "rpo: 1 h,") -> Estate:
    return written(folder, MOVED.replace("MODE", mode).replace("HOME", home).replace("RPO", rpo))


@pytest.mark.parametrize(
    ("mode", "home", "lag_s"),
    [
        ("mode: async", "", None),
        ("mode: async", "lag: 3 min", 180),
        ("mode: async, lag: 2 min", "", 120),
        ("mode: async, lag: 2 min", "lag: 3 min", 180),
        ("mode: sync", "", 0),
    ],
)
@pytest.mark.parametrize("by_runs", [False, True])
def test_the_way_home_counts_what_the_old_primary_lags(
    tmp_path: Path, mode: str, home: str, lag_s: int | None, by_runs: bool
) -> None:
    """An unknown lag is named, and never counts as 0, according to the files and after runs."""
    estate = moved(tmp_path, mode, home)
    if by_runs:
        for kind in ("evacuate", "restore"):
            estate = estate_after(estate, plan(estate, Scenario(kind, ("a",), 86_400_000), policy=WAIVED))
    made = plan(estate, Scenario("failback", ("a",)))
    assert check(estate, made).violations == ()
    assert ("stores/orders/lag" in made.unknown) is (lag_s is None)
    assert write_outages(made) == [(50_000 + 1_000 * (lag_s or 0), "orders")]
    assert ("stop for at least" in writes_words(made)) is (lag_s is None)
    assert made.outcomes[0].recovery_ms is None or lag_s is not None


@pytest.mark.parametrize(
    ("mode", "lag_s"), [("mode: async, lag: 2 min", 120), ("mode: async", None), ("mode: sync", 0)]
)
def test_an_rpo_of_zero_makes_no_copy_confirm(tmp_path: Path, mode: str, lag_s: int | None) -> None:
    """Only a copy that confirms commits is never behind, whatever the store may lose."""
    estate = moved(tmp_path, mode, rpo="rpo: 0 s,")
    made = plan(estate, Scenario("failback", ("a",)))
    assert check(estate, made).violations == ()
    assert ("stores/orders/lag" in made.unknown) is (lag_s is None)
    assert write_outages(made) == [(50_000 + 1_000 * (lag_s or 0), "orders")]


@pytest.mark.parametrize(("rpo", "role"), [("rpo: 0 s,", "sync"), ("rpo: 1 s,", "async")])
def test_people_have_a_copy_confirm_for_a_service_that_may_lose_nothing(
    tmp_path: Path, rpo: str, role: str
) -> None:
    """The store states no RPO of its own."""
    text = MOVED.replace("rto: 5 min,", f"rto: 5 min, {rpo}").replace("MODE", "mode: async, lag: 1 s")
    estate = written(tmp_path, text.replace("HOME", "").replace("RPO", ""))
    for kind in ("evacuate", "restore"):
        estate = estate_after(estate, plan(estate, Scenario(kind, ("a",), 86_400_000)))
    assert {member.at: member.mode for member in estate.stores[0].members} == {"a": role, "b": "primary"}


def test_after_the_loss_of_a_moved_primary_its_home_lacks_what_it_lags(tmp_path: Path) -> None:
    """The old primary follows the new one, which is lost; it was planned as if it had everything."""
    estate = moved(tmp_path, "mode: async, lag: 2 min")
    for kind in ("evacuate", "restore"):
        estate = estate_after(estate, plan(estate, Scenario(kind, ("a",), 86_400_000)))
    made = plan(estate, Scenario("lose", ("b",)))
    assert check(estate, made).violations == ()
    assert [(one.candidate, one.loss_ms) for one in made.stores] == [("a", 120_000)]
    lost = estate_after(estate, plan(estate, Scenario("lose", ("b",)), policy=WAIVED))
    assert {one.mode for one in lost.stores[0].members} == {"primary", "none"}


def test_the_checker_finds_an_unknown_lag_that_the_planner_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(store: Store, member: StoreMember) -> int:
        return 0

    estate = moved(tmp_path, "mode: async")
    monkeypatch.setattr(stores, "behind_ms", hidden)
    made = plan(estate, Scenario("failback", ("a",)))
    assert "stores/orders/lag" not in made.unknown
    assert any("unknown facts differ" in one.message for one in check(estate, made).violations)


@pytest.mark.parametrize(("lost", "loss_ms"), [((), 0), (("b",), 120_000)])
def test_a_way_home_from_a_lost_primary_loses_what_the_copy_lags(
    tmp_path: Path, lost: tuple[str, ...], loss_ms: int
) -> None:
    estate = moved(tmp_path, "mode: async, lag: 2 min")
    for kind in ("evacuate", "restore"):
        estate = estate_after(estate, plan(estate, Scenario(kind, ("a",), 86_400_000)))
    estate = replace(estate, lost=lost)
    made = plan(estate, Scenario("failback", ("a",)))
    assert check(estate, made).violations == ()
    assert [(one.candidate, one.loss_ms) for one in made.stores] == [("a", loss_ms)]
