"""From an estate and a scenario to the integers of the planning instance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evac.derive.planning_instance import derive
from evac.derive.stores import observed
from evac.model.digest import estate_digest
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.observation import MemberSeen, Observation, Role
from evac.model.scenario import Policy, Scenario, lose
from tests.unit.model.estates import WEB, two_sites


@pytest.fixture
def lost_a() -> Instance:
    return derive(two_sites(), lose("a"))


def service(instance: Instance, name: str) -> int:
    return instance.services.id.index(name)


def test_lost_replicas_become_starts(lost_a: Instance) -> None:
    pay = service(lost_a, "pay")
    services = lost_a.services
    assert (services.n[pay], services.m[pay], services.surviving[pay]) == (3, 2, 1)
    assert (services.base_starts(pay), services.top_starts(pay)) == (1, 1)
    assert services.base_lost[pay]
    assert services.shift[pay]


def test_what_lost_nothing_and_needs_nothing_lost_is_not_affected(lost_a: Instance) -> None:
    identity = service(lost_a, "identity")
    assert not lost_a.services.base_lost[identity]
    assert not lost_a.services.top_lost[identity]


def test_durations_round_up_to_ticks_once(lost_a: Instance) -> None:
    pay = service(lost_a, "pay")
    assert lost_a.services.start[pay] == 21
    assert lost_a.services.verify[pay] == 1
    assert lost_a.services.settle[pay] == 60


def test_weights_split_people_between_base_and_top(lost_a: Instance) -> None:
    pay = service(lost_a, "pay")
    assert lost_a.services.base_weight[pay] == 8 * (1000 - 333)
    assert lost_a.services.top_weight[pay] == 8 * 333


def test_rows_are_survivors_with_their_capacity(lost_a: Instance) -> None:
    assert lost_a.row_names == ("b1", "b2")
    assert lost_a.rows.dark.tolist() == [False, True]
    assert lost_a.rows.used[0].tolist() == [3000, 3072, 2, 0]
    assert lost_a.rows.boot_kind.tolist() == [-1, 0]
    assert lost_a.boot_kinds[0].duration == 120


def test_power_counts_what_is_on_and_the_budget(lost_a: Instance) -> None:
    budget = lost_a.power[0]
    assert (budget.id, budget.watts, budget.on_watts) == ("b/f1", 1000, 300)
    assert lost_a.rows.watts.tolist() == [0, 300]


def test_a_lost_primary_has_its_replica_as_candidate(lost_a: Instance) -> None:
    (store,) = lost_a.stores
    (candidate,) = store.candidates
    assert (candidate.id, candidate.duration, candidate.loss_ms, candidate.allowed) == ("b", 31, 500, True)
    assert store.fence == 20


def test_a_candidate_beyond_rpo_needs_a_waiver_by_name() -> None:
    estate = two_sites()
    strict = replace(estate, stores=(replace(estate.stores[0], rpo_ms=0),))
    refused = derive(strict, lose("a"))
    assert not refused.stores[0].candidates[0].allowed
    assert refused.services.blocked[service(refused, "pay")]
    waived = derive(strict, lose("a"), Policy(waivers=("accounts",)))
    assert waived.stores[0].candidates[0].waived
    assert not waived.services.blocked.any()


def test_spares_count_at_their_odds() -> None:
    estate = replace(two_sites(), classes=(replace(WEB, boot_odds_permille=999),))
    assert derive(estate, lose("a")).row_names == ("b1",)


def test_unknown_facts_are_listed_and_never_guessed() -> None:
    estate = two_sites()
    blind = replace(
        estate, services=(estate.services[0], replace(estate.services[1], people=None, start_ms=None))
    )
    unknown = derive(blind, lose("a")).unknown
    assert "services/pay/people" in unknown
    assert "services/pay/start" in unknown


def test_restoring_a_site_makes_its_servers_dark_rows() -> None:
    instance = derive(two_sites(), Scenario("restore", ("a",)))
    assert instance.row_names == ("a1", "a2", "b1", "b2")
    assert instance.rows.dark.tolist() == [True, True, False, True]
    assert not instance.rows.used[:2].any()


def test_power_that_is_back_brings_the_old_primary_with_it() -> None:
    (store,) = derive(two_sites(), Scenario("restore", ("a",))).stores
    assert {c.id: c.loss_ms for c in store.candidates} == {"a/h1/r1": 0, "b": 500}


def test_failing_back_makes_the_home_primary_and_an_evacuation_loses_nothing() -> None:
    (home,) = derive(two_sites(), Scenario("failback", ("a",))).stores
    assert [(c.id, c.loss_ms) for c in home.candidates] == [("a/h1/r1", 0)]
    (away,) = derive(two_sites(), Scenario("evacuate", ("a",), 60_000)).stores
    assert [(c.id, c.loss_ms) for c in away.candidates] == [("b", 0)]


@pytest.mark.parametrize(("kind", "loss_ms"), [("evacuate", 10_000), ("lose", 10_000), ("failback", 0)])
def test_nobody_waits_for_a_copy_that_follows_nobody_but_on_the_way_home(kind: str, loss_ms: int) -> None:
    home = kind == "failback"
    roles: tuple[tuple[str, Role], ...] = (
        (("a", "detached"), ("b", "primary")) if home else (("a", "primary"), ("b", "detached"))
    )
    (store,) = two_sites().stores
    seen = Observation(0, tuple(MemberSeen(store.id, site, role, 10_000) for site, role in roles))
    grace = 60_000 if kind == "evacuate" else 0
    (left,) = derive(observed(two_sites(), seen), Scenario(kind, ("a",), grace)).stores  # type: ignore[arg-type]
    assert [(c.id, c.loss_ms) for c in left.candidates] == [("a/h1/r1" if home else "b", loss_ms)]


def test_losing_a_rack_moves_no_traffic() -> None:
    assert not derive(two_sites(), lose("a/h1/r2")).services.shift.any()


def test_failing_back_goes_home_only() -> None:
    instance = derive(two_sites(), Scenario("failback", ("a",)))
    assert instance.row_names == ("a1", "a2")
    assert instance.grace == instance.horizon


def test_losing_a_rack_keeps_the_site_and_its_store_elsewhere() -> None:
    instance = derive(two_sites(), lose("a/h1/r2"))
    assert instance.stores == ()
    assert instance.services.surviving[service(instance, "pay")] == 2


def test_the_digest_is_over_values() -> None:
    estate = two_sites()
    assert estate_digest(estate) == estate_digest(two_sites())
    changed = replace(estate, services=(replace(estate.services[0], people=101), estate.services[1]))
    assert estate_digest(changed) != estate_digest(estate)
    moved = replace(estate, fleet=replace(estate.fleet, watts=np.full(4, 301, np.int64)))
    assert estate_digest(moved) != estate_digest(estate)
    assert estate_digest(estate) == estate_digest(two_sites()), "and again, as nobody changed it"


def test_an_integer_that_json_readers_round_has_no_digest() -> None:
    estate = two_sites()
    large = replace(estate, services=(replace(estate.services[0], people=2**53 + 1), estate.services[1]))
    for _ in range(2):
        with pytest.raises(InvalidInput, match="beyond 2"):
            estate_digest(large)


def test_on_the_way_home_only_what_was_seen_elsewhere_moves_and_only_to_where_it_belongs() -> None:
    def seen(*roles: Role) -> Estate:
        sites = zip(("a", "b"), roles, strict=True)
        return observed(
            two_sites(), Observation(0, tuple(MemberSeen("accounts", site, role) for site, role in sites))
        )

    away, at_home = seen("async", "primary"), seen("primary", "async")
    (store,) = away.stores
    assert (store.home, store.primary.at if store.primary else "") == ("a/h1/r1", "b")
    (home,) = derive(away, Scenario("failback", ("a",))).stores
    assert [(c.id, c.loss_ms) for c in home.candidates] == [("a/h1/r1", 0)]
    assert derive(away, Scenario("failback", ("b",))).stores == ()
    assert derive(at_home, Scenario("failback", ("a",))).stores == ()
    assert estate_digest(at_home) == estate_digest(two_sites()), "seen as the files say, a plan still fits"
    assert estate_digest(away) != estate_digest(two_sites())
