"""From plan to run: what each step does, by which proof a store is fenced, and what stays with people."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac import estate as estates
from evac.derive import situation
from evac.derive.stores import observed
from evac.engine.boots.binding import boot_endpoint
from evac.engine.runs.binding import Bound, _digest, bind
from evac.engine.runs.ground import ground_of
from evac.engine.runs.step_actions import followers
from evac.estate.examples import pangyo
from evac.model.errors import StalePlan
from evac.model.estate import Endpoint, Estate
from evac.model.observation import MemberSeen, Observation
from evac.model.run_policy import Pace, RunPolicy, StorePolicy
from evac.model.scenario import Scenario, lose
from evac.model.situation import Effects, Moved
from evac.planning.plan import plan
from evac.run.values import Left
from evac.verify import check
from tests.unit.engine.messenger import CAREFUL, DATABASES, ESTATE, LAX, TRAFFIC, bound, confirming, estate


def test_a_sync_replica_is_the_fence_where_policy_says_so(tmp_path: Path) -> None:
    found = bound(estate(tmp_path))
    (fence,) = found.actions["fence:messages"]
    assert (fence.verb, fence.driver, fence.at) == ("fence", "postgres", "anyang")
    assert fence.parameters["proof"] == "sync"
    assert (fence.parameters["old"], fence.parameters["old_host"]) == ("pangyo", "127.0.0.1")


@pytest.mark.parametrize(
    ("users", "lets_in"),
    [((), False), (("pangyo",), True), (("anyang",), False), (("pangyo", "ansan"), False)],
)
def test_a_proxy_that_only_sends_to_lost_sites_lets_the_new_place_in_before_it_is_asked(
    tmp_path: Path, users: tuple[str, ...], lets_in: bool
) -> None:
    """A run that moved the users to pangyo took the other sites out of every proxy; and traffic moves only
    once the new place answers: through its proxy it could not.
    """
    doors = "".join(
        f"  door-{site}: "
        f"{{for: messenger, at: {site}, driver: http, settings: {{url: 'http://127.0.0.{n}/'}}}}\n"
        for n, site in enumerate(("pangyo", "anyang", "ansan"), 1)
    )
    of = estate(tmp_path, DATABASES + TRAFFIC + doors)
    found = bound(replace(of, traffic={"messenger": users} if users else {}))
    verifies = [found.actions[s.id] for s in found.spec.steps if s.kind == "verify"]
    assert verifies
    for actions in verifies:
        asked = [action.at for action in actions if action.verb == "verify"]
        before = [(a.verb, a.driver, a.at, a.parameters["site"]) for a in actions[: -len(asked)]]
        assert before == ([("ready", "haproxy", at, at) for at in sorted(asked)] if lets_in else [])
    leaves = bound(
        replace(of, traffic={"messenger": users} if users else {}), Scenario("evacuate", ("pangyo",))
    )
    assert not [a for actions in leaves.actions.values() for a in actions if a.verb == "ready"], (
        "they still answer"
    )


@pytest.mark.parametrize(
    "policy", [RunPolicy(), RunPolicy(stores={"messages": StorePolicy("messages", ("lease",))})]
)
def test_without_an_accepted_proof_a_person_vouches(tmp_path: Path, policy: RunPolicy) -> None:
    found = bound(estate(tmp_path), policy=policy)
    (fence,) = found.actions["fence:messages"]
    assert (fence.verb, fence.driver, fence.parameters["proof"]) == ("attest", "manual", "attest")


def test_what_was_there_before_is_said_and_changes_nothing_of_what_a_step_is(tmp_path: Path) -> None:
    found = bound(estate(tmp_path))
    scales = [a for s in found.spec.steps if s.kind == "start" for a in found.actions[s.id]]
    assert [(a.verb, a.at, a.parameters["replicas"], a.parameters["from_replicas"]) for a in scales] == [
        ("start", "ansan", 2, 0)
    ]
    (start,) = (step for step in found.spec.steps if step.kind == "start")
    other = replace(scales[0], parameters={**scales[0].parameters, "from_replicas": 2})
    assert _digest((other,)) == start.act
    more = replace(scales[0], parameters={**scales[0].parameters, "replicas": 4})
    assert _digest((more,)) != start.act


@pytest.mark.parametrize("driver", ["redis", "patroni"])
def test_a_driver_that_cannot_prove_a_fence_by_its_copy_leaves_it_to_the_next_proof(
    tmp_path: Path, driver: str
) -> None:
    ends = DATABASES.replace("driver: postgres", f"driver: {driver}")
    if driver == "patroni":
        reached = "scope: messages, url: 'http://127.0.0.1:8008', etcd: 'http://127.0.0.1:2379'"
        ends = re.sub(r"host: [\d.]+, port: 5432", reached, ends)
    found = bound(estate(tmp_path, ends + TRAFFIC))
    (fence,) = found.actions["fence:messages"]
    assert (fence.verb, fence.driver, fence.parameters["proof"]) == ("attest", "manual", "attest")


@pytest.mark.parametrize("driver", ["ipmi", "redfish"])
def test_a_controller_takes_the_power_as_a_fence(tmp_path: Path, driver: str) -> None:
    reached = "{fence: power, address: 10.0.0.9, user: evac, password: 'env:BMC'}"
    end = f"  bmc: {{for: pangyo, at: pangyo, driver: {driver}, settings: {reached}}}\n"
    policy = RunPolicy(stores={"messages": StorePolicy("messages", ("power", "attest"))})
    found = bound(estate(tmp_path, DATABASES + end), policy=policy)
    (fence,) = found.actions["fence:messages"]
    assert (fence.verb, fence.driver, fence.at, fence.parameters["proof"]) == (
        "fence",
        driver,
        "pangyo",
        "power",
    )


def test_the_controller_of_a_fence_boots_nothing() -> None:
    fence = Endpoint("a-fence", "pangyo", "pangyo", "redfish", {"fence": "power", "address": "10.0.0.9"})
    boots = [Endpoint(name, "pangyo", "pangyo", "ipmi", {"user": "evac"}) for name in ("c", "b")]
    assert boot_endpoint([fence, *boots]) is boots[1]
    assert boot_endpoint([fence]) is None


def test_a_lost_sync_replica_is_no_proof(tmp_path: Path) -> None:
    seen = Observation(
        0,
        (
            MemberSeen("messages", "anyang", "none"),
            MemberSeen("messages", "ansan", "async"),
            MemberSeen("messages", "pangyo", "primary"),
        ),
    )
    found = bound(observed(estate(tmp_path), seen))
    assert found.actions["fence:messages"][0].driver == "manual"


def test_promotion_leads_the_other_copy_to_the_new_primary_and_keeps_it_synchronous(tmp_path: Path) -> None:
    found = bound(estate(tmp_path))
    (promote,) = found.actions["promote:messages"]
    (follow,) = found.actions["rejoin:messages:ansan"]
    assert next(s for s in found.spec.steps if s.id == "rejoin:messages:ansan").after == ("promote:messages",)
    assert (promote.at, promote.parameters["synchronous"]) == ("anyang", ("dc-ansan",))
    assert promote.parameters["copies"] == ("127.0.0.3:5432",), "a fuller copy gives what it has first"
    assert (follow.verb, follow.at, follow.parameters["how"]) == ("rejoin", "ansan", "follow")
    assert follow.parameters["primary_host"] == "127.0.0.2"


def test_a_loss_of_writes_is_a_gate_unless_policy_allows_it(tmp_path: Path) -> None:
    lossy = estate(tmp_path)
    store = lossy.stores[0]
    members = tuple(replace(m, mode="async", lag_ms=2_000) if m.mode == "sync" else m for m in store.members)
    lossy = replace(lossy, stores=(replace(store, members=members),))

    def gate_of(policy: RunPolicy) -> str:
        steps = bound(lossy, policy=policy).spec.steps
        return next(s.gate for s in steps if s.kind == "promote")

    assert "2 s" in gate_of(LAX)
    allowed = StorePolicy("messages", ("attest",), async_promotion="allow", most_lost_ms=2_000)
    assert gate_of(RunPolicy(stores={"messages": allowed})) == ""
    assert gate_of(RunPolicy(stores={"messages": replace(allowed, most_lost_ms=1_999)}))
    assert bound(lossy).spec.envelope.most_lost_ms == 2_000


def test_traffic_moves_at_every_proxy_and_name_server_outside_the_loss(tmp_path: Path) -> None:
    moves = bound(estate(tmp_path)).actions["shift:messenger"]
    assert {(a.driver, a.at) for a in moves} == {
        ("haproxy", "anyang"),
        ("haproxy", "ansan"),
        ("dns", "anyang"),
        ("dns", "ansan"),
    }
    assert {(a.parameters["to"], a.parameters["away"]) for a in moves} == {("anyang", "pangyo")}
    assert [a.driver for a in moves] == ["haproxy", "haproxy", "dns", "dns"]


def test_starts_say_how_many_there_are_then(tmp_path: Path) -> None:
    found = bound(estate(tmp_path))
    starts = [a for step, rows in found.actions.items() if step.startswith("start:") for a in rows]
    assert sum(int(a.parameters["replicas"]) for a in starts) >= 2
    assert all(a.driver == "process" and a.at != "pangyo" for a in starts)


def test_an_orderly_way_out_demotes_what_still_answers(tmp_path: Path) -> None:
    found = bound(estate(tmp_path), Scenario("evacuate", ("pangyo",), 3_600_000))
    (fence,) = found.actions["fence:messages"]
    assert (fence.verb, fence.at) == ("demote", "pangyo")
    (stop,) = found.actions["stop:messenger"]
    assert (stop.verb, stop.at, stop.parameters["replicas"]) == ("stop", "pangyo", 0)


def test_a_primary_that_answers_again_in_the_middle_of_a_loss_gives_its_role_up(tmp_path: Path) -> None:
    found = bound(estate(tmp_path))
    (given_up,) = found.actions["promote:messages/old"]
    assert (given_up.verb, given_up.at, given_up.settings["name"]) == ("demote", "pangyo", "dc-pangyo")
    assert "proof" not in given_up.parameters, "what it acknowledged meanwhile is lost all the same"
    orderly = bound(estate(tmp_path), Scenario("evacuate", ("pangyo",), 3_600_000))
    assert "promote:messages/old" not in orderly.actions
    assert "promote:messages/old" not in bound(estate(tmp_path, TRAFFIC)).actions


def test_a_primary_that_has_no_copy_elsewhere_is_not_demoted_on_its_way_back(tmp_path: Path) -> None:
    alone = (ESTATE + DATABASES).replace("      - {at: anyang, mode: sync, lag: 0 s}\n", "")
    (tmp_path / "estate.yaml").write_text(alone.replace("      - {at: ansan, mode: async, lag: 2 s}\n", ""))
    found = bound(estates.load(tmp_path), Scenario("restore", ("pangyo",)))
    assert [(one.verb, one.driver) for one in found.actions["fence:messages"]] == [("demote", "noop")]
    assert [one.at for one in found.actions["promote:messages"]] == ["pangyo"]


def test_what_nothing_reaches_is_work_for_people_in_words(tmp_path: Path) -> None:
    found = bound(estate(tmp_path, ""))
    assert {a.driver for rows in found.actions.values() for a in rows} == {"manual"}
    assert all(step.manual for step in found.spec.steps)
    assert "messages" in str(found.actions["promote:messages"][0].parameters["instructions"])


def test_limits_of_a_large_plan_are_carried_over(tmp_path: Path) -> None:
    company = pangyo(servers=2_000, mended=True)
    policy = RunPolicy(driver_limits={"manual": 40})
    found = bound(company, policy=policy)
    limits = {limit.id: limit for limit in found.spec.limits}
    used = {limit for step in found.spec.steps for limit, _, _ in step.uses}
    assert used <= set(limits)
    assert limits["driver:manual"].capacity == 40
    assert all(limit.window_ms > 0 for limit in found.spec.limits if limit.kind == "rate")
    assert {s.data_set for s in found.spec.steps if s.kind == "promote"} == {
        s.target for s in found.spec.steps if s.kind == "promote"
    }


SHARED = replace(LAX, pace=Pace((100, 500, 1_000)))


def shifts(found: Bound) -> list[tuple[str, tuple[str, ...], set[object]]]:
    return [
        (step.id, step.after, {action.parameters["share"] for action in found.actions[step.id]})
        for step in found.spec.steps
        if step.kind == "shift"
    ]


def test_an_orderly_shift_grows_in_shares_and_what_follows_waits_for_the_last(tmp_path: Path) -> None:
    whole = bound(estate(tmp_path), Scenario("evacuate", ("pangyo",)))
    found = bound(estate(tmp_path), Scenario("evacuate", ("pangyo",)), SHARED)
    ((first, after, _),) = shifts(whole)
    assert shifts(found) == [
        (first, after, {100}),
        (f"{first}:2", (first,), {500}),
        (f"{first}:3", (f"{first}:2",), {1_000}),
    ]
    assert all(step.paced for step in found.spec.steps if step.kind == "shift")
    assert found.spec.pace.wait_ms == 1_000, "nothing is seen of traffic that has just come"
    (second,) = {action.parameters["from_share"] for action in found.actions[f"{first}:2"]}
    assert second == 100
    waiting = {s.id: s.after for s in whole.spec.steps if first in s.after}
    for step in found.spec.steps:
        if step.id in waiting:
            assert f"{first}:3" in step.after
            assert first not in step.after


def test_the_way_home_grows_in_shares_from_where_the_data_was(tmp_path: Path) -> None:
    roles = {"anyang": "primary", "ansan": "async", "pangyo": "sync"}
    away = Observation(0, tuple(MemberSeen("messages", site, role) for site, role in roles.items()))  # type: ignore[arg-type]
    of = observed(estate(tmp_path), away)
    found = bound(of, Scenario("failback", ("pangyo",)), SHARED)
    moves = [a for s in found.spec.steps if s.kind == "shift" for a in found.actions[s.id]]
    assert {(a.parameters["to"], a.parameters["away"]) for a in moves} == {("pangyo", "anyang")}
    assert {a.parameters["share"] for a in moves} == {100, 500, 1_000}


def test_the_way_home_brings_the_primary_with_it_and_protects_it_again(tmp_path: Path) -> None:
    roles = {"anyang": "primary", "ansan": "sync", "pangyo": "async"}
    away = Observation(0, tuple(MemberSeen("messages", site, role) for site, role in roles.items()))  # type: ignore[arg-type]
    home = Scenario("failback", ("pangyo",))
    found = bound(observed(estate(tmp_path), away), home)
    (demote,), (promote,) = found.actions["fence:messages"], found.actions["promote:messages"]
    assert (demote.verb, demote.at, promote.at) == ("demote", "anyang", "pangyo")
    assert promote.parameters["synchronous"] == ("dc-ansan",)
    assert {step.id for step in found.spec.steps if step.kind == "rejoin"} == {
        "rejoin:messages:anyang",
        "rejoin:messages:ansan",
    }
    (units,) = (a for step, acts in found.actions.items() if step.startswith("start") for a in acts)
    assert units.parameters["replicas"] == 2, "what comes home is not counted as being there already"


@pytest.mark.parametrize("users", [("anyang",), ("anyang", "pangyo")])
def test_the_way_home_lets_a_site_in_again_that_serves_beside_another(
    tmp_path: Path, users: tuple[str, ...]
) -> None:
    """No shift sends users to pangyo, as its data stays at anyang, and every proxy still keeps it out."""
    (tmp_path / "estate.yaml").write_text(
        ESTATE.replace("{at: pangyo, mode: primary}", "{at: pangyo, mode: sync, lag: 0 s}").replace(
            "{at: anyang, mode: sync, lag: 0 s}", "{at: anyang, mode: primary}"
        )
        + DATABASES
        + TRAFFIC
    )
    of = replace(estates.load(tmp_path), traffic={"messenger": users})
    found = bound(of, Scenario("failback", ("pangyo",)))
    steps = {step.id: step for step in found.spec.steps}
    again = {
        (a.verb, a.driver, a.at, a.parameters["site"]) for a in found.actions.get("redirect:messenger", ())
    }
    if "pangyo" in users:
        assert not again, "nothing took it out"
        return
    as_meant = bound(replace(of, as_routed=("messenger",)), Scenario("failback", ("pangyo",)))
    assert "redirect:messenger" not in as_meant.actions, "no run took it out"
    assert again == {("ready", "haproxy", at, "pangyo") for at in ("pangyo", "anyang", "ansan")}
    starts = {name for name, step in steps.items() if step.kind == "start"}
    assert starts
    assert starts <= set(steps["redirect:messenger"].after), "only once it runs there again"


def test_a_stop_at_a_site_that_is_evacuated_says_what_ran_there_so_that_it_can_be_undone(
    tmp_path: Path,
) -> None:
    found = bound(estate(tmp_path), Scenario("evacuate", ("pangyo",), 600_000))
    (units,) = found.actions["stop:messenger"]
    assert (units.verb, units.at) == ("stop", "pangyo")
    assert (units.parameters["replicas"], units.parameters["from_replicas"]) == (0, 2)


def test_routers_of_a_site_that_is_evacuated_send_users_away_before_the_service_stops_there(
    tmp_path: Path,
) -> None:
    """They answer until the site is switched off. The shift waits for none: they may go down early."""
    found = bound(estate(tmp_path), Scenario("evacuate", ("pangyo",), 600_000))
    steps = {step.id: step for step in found.spec.steps}
    (shift,) = (step for step in steps.values() if step.kind == "shift")
    elsewhere = [a.at for a in found.actions[shift.id]]
    assert "pangyo" not in elsewhere
    told = found.actions["redirect:messenger"]
    assert [(a.verb, a.driver, a.at) for a in told] == [
        ("shift", "haproxy", "pangyo"),
        ("shift", "dns", "pangyo"),
    ]
    (place,) = {one.parameters["to"] for one in (*told, *found.actions[shift.id])}
    assert place != "pangyo"
    assert {one.parameters["away"] for one in (*told, *found.actions[shift.id])} == {"pangyo"}
    assert shift.id in steps["redirect:messenger"].after
    assert "redirect:messenger" in steps["stop:messenger"].after
    assert "redirect:messenger" not in bound(estate(tmp_path)).actions, "a lost site answers nothing"


def test_the_way_home_scales_back_what_a_cut_run_left_too_many_of(tmp_path: Path) -> None:
    """Where one replica is at home beside it, one stays."""
    files = estate(tmp_path)
    placed = {"messenger": (("anyang-units", 3), ("pangyo-units", 2))}
    left = Moved("cut", "evacuate", ("pangyo",), 1, 2, "cancelled", placed)
    now = situation.of(files, Observation(3, effects=Effects(moved=(left,)))).estate
    made = plan(now, Scenario("failback", ("pangyo",)))
    assert check(now, made).holds
    found = bind(now, made, LAX, run="r1", incident="i1", digest="sha256:0")
    assert [step.id for step in found.spec.steps] == ["stop:messenger"]
    (units,) = found.actions["stop:messenger"]
    assert (units.verb, units.at) == ("scale", "anyang")
    assert (units.parameters["replicas"], units.parameters["from_replicas"]) == (1, 3)


def test_a_way_home_planned_from_the_files_alone_moves_no_primary_that_is_at_home(tmp_path: Path) -> None:
    with pytest.raises(StalePlan, match="already at home"):
        bound(estate(tmp_path), Scenario("failback", ("pangyo",)))


def test_from_a_site_that_is_lost_all_traffic_goes_at_once(tmp_path: Path) -> None:
    found = bound(estate(tmp_path), policy=SHARED)
    ((_, _, share),) = shifts(found)
    assert share == {1_000}
    assert found.spec.pace == SHARED.pace
    assert not any(step.paced for step in found.spec.steps)


def test_a_step_says_what_tells_it_from_one_of_the_same_id_in_another_plan(tmp_path: Path) -> None:
    def acts(scenario: Scenario, policy: RunPolicy = LAX) -> dict[str, str]:
        return {step.id: step.act for step in bound(estate(tmp_path), scenario, policy).spec.steps}

    hard, orderly = acts(lose("pangyo")), acts(Scenario("evacuate", ("pangyo",)))
    assert (hard["fence:messages"], orderly["fence:messages"]) == ("pangyo>anyang", "pangyo")
    assert acts(lose("pangyo"), RunPolicy())["fence:messages"] == "pangyo"
    assert hard == acts(lose("pangyo")), "the same plan, the same acts"
    both = acts(lose("pangyo", "ansan"))
    shift = next(name for name in hard if name.startswith("shift"))
    assert both[shift] != hard[shift], "it goes away from another site as well"


def test_a_plan_that_has_no_place_for_a_store_can_be_carried_out_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(
        """evac: 1
