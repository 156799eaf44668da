"""A slice of boot waves on a simulated floor, and bugs planted to see that they are found."""

from __future__ import annotations

import pytest

from evac.engine import execution
from evac.engine.power_gate import PowerGate
from evac.run import boot_events
from evac.run.limits import Limits
from evac.run.view import RunView
from evac.testing.wave_options import draw
from evac.testing.wave_story import WaveStory, play

SLICE = range(24)
FOUND_ONCE = (3, 5, 8, 51, 96, 97, 605, 640, 813, 863)
"""Seeds that once broke a rule: a trip that nobody looked for, servers given up because their feed had
tripped, watts set free because a password was refused, retries of what had been taken back, inrush and
watts that an old leader had sent a moment before, servers given up for want of an image before it was noticed
that their boot server had died.
"""


@pytest.mark.parametrize("part", range(3))
def test_a_slice_of_waves_keeps_every_rule(part: int) -> None:
    outcomes = [play(seed) for seed in SLICE[part::3]]
    assert {o.seed: o.error for o in outcomes if o.error} == {}
    assert {o.phase for o in outcomes} <= {"succeeded", "succeeded_with_exceptions"}
    assert sum(o.samples for o in outcomes) > 500, "power was drawn"
    assert sum(o.kinds.get("leader_changed", 0) + o.kinds.get("step_observed", 0) for o in outcomes) > 20


def test_seeds_that_once_broke_a_rule_keep_it_now() -> None:
    assert {seed: error for seed in FOUND_ONCE if (error := play(seed).error)} == {}


def test_waves_are_about_everything_that_happens_to_a_site() -> None:
    kinds: set[str] = set()
    for seed in (*SLICE, 8, 51):
        kinds |= play(seed).kinds.keys()
    assert kinds >= {"feed_tripped", "limit_changed", "step_skipped", "paused", "resumed"}


def test_the_same_seed_is_the_same_wave() -> None:
    one, other = play(17), play(17)
    assert (one.said, one.kinds, one.virtual_s) == (other.said, other.kinds, other.virtual_s)


def finds(words: str, seeds: range) -> bool:
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
    monkeypatch.setattr(execution, "maybe_sent", lambda view: [])
    assert finds("inrush of", range(50))


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
