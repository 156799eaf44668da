"""Which plan is made next: what is missing before what could be better, and few people never before many."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from evac.engine.plans.queue import Choice, Ready, WantedPlan, choose, in_order

SITES = ("a", "b", "c")
MORE = (
    WantedPlan(("a/hall",), "hall", 10),
    WantedPlan(("a/feed",), "feed", 500),
    WantedPlan(("a",), "site", 7),
    WantedPlan(("campus",), "group", 500),
)
ORDER = in_order(SITES, MORE)
AGE = 3_600_000


def entries(estate: str, **more: object) -> dict[tuple[str, ...], Ready]:
    return {one.lost: replace(Ready(one.lost, "p", estate, 1_000), **more) for one in ORDER}  # type: ignore[arg-type]


def test_sites_come_first_then_pairs_then_domains_by_people() -> None:
    assert [one.name for one in ORDER] == [
        "a",
        "b",
        "c",
        "a+b",
        "a+c",
        "b+c",
        "a/feed",
        "campus",
        "a/hall",
    ]
    assert ORDER[0].people == 7


def test_what_is_missing_is_made_before_anything_is_searched_for() -> None:
    ready = entries("now", searched=False)
    del ready["a/hall",]
    choice = choose(ORDER, ready, "now", (), 1_000, AGE, True)
    assert choice is not None
    assert (choice.wanted.name, choice.work) == ("a/hall", "make")


def test_a_search_begins_only_where_one_may() -> None:
    ready = entries("now", searched=False)
    choice = choose(ORDER, ready, "now", {("a",)}, 1_000, AGE, True)
    assert choice is not None
    assert (choice.wanted.name, choice.work) == ("b", "search")
    assert choose(ORDER, ready, "now", (), 1_000, AGE, False) is None


def test_no_search_for_what_has_no_plan() -> None:
    assert choose(ORDER, entries("now", searched=False, plan=""), "now", (), 1_000, AGE, True) is None


def test_what_has_no_plan_is_tried_again_soon_but_never_most_of_the_time() -> None:
    """A planner that died or ran out of time says nothing about the estate."""
    ready = entries("now")
    ready[("b",)] = replace(
        ready[("b",)], plan="", problem="the planning process ended unexpectedly", took_ms=200
    )
    assert choose(ORDER, ready, "now", (), 16_000, AGE, True) is None
    assert choose(ORDER, ready, "now", (), 16_001, AGE, True) == Choice(ORDER[1], "make")
    ready[("b",)] = replace(ready[("b",)], took_ms=5_000)
    assert choose(ORDER, ready, "now", (), 16_001, AGE, True) is None
    assert choose(ORDER, ready, "now", (), 101_001, AGE, True) == Choice(ORDER[1], "make")


def test_what_was_not_looked_at_for_long_is_looked_at_again() -> None:
    choice = choose(ORDER, entries("now"), "now", (), 1_001 + AGE, AGE, True)
    assert choice is not None
    assert choice.work == "confirm"


@given(st.permutations([one.lost for one in ORDER]), st.integers(0, len(ORDER)))
def test_after_a_change_each_scenario_is_chosen_once_in_order(
    order: list[tuple[str, ...]], done: int
) -> None:
    ready = entries("old")
    for lost in order[:done]:
        ready[lost] = replace(ready[lost], estate="now")
    chosen = []
    while (choice := choose(ORDER, ready, "now", (), 1_000, AGE, True)) is not None:
        chosen.append(choice.wanted.lost)
        ready[choice.wanted.lost] = replace(ready[choice.wanted.lost], estate="now")
    assert chosen == [one.lost for one in ORDER if one.lost in order[done:]]


FIRST, TWIN, OTHER = (
    WantedPlan(("a",), "feed", 9, "x"),
    WantedPlan(("b",), "feed", 9, "x"),
    WantedPlan(("c",), "feed", 1),
)
NAMES = (FIRST, TWIN, OTHER)


def test_of_two_that_take_the_same_one_is_made_at_a_time() -> None:
    assert choose(NAMES, {}, "one", (), 1_000, AGE, False) == Choice(FIRST, "make")
    assert choose(NAMES, {}, "one", [FIRST.lost], 1_000, AGE, False) == Choice(OTHER, "make")
    assert choose((FIRST, TWIN), {}, "one", [FIRST.lost], 1_000, AGE, True) is None, (
        "it waits for that of its twin"
    )
    ready = {FIRST.lost: Ready(FIRST.lost, "sha256:1", "one", 5)}
    assert choose(NAMES, ready, "one", (), 1_000, AGE, False) == Choice(TWIN, "make")


def test_what_is_not_known_to_take_the_same_does_not_wait() -> None:
    unknown = (OTHER, WantedPlan(("d",), "feed"))
    assert choose(unknown, {}, "one", [OTHER.lost], 1_000, AGE, False) == Choice(unknown[1], "make")
