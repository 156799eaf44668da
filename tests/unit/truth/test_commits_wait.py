"""A primary whose confirming copies burn holds its commits: audit, plan and checker say for how long."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.audit import audit
from evac.audit.impacts.all_losses import FATES
from evac.derive.stores import commits_wait, is_down, store_is_lost
from evac.engine.stores.sightings import again, losses_of
from evac.estate import check as check_estate
from evac.model.estate import Estate, Store, StoreMember
from evac.model.observation import MemberSeen, Role
from evac.model.plan import Plan
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.run.data_loss import later, loss_in
from evac.verify import check
from tests.unit.truth.written import AT_ONCE, written

ESTATE = """
name: bank
sites: {a: {}, b: {}, c: {}}
pools: {pa: {site: a, cpu: 64 cores, memory: 64 GiB}}
services:
  shop: {tier: 0, people: 10, rto: 1 h, replicas: {pa: 2}, needs: [{store: orders}], verify: 5 s,
         demand: {cpu: 1 core, memory: 1 GiB}, start: 1 s, traffic: {kind: none}}
stores:
  orders: {engine: postgresql, rpo: 0 s, promote: 20 s, fence: 40 s, members: [MEMBERS] MORE}
"""
ONE_COPY = "{at: a, mode: primary}, {at: b, mode: sync}, {at: c, mode: async, lag: 1 s}"
TWO_COPIES = "{at: a, mode: primary}, {at: b, mode: sync}, {at: c, mode: sync}"


def estate_of(
    folder: Path, members: str = ONE_COPY, more: str = "", rest: str = "", lead: str = AT_ONCE
) -> Estate:
    return written(folder, ESTATE.replace("MEMBERS", members).replace("MORE", more) + rest, lead)


def planned(estate: Estate, *domains: str) -> Plan:
    made = plan(estate, lose(*domains))
    verdict = check(estate, made)
    assert verdict.holds, verdict.violations
    return made


def audited(estate: Estate, domain: str) -> tuple[str, int, bool]:
    found = audit(estate).impacts
    number = found.losses.index[domain]
    return FATES[int(found.fate[number, 0])], int(found.ready_ms[number, 0]), bool(found.untimed[number, 0])


def test_writes_wait_until_the_timeout_of_the_store(tmp_path: Path) -> None:
    estate = estate_of(tmp_path, more=", sync_timeout: 30 s")
    made = planned(estate, "b")
    assert [(s.kind, s.target) for s in made.steps] == [("unprotect", "orders"), ("verify", "shop")]
    assert [(o.state, o.base_ms) for o in made.outcomes] == [("restored", 35_000)]
    assert [(s.candidate, s.loss_ms) for s in made.stores] == [("a", 0)]
    assert audited(estate, "b") == ("recovers", 35_000, False)


@pytest.mark.parametrize("more", ["", ", sync_timeout: unknown"])
def test_a_timeout_that_is_not_stated_is_an_outage_of_unknown_length(tmp_path: Path, more: str) -> None:
    estate = estate_of(tmp_path, more=more)
    made = planned(estate, "b")
    assert [o.recovery_ms for o in made.outcomes] == [None]
    assert "stores/orders/sync_timeout" in made.unknown
    assert audited(estate, "b")[2]
    found = check_estate(tmp_path).coverage
    assert found is not None
    assert any(one.path.endswith("/sync_timeout") for one in found.missing)


def test_a_primary_that_waits_for_a_person_waits_for_two_approvals(tmp_path: Path) -> None:
    """That of the plan, and that of letting it go; where none is needed, until nobody knows when, but for the
    time that the estate states.
    """
    by_hand = ", sync_timeout: never"
    asked = estate_of(tmp_path, more=by_hand, lead="detection: 1 min\napproval: 9 min\n")
    assert [o.recovery_ms for o in planned(asked, "b").outcomes] == [1_145_000]
    assert audited(asked, "b") == ("recovers", 1_145_000, False)
    alone = estate_of(tmp_path, more=by_hand)
    made = planned(alone, "b")
    assert [o.recovery_ms for o in made.outcomes] == [None]
    assert "limits/manual/unprotect" in made.unknown
    stated = estate_of(tmp_path, more=by_hand, rest="\nlimits: {manual: {unprotect: 4 min}}\n")
    assert [o.recovery_ms for o in planned(stated, "b").outcomes] == [245_000]


@pytest.mark.parametrize(
    ("members", "more", "domain"),
    [(ONE_COPY, ", sync_timeout: 0 s", "b"), (ONE_COPY, "", "c"), (TWO_COPIES, "", "b")],
)
def test_no_wait_where_the_store_drops_a_copy_at_once_or_one_is_left(
    tmp_path: Path, members: str, more: str, domain: str
) -> None:
    estate = estate_of(tmp_path, members, more)
    assert planned(estate, domain).outcomes == ()
    assert audited(estate, domain)[0] == "unaffected"


def test_copies_that_leave_in_order_are_not_waited_for(tmp_path: Path) -> None:
    estate = estate_of(tmp_path)
    assert plan(estate, Scenario("evacuate", ("b",))).outcomes == ()
    burnt = replace(estate, lost=("b",))
    assert plan(burnt, lose("c")).outcomes == ()


QUORUM = "{at: a, mode: primary}, {at: b, mode: sync}, {at: c, mode: sync}"


@pytest.mark.parametrize(
    ("members", "more", "lost"),
    [(ONE_COPY, ", sync_timeout: 30 s", "b"), (QUORUM, ", quorum: true, automatic: true, elect: 30 s", "a")],
)
def test_a_store_that_comes_back_by_itself_waits_for_no_tool_of_a_promotion(
    tmp_path: Path, members: str, more: str, lost: str
) -> None:
    """The service that keeps the secrets needs the store, and nobody promotes that: there is no circle."""
    estate = estate_of(tmp_path, members, more, "tools: {secrets: shop, vpn: shop}\n")
    estate = replace(estate, pools=tuple(replace(pool, site="c") for pool in estate.pools))
    assert [(o.state, o.base_ms) for o in planned(estate, lost).outcomes] == [("restored", 35_000)]
    assert audited(estate, lost) == ("recovers", 35_000, False)


COPIES = st.lists(st.tuples(st.sampled_from(("sync", "async", "none")), st.booleans()), max_size=5)


@settings(max_examples=300, deadline=None)
@given(COPIES, st.sampled_from((None, 0, 10)), st.booleans(), st.booleans())
def test_more_losses_never_let_a_store_write(
    copies: list[tuple[str, bool]], timeout_ms: int | None, quorum: bool, burnt: bool
) -> None:
    """Whatever else burns, a store that takes no writes takes none; only one that keeps its primary waits."""
    members = [("primary", burnt), *copies]
    store = Store(
        "s",
        "s",
        "e",
        tuple(StoreMember(f"x{row}", mode) for row, (mode, _) in enumerate(members)),  # type: ignore[arg-type]
        quorum=quorum,
        sync_timeout_ms=timeout_ms,
    )
    gone = tuple(dead for _, dead in members)
    assert not (commits_wait(store, gone) and store_is_lost(store, gone))
    for row in range(len(gone)):
        more = (*gone[:row], True, *gone[row + 1 :])
        assert is_down(store, more) or not is_down(store, gone)


def test_a_primary_that_stays_loses_nothing_and_no_one_is_told_of_a_loss(tmp_path: Path) -> None:
    made = planned(estate_of(tmp_path / "kept", more=", sync_timeout: 30 s"), "b")
    assert losses_of(estate_of(tmp_path / "kept", more=", sync_timeout: 30 s"), made, {}, 0) == {}
    moved = estate_of(tmp_path / "moved")
    assert list(losses_of(moved, planned(moved, "a"), {}, 0)) == ["orders"]


@given(
    seen=st.dictionaries(st.sampled_from("abc"), st.sampled_from(["primary", "sync", "async", "unreachable"]))
)
def test_that_a_copy_confirms_every_commit_is_said_only_if_it_was_seen(seen: dict[str, Role]) -> None:
    estate, made = _moved()
    members = tuple(MemberSeen("orders", site, role) for site, role in sorted(seen.items()))
    loss = losses_of(estate, made, {}, 0, members)["orders"]
    assert loss.most_ms == 0
    was_seen = seen.get("b") == "sync"
    assert ("confirms every commit" in loss.words) == was_seen
    assert was_seen or loss.words == "nothing, as declared in the estate; never observed"
    assert loss_in(loss.label()) == loss, "and the record keeps it"
    assert later(loss, 90_000).words == again(loss, None, 90_000).words == loss.words


@cache
def _moved() -> tuple[Estate, Plan]:
    with tempfile.TemporaryDirectory() as folder:
        estate = estate_of(Path(folder))
    return estate, planned(estate, "a")
