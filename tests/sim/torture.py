"""Torture: many seeds, each a whole story; and one seed again, with its options and its trace.

    python -m tests.sim.torture --seeds 100000            all cores; stops at the first ten that fail
    python -m tests.sim.torture --seed 4711 --trace       exactly that story again, line by line

Exit status 1 where a story broke a rule. The same seed of the same sources is the same story everywhere.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for_any

from tests.sim.story import Outcome, play

CHUNK = 25
SAY_EVERY_S = 5.0
FAILED_MOST = 10
TRACE_LINES = 400


@dataclass(slots=True)
class Tally:
    """What many stories came to."""

    stories: int = 0
    fires: int = 0
    runs: int = 0
    turns: int = 0
    virtual_s: float = 0.0
    failed: list[tuple[int, str]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.stories += 1
        self.fires += outcome.fires
        self.runs += outcome.runs
        self.turns += outcome.turns
        self.virtual_s += outcome.virtual_s
        if outcome.error:
            self.failed.append((outcome.options.seed, outcome.error))

    def merge(self, other: Tally) -> None:
        self.stories += other.stories
        self.fires += other.fires
        self.runs += other.runs
        self.turns += other.turns
        self.virtual_s += other.virtual_s
        self.failed += other.failed


def one_by_one(seeds: Iterable[int], tell: Callable[[int], Outcome] = play) -> Iterator[Outcome]:
    """These seeds, one after the other. What a story leaves behind is mostly cycles: they are collected while
    they are young, and nothing else is looked at.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for seed in seeds:
            yield tell(seed)
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()


def play_all(seeds: Iterable[int]) -> Tally:
    tally = Tally()
    for outcome in one_by_one(seeds):
        tally.add(outcome)
    return tally


def end_with_parent() -> None:
    """Has this worker end as soon as whoever started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait_for_any([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()


def torture(first: int, count: int, jobs: int, say: Callable[[Tally], None] = lambda tally: None) -> Tally:
    """Seeds side by side, in chunks; ends early once enough of them failed. say: told after each chunk."""
    tally = Tally()
    chunks = iter(
        range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)
    )
    with ProcessPoolExecutor(jobs, initializer=end_with_parent) as pool:
        flying: set[Future[Tally]] = set()
        while True:
            while len(flying) < 2 * jobs and len(tally.failed) < FAILED_MOST:
                chunk = next(chunks, None)
                if chunk is None:
                    break
                flying.add(pool.submit(play_all, chunk))
            if not flying:
                return tally
            done, flying = wait(flying, return_when=FIRST_COMPLETED)
            for one in done:
                tally.merge(one.result())
            say(tally)


class Progress:
    """Says at once what failed, and now and then how far it is, on the error output."""

    def __init__(self, count: int) -> None:
        self._count, self._began = count, time.monotonic()
        self._said = self._began
        self._told = 0

    def __call__(self, tally: Tally) -> None:
        for seed, error in tally.failed[self._told :]:
            print(f"seed {seed}: {error}", file=sys.stderr, flush=True)
        self._told = len(tally.failed)
        now = time.monotonic()
        if now - self._said < SAY_EVERY_S or not tally.stories:
            return
        self._said = now
        left_s = (now - self._began) * (self._count - tally.stories) / tally.stories
        words = f"{tally.stories} of {self._count} stories, {len(tally.failed)} failed, {left_s:.0f} s to go"
        print(words, file=sys.stderr, flush=True)


def retell(seed: int, trace: bool) -> int:
    """One story again, for people."""
    outcome = play(seed, tracing=True)
    for line in outcome.options.lines():
        print(line)
    print()
    for line in outcome.said if trace else outcome.said[-TRACE_LINES // 10 :]:
        print(line)
    print()
    print(f"trace {outcome.trace}")
    print(outcome.error or "nothing broke")
    return 1 if outcome.error else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.torture", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--seed", type=int, help="one seed again")
    parser.add_argument("--trace", action="store_true", help="with every line of its trace")
    asked = parser.parse_args(argv)
    if asked.seed is not None:
        return retell(asked.seed, asked.trace)
    began = time.monotonic()
    tally = torture(asked.first, asked.seeds, asked.jobs, Progress(asked.seeds))
    took = time.monotonic() - began
    hours = tally.virtual_s / 3_600
    print(f"{tally.stories} stories, {tally.fires} fires, {tally.runs} runs, {hours:.1f} hours of their time")
    print(f"{took:.0f} s on {asked.jobs} processes: {tally.fires / took:.0f} fires a second")
    for seed, error in sorted(tally.failed):
        print(f"seed {seed}: {error}")
        print(f"    python -m tests.sim.torture --seed {seed} --trace")
    if not tally.failed:
        print("nothing broke")
        return 0
    early = ", and it stopped early" if tally.stories < asked.seeds else ""
    print(f"{len(tally.failed)} stories broke a rule{early}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
