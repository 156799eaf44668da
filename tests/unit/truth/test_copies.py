"""Which copy of a lost store is promoted: what it has counts before what is said of it, then its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import audit
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import written

COPIES = """
name: copies
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 8 cores, memory: 64 GiB}, pc: {site: c, cpu: 8 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {pc: 1}, start: 1 s, demand: {cpu: 1 cores, memory: 1 GiB},
         needs: [{store: orders}], traffic: {kind: none}}
stores:
  orders:
    engine: postgresql
    fence: 1 s
    promote: 5 s
    rpo: 1 min
    members: [{at: a, mode: primary}, {at: b, mode: async, LAG}, {at: c, mode: sync, lag: 30 s}]
"""


@pytest.mark.parametrize("lag", ["lag: 0 s", "lag: 1 s"])
def test_a_synchronous_copy_goes_before_one_that_is_said_to_lag_by_nothing(tmp_path: Path, lag: str) -> None:
    estate = written(tmp_path, COPIES.replace("LAG", lag))
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    (store,) = made.stores
    assert (store.candidate, store.loss_ms) == ("c", 0)
    row = next(row for row in audit(estate).rows if row.domain == "a")
    (fate,) = row.fates(("shop",))
    assert fate.recovery_ms == made.outcomes[0].recovery_ms == 36_000


def test_while_the_old_primary_writes_both_catch_up_and_the_quicker_one_takes_over(tmp_path: Path) -> None:
    estate = written(tmp_path, COPIES.replace("LAG", "lag: 1 s"))
    (store,) = plan(estate, Scenario("evacuate", ("a",), estate.horizon_ms)).stores
    assert (store.candidate, store.loss_ms) == ("b", 0)


def test_how_far_a_copy_is_behind_is_how_long_it_takes_and_unknown_where_nothing_says(tmp_path: Path) -> None:
    known = COPIES.replace("LAG", "lag: 10 s").replace(", {at: c, mode: sync, lag: 30 s}", "")
    for lag, back_ms in (("lag: 10 s", 16_000), ("votes: 1", None)):
        estate = written(tmp_path, known.replace("lag: 10 s", lag).replace("rpo: 1 min", "rpo: unlimited"))
        made = plan(estate, lose("a"))
        assert check(estate, made).holds
        assert [(s.candidate, s.loss_ms) for s in made.stores] == [("b", 10_000 if back_ms else None)]
        assert [o.recovery_ms for o in made.outcomes] == [back_ms]
        row = next(row for row in audit(estate).rows if row.domain == "a")
        (fate,) = row.fates(("shop",))
        assert (fate.fate, fate.recovery_ms) == ("recovers", back_ms)


@pytest.mark.parametrize(("rpo", "meets"), [("rpo: 5 s, ", True), ("", False)])
def test_only_a_store_with_an_rpo_is_said_to_miss_it(tmp_path: Path, rpo: str, meets: bool) -> None:
    text = """
name: alone
sites: {a: {}, b: {}}
pools: {pb: {site: b, cpu: 8 cores, memory: 8 GiB}}
services:
  shop: {tier: 0, people: 9, replicas: {pb: 1}, needs: [{store: orders}], start: 1 s,
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
stores: {orders: {engine: postgresql, RPO members: [{at: a, mode: primary}]}}
"""
    told = audit(written(tmp_path, text.replace("RPO", rpo))).findings
    words = " ".join(f"{one.message} {one.fix}" for one in told if one.rule == "service-lost")
    assert "has no copy" in words
    assert ("that meets its RPO" in words, "within its RPO" in words) == (meets, meets)
