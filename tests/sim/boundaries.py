"""A crash, a pause, and a silent store, at every numbered boundary between a journal record and an effect.

A run is played once to count its boundaries; then once for each of them, and the leader dies there, is
stopped there for longer than its lease, or no member of the store answers anybody for a minute. Every other
run must come to the same end as the first, with every rule kept. No fault but that one happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Final, Literal

from tests.sim.fire_options import FireOptions, draw
from tests.sim.fires import FireStory
from tests.sim.story import Act, Outcome

Way = Literal["kill", "stop", "store"]
FOR_MS: Final[Mapping[Way, int]] = {"kill": 300, "stop": 6_000, "store": 60_000}
TIMES_MOST = 14


def calm_options(seed: int, fire: str = "burn") -> FireOptions:
    """A story in which nothing happens but one fire, of a site with a primary."""
    options = draw(seed, whole=False)
    return replace(
        options,
        mode="act",
        databases=(("messages", "postgres", "pangyo", "anyang"),),
        proofs=(("messages", ("sync", "attest")),),
        services=("web", "mail"),
        on_sync_loss="next",
        drift_ppm=(0, 0, 0),
        wall_offset_ms=(0, 0, 0),
        lying_disks=(),
        ttl_ms=1_500,
        detect_ms=400,
        weather={**dict.fromkeys(options.weather, 0), "slow_ms": 2},
        faults=dict.fromkeys(options.faults, 0),
        acts=(Act(0.4, fire, "pangyo"),),
        chaos_ms=8_000,
        person_every_ms=0,
    )


def patient_options(seed: int, fire: str = "burn") -> FireOptions:
    """The same, for as long as it takes to end by itself once a silent store answers again."""
    return replace(calm_options(seed, fire), brief=True, calm_ms=0, chaos_ms=90_000)


def struck_story(options: FireOptions, number: int = 0, way: Way = "kill") -> tuple[Outcome, int]:
    """The story with whoever leads struck at a boundary; how many boundaries were reached in all."""
    story = FireStory(replace(options, strike=(number, way, FOR_MS[way])))
    return story.play(), story.reached


def every_boundary(options: FireOptions, way: Way) -> list[tuple[int, Outcome]]:
    """The outcome of being struck at each boundary in turn; the first row, 0, is the story left alone."""
    alone, count = struck_story(options)
    rows = [(0, alone)]
    for number in range(1, count + 1):
        rows.append((number, struck_story(options, number, way)[0]))
    return rows


class RestlessStory(FireStory):
    """Whoever leads dies each time that it has begun one step, so many times."""

    def __init__(self, options: FireOptions, step: str, times: int, tracing: bool = False) -> None:
        options = replace(options, strike=(0, "kill", 300), chaos_ms=150_000, brief=True)
        super().__init__(options, tracing)
        self.step, self.left = step, times

    def is_struck(self, site: str) -> bool:
        began = any(self.step in books.under_way for books in self.referee.books.values())
        struck = began and self.left > 0 and self.nodes[site].controller.leads
        self.left -= struck
        return struck


def restless(seed: int, tracing: bool = False) -> RestlessStory:
    """The story of a seed: any step of a fire, and any number of times."""
    random = Random(seed)
    step = random.choice(("fence:messages", "promote:messages", "start:web", "shift:mail"))
    return RestlessStory(calm_options(seed), step, 1 + random.randrange(TIMES_MOST), tracing)
