"""A slice of boot waves on a simulated floor, and bugs planted to see that they are found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import pytest

from evac.drivers.port import Action, Observed, Order
from evac.engine.boots.binding import PowerGate
from evac.engine.runs import performing
from evac.model.boot_codes import BOOTING
from evac.run.boots import events as boot_events
from evac.run.boots import outages
from evac.run.boots.events import SEVERAL_STALLED
from evac.run.limits import Limits
from evac.run.values import Event
from evac.run.view import RunView
from tests.sim.floor import Server
from tests.sim.floor_driver import RedfishSimulated
from tests.sim.story import Act
from tests.sim.wave_options import WaveOptions, draw
from tests.sim.waves import WaveStory, play

Observe = Callable[[RedfishSimulated, Action, Order], Awaitable[Observed]]
SLICE = range(24)
FOUND_ONCE = (3, 5, 8, 51, 96, 97, 605, 640, 813, 863, 3006, 5186, 20077)
"""Seeds that once broke a rule: a trip that nobody looked for, servers given up because their feed had
tripped, watts set free because a password was refused, retries of what had been taken back, inrush and
watts that an old leader had sent a moment before, servers given up for want of an image before it was noticed
that their boot server had died, a feed that tripped for ever because of servers that were broken themselves,
one that tripped while nobody led and nothing behind it was up.
"""

IN_FLIGHT = (2, 6, 18, 34, 62, 74, 94, 106, 302, 366)
"""Seeds whose boot server dies when nothing is left to power on."""

SUCCEEDED = (9, 233, 665, 745, 793)
"""Seeds with three boot servers, where the one that takes over from the first dies as well."""


@pytest.mark.parametrize("part", range(3))
def test_a_slice_of_waves_keeps_every_rule(part: int) -> None:
    outcomes = [play(seed) for seed in SLICE[part::3]]
    assert {o.options.seed: o.error for o in outcomes if o.error} == {}
    assert {end for o in outcomes for end in o.ends.values()} <= {"succeeded", "succeeded_with_exceptions"}
    assert sum(o.samples for o in outcomes) > 500, "power was drawn"
    assert sum(o.kinds["leader_changed"] + o.kinds["step_observed"] for o in outcomes) > 20


def test_seeds_that_once_broke_a_rule_keep_it_now() -> None:
    assert {seed: error for seed in FOUND_ONCE if (error := play(seed).error)} == {}


def test_a_boot_server_that_dies_with_all_in_flight_costs_no_sound_server() -> None:
    """It is mended, or replaced, and leaders die beside it."""
    outcomes = [play(seed) for seed in IN_FLIGHT]
    assert {o.options.seed: o.error for o in outcomes if o.error} == {}
    assert sum(o.kinds["step_retried"] for o in outcomes) > 20
    assert sum(o.kinds["boot_server_lost"] for o in outcomes) > 3


def test_boots_move_on_when_the_boot_server_that_took_over_dies_as_well() -> None:
    outcomes = [play(seed, tracing=True) for seed in SUCCEEDED]
    assert {o.options.seed: o.error for o in outcomes if o.error} == {}
    assert sum(any("stood_in" in words for words in o.said) for o in outcomes) == len(SUCCEEDED)


def test_moved_boots_that_count_for_the_boot_server_that_died_first_hide_that_the_next_one_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took_s = play(793).virtual_s
    monkeypatch.setattr(RunView, "booted_from", lambda self, i: self.steps[i].boot_server)
    outcome = play(793)
    assert outcome.kinds["boot_server_lost"] == 1
    assert outcome.virtual_s > took_s, "they are tried again only before the run ends"


def away_for_a_moment() -> WaveOptions:
    """Servers that ask once for their image, powered on one after the other; one of their two boot servers is
    away for a few seconds.
    """
    servers = tuple(
        Server(f"s{n}", f"r{n // 8}", ("f0",), f"b{n % 2}", 400, 500, 2.0, 40.0) for n in range(64)
    )
    racks = sorted({server.rack for server in servers})
    return WaveOptions(
        7,
        (Act(60.0, "boot-server", "b0", 12.0),),
        servers,
        dict.fromkeys(racks, "h0"),
        dict.fromkeys((*racks, "f0", "h0"), 10**6),
        {"f0": 600},
        100,
    )


def test_a_boot_server_that_is_away_for_a_moment_costs_no_sound_server() -> None:
    outcome = WaveStory(away_for_a_moment()).play()
    assert (outcome.error, outcome.up, outcome.hands_on) == ("", 64, 0)
    assert "boot_server_lost" not in outcome.kinds
    assert outcome.kinds["step_retried"] < SEVERAL_STALLED


def test_without_one_more_try_the_same_boot_server_costs_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_in_a_row", lambda view, tries: ())
    outcome = WaveStory(away_for_a_moment()).play()
    assert 1 < outcome.hands_on < SEVERAL_STALLED
    assert outcome.up == 64 - outcome.hands_on


def test_waves_are_about_everything_that_happens_to_a_site() -> None:
    kinds: set[str] = set()
    for seed in (8, 12, 51):
        kinds |= play(seed).kinds.keys()
    assert kinds >= {"feed_tripped", "limit_changed", "step_skipped", "paused", "resumed"}


def test_the_same_seed_is_the_same_wave() -> None:
    one, other = play(17), play(17)
    assert (one.trace, one.kinds, one.virtual_s) == (other.trace, other.kinds, other.virtual_s)


def finds(words: str, seeds: Iterable[int]) -> bool:
    """Whether one of these waves breaks a rule in these words."""
    return any(words in WaveStory(draw(seed)).play().error for seed in seeds)


def test_inrush_that_is_counted_only_by_the_plan_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_s(self: PowerGate, id: str, name: str, units: int) -> float:
        return 0.0

    monkeypatch.setattr(PowerGate, "_wait_s", wait_s)
    assert finds("inrush of", range(20))


def test_a_leader_that_forgets_what_the_dead_one_may_have_sent_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boot_events, "may_arrive", lambda view, event: None)
    assert finds("inrush of", (8, 47, 155)), "busy machines whose leaders die again and again"


def test_watts_that_end_with_their_step_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    told = boot_events.is_up

    def is_up(view: RunView, i: int) -> None:
        told(view, i)
        view.release(i)

    monkeypatch.setattr(boot_events, "is_up", is_up)
    assert finds("draws", range(20))


def test_limits_that_forget_a_change_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(self: Limits, name: str, capacity: int) -> None:
        return

    monkeypatch.setattr(Limits, "change", change)
    assert finds("draws", range(40))


def test_boots_in_flight_that_have_no_further_turn_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_turns", lambda view: [])
    assert finds("could be up and are not", range(2, 40, 4))


def test_a_server_that_is_up_and_cut_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def hurried(view: RunView, i: int, event: Event) -> None:
        told(view, i, event)
        view.boots.cycled.add(i)

    told = boot_events.is_retried
    monkeypatch.setattr(boot_events, "is_retried", hurried)
    monkeypatch.setattr(performing, "_hangs", lambda seen: True)
    monkeypatch.setattr(RedfishSimulated, "observe", blind(RedfishSimulated.observe))
    assert finds("is up, and is switched off", range(2, 60, 4))


def blind(observe: Observe) -> Observe:
    """A look that takes what is up for what hangs."""

    async def looked(self: RedfishSimulated, action: Action, order: Order) -> Observed:
        seen = await observe(self, action, order)
        if action.verb == "boot" and seen.outcome == "done" and order.attempt > 1:
            return Observed("unclear", {"power": "on", "state": BOOTING})
        return seen

    return looked
