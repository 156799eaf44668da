"""Before the first watt: feeds, racks whose servers come on by themselves, and what is refused."""

from pathlib import Path

import pytest

from evac.derive.planning_instance import derive
from evac.model.instance import Instance
from evac.model.reason import OffReason
from evac.model.scenario import Scenario
from tests.unit.planning.dark import dark_site


def restored(folder: Path, *, power: tuple[tuple[str, int], ...] = (), **facts: str) -> Instance:
    return derive(dark_site(folder, **facts), Scenario("restore", ("a",), None, power))


def steps(instance: Instance) -> list[tuple[str, int, int]]:
    return [(step.target, step.start, step.end) for step in instance.power_steps]


def test_feeds_are_closed_by_two_pairs_of_hands_those_with_most_servers_first(tmp_path: Path) -> None:
    found = restored(tmp_path)
    assert steps(found) == [
        ("a/h1/f1", 0, 120),
        ("a/h2/f1", 0, 120),
        ("a/h1/f2", 120, 240),
        ("a/h2/f2", 120, 240),
    ]
    assert {kind.ready for kind in found.boot_kinds} == {120}
    assert all(step.manual for step in found.power_steps)


def test_switches_and_bmcs_answer_some_time_after_the_power(tmp_path: Path) -> None:
    found = restored(tmp_path, HALL="network_up: 4 min")
    assert {kind.ready for kind in found.boot_kinds} == {120, 360}
    assert {kind.ready_least for kind in found.boot_kinds} == {120, 360}


def test_a_circuit_is_closed_from_afar(tmp_path: Path) -> None:
    reached = "user: evac, password: 'env:BMC', address: 10.0.0.9, circuit: x"
    endpoints = f"endpoints: {{e: {{for: a/h1/f1, at: a, driver: redfish, settings: {{{reached}}}}}}}"
    found = restored(tmp_path, ENDPOINTS=endpoints, FEED="inrush_budget: 2 kW, close: 5 s")
    first = found.power_steps[0]
    assert (first.target, first.end, first.manual, first.uses) == ("a/h1/f1", 5, False, ())


def test_what_comes_on_by_itself_needs_no_boot_and_draws_its_inrush_then(tmp_path: Path) -> None:
    found = restored(tmp_path, POLICY="last")
    alone = [kind for kind in found.boot_kinds if kind.by_itself]
    assert {(kind.ready, kind.duration, kind.uses) for kind in alone} == {(120, 300, ())}
    inrush = {use.limit: use for step in found.power_steps for use in step.uses if use.hold == 20}
    assert {(use.units, use.offset) for use in inrush.values()} == {(1_600, 120)}
    on = {budget.id: budget.on_watts for budget in found.power}
    assert on["a"] == 4 * 400


def test_a_feed_that_would_trip_is_closed_with_open_outlets(tmp_path: Path) -> None:
    found = restored(tmp_path, POLICY="on", FEED="inrush_budget: 1 kW")
    names = [name for name, _, _ in steps(found)]
    assert {"a/h1/r1", "a/h1/r2", "a/h2/r1", "a/h2/r2"} < set(names)
    racks = [step for step in found.power_steps if step.target.endswith(("r1", "r2"))]
    assert all(found.power_steps[number].end <= step.start for step in racks for number in step.after)
    ends = sorted(step.end for step in racks if step.target.startswith("a/h1"))
    assert ends[1] - ends[0] >= 20
    assert found.left_off == ()


def test_a_rack_that_trips_its_feed_alone_is_refused_with_its_servers(tmp_path: Path) -> None:
    found = restored(tmp_path, POLICY="on", FEED="inrush_budget: 700 W")
    assert [(entry.domain, entry.servers) for entry in found.left_off] == [
        (f"a/h{hall}/r{rack}", tuple(f"a{hall}{rack}{name}" for name in ("w0", "w1", "w2", "x")))
        for hall in (1, 2)
        for rack in (1, 2)
    ]
    assert found.left_off[0].why == OffReason("above-inrush-limit", "a/h1/f1", 800, 693)
    assert not found.bring_up.any()


def test_steady_watts_stage_racks_too(tmp_path: Path) -> None:
    found = restored(tmp_path, POLICY="on", power=(("a", 1_000),))
    off = {entry.domain for entry in found.left_off}
    assert len(off) == 2
    assert {entry.why.kind for entry in found.left_off} == {"above-power-budget"}


def test_an_unknown_policy_is_said(tmp_path: Path) -> None:
    assert "classes/old/power_on" in restored(tmp_path, POLICY="unknown").unknown


def test_a_lost_site_gets_no_power(tmp_path: Path) -> None:
    found = derive(dark_site(tmp_path), Scenario("lose", ("a",)))
    assert (found.power_steps, found.left_off, found.bring_up.any()) == ((), (), False)


@pytest.mark.parametrize(
    ("margin", "expected"), [("power_margin: 10 %", 90_000), ("starts: 9 per minute", 100_000)]
)
def test_budgets_are_less_the_margin_and_no_more_than_the_cooling(
    margin: str, expected: int, tmp_path: Path
) -> None:
    found = {b.id: b.watts for b in restored(tmp_path, LIMITS=margin).power}
    assert found["a"] == expected
    assert found["a/h1"] == expected // 2


def test_what_utility_gives_now_counts(tmp_path: Path) -> None:
    found = {b.id: b.watts for b in restored(tmp_path, power=(("a", 40_000), ("a/h1", 60_000))).power}
    assert (found["a"], found["a/h1"]) == (39_600, 49_500)


def test_no_power_step_fits_behind_the_horizon(tmp_path: Path) -> None:
    found = restored(tmp_path, MANUAL="7 h")
    assert found.power_steps == ()
    assert {entry.why for entry in found.left_off} == {OffReason("power-late")}
