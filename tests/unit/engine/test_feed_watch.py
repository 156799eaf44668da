"""Feeds are watched by the servers behind them: who is asked, what it means, and whole waves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from evac.drivers.port import Action
from evac.engine.boots.feed_watch import ALL_MS, NOBODY, FeedWatch, looks_tripped, servers_behind, unwatched
from evac.run.values import RunSpec, RunStep
from evac.run.view import RunView
from tests.sim.floor import Server
from tests.sim.story import Act, Outcome
from tests.sim.wave_options import WaveOptions
from tests.sim.waves import WaveStory


def boot(name: str, rack: str, *feeds: str) -> RunStep:
    return RunStep(f"boot:{name}", "boot", name, 0, 10, rack=rack, feeds=feeds)


def view_of(*steps: RunStep) -> RunView:
    return RunView(RunSpec("r", "i", "p", steps))


def by(drivers: Mapping[str, str]) -> Any:
    """Actions by step; what is not named is booted through Redfish."""

    def actions(step: str) -> Sequence[Action]:
        kind, _, target = step.partition(":")
        driver = drivers.get(step, "redfish")
        told = {"circuit": target} if driver == "circuit" else {}
        name = "redfish" if driver == "circuit" else driver
        return (Action("boot" if kind == "boot" else "start", target, name, "here", {}, told),)

    return actions


def names(view: RunView, found: Mapping[str, Sequence[int]]) -> dict[str, list[str]]:
    return {feed: [view.steps[i].target for i in mine] for feed, mine in found.items()}


def test_racks_take_turns_and_what_hangs_on_one_feed_alone_is_asked_for_it() -> None:
    view = view_of(
        boot("a1", "ra", "f1"),
        boot("a2", "ra", "f1"),
        boot("b1", "rb", "f1"),
        boot("b2", "rb", "f1"),
        boot("c1", "rc", "f1", "f2"),
        boot("c2", "rc", "f1", "f2"),
        boot("d1", "rd", "f1"),
    )
    found = names(view, servers_behind(view, by({"boot:d1": "manual"})))
    assert found == {"f1": ["a1", "b1", "a2", "b2"], "f2": ["c1", "c2"]}


def test_a_feed_that_nobody_watches_is_named() -> None:
    view = view_of(
        boot("a1", "ra", "f1"),
        boot("a2", "ra", "f1"),
        boot("b1", "rb", "f2"),
        boot("b2", "rb", "f2"),
        boot("c1", "rc", "f3"),
        boot("d1", "rd", "f4"),
        boot("d2", "rd", "f4"),
    )
    hands = {"boot:b1": "manual", "boot:b2": "manual", "boot:d1": "manual", "boot:d2": "manual"}
    power = {f"power:f{n}": "manual" for n in (1, 2, 3)} | {"power:f4": "circuit"}
    assert unwatched(view, by(hands | power)) == ("f2", "f3"), "f1 by its servers, f4 by its circuit"


@pytest.mark.parametrize(
    ("gone", "answers", "tripped"),
    [
        ("a1 b1 c1", "", True),
        ("a1 b1 c1", "a2", True),
        ("a1 b1", "", False),
        ("a1 a2 a3", "", False),
        ("a1 a2 a3", "b1", False),
        ("a1 b1 c1", "a2 b2", False),
        ("", "a1 b1", False),
    ],
)
def test_nearly_all_of_several_in_more_than_one_rack(gone: str, answers: str, tripped: bool) -> None:
    view = view_of(*(boot(f"{rack}{n}", rack, "f1") for rack in "abc" for n in (1, 2, 3)))
    asked = {view.number(f"boot:{name}"): True for name in gone.split()}
    asked |= {view.number(f"boot:{name}"): False for name in answers.split()}
    assert looks_tripped(view, range(9), asked) is tripped


def test_a_feed_of_one_rack_or_of_two_servers_is_told_by_those() -> None:
    one_rack = view_of(*(boot(f"a{n}", "ra", "f1") for n in range(3)))
    assert looks_tripped(one_rack, range(3), dict.fromkeys(range(3), True))
    two = view_of(boot("a", "ra", "f1"), boot("b", "rb", "f1"))
    assert looks_tripped(two, range(2), {0: True, 1: True})
    assert not looks_tripped(two, range(2), {0: True, 1: False})


def wave(*acts: Act, feeds: int = 3, per_rack: int = 4) -> WaveOptions:
    """Each feed has two racks. Those of f0 are up soon, the others boot for ten minutes."""
    servers = tuple(
        Server(
            *(f"s{feed}{rack}{n}", f"r{feed}{rack}", (f"f{feed}",), "b0", 400, 500, 2.0),
            boot_s=600.0 if feed else 20.0,
        )
        for feed in range(feeds)
        for rack in range(2)
        for n in range(per_rack)
    )
    every, racks = tuple(f"f{n}" for n in range(feeds)), sorted({server.rack for server in servers})
    budgets = dict.fromkeys(sorted({*racks, *every, "h0"}), 10**6)
    inrush = dict.fromkeys(every, 10**6)
    return WaveOptions(7, acts, servers, dict.fromkeys(racks, "h0"), budgets, inrush, 100, unseen=every)


def played(options: WaveOptions) -> Outcome:
    return WaveStory(options, tracing=True).play()


def ends(outcome: Outcome) -> tuple[str, list[str]]:
    return outcome.error, list(outcome.ends.values())


TRIP = Act(120.0, "trip", "f0")


def test_a_feed_without_a_circuit_that_trips_when_its_servers_are_up_is_seen_and_they_come_back() -> None:
    outcome = played(wave(TRIP))
    assert ends(outcome) == ("", ["succeeded"])
    assert outcome.kinds["feed_tripped"] == 1
    assert outcome.kinds["gate_opened"] == 1, "a person looked before it was closed again"
    assert outcome.up == 24


def test_without_the_watch_the_same_wave_ends_with_dark_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def turn(self: FeedWatch) -> float:
        return 5.0

    monkeypatch.setattr(FeedWatch, "turn", turn)
    assert "8 servers could be up and are not" in played(wave(TRIP)).error


def test_a_rack_that_falls_silent_alone_is_its_switch() -> None:
    outcome = played(wave(Act(120.0, "switch", "r00", 200.0)))
    assert ends(outcome) == ("", ["succeeded"])
    assert "feed_tripped" not in outcome.kinds


def test_where_nobody_answers_behind_any_feed_people_are_told_and_it_is_believed_after_a_minute() -> None:
    options = wave(*(Act(120.0, "trip", f"f{n}") for n in range(3)))
    outcome = played(options)
    assert ends(outcome) == ("", ["succeeded"])
    assert outcome.kinds["feed_tripped"] == 3
    assert sum(NOBODY in words for words in outcome.said) == 1
    assert ALL_MS >= 30_000, "a switch that starts anew takes as long"


def test_a_way_to_the_controllers_that_is_cut_for_a_while_takes_back_nothing_that_is_up() -> None:
    racks = [f"r{feed}{rack}" for feed in range(3) for rack in range(2)]
    outcome = played(wave(*(Act(120.0, "switch", rack, 40.0) for rack in racks)))
    assert ends(outcome) == ("", ["succeeded"])
    assert sum(NOBODY in words for words in outcome.said) == 1
    told = [words for words in outcome.said if "feed_tripped" in words]
    assert not any("queried behind it" in words for words in told), "only boots under way say so"


UNDER_WAY = (Act(30.0, "kill"), Act(31.0, "trip", "f1"))
"""Nothing behind f1 is up, its leader dies, and it trips before another one leads."""


def test_a_feed_that_trips_while_nobody_leads_is_seen_by_the_next_leader_if_a_server_had_answered() -> None:
    outcome = played(wave(*UNDER_WAY))
    assert ends(outcome) == ("", ["succeeded"])
    assert outcome.kinds["feed_tripped"] == 1
    assert outcome.kinds["feeds_seen"] == 2, "all at once, and the one that tripped when it was closed again"
    assert outcome.up == 24


def test_a_leader_that_does_not_know_what_answered_takes_the_same_feed_for_one_not_up_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def forget(self: FeedWatch, looks: Mapping[str, Mapping[int, bool]]) -> None:
        return

    known_s, outcome = played(wave(*UNDER_WAY)).virtual_s, WaveStory(wave(*UNDER_WAY))
    monkeypatch.setattr(FeedWatch, "_note", forget)
    forgotten = outcome.play()
    assert "feed_tripped" not in forgotten.kinds
    assert forgotten.up == 24, "its servers wait until a person has looked at the breaker"
    assert forgotten.virtual_s > 3 * known_s, "and that takes long"