horizon: 1 h
sites: {pangyo: {}, anyang: {}}
services:
  ledger: {people: 10, replicas: {pangyo: 1, anyang: 1}, share: 50 %, start: 1 s, needs: [{store: books}]}
  page: {people: 10, replicas: {pangyo: 2}, start: 1 s}
stores:
  books: {engine: postgresql, rpo: 0 s, members: [{at: pangyo, mode: primary}]}
""",
        encoding="utf-8",
    )
    estate = estates.load(tmp_path)
    made = plan(estate, lose("pangyo"), work=10)
    assert [s.candidate for s in made.stores] == [""]
    bound = bind(estate, made, RunPolicy(), run="r", incident="i", digest="d")
    assert any(step.kind == "start" and step.target == "page" for step in bound.spec.steps)


def test_a_copy_that_came_back_is_led_to_the_primary_by_the_run_itself(tmp_path: Path) -> None:
    roles = {"anyang": "primary", "ansan": "sync", "pangyo": "none"}
    away = Observation(0, tuple(MemberSeen("messages", site, role) for site, role in roles.items()))  # type: ignore[arg-type]
    found = bound(observed(estate(tmp_path), away), Scenario("restore", ("pangyo",)))
    (step,) = (step for step in found.spec.steps if step.id == "reprotect:messages:pangyo")
    (rejoin,) = found.actions[step.id]
    assert (rejoin.verb, rejoin.at, rejoin.parameters["primary_host"]) == ("rejoin", "pangyo", "127.0.0.2")
    assert (step.kind, step.manual, step.deadline_ms >= 60_000) == ("rejoin", False, True)
    by_hand = bound(observed(estate(tmp_path, TRAFFIC), away), Scenario("restore", ("pangyo",)))
    assert next(s for s in by_hand.spec.steps if s.id == step.id).manual


def test_routers_of_a_site_that_came_back_send_users_to_where_the_service_runs_now(tmp_path: Path) -> None:
    """Nothing of the service is started, so that the plan itself shifts nothing."""
    runs_elsewhere = ESTATE.replace("pangyo-units: 2, anyang-units: 1", "anyang-units: 3")
    assert runs_elsewhere != ESTATE
    (tmp_path / "estate.yaml").write_text(runs_elsewhere + TRAFFIC)
    now = estates.load(tmp_path)
    moved = replace(now, traffic={"messenger": ("anyang",)})
    found = bound(moved, Scenario("restore", ("pangyo",)))
    redirect = next(step for step in found.spec.steps if step.kind == "redirect")
    proxy, name = found.actions[redirect.id]
    assert [(a.verb, a.driver, a.at) for a in (proxy, name)] == [
        ("shift", "haproxy", "pangyo"),
        ("shift", "dns", "pangyo"),
    ], "proxies first, and those of the site that came back alone"
    assert {a.parameters["to"] for a in (proxy, name)} == {"anyang"}
    assert {a.parameters["away"] for a in (proxy, name)} == {"ansan,pangyo"}
    for of, scenario in ((moved, lose("pangyo")), (now, Scenario("restore", ("pangyo",)))):
        assert "redirect" not in [step.kind for step in bound(of, scenario).spec.steps]


def test_a_copy_that_follows_nobody_just_now_is_led_to_the_new_primary_after_all_others(
    tmp_path: Path,
) -> None:
    of = estate(tmp_path)
    roles = {"pangyo": "primary", "anyang": "sync", "ansan": "detached"}
    seen = Observation(0, tuple(MemberSeen("messages", site, role) for site, role in roles.items()))  # type: ignore[arg-type]
    found = bound(observed(of, seen))
    (promote,), (follow,) = found.actions["promote:messages"], found.actions["rejoin:messages:ansan"]
    assert promote.parameters["synchronous"] == ("dc-ansan",), "nothing else could confirm its commits"
    assert (follow.verb, follow.at) == ("rejoin", "ansan")
    both = replace(
        seen,
        members=(
            *seen.members[:1],
            replace(seen.members[1], role="detached"),
            replace(seen.members[2], role="async"),
        ),
    )
    ground = ground_of(observed(of, both), plan(of, lose("pangyo")), LAX)
    assert [end.at for end in followers(ground, ground.estate.stores[0], "")] == ["ansan", "anyang"]


def test_a_way_home_and_a_return_end_with_a_copy_that_confirms_commits(tmp_path: Path) -> None:
    home = bound(
        confirming(tmp_path, anyang="primary", ansan="async", pangyo="async"),
        Scenario("failback", ("pangyo",)),
        CAREFUL,
    )
    (protect,) = (step for step in home.spec.steps if step.kind == "protect")
    (action,) = home.actions[protect.id]
    assert (action.verb, action.at, action.parameters["synchronous"]) == ("protect", "pangyo", ("dc-ansan",))
    assert protect.after == ("rejoin:messages:ansan", "promote:messages"), (
        "until it follows, commits would hang"
    )
    back = bound(
        confirming(tmp_path, anyang="primary", ansan="none", pangyo="none"),
        Scenario("restore", ("pangyo",)),
        CAREFUL,
    )
    (protect,) = (step for step in back.spec.steps if step.kind == "protect")
    (action,) = back.actions[protect.id]
    assert (action.at, action.parameters["synchronous"]) == ("anyang", ("dc-pangyo",))
    assert protect.after == ("reprotect:messages:pangyo",)
    assert "unprotected" not in {one.state for one in (*home.spec.leaves, *back.spec.leaves)}


def test_a_return_makes_a_copy_confirm_that_may_have_stopped_since_it_was_last_seen(tmp_path: Path) -> None:
    """Its site was silent meanwhile, so that it kept its role although commits went on without it."""

    def protects(of: Estate, site: str) -> list[Any]:
        found = bound(of, Scenario("restore", (site,)), CAREFUL)
        steps = [step for step in found.spec.steps if step.kind == "protect"]
        return [(step.after, *found.actions[step.id][0].parameters["synchronous"]) for step in steps]

    silent = confirming(tmp_path, pangyo="primary", anyang="sync", ansan="async")
    assert protects(silent, "anyang") == [(("reprotect:messages:anyang",), "dc-anyang")]
    assert not protects(silent, "ansan"), "the one that confirms is not changed for another"
    two = confirming(tmp_path, pangyo="primary", anyang="sync", ansan="sync")
    assert not protects(two, "anyang"), "one that confirms alone would leave out the other"


def test_a_store_that_was_promoted_by_hand_before_its_fire_was_taken_over_is_unprotected(
    tmp_path: Path,
) -> None:
    """The rest of the plan moves nothing of it, and yet it ends without a copy that confirms."""
    now = confirming(tmp_path, anyang="primary", ansan="async", pangyo="none")
    assert Left("messages", "unprotected") in bound(now, lose("pangyo"), CAREFUL).spec.leaves
    may_lose = replace(now, stores=(replace(now.stores[0], rpo_ms=1_000),))
    kept = confirming(tmp_path, anyang="primary", ansan="sync", pangyo="none")
    for other, what in ((may_lose, "pangyo"), (kept, "pangyo")):
        assert not bound(other, lose(what), CAREFUL).spec.leaves


def test_a_store_that_no_copy_is_left_to_protect_is_named(tmp_path: Path) -> None:
    alone = confirming(tmp_path, pangyo="primary", anyang="sync", ansan="none")
    found = bound(alone, policy=CAREFUL)
    assert not [step for step in found.spec.steps if step.kind == "protect"]
    assert Left("messages", "unprotected") in found.spec.leaves
    may_lose = replace(alone, stores=(replace(alone.stores[0], rpo_ms=1_000),))
    assert "unprotected" not in {one.state for one in bound(may_lose, policy=CAREFUL).spec.leaves}


@pytest.mark.parametrize(("rpo_ms", "kept"), [(0, ("dc-ansan",)), (1_000, ()), (None, ())])
def test_a_store_that_may_lose_nothing_stays_synchronous_where_no_copy_confirms_at_the_moment(
    tmp_path: Path, rpo_ms: int | None, kept: tuple[str, ...]
) -> None:
    roles = {"anyang": "primary", "ansan": "async", "pangyo": "async"}
    away = Observation(0, tuple(MemberSeen("messages", site, role) for site, role in roles.items()))  # type: ignore[arg-type]
    seen = observed(estate(tmp_path), away)
    seen = replace(seen, stores=(replace(seen.stores[0], rpo_ms=rpo_ms),))
    (promote,) = bound(seen, Scenario("failback", ("pangyo",))).actions["promote:messages"]
    assert promote.parameters["synchronous"] == kept
