"""A plan for a dark site: power, then every server, what people free, and a bound no order beats."""

from dataclasses import replace
from pathlib import Path

import pytest

from evac.derive.situation import estate_after
from evac.derive.stores import observed
from evac.estate.codecs import plan as plan_codec
from evac.model.fleet import ON_POOL
from evac.model.observation import MemberSeen, Observation
from evac.model.plan import Plan, Step
from evac.model.scenario import Scenario
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.planning.dark import dark_site


def planned(folder: Path, power: tuple[tuple[str, int], ...] = (), **facts: str) -> Plan:
    estate = dark_site(folder, **facts)
    made = plan(estate, Scenario("restore", ("a",), None, power))
    assert check(estate, made).violations == ()
    data = plan_codec.encode(made)
    assert plan_codec.encode(plan_codec.decode(data)) == data
    return made


def by_id(made: Plan) -> dict[str, Step]:
    return {step.id: step for step in made.steps}


def boots(made: Plan) -> list[Step]:
    return [step for step in made.steps if step.kind == "boot" and step.target != "b1"]


def test_every_server_boots_that_is_not_condemned(tmp_path: Path) -> None:
    made = planned(tmp_path)
    assert sorted(step.target for step in boots(made)) == sorted(
        f"a{hall}{rack}{name}" for hall in (1, 2) for rack in (1, 2) for name in ("w0", "w1", "w2", "x")
    )
    assert made.wave is not None
    assert made.wave.servers == 16
    assert made.wave.on_ms == max(step.end_ms for step in boots(made))


def test_no_boot_begins_before_its_power_and_says_so(tmp_path: Path) -> None:
    made = planned(tmp_path)
    steps = by_id(made)
    for step in boots(made):
        powers = [steps[name] for name in step.after if name.startswith("power:")]
        assert len(powers) == 1
        assert powers[0].end_ms <= step.start_ms


def test_the_wave_is_at_most_a_boot_above_what_limits_allow(tmp_path: Path) -> None:
    wave = planned(tmp_path).wave
    assert wave is not None
    assert (wave.limit, wave.bound_ms <= wave.on_ms) == ("boots:a-boot", True)
    assert wave.on_ms - wave.bound_ms <= 300_000


