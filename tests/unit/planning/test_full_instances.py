"""Plans for instances without free capacity keep every rule of the checker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType

import numpy as np
import pytest

from evac.model.instance import Instance, Limit, Use
from evac.model.plan import Plan
from evac.planning import compiled
from evac.planning.evacuation import idle_sheds
from evac.planning.evacuation.board import NEVER, PINNED, SHEDS, STARTS
from evac.planning.evacuation.order import closure_order
from evac.planning.evacuation.search import generate
from evac.planning.evacuation.solve import default_options, first_plan, prepare
from evac.planning.evacuation.starts import keep_rows, remember
from evac.planning.plan import plan_instance
from evac.verify import check_instance
from tests.unit.planning.full import full_draft
from tests.unit.planning.instances import Draft, ServerDraft, ServiceDraft, build

_GIB = 1_024


@pytest.fixture(autouse=True)
def plain_kernels() -> Iterator[None]:
    with compiled.interpreted():
        yield


@pytest.mark.parametrize("first", [0, 10, 20, 30, 770])
def test_the_checker_accepts_plans_of_full_instances(first: int) -> None:
    for seed in range(first, first + 10):
        instance = build(full_draft(seed))
        assert check_instance(instance, plan_instance(instance)).violations == (), seed


@pytest.mark.parametrize("seed", [50_502, 50_569, 50_689])
def test_the_checker_accepts_plans_in_which_several_sheds_decide(seed: int) -> None:
    instance = build(full_draft(seed))
    assert check_instance(instance, plan_instance(instance)).violations == ()


def _service(name: str, tier: int, cpu: int, *running: str, **facts: object) -> ServiceDraft:
    plain = ServiceDraft(
        name,
        tier,
        100,
        max(1, len(running)),
        (1, 1),
        cpu,
        _GIB,
        per_server=9,
        running=running,
        sheddable=bool(running),
        shift=False,
        shed=20,
    )
    return replace(plain, **facts)  # type: ignore[arg-type]


def _instance(*services: ServiceDraft, horizon: int = 900, sheds: int = 100, **cpu: int) -> Instance:
    servers = tuple(ServerDraft(name, "east", cores, 64 * _GIB) for name, cores in cpu.items())
    limits = (Limit("sheds", sheds),)
    return build(Draft(horizon, services, servers, limits=limits, shed_uses=(Use(0, 1),)))


def _planned(instance: Instance, work: int = 0) -> tuple[Plan, dict[str, str]]:
    made = plan_instance(instance, work=work)
    assert check_instance(instance, made).violations == ()
    return made, {one.service: one.state for one in made.outcomes}


def test_what_was_shed_takes_the_place_of_a_lower_tier() -> None:
    """Only v0 can take pay; then wiki, which stood there, fits where only ads stands."""
    pay = _service("pay", 0, 4)
    wiki, ads = _service("wiki", 2, 4, "v0"), _service("ads", 3, 2, "v1")
    wiki = replace(wiki, cpu=2)
    made, states = _planned(_instance(pay, wiki, ads, v0=4, v1=2))
    assert states == {"pay": "restored", "wiki": "restored", "ads": "shed"}
    assert {step.target: step.for_services for step in made.steps if step.kind == "shed"} == {
        "wiki": ("pay",),
        "ads": ("wiki",),
    }


def test_a_plan_says_what_becomes_of_what_softly_needs_a_shed_service() -> None:
    """Nothing of it was lost or shed, and still it is without part of its service until the end."""
    front = _service("front", 1, 2, "v1", soft=("wiki",))
    instance = _instance(_service("pay", 0, 2), _service("wiki", 3, 2, "v0"), front, v0=2, v1=2)
    made, states = _planned(instance)
    assert states == {"front": "degraded", "pay": "restored", "wiki": "shed"}
    silent = replace(made, outcomes=tuple(one for one in made.outcomes if one.service != "front"))
    (told,) = check_instance(instance, silent).violations
    assert (told.rule, told.subject) == ("F1", "front")


def test_what_no_start_uses_is_not_shed() -> None:
    """The first start takes what the two small ones free, and the second the large one: it has enough for one
    of the small ones as well, so the more valuable stays."""
    lost = (_service("a", 0, 3), _service("b", 1, 3))
    small = (_service("s1", 3, 2, "v0", people=10), _service("s2", 3, 2, "v0", people=20))
    made, states = _planned(_instance(*lost, *small, _service("large", 3, 4, "v0", people=900), v0=8))
    assert states == {"a": "restored", "b": "restored", "s1": "shed", "large": "shed"}
    assert sum(step.count for step in made.steps if step.kind == "shed") == 2


def test_what_goes_too_late_does_not_hide_what_goes_in_time() -> None:
    slow = _service("slow", 3, 2, "v0", people=1, shed=880)
    instance = _instance(_service("a", 0, 2), slow, _service("quick", 3, 2, "v0"), v0=4)
    states = _planned(instance)[1]
    assert states == {"a": "restored", "quick": "shed"}


def test_time_is_short_where_as_many_sheds_as_it_takes_come_too_late() -> None:
    """One shed would be over in time, but it takes two, one after the other."""
    wiki = _service("wiki", 3, 2, "v0", "v0", shed=100)
    pay = _service("pay", 0, 2, replicas=2)
    assert _planned(_instance(pay, wiki, v0=4, horizon=230, sheds=1))[1] == {"pay": "unplaced"}
    assert _planned(_instance(pay, wiki, v0=4, horizon=260, sheds=1))[1]["pay"] == "restored"


def test_what_is_quickest_goes_where_the_least_valuable_is_too_slow() -> None:
    """One shed at a time: three of small free too little in time, large and one of them free enough."""
    small = _service("small", 2, 1, "v0", "v0", "v0", people=1, shed=60)
    large = _service("large", 2, 5, "v0", people=900, shed=60)
    pay = _service("pay", 0, 3, replicas=2, start=60, verify=0)
    states = _planned(_instance(pay, small, large, v0=8, horizon=200, sheds=1))[1]
    assert states["pay"] == "restored"


def test_no_lower_tier_must_make_way_with_more_sheds_than_there_is_time_for() -> None:
    """One shed at a time: mid needs the capacity of two, and the second would be over too late."""
    ads = _service("ads", 3, 2, "v0", "v0", people=1, shed=100)
    instance = _instance(_service("mid", 2, 4, people=9), ads, v0=4, horizon=230, sheds=1)
    assert first_plan(*prepare(instance)).legal
    assert _planned(instance)[1] == {"mid": "unplaced"}


def test_rows_that_are_kept_shed_only_lower_tiers() -> None:
    """In any order: where b stands in what the shed for a left over, it waits for a."""
    shed = 0
    for seed in range(60):
        board, items = prepare(build(full_draft(seed)))
        options, order = default_options(board, 1), closure_order(items)
        generate(board, order, options, NEVER)
        remember(board)
        keep_rows(board, 1)
        for again in range(4):
            generate(board, np.random.default_rng([seed, again]).permutation(order), options, NEVER)
            assert board.size[PINNED] == 1
            for line in board.shed[: board.size[SHEDS]]:
                victim = board.service[board.present[line["entry"]]["service"]]
                assert victim["tier"] > board.service[line["service"]]["tier"], (seed, again)
                shed += 1
    assert shed > 100


def test_a_wait_for_steps_of_what_makes_way_is_no_lack_of_time() -> None:
    """Only v0 fits pay, once both of wiki are gone. That mid takes the place of ads may come after that."""
    large = ServiceDraft("pay", 0, 100, 1, (1, 1), 9, _GIB, shift=False)
    wiki = _service("wiki", 3, 2, "v0", "v0", people=900, shed=100)
    others = (_service("mid", 2, 2), wiki, _service("ads", 3, 2, "v1", people=1, shed=100))
    made, states = _planned(_instance(large, *others, v0=4, v1=2, horizon=260, sheds=1))
    assert states == {"pay": "unplaced", "mid": "restored", "ads": "shed"}
    small = _instance(replace(large, cpu=4), *others, v0=4, v1=2, horizon=260, sheds=1)
    assert ("F17", "pay") in {(one.rule, one.subject) for one in check_instance(small, made).violations}
    assert _planned(small)[1]["pay"] == "restored"


def _lines_run(count: int, more: int) -> int:
    """Lines of code that take back what is idle of `count` sheds, once a row of as many starts has grown."""
    old = tuple(_service(f"s{k}", 3, 2, "v0") for k in range(count))
    lost = tuple(_service(f"x{k}", 0, 2, start=k + 1) for k in range(count))
    board, items = prepare(_instance(*old, *lost, v0=2 * count, horizon=90_000, sheds=1))
    generate(board, closure_order(items), default_options(board, 1), NEVER)
    assert (board.size[STARTS], board.size[SHEDS]) == (count, count)
    for amount in (board.row["capacity"], board.row["free"]):
        amount[0] += 2 * more
    lines = [0]

    def trace(frame: FrameType, event: str, _: object) -> object:
        lines[0] += event == "line"
        return trace if frame.f_code.co_filename == idle_sheds.__file__ else None

    sys.settrace(trace)
    try:
        assert idle_sheds.take_back_idle(board) == more
    finally:
        sys.settrace(None)
    assert board.size[SHEDS] == count - more
    return lines[0]


def test_work_on_idle_sheds_grows_with_their_number() -> None:
    """Not with the product of sheds and starts on a row."""
    assert _lines_run(60, 1) < 5 * _lines_run(15, 1)
