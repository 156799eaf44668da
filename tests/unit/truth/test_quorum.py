"""Votes and data are different things (A2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import audit
from evac.audit.impacts.all_losses import FATES
from evac.derive import stores
from evac.model.estate import Estate, Store, StoreMember
from evac.model.plan import Plan
from evac.model.scenario import Policy, lose
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import written

ESTATE = """
name: votes
sites: {a: {}, b: {}, c: {}}
pools: {pb: {site: b, cpu: 64 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 10, rto: 1 h, replicas: {pb: 2}, needs: [{store: orders}],
         demand: {cpu: 1 core, memory: 1 GiB}, traffic: {kind: none}}
stores:
  orders: {engine: etcd, quorum: true, automatic: AUTO, rpo: 0 s, promote: 20 s, fence: 40 s,
           members: [MEMBERS]}
"""
THREE = "{at: a, mode: primary}, {at: b, mode: sync}, {at: c, mode: sync}"


def estate_of(folder: Path, members: str = THREE, automatic: str = "true", more: str = "") -> Estate:
    text = ESTATE.replace("MEMBERS", members).replace("AUTO", automatic)
    return written(folder, text + more)


def planned(estate: Estate, domain: str, *waivers: str) -> Plan:
    made = plan(estate, lose(domain), policy=Policy(waivers=waivers))
    verdict = check(estate, made)
    assert verdict.holds, verdict.violations
    return made


def fate(estate: Estate, domain: str) -> tuple[str, int]:
    found = audit(estate).impacts
    number = found.losses.index[domain]
    return FATES[int(found.fate[number, 0])], int(found.ready_ms[number, 0])


@pytest.mark.parametrize(("stated", "ms"), [("", 30_000), (", elect: 9 s", 9_000)])
def test_a_lost_primary_takes_an_election_and_never_no_time(tmp_path: Path, stated: str, ms: int) -> None:
    estate = estate_of(tmp_path, THREE + "]" + stated + ", backups: [")
    made = planned(estate, "a")
    assert [o.base_ms for o in made.outcomes] == [ms]
    assert [s.kind for s in made.steps] == ["elect", "verify"]
    assert [(s.primary_ms, s.loss_ms) for s in made.stores] == [(ms, 0)]
    assert fate(estate, "a") == ("recovers", ms)


def test_what_is_not_elected_is_promoted_without_a_fence_of_its_own(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, automatic="false")
    made = planned(estate, "a")
    assert [o.base_ms for o in made.outcomes] == [20_000]
    assert [(s.kind, s.rung) for s in made.steps][:2] == [("fence", "none"), ("promote", "")]
    assert fate(estate, "a") == ("recovers", 20_000)


def test_a_member_that_is_no_primary_is_no_outage(tmp_path: Path) -> None:
    estate = estate_of(tmp_path)
    assert planned(estate, "c").outcomes == ()
    assert fate(estate, "c")[0] == "unaffected"


MINORITY = "{at: a, mode: primary, votes: 2}, {at: b, mode: sync, lag: 3 s}"


def test_without_a_majority_writes_stop_until_people_force_a_cluster(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, MINORITY)
    made = planned(estate, "a")
    assert [o.state for o in made.outcomes] == ["unplaced"]
    assert "lost the majority of its votes" in made.outcomes[0].reason
    assert fate(estate, "a")[0] == "lost"


def test_a_waiver_plans_to_force_a_cluster(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, MINORITY, more="limits: {manual: {force-quorum: 20 min}}\n")
    made = planned(estate, "a", "orders")
    assert [o.base_ms for o in made.outcomes] == [40_000 + 20 * 60_000]
    assert [s.kind for s in made.steps] == ["fence", "force-quorum", "verify"]
    assert (made.waivers, made.stores[0].loss_ms) == (("orders",), 3_000)


WAIVED_LOSSES = [
    ("{at: a, mode: primary}, {at: b, mode: sync}", "a", "b", 0),
    ("{at: b, mode: primary}, {at: a, mode: sync}", "a", "b", 0),
    ("{at: a, mode: primary, votes: 2}, {at: b, mode: sync, votes: 2}", "a", "b", 0),
    ("{at: a, mode: primary, votes: 2}, {at: b, mode: sync}", "a", "b", None),
    ("{at: a, mode: primary}, {at: b, mode: sync}, {at: c, mode: none}", "g", "b", None),
    ("{at: b, mode: primary}, {at: a, mode: sync}, {at: c, mode: sync}", "g", "b", 0),
    ("{at: a, mode: primary}, {at: b, mode: async, votes: 0}, {at: c, mode: sync}", "g", "b", None),
]


@pytest.mark.parametrize(("members", "lost", "at", "loss_ms"), WAIVED_LOSSES)
def test_a_forced_cluster_has_what_every_majority_confirmed(
    tmp_path: Path, members: str, lost: str, at: str, loss_ms: int | None
) -> None:
    """No lag is stated. The primary has all writes; so has a member without which there is no majority."""
    more = "limits: {manual: {force-quorum: 20 min}}\ngroups: {g: {members: [a, c]}}\n"
    made = planned(estate_of(tmp_path, members, more=more), lost, "orders")
    assert "force-quorum" in {step.kind for step in made.steps}
    assert [(one.candidate, one.loss_ms) for one in made.stores] == [(at, loss_ms)]


def test_the_checker_finds_what_a_forced_cluster_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(store: Store, member: StoreMember) -> int:
        return 0

    more = "limits: {manual: {force-quorum: 20 min}}\n"
    estate = estate_of(tmp_path, "{at: a, mode: primary, votes: 2}, {at: b, mode: sync}", more=more)
    monkeypatch.setattr(stores, "_forced_loss_ms", nothing)
    made = plan(estate, lose("a"), policy=Policy(waivers=("orders",)))
    assert [one.loss_ms for one in made.stores] == [0]
    assert {"F19"} <= {one.rule for one in check(estate, made).violations}


def test_half_of_the_votes_are_no_majority(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, "{at: a, mode: primary}, {at: b, mode: sync}")
    assert [o.state for o in planned(estate, "a").outcomes] == ["unplaced"]
    assert fate(estate, "a")[0] == "lost"


def test_a_witness_has_no_data(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, "{at: a, mode: primary}, {at: b, mode: none}, {at: c, mode: none}")
    assert [o.state for o in planned(estate, "a").outcomes] == ["unplaced"]
    assert [o.state for o in planned(estate, "a", "orders").outcomes] == ["unplaced"]
    assert fate(estate, "a")[0] == "lost"


def test_a_best_copy_beyond_its_rpo_asks_for_a_waiver(tmp_path: Path) -> None:
    members = "{at: a, mode: primary}, {at: b, mode: async, lag: 9 s}, {at: c, mode: none}"
    estate = estate_of(tmp_path, members)
    assert [o.state for o in planned(estate, "a").outcomes] == ["unplaced"]
    waived = planned(estate, "a", "orders")
    assert [o.base_ms for o in waived.outcomes] == [29_000]  # it replays what it has received
    assert waived.stores[0].loss_ms == 9_000
    assert fate(estate, "a")[0] == "lost"
