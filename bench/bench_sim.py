"""Figures of the simulator: fires a second on one core, and within how many seeds each planted bug is found.

Run by `python -m bench.bench_sim`; with a number, that many seeds instead of 200. A story is three
controllers, a world and a referee from calm through chaos until every run is at its end; a quiet fire is
one of them in which nothing else goes wrong. Processor time, so that other work does not count.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from tests.sim.boundaries import calm_options, every_boundary
from tests.sim.fires import FireStory, play
from tests.sim.planted_bugs import BUGS, seeds_to_find
from tests.sim.story import Outcome
from tests.sim.torture import one_by_one

SEEDS = 200
BUG_SEEDS = 600


def quiet_fire(seed: int) -> Outcome:
    """One fire, no fault, and the end as soon as its run is over, or has asked a person and was answered."""
    return FireStory(replace(calm_options(seed), brief=True, calm_ms=0)).play()


def fires_a_second(name: str, tell: Callable[[int], Outcome], seeds: Iterable[int]) -> None:
    fires = turns = stories = 0
    began = time.process_time()
    for outcome in one_by_one(seeds, tell):
        assert not outcome.error, f"seed {outcome.options.seed}: {outcome.error}"
        fires, turns, stories = fires + outcome.fires, turns + outcome.turns, stories + 1
    took = time.process_time() - began
    rates = f"{fires / took:8.1f} fires/s  {stories / took:8.1f} stories/s"
    print(f"{name:34} {rates}  {turns / took:9,.0f} callbacks/s")


def main(argv: list[str] | None = None) -> int:
    asked = sys.argv[1:] if argv is None else argv
    seeds = int(asked[0]) if asked else SEEDS
    fires_a_second("a quiet fire (target 300)", quiet_fire, range(seeds))
    fires_a_second("a story with every fault", lambda seed: play(seed, whole=False), range(seeds))
    fires_a_second("a story with witnesses as well", lambda seed: play(seed, whole=True), range(seeds // 4))
    for way in ("kill", "stop"):
        began = time.process_time()
        rows = every_boundary(calm_options(3), way)  # type: ignore[arg-type]
        failed = sum(bool(outcome.error) for _, outcome in rows)
        took = time.process_time() - began
        print(f"{way} at each of {len(rows) - 1} boundaries: {failed} failed, {took:.1f} s")
    print("\nplanted bug                           found within  by")
    for bug in BUGS:
        count, error = seeds_to_find(bug, BUG_SEEDS)
        print(f"{bug:38} {count or 'not found':>6} seeds  {error[:90]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
