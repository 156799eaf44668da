"""A slice of the torture: many small seeds, the same seed twice, and every boundary once."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evac.engine.lead.watch_journal import Notice
from evac.engine.runs.open_runs import OPEN
from evac.run.patience import INTERRUPTIONS_MOST
from evac.store.port import Change, Put
from tests.sim.boundaries import (
    FOR_MS,
    RestlessStory,
    Way,
    calm_options,
    every_boundary,
    patient_options,
    restless,
)
from tests.sim.fire_options import FireOptions
from tests.sim.fires import FireStory, Struck, play
from tests.sim.rows import play_row
from tests.sim.story import Act
from tests.sim.torture import main

ROOT = Path(__file__).parents[2]
SLICE = range(96)


@pytest.mark.parametrize("part", range(4))
def test_a_slice_of_seeds_keeps_every_rule(part: int) -> None:
    outcomes = [play(seed) for seed in SLICE[part::4]]
    assert {o.options.seed: o.error for o in outcomes if o.error} == {}
    assert sum(o.fires for o in outcomes) > 20, "the stories are about fires"
    assert sum(o.effects for o in outcomes) > 200, "and something is done about them"


FOUND_ONCE = (
    518,
    570,
    862,
    986,
    1057,
    1163,
    1712,
    2352,
    2514,
    2606,
    2907,
    4459,
    4740,
    6529,
    9050,
    13686,
    20650,
    32762,
    35010,
    505070,
    515834,
    607469,
    632253,
    634702,
    834379,
    838342,
    839488,
    839897,
)
"""Seeds that once broke a rule: an old primary believed, a plan for a run that had ended, a loss that a
person only said, a fence vouched for, an answer to somebody who was cancelled, a site taken for lost that
had come back before its name was typed, names typed while the plan was made anew, a run that was made
without an answer from the store, a plan for no loss at all that was taken for one of a site without a
name, a person who asked for ever for what was refused for good, a lease that ended while it was asked
whether traffic may be put right, a run that was made while the term of its leader was ending, one that
was made before its leader knew what was left open, and taken for that, one whose request arrived twice, a
machine whose power a fence took and that nobody switched on, a clock that was set while a run was taken
over, a machine that a person switched on while a copy was to be promoted by the proof that it is off, a run
that was asked for again while its new leader was still taking it over, and taken over twice.
"""


def test_seeds_that_once_broke_a_rule_keep_it_now() -> None:
    outcomes = [play(seed) for seed in FOUND_ONCE]
    assert {o.options.seed: o.error for o in outcomes if o.error} == {}


@pytest.mark.parametrize("part", range(2))
def test_the_next_fire_is_as_good_as_the_first(part: int) -> None:
    """Three fires in a row, with returns and failbacks between them."""
    outcomes = [play_row(seed) for seed in range(part, 32, 2)]
    assert {o.options.seed: o.error for o in outcomes if o.error} == {}
    assert [o.fires for o in outcomes] == [3] * len(outcomes)
    assert sum("succeeded" in o.ends.values() for o in outcomes) > 12


def test_rows_that_once_broke_a_rule_keep_it_now() -> None:
    """What one run moved taken for older than what an earlier leader, whose clock was ahead, had moved; a
    name server that came back put right to what an earlier run had decided.
    """
    assert {seed: error for seed in (21, 47, 64, 98, 145) if (error := play_row(seed).error)} == {}


def test_the_stories_are_not_all_alike() -> None:
    outcomes = [play(seed) for seed in range(100, 140)]
    ends = {phase for outcome in outcomes for phase in outcome.ends.values()}
    assert {"succeeded", "cancelled"} <= ends
    assert len({outcome.trace for outcome in outcomes}) == len(outcomes)


def test_a_brief_story_is_one_fire_and_one_run_and_ends_with_it() -> None:
    options = [replace(calm_options(seed), brief=True, calm_ms=0) for seed in range(12)]
    outcomes = [FireStory(one).play() for one in options]
    assert [(o.error, o.fires, len(o.ends)) for o in outcomes] == [("", 1, 1)] * len(outcomes)
    assert min(o.virtual_s for o in outcomes) < 2.5


def test_the_same_seed_is_the_same_story_whatever_the_hashes() -> None:
    words = "from tests.sim.fires import play; print([play(s).trace for s in (3, 15, 20, 31)])"
    said = set()
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=True,
            timeout=60,
        )
        said.add(hashlib.sha256(ran.stdout).hexdigest())
    assert len(said) == 1


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_fire_ends_well_wherever_its_leader_is_struck(way: Way) -> None:
    rows = every_boundary(calm_options(3), way)
    assert len(rows) > 40, "a run has many boundaries"
    assert {number: outcome.error for number, outcome in rows if outcome.error} == {}
    ends = {tuple(sorted(set(outcome.ends.values()))) for _, outcome in rows}
    assert ends == {("succeeded",)}, "a crash or a pause never changes how it ends"


def test_a_store_that_is_silent_for_a_minute_anywhere_in_a_fire_asks_nobody() -> None:
    """All that was begun comes to its end, and nothing is done twice, as the referee sees."""
    rows = every_boundary(patient_options(3), "store")
    assert len(rows) > 40
    assert {number: outcome.error for number, outcome in rows if outcome.error} == {}
    assert {phase for _, outcome in rows for phase in outcome.ends.values()} == {"succeeded"}
    troubles = {"paused", "step_failed", "step_retried"}
    assert [number for number, outcome in rows if troubles & outcome.kinds.keys()] == []
    silent = [number for number, outcome in rows if outcome.virtual_s > FOR_MS["store"] / 1_000]
    assert silent == [number for number, _ in rows[1:]], "nothing can end while it is silent"


@pytest.mark.parametrize("step", ["fence:messages", "promote:messages", "start:web", "shift:mail"])
def test_a_fire_goes_on_by_itself_however_often_its_leader_dies_in_one_step(step: str) -> None:
    story = RestlessStory(calm_options(3), step, INTERRUPTIONS_MOST - 1)
    outcome = story.play()
    assert (outcome.error, story.left, set(outcome.ends.values())) == ("", 0, {"succeeded"})
    assert outcome.kinds["leader_changed"] == INTERRUPTIONS_MOST - 1
    assert not {"paused", "step_failed", "step_retried"} & outcome.kinds.keys(), "nobody is asked"


def test_a_step_that_ends_its_controller_each_time_is_begun_so_often_and_then_a_person_is_asked() -> None:
    story = RestlessStory(calm_options(3), "start:web", 99)
    outcome = story.play()
    assert outcome.error == ""
    (books,) = story.referee.books.values()
    failures = [event for event in books.events if event.kind == "step_failed"]
    failed = [event.data["code"] for event in failures if event.step == "start:web"]
    assert set(failed) == {"too-many-interruptions"}
    assert 99 - story.left == INTERRUPTIONS_MOST * len(failed), "and again as often each time that they retry"


@pytest.mark.parametrize("by_ms", [-3_600_000, 3_600_000])
def test_a_clock_that_is_wrong_is_named_and_proves_nothing(by_ms: int) -> None:
    """An hour ahead or behind at one site; where what was checked in advance has a time that cannot be, a
    person is asked for the fence.
    """
    for wrong, seed in enumerate((3, 7, 11)):
        options = replace(calm_options(seed), whole=True, acts=(Act(4.0, "burn", "pangyo"),))
        story = Listening(replace(options, wall_offset_ms=tuple(by_ms * (n == wrong) for n in range(3))))
        outcome = story.play()
        assert outcome.error == ""
        told = [notice for notice in story.heard if notice.data.get("code") == "clock-off"]
        assert told[0].site == story.options.sites[wrong]
        assert {notice.site for notice in told if "the others" in notice.words} == {told[0].site}
        (books,) = story.referee.books.values()
        refused = [event.step for event in books.events if event.kind == "step_failed"]
        assert refused[:1] in ([], ["fence:messages"])


class Listening(FireStory):
    """Keeps what its controllers report."""

    def __init__(self, options: FireOptions) -> None:
        super().__init__(options)
        self.heard: list[Notice] = []

    def _hear(self, notice: Notice) -> None:
        self.heard.append(notice)
        super()._hear(notice)


@pytest.mark.parametrize(
    ("at", "fire"), [("proposal/", "evacuate"), (OPEN, "evacuate"), ("lost", "burn"), (OPEN, "burn")]
)
def test_whoever_leads_dies_between_what_asks_for_a_run_and_the_run(at: str, fire: str) -> None:
    """As soon as a proposal or a new run is in the store, or a verdict was said: one run is made of it."""
    for seed in (0, 2, 3):  # no step of theirs is done by a person
        story = StruckBetween(patient_options(seed, fire), at)
        outcome = story.play()
        assert (outcome.error, story.struck) == ("", 1)
        assert list(outcome.ends.values()) == ["succeeded"]


class StruckBetween(FireStory):
    """Whoever leads dies once: as such a key is put, or as the verdict is said that a site is lost."""

    def __init__(self, options: FireOptions, at: str) -> None:
        whole = options.acts[0].what == "burn"
        super().__init__(replace(options, whole=whole, acts=(replace(options.acts[0], at_s=4.0),)))
        self.at, self.struck = at, 0
        self.world.cluster.seen.append(self._saw)

    def _saw(self, compares: object, changes: Sequence[Change], guard: object) -> None:
        if any(isinstance(change, Put) and change.key.startswith(self.at) for change in changes):
            self._dies()

    def _hear(self, notice: Notice) -> None:
        super()._hear(notice)
        if notice.kind == "verdict" and notice.data.get("state") == self.at and self._dies():
            raise Struck

    def _dies(self) -> bool:
        site = self.leader
        if self.struck or not site:
            return False
        self.struck += 1
        self.kill(site)
        self.loop.in_world(0.3, self.start, site)
        return True


def test_fires_with_many_changes_of_leader_keep_every_rule() -> None:
    outcomes = {seed: restless(seed).play() for seed in range(12)}
    assert {seed: outcome.error for seed, outcome in outcomes.items() if outcome.error} == {}
    assert sum(outcome.kinds["leader_changed"] for outcome in outcomes.values()) > 50


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_an_evacuation_survives_each_boundary_as_well(way: Way) -> None:
    rows = every_boundary(replace(calm_options(4, "evacuate"), services=("web",)), way)
    assert len(rows) > 25
    assert {number: outcome.error for number, outcome in rows if outcome.error} == {}


def test_a_seed_is_told_again_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "5", "--trace"]) == 0
    told = capsys.readouterr().out
    assert "seed = 5" in told
    assert "everything is healed" in told
    assert "nothing broke" in told


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Whether a process is there and not only waits for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(what: Callable[[], bool], most_s: float = 30.0) -> bool:
    deadline = time.monotonic() + most_s
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


def test_the_workers_of_a_torture_that_is_killed_end_too() -> None:
    words = [sys.executable, "-m", "tests.sim.torture", "--seeds", "1000000", "--jobs", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, cwd=ROOT, **quiet) as parent:
        try:
            assert until(lambda: len(children_of(parent.pid)) == 2)
            workers = children_of(parent.pid)
        finally:
            parent.kill()
    try:
        assert until(lambda: not any(map(lives, workers)))
    finally:
        for worker in filter(lives, workers):
            os.kill(worker, signal.SIGKILL)
