"""Stores that are made again from others: audit, plan, checker and the words of the files agree on when."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.audit import audit
from evac.audit.impacts.all_losses import FATES, impacts
from evac.audit.impacts.losses import losses
from evac.derive.backups import verdicts
from evac.derive.domains import topology
from evac.derive.situation import estate_after
from evac.model.backup import NOTHING_SEEN
from evac.model.estate import Dependency, Estate, Pool, Site, Store, StoreMember
from evac.model.fleet import ON_POOL
from evac.model.plan import Plan
from evac.model.scenario import Scenario, lose
from evac.planning.plan import plan
from evac.verify.check import check
from tests.unit.audit.estates import bindings, service
from tests.unit.truth.written import written

WHERE = (("east",), ("west",), ("east", "west"))


@st.composite
def estates(draw: st.DrawFn) -> Estate:
    """Originals with one copy or two, chains of what is made from them, and services that need both."""
    stores: list[Store] = []
    for number in range(draw(st.integers(1, 3))):
        first, second = draw(st.permutations(("east", "west")))
        members = (StoreMember(first, "primary"), StoreMember(second, "sync"))[: draw(st.integers(1, 2))]
        one = Store(f"d{number}", f"d{number}", "x", members, fence_ms=1_000, promote_ms=2_000)
        stores.append(replace(one, sync_timeout_ms=0))
    for number in range(draw(st.integers(1, 3))):
        source = draw(st.sampled_from([store.id for store in stores]))
        where, time_ms = draw(st.sampled_from(("east", "west"))), draw(st.integers(1, 9)) * 10_000
        one = Store(f"i{number}", f"i{number}", "x", (StoreMember(where, "primary"),), fence_ms=1_000)
        stores.append(replace(one, rebuilt_from=source, rebuild_ms=time_ms))
    made = Estate(
        name="drawn",
        sites=(Site("east"), Site("west")),
        pools=tuple(Pool(f"{site}-k8s", site, (10_000, 10_000, 100, 0)) for site in ("east", "west")),
        stores=tuple(sorted(stores, key=lambda store: store.id)),
    )
    services, placed = [], []
    for number in range(draw(st.integers(1, 6))):
        data = draw(st.lists(st.sampled_from([store.id for store in stores]), max_size=2, unique=True))
        earlier = (
            draw(st.lists(st.sampled_from([one.id for one in services]), max_size=2, unique=True))
            if services
            else []
        )
        needs = (
            *(Dependency(name, "store") for name in data),
            *(Dependency(name, "service") for name in earlier),
        )
        services.append(
            service(
                f"s{number}",
                share=0.5,
                replicas=2,
                start_ms=5_000,
                verify_ms=1_000,
                demand=(1, 1, 0, 0),
                needs=needs,
            )
        )
        sites = draw(st.sampled_from(WHERE))
        placed += [(f"s{number}", ON_POOL, f"{site}-k8s", 2 // len(sites)) for site in sites]
    made = replace(made, services=tuple(services))
    return replace(made, replicas=bindings(made, placed))


def back_after(estate: Estate, lost: str) -> dict[str, float]:
    """Milliseconds until each service serves, straight from what the words of the files mean."""
    stores = {store.id: store for store in estate.stores}
    places = {
        one.id: {
            estate.pools[int(t)].site
            for s, t in zip(estate.replicas.service, estate.replicas.target, strict=True)
            if s == n
        }
        for n, one in enumerate(estate.services)
    }

    @cache
    def original(name: str) -> float:
        """When the original under a store takes writes."""
        store = stores[name]
        if store.members[0].at != lost:
            return 0
        if store.rebuilt_from is not None:
            return original(store.rebuilt_from)
        return 3_000 if len(store.members) > 1 else float("inf")

    @cache
    def rebuild(name: str) -> int:
        store = stores[name]
        if store.members[0].at != lost or store.rebuilt_from is None:
            return 0
        return (store.rebuild_ms or 0) + rebuild(store.rebuilt_from)

    @cache
    def waited_for(name: str) -> frozenset[str]:
        """Families that are made again on the way to a service."""
        needs = next(one for one in estate.services if one.id == name).needs
        below = (waited_for(need.target) for need in needs if need.kind == "service")
        return frozenset({need.target for need in needs if need.kind == "store"}.union(*below))

    @cache
    def back(name: str) -> float:
        needs = next(one for one in estate.services if one.id == name).needs
        data = [need.target for need in needs if need.kind == "store"]
        others = [need.target for need in needs if need.kind == "service"]
        down = places[name] == {lost} or any(stores[one].members[0].at == lost for one in data)
        down = down or any(back(other) for other in others)
        if not down:
            return 0
        own = [one for one in data if not any(one in waited_for(other) for other in others)]
        there = max([0.0, *(original(one) for one in data), *(back(other) for other in others)])
        starts = 5_000 if places[name] == {lost} else 0
        return max(there, starts) + 1_000 + max([0, *(rebuild(one) for one in own)])

    return {one.id: back(one.id) for one in estate.services}


def planned(estate: Estate, scenario: Scenario) -> Plan:
    return plan(estate, scenario)


@given(estates())
@settings(max_examples=40)
def test_audit_plan_and_checker_say_when_what_is_rebuilt_serves(estate: Estate) -> None:
    top = topology(estate)
    found = impacts(top, losses(top))
    for lost in ("east", "west"):
        expected, number = back_after(estate, lost), found.losses.index[lost]
        made = planned(estate, lose(lost))
        assert check(estate, made).violations == ()
        outcomes = {one.service: one for one in made.outcomes}
        for row, one in enumerate(estate.services):
            fate, when = FATES[found.fate[number, row]], expected[one.id]
            if when == float("inf"):
                assert fate == "lost"
                assert outcomes[one.id].state == "unplaced"
            elif when:
                assert outcomes[one.id].base_ms == when
                assert fate == "recovers"
                assert found.ready_ms[number, row] == when + estate.lead.ms
            else:
                assert one.id not in outcomes or not outcomes[one.id].base_ms


@given(estates())
@settings(max_examples=30)
def test_the_second_fire_begins_with_what_was_rebuilt(estate: Estate) -> None:
    """After the fire nothing is rebuilt twice; on the way home what has no copy there is made again."""
    made = planned(estate, lose("east"))
    rebuilt = {store for step in made.steps for store, _ in step.rebuilds}
    now = estate_after(estate, made)
    for store in now.stores:
        if store.id in rebuilt:
            assert store.primary is not None
            assert store.primary.at == "west"
            assert store.home == "east"
    again = planned(now, lose("west"))
    assert not [one for one in again.outcomes if one.state == "restored" and one.base_ms]
    home = planned(replace(now, lost=()), Scenario("failback", ("east",)))
    assert check(replace(now, lost=()), home).violations == ()
    back = estate_after(replace(now, lost=()), home)
    ways = {store for step in home.steps for store, _ in step.rebuilds}
    assert ways <= {store.id for store in estate.stores if store.rebuilt_from}
    for store in back.stores:
        if store.id in ways:
            assert store.members == next(one.members for one in estate.stores if one.id == store.id)


def test_what_is_rebuilt_needs_no_backup() -> None:
    store = Store("index", "index", "x", (StoreMember("east", "primary"),), rebuilt_from="orders")
    orders = Store("orders", "orders", "x", (StoreMember("east", "primary"),))
    made = Estate(name="x", sites=(Site("east"), Site("west")), stores=(store, orders))
    states = {one.data_set: one.state for one in verdicts(topology(made), NOTHING_SEEN, None)}
    assert states == {"index": "waived", "orders": "undecided"}


@pytest.mark.parametrize(("takes", "verdict"), [("1 min", "degraded"), ("2 d", "loss")])
def test_a_store_that_is_rebuilt_in_time_is_not_lost(tmp_path: Path, takes: str, verdict: str) -> None:
    """If its source is lost, too, or the rebuild takes longer than the horizon of a day, it is. What is said
    of the loss of both is not said of the loss of one.
    """
    text = f"""
