"""What is looked at means something for people, or it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.notices.rule import (
    PAGE_MS,
    PUBLISHED_MS,
    TEXT_MOST,
    Drawn,
    Lag,
    Reference,
    of_lags,
    of_pages,
    of_plans,
    of_runs,
    of_sites,
    of_tools,
    of_updates,
    of_watching,
    short,
)


def test_only_verdicts_that_worry_are_concerns() -> None:
    found = of_sites(
        {"a": ("healthy", ""), "b": ("lost", "no votes"), "c": ("suspect", ""), "d": ("unknown", "")}
    )
    assert [(one.key, one.severity, one.words) for one in found] == [
        ("site/b", "critical", "b is lost: no votes"),
        ("site/c", "warning", "c is suspect"),
    ]
    assert found[0].patience_ms == 0
    assert found[1].patience_ms > 0


def test_an_update_is_news_once_for_as_long_as_it_is_new() -> None:
    now_ms = 10 * PUBLISHED_MS
    first, second = ("i/1", now_ms - 5, "Chat", "It is down."), ("i/2", now_ms - 3, "Chat", "It is back.")
    old = ("i/0", now_ms - PUBLISHED_MS, "Chat", "Earlier.")
    known, news = of_updates(None, [first], now_ms)
    assert (known, news) == ({"i/1": now_ms - 5}, ()), "what was there before anybody looked is no news"
    known, news = of_updates(known, [second, old, first], now_ms)
    assert [(one.kind, one.title, one.words) for one in news] == [("update", "Chat", "It is back.")]
    assert of_updates(known, [first, second, old], now_ms) == (known, ())
    assert of_updates({}, [second, first], now_ms)[1][0].words == "It is down.", "in the order of publishing"
    assert of_updates(known, [first], now_ms + 2 * PUBLISHED_MS) == ({}, ())


def test_a_tool_is_a_concern_once_a_single_site_is_left_to_it() -> None:
    tools = {"deploy": {"a", "b"}, "dns": {"a"}, "vpn": {"a", "b", "c"}}
    assert [one.key for one in of_tools(tools, ())] == ["tool/dns"]
    found = of_tools(tools, ("a",))
    assert [(one.key, one.severity) for one in found] == [("tool/deploy", "error"), ("tool/dns", "critical")]
    assert found[0].words == "deploy, which recovery depends on, runs at b only"
    assert found[1].words == "dns, which recovery depends on, no longer runs at any site"


def test_a_lag_is_a_concern_beyond_what_was_promised_and_not_at_it() -> None:
    rows = [Lag("db", "b", 60_000, 60_000), Lag("db", "c", 60_001, 60_000), Lag("kv", "b", 7_200_000, 5_000)]
    found = of_lags(rows)
    assert [one.key for one in found] == ["lag/db/c", "lag/kv/b"]
    assert found[1].words == "kv: the copy in b is 2 h behind; the promised maximum is 5 s"


def test_each_thing_that_a_run_waits_for_is_a_concern_of_its_own() -> None:
    approval = ("approval", "needs approval by 1 more person")
    found = of_runs({"run-1": (approval, ("failure/promote:db", "promote:db failed; retry or skip it"))})
    assert [one.words for one in found] == [
        "run-1: needs approval by 1 more person",
        "run-1: promote:db failed; retry or skip it",
    ]
    assert len({one.key for one in found}) == 2


def test_a_page_that_was_not_written_for_a_moment_is_no_concern() -> None:
    rows = [("a", 0, "rsync ended with 12"), ("b", PAGE_MS, "late"), ("c", 0, "")]
    assert [one.key for one in of_pages(rows, PAGE_MS)] == ["status-page/a"]


@pytest.mark.parametrize(
    ("costs", "severities"),
    [
        ([100, 119], []),
        ([100, 120], ["warning"]),
        ([100, 1_500], ["warning"]),
        ([100, 120, 111], ["warning"]),
        ([100, 120, 110], []),
        ([100, 60, 72], ["warning"]),
        ([0, 1], ["warning"]),
        ([0, 0], []),
        ([100, 119, 119, 125], ["warning"]),
        ([100, 130, None], ["warning"]),
        ([100, None, None], []),
    ],
)
def test_a_plan_is_worse_from_a_fifth_on_against_the_best_there_was(
    costs: list[int | None], severities: list[str]
) -> None:
    references: dict[str, Reference] = {}
    for cost in costs:
        references, found = of_plans(references, [Drawn("pangyo", cost, "", True)])
    assert [one.severity for one in found] == severities


@pytest.mark.parametrize(
    ("least", "cost", "words"),
    [
        (100, 134, "34 % more outage than"),
        (100, 1_442, "14 times as much outage as"),
        (0, 5, "more outage than"),
    ],
)
def test_how_much_worse_is_said_in_words(least: int, cost: int, words: str) -> None:
    references, _ = of_plans({}, [Drawn("pangyo", least, "", True)])
    _, (found,) = of_plans(references, [Drawn("pangyo", cost, "", True)])
    assert found.words == f"the plan for the loss of pangyo has {words} before, across all services"


def test_plans_that_are_missing_or_of_an_earlier_estate_are_told() -> None:
    rows = [Drawn("a", None, "no room", True), Drawn("b", 5, "", False), Drawn("a+b", 5, "", False)]
    _, found = of_plans({}, rows)
    assert [one.key for one in found] == ["plan/none/a", "plan/stale"]
    assert found[1].words == "2 of 3 standby plans were made for an earlier state of the estate"


def test_what_the_journal_of_watching_says_is_news_or_is_not() -> None:
    assert of_watching("verdict", "a is lost", {}) is None
    assert of_watching("leader", "a leads", {}) is None
    lost = of_watching("loss", "a is lost; run-1 waits for approval", {"run": "run-1"})
    assert lost is not None
    assert (lost.kind, lost.severity) == ("site", "critical")
    used = {"event": "approved", "break_glass": {"id": "ab", "number": 1, "uses": 1}}
    glass = of_watching("run", "run-1: kim approve", used)
    assert glass is not None
    assert (glass.kind, glass.severity) == ("break-glass", "critical")
    ended = of_watching("run", "run-1: ended", {"event": "run_ended", "phase": "failed"})
    assert ended is not None
    assert (ended.severity, ended.words) == ("error", "run-1: ended: failed")
    assert of_watching("run", "run-1: began", {"event": "run_started"}) is None


@given(st.text())
def test_words_are_one_line_that_shows_as_it_is(text: str) -> None:
    found = short(text)
    assert len(found) <= TEXT_MOST
    assert found.isprintable()
    assert found == short(found)
