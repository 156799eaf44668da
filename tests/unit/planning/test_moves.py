"""What was shed starts again elsewhere, where everything else leaves capacity, and the checker counts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from bench.small_instances import small_instance
from evac.incident.runbook import runbook
from evac.model.instance import Instance
from evac.model.plan import Plan, Step
from evac.planning.plan import plan_instance
from evac.verify import check_instance
from evac.views.incident_view import runbook_page
from evac.views.plan_text import plan_text
from evac.views.plan_view import outcome_rows, recovery_times
from tests.kernels import fastest
from tests.unit.planning.instances import build, one_large_server

_GIB = 1_024


@pytest.fixture(autouse=True)
def fast_kernels() -> Iterator[None]:
    with fastest():
        yield


def _instance(*, elsewhere: int = 2_000, site: str = "east", replicas: int = 1, m: int = 1) -> Instance:
    draft = one_large_server(
        replicas=replicas, elsewhere=elsewhere, site=site, share=(m, replicas), sheddable=True
    )
    return build(draft)


def _of(plan: Plan, service: str) -> tuple[str, int, int]:
    one = next(one for one in plan.outcomes if one.service == service)
    return one.state, one.base_outage_ms // 1_000, one.top_outage_ms // 1_000


def test_a_service_that_was_shed_starts_where_it_fits() -> None:
    instance = _instance()
    plan = plan_instance(instance, work=0)
    # Its replacement serves after 40 s, and the old replica stops at once: pay waits for nothing but that.
    assert _of(plan, "wiki") == ("restored", 40, 40)
    assert _of(plan, "pay")[0] == "restored"
    assert [s.id for s in plan.steps if s.target == "wiki"] == [
        "shed:wiki:1",
        "start:wiki:moved:1",
        "verify:wiki:moved",
    ]
    assert not check_instance(instance, plan).violations


@pytest.mark.parametrize("changes", [{"elsewhere": 1_000}, {"site": "west"}])
def test_it_stays_away_where_nothing_fits_or_its_users_are_not_sent(changes: dict[str, object]) -> None:
    instance = _instance(**changes)  # type: ignore[arg-type]
    plan = plan_instance(instance, work=0)
    assert _of(plan, "wiki")[0] == "shed"
    assert not check_instance(instance, plan).violations


def test_as_much_as_serves_starts_where_not_all_of_it_fits() -> None:
    instance = _instance(replicas=2, m=1)
    plan = plan_instance(instance, work=0)
    state, base, top = _of(plan, "wiki")
    assert (state, base) == ("degraded", 40)
    assert top == 900 - next(s.start_ms for s in plan.steps if s.kind == "shed") // 1_000
    assert not check_instance(instance, plan).violations


def _fits_again(instance: Instance, plan: Plan, service: int) -> bool:
    """Whether one more replica of a service fits, as things stand at the end, at a site where it runs."""
    s, rows, present = instance.services, instance.rows, instance.present
    free, row_of = rows.capacity - rows.used, {name: row for row, name in enumerate(instance.row_names)}
    index = {name: number for number, name in enumerate(s.id)}
    on = ~rows.dark
    mine = np.zeros(len(rows), np.int64)
    np.add.at(mine, present.row[present.service == service], present.count[present.service == service])
    for step in plan.steps:
        if step.kind == "boot":
            on[row_of[step.target]] = True
        sign = {"start": 1, "shed": -1}.get(step.kind, 0)
        for name, count in step.servers if sign else ():
            free[row_of[name]] -= sign * count * s.demand[index[step.target]]
            mine[row_of[name]] += sign * count * (index[step.target] == service)
    home = np.isin(rows.site, rows.site[present.row[present.service == service]])
    takes = on & home & (free >= s.demand[service]).all(axis=1) & (mine < s.per_server[service])
    return bool((takes & instance.eligible[service][rows.pool]).any())


@pytest.mark.parametrize("kind", ["sheds", "mixed"])
def test_nothing_that_was_shed_stays_away_while_there_is_capacity_for_it(kind: str) -> None:
    found = 0
    for seed in range(40):
        instance = small_instance(kind, seed)
        plan = plan_instance(instance, work=2 * (seed % 2))
        found += any(step.milestone == "moved" for step in plan.steps)
        assert not check_instance(instance, plan).violations
        down = [one for one in plan.outcomes if one.state == "unplaced"]
        for service, name in enumerate(instance.services.id):
            gone = sum(s.count for s in plan.steps if s.kind == "shed" and s.target == name)
            if gone == 1 and not down and f"verify:{name}:moved" not in {s.id for s in plan.steps}:
                assert not _fits_again(instance, plan, service), (seed, name)
    assert found > 3 or kind == "sheds"


def test_text_report_and_runbook_say_where_and_when_something_moves() -> None:
    plan = plan_instance(_instance(), work=0)
    plan = replace(plan, detection_ms=60_000, approval_ms=60_000)
    words = "stops in large after 2 min, starts in small after 2 min, serves there after 2 min 40 s"
    assert plan.moves["wiki"].serves_ms == 160_000
    text = " ".join(plan_text(plan, "sha256:0", 400, False).split())
    assert f"wiki tier 3 100 {words}" in text
    assert "what happens after the loss" in text
    evacuation = replace(plan, scenario=replace(plan.scenario, kind="evacuate"))
    assert "what happens after the start" in plan_text(evacuation, "sha256:0", 400, False)
    rows = {row["service"]: (row["back"], row["why"]) for row in outcome_rows(plan)}
    assert rows["wiki"] == ("away 40 s", words)
    assert words in runbook_page(runbook(plan, "sha256:0"))
    # What runs on until it moves is no answer to when things are back after the loss.
    (pay,) = (o.recovery_ms for o in plan.outcomes if o.service == "pay")
    assert recovery_times(plan, plan.outcomes) == [pay]


@pytest.mark.parametrize("kind", ["sheds", "mixed"])
def test_what_moves_is_what_both_stops_and_starts_again(kind: str) -> None:
    for seed in range(0, 40, 2):
        plan = plan_instance(small_instance(kind, seed), work=0)
        stopped = {step.target for step in plan.steps if step.kind == "shed"}
        verified = {step.target: step.end_ms for step in plan.steps if step.id.endswith(":moved")}
        assert plan.moves.keys() == stopped & verified.keys()
        for service, moved in plan.moves.items():
            assert moved.serves_ms == verified[service] + plan.lead.ms > moved.start_ms
            assert set(moved.stops) | set(moved.starts) <= {name for s in plan.steps for name, _ in s.servers}


def _later(step: Step, seconds: int) -> Step:
    return replace(step, start_ms=step.start_ms + 1_000 * seconds, end_ms=step.end_ms + 1_000 * seconds)


def _without(plan: Plan, name: str) -> Plan:
    return replace(plan, steps=tuple(s for s in plan.steps if s.id != name))


def _changed(plan: Plan, name: str, change: Callable[[Step], Step]) -> Plan:
    return replace(plan, steps=tuple(change(s) if s.id == name else s for s in plan.steps))


@pytest.mark.parametrize(
    ("rule", "lie"),
    [
        ("F11", lambda plan: _without(plan, "verify:wiki:moved")),
        ("F11", lambda plan: _without(plan, "shed:wiki:1")),
        ("F1", lambda plan: _changed(plan, "start:wiki:moved:1", lambda s: replace(s, milestone="again"))),
        ("F4", lambda plan: _changed(plan, "start:wiki:moved:1", lambda s: _later(s, 20))),
        ("F19", lambda plan: _changed(plan, "verify:wiki:moved", lambda s: _later(s, 1))),
        ("F10", lambda plan: _changed(plan, "start:wiki:moved:1", lambda s: replace(s, target="pay"))),
        (
            "F19",
            lambda plan: replace(
                plan,
                outcomes=tuple(
                    replace(o, base_outage_ms=0) if o.service == "wiki" else o for o in plan.outcomes
                ),
            ),
        ),
    ],
)
def test_a_lie_about_what_moves_is_found(rule: str, lie: Callable[[Plan], Plan]) -> None:
    instance = _instance()
    plan = lie(plan_instance(instance, work=0))
    found = {one.rule for one in check_instance(instance, plan).violations}
    assert rule in found, found


def test_users_are_not_sent_to_another_site() -> None:
    """The checker refuses what the planner never does."""
    plan = plan_instance(_instance(), work=0)
    found = check_instance(_instance(site="west"), plan).violations
    assert any(one.rule == "F10" and "users" in one.message for one in found)


@pytest.mark.parametrize("kind", ["shed", "start"])
def test_a_plan_without_a_stop_or_a_start_moves_nothing(kind: str) -> None:
    plan = plan_instance(_instance(), work=0)
    plan = replace(plan, steps=tuple(s for s in plan.steps if (s.target, s.kind) != ("wiki", kind)))
    assert not plan.moves
    assert plan_text(plan, "sha256:0", 400, False)
    assert runbook_page(runbook(plan, "sha256:0"))
    assert list(outcome_rows(plan))