name: n
sites: {{east: {{}}, west: {{}}, north: {{}}}}
groups: {{grid: {{members: [east, west]}}}}
pools: {{north-k8s: {{site: north, cpu: 9 cores, memory: 9 GiB}}}}
services:
  find: {{tier: 1, people: 9, replicas: {{north-k8s: 1}}, start: 9 s, needs: [{{store: index}}],
         demand: {{cpu: 1 cores, memory: 1 GiB}}, traffic: {{kind: none}}}}
stores:
  orders: {{engine: x, fence: 0 s, promote: 1 s, members: [{{at: east, mode: primary}}]}}
  index: {{engine: x, rebuilt_from: orders, rebuild: {takes}, members: [{{at: west, mode: primary}}]}}
"""
    report = audit(written(tmp_path, text))
    judged = {row.domain: row.verdict for row in report.rows if row.domain != "north"}
    assert judged == {"east": "loss", "west": verdict, "grid": "loss"}
    told = {one.subject: one.domains for one in report.findings if one.rule == "no-copy-outside"}
    assert told["index"] == ("grid",)


@pytest.mark.parametrize("takes", ["1 min", "2 d", None])
def test_whether_data_is_lost_is_judged_store_by_store(tmp_path: Path, takes: str | None) -> None:
    """Of one family, `first` holds the original and `second` is rebuilt, if its source is left: whichever of
    them is lost besides. A rebuild that takes an unknown time is not said to be too late.
    """
    rebuild = "" if takes is None else f"rebuild: {takes}, "
    text = f"""
name: n
sites: {{a: {{}}, b: {{}}, c: {{}}}}
groups: {{ab: {{members: [a, b]}}, bc: {{members: [b, c]}}}}
stores:
  first: {{family: main, engine: x, members: [{{at: a, mode: primary}}]}}
  second: {{family: main, engine: x, rebuilt_from: src, {rebuild}members: [{{at: b, mode: primary}}]}}
  src: {{engine: x, members: [{{at: c, mode: primary}}]}}
"""
    report = audit(written(tmp_path, text))
    late = takes == "2 d"
    gone = {row.domain: row.stores_gone for row in report.rows if row.kind != "pair"}
    assert gone == {"a": 1, "b": int(late), "c": 1, "ab": 1 + late, "bc": 2}
    told = {
        (one.subject, one.severity): set(one.domains)
        for one in report.findings
        if one.rule == "no-copy-outside"
    }
    assert {subject: domains for (subject, severity), domains in told.items() if severity != "note"} == {
        "first": {"a", "ab"},
        "second": {"bc"},
        "src": {"c", "bc"},
    }
