"""Torture: many seeds, each a whole story; and one seed again, with its options and its trace.

    python -m tests.sim.torture --seeds 100000                  all cores; stops at the first ten that fail
    python -m tests.sim.torture --seed 4711 --trace             exactly that story again, line by line
    python -m tests.sim.torture --kind wave --seeds 1000        boot waves only
    python -m tests.sim.torture --kind row --seeds 1000         fires in a row only

Each seed is a fire, and one in twenty is a boot wave as well: a wave takes as long as ten fires.

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
from dataclasses import dataclass, field, fields
from multiprocessing.connection import wait as wait_for_any
from typing import Final

from tests.sim import fires, rows, waves
from tests.sim.story import Outcome, Story

KINDS: Final = ("fire", "wave", "row", "both")
WAVE_ONE_IN: Final = 20
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
    virtual_s: float = 0.0
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    """Seed, kind of story, and what broke."""

    def add(self, kind: str, outcome: Outcome) -> None:
        one = Tally(1, outcome.fires, len(outcome.ends), outcome.virtual_s)
        if outcome.error:
            one.failed.append((outcome.options.seed, kind, outcome.error))
        self.merge(one)

    def merge(self, other: Tally) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


def story(kind: str, seed: int, tracing: bool = False) -> Story:
    """The story of a seed."""
    if kind == "wave":
        return waves.WaveStory(waves.draw(seed), tracing)
    if kind == "row":
        return rows.RowStory(seed, tracing)
    return fires.FireStory(fires.draw(seed), tracing)


def kinds_of(seed: int, kind: str) -> tuple[str, ...]:
    """Which stories of a seed are played where this kind is asked for."""
    if kind == "both":
        return ("fire", "wave") if seed % WAVE_ONE_IN == 0 else ("fire",)
    return (kind,)


def one_by_one(seeds: Iterable[int], tell: Callable[[int], Outcome]) -> Iterator[Outcome]:
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


def play_all(seeds: Iterable[int], kind: str) -> Tally:
    tally, seeds = Tally(), list(seeds)
    for one in ("fire", "wave", "row"):
        mine = [seed for seed in seeds if one in kinds_of(seed, kind)]
        for outcome in one_by_one(mine, lambda seed, one=one: story(one, seed).play()):
            tally.add(one, outcome)
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


def torture(kind: str, first: int, count: int, jobs: int, say: Callable[[Tally], None]) -> Tally:
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
                flying.add(pool.submit(play_all, chunk, kind))
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
        for seed, kind, error in tally.failed[self._told :]:
            print(f"{kind} {seed}: {error}", file=sys.stderr, flush=True)
        self._told = len(tally.failed)
        now = time.monotonic()
        if now - self._said < SAY_EVERY_S or not tally.stories:
            return
        self._said = now
        left_s = (now - self._began) * (self._count - tally.stories) / tally.stories
        words = f"{tally.stories} of {self._count} stories, {len(tally.failed)} failed, {left_s:.0f} s to go"
        print(words, file=sys.stderr, flush=True)


def retell(kind: str, seed: int, trace: bool) -> int:
    """One story again, for people."""
    again = story(kind, seed, tracing=True)
    outcome = again.play()
    for line in again.options.lines():
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
    parser.add_argument("--kind", choices=KINDS, default="both", help="of story")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--seed", type=int, help="one seed again")
    parser.add_argument("--trace", action="store_true", help="with every line of its trace")
    asked = parser.parse_args(argv)
    if asked.seed is not None:
        return retell("fire" if asked.kind == "both" else asked.kind, asked.seed, asked.trace)
    began = time.monotonic()
    count = sum(len(kinds_of(asked.first + n, asked.kind)) for n in range(asked.seeds))
    tally = torture(asked.kind, asked.first, asked.seeds, asked.jobs, Progress(count))
    took = time.monotonic() - began
    hours = tally.virtual_s / 3_600
    print(f"{tally.stories} stories, {tally.fires} fires, {tally.runs} runs, {hours:.1f} hours of their time")
    print(f"{took:.0f} s on {asked.jobs} processes: {tally.fires / took:.0f} fires a second")
    for seed, kind, error in sorted(tally.failed):
        print(f"{kind} {seed}: {error}")
        print(f"    python -m tests.sim.torture --kind {kind} --seed {seed} --trace")
    if not tally.failed:
        print("nothing broke")
        return 0
    early = ", and it stopped early" if tally.stories < count else ""
    print(f"{len(tally.failed)} stories broke a rule{early}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