def test_ids_stay_the_same_in_a_replan(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = planned(tmp_path / "one")
    two = planned(tmp_path / "two", MANUAL="5 min", HALL="network_up: 1 min")
    assert by_id(one).keys() == by_id(two).keys()


def test_what_comes_on_by_itself_is_only_looked_at(tmp_path: Path) -> None:
    made = planned(tmp_path, POLICY="last")
    alone = [step for step in boots(made) if step.target.endswith("x")]
    assert all(step.parameters == {"by_itself": True} for step in alone)
    assert all((step.uses, step.tools, step.manual) == ((), step.tools, False) for step in alone)
    assert {step.start_ms for step in alone} == {120_000}


def test_who_has_no_controller_is_booted_by_people_and_hands_are_the_limit(tmp_path: Path) -> None:
    made = planned(tmp_path, OLD_BMC="no", HALL="network_up: 20 min", LIMITS="power_margin: 1 %")
    by_hand = [step for step in boots(made) if step.target.endswith("x")]
    assert len(by_hand) == 4
    assert all(step.manual and dict(step.uses)["hands"] == 1 for step in by_hand)
    assert all(not step.manual for step in boots(made) if not step.target.endswith("x"))
    assert "limits/manual/boot" in made.unknown
    spans = sorted((step.start_ms, step.end_ms) for step in by_hand)
    assert all(sum(begin <= at < end for begin, end in spans) <= 2 for at, _ in spans)
    assert spans[0][0] < 20 * 60_000  # nobody waits for a network to press a button


def test_people_take_as_long_as_the_estate_says_and_the_bound_knows_their_hands(tmp_path: Path) -> None:
    made = planned(tmp_path, OLD_BMC="no", MANUAL="2 min, boot: 30 min")
    by_hand = [step for step in boots(made) if step.target.endswith("x")]
    assert {step.end_ms - step.start_ms for step in by_hand} == {30 * 60_000}
    assert made.wave is not None
    assert made.wave.limit == "hands"
    assert made.wave.bound_ms >= 60 * 60_000


def test_late_tools_hold_up_nobody_who_presses_a_button(tmp_path: Path) -> None:
    made = planned(
        tmp_path,
        OLD_BMC="no",
        LIMITS="power_margin: 1 %",
        ENDPOINTS="tools: {dhcp: [shop]}",
        MANUAL="2 min, boot: 1 h",
    )
    assert made.wave is not None
    first = min(step.start_ms for step in boots(made) if step.target.endswith("x"))
    assert first < 10 * 60_000


POOL = "pools: {a-pool: {site: a, cpu: 32 cores, memory: 128 GiB, quota: 50 %}}\n"


def test_a_pool_has_the_capacity_of_those_of_its_servers_that_are_up(tmp_path: Path) -> None:
    made = planned(tmp_path, POOLS=POOL, OLD_POOL="a-pool", REPLICAS="shop,a-pool,4\n")
    starts = [step for step in made.steps if step.kind == "start"]
    ends = {step.target: step.end_ms for step in boots(made)}
    assert sum(step.count for step in starts) == 4
    for step in starts:
        assert step.pool == "a-pool"
        for name, count in step.servers:
            assert count == 1  # half of eight cores
            assert ends[name] <= step.start_ms
            assert f"boot:{name}" in step.after
    assert "pools/a-pool/servers" not in made.unknown
    after = estate_after(dark_site(tmp_path, POOLS=POOL, OLD_POOL="a-pool", REPLICAS="shop,a-pool,4\n"), made)
    assert (after.replicas.kind.tolist(), after.replicas.count.tolist()) == ([ON_POOL], [4])


def test_a_pool_of_which_only_totals_are_known_is_said_to_be_assumed(tmp_path: Path) -> None:
    made = planned(tmp_path, POOLS=POOL, REPLICAS="shop,a-pool,4\n")
    assert "pools/a-pool/servers" in made.unknown
    assert all(name == "a-pool" for s in made.steps if s.kind == "start" for name, _ in s.servers)


def test_what_does_not_fit_into_the_power_stays_off_and_is_listed(tmp_path: Path) -> None:
    made = planned(tmp_path, power=(("a", 2_000),))
    left = [(entry.domain, entry.reason, len(entry.servers)) for entry in made.left_off]
    assert left == [("a", "the power of a is not enough", 16 - len(boots(made)))]
    drawn = sum(400 if step.target.endswith("x") else 300 for step in boots(made))
    assert drawn <= 1_980
    assert made.scenario.power == (("a", 2_000),)


def test_a_rack_draws_from_all_its_feeds_however_many(tmp_path: Path) -> None:
    usual = dark_site(tmp_path)
    third = replace(usual.feeds[0], id="a/h1/f3", power_budget_watts=1_000)
    racks = tuple(
        replace(rack, feeds=(*rack.feeds, third.id)) if rack.hall == "a/h1" else rack for rack in usual.racks
    )
    feeds = tuple(sorted((*usual.feeds, third), key=lambda feed: feed.id))
    estate = replace(usual, feeds=feeds, racks=racks)
    made = plan(estate, Scenario("restore", ("a",)))
    assert check(estate, made).violations == ()
    drawn = [400 if step.target.endswith("x") else 300 for step in boots(made) if step.target < "a2"]
    assert 600 < sum(drawn) <= 990
    assert [(entry.reason, len(entry.servers)) for entry in made.left_off] == [
        ("the power of a/h1/f3 is not enough", 8 - len(drawn))
    ]


def test_a_refused_rack_is_listed(tmp_path: Path) -> None:
    made = planned(tmp_path, POLICY="on", FEED="inrush_budget: 700 W")
    assert len(made.left_off) == 4
    assert boots(made) == []


def test_a_service_that_purges_waits_for_a_person(tmp_path: Path) -> None:
    made = planned(tmp_path, SHOP="purges: true")
    steps = by_id(made)
    starts = [step for step in made.steps if step.kind == "start"]
    assert starts
    for start in starts:
        assert "attest:shop" in start.after
        assert start.start_ms >= steps["attest:shop"].end_ms == 180_000


def test_the_freshest_copy_is_promoted_and_the_others_are_led_back(tmp_path: Path) -> None:
    made = planned(tmp_path)
    assert made.stores[0].candidate == "a"
    assert [step.id for step in made.steps if step.kind == "reprotect"] == []


def test_a_primary_that_left_keeps_its_old_home_fenced_until_it_follows(tmp_path: Path) -> None:
    estate = dark_site(tmp_path)
    seen = Observation(
        0,
        (MemberSeen("orders", "a", "unreachable"), MemberSeen("orders", "b", "primary")),
    )
    now = observed(estate, seen)
    made = plan(now, Scenario("restore", ("a",)))
    assert check(now, made).violations == ()
    steps = by_id(made)
    copy = steps["reprotect:orders:a"]
    assert (copy.candidate, copy.manual) == ("a", True)
    assert copy.start_ms >= max(step.end_ms for step in made.steps if step.kind == "power")


@pytest.mark.parametrize("kind", ["lose", "evacuate", "failback"])
def test_no_other_question_gives_power(kind: str, tmp_path: Path) -> None:
    estate = dark_site(tmp_path)
    made = plan(estate, Scenario(kind, ("a",), 3_600_000 if kind == "evacuate" else None))  # type: ignore[arg-type]
    assert (made.wave, made.left_off) == (None, ())
    assert not [step for step in made.steps if step.kind in ("power", "reprotect")]
