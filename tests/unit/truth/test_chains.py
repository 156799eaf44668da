"""Chains of moves: after any sequence of losses, evacuations, restores and failbacks, complete or cut short,
what the situation says runs is what runs, and the way home leaves every replica once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from evac.derive.domains import topology
from evac.derive.placed import PlaceCounts
from evac.derive.situation import Done, moved, of, promised
from evac.model.digest import estate_digest
from evac.model.estate import Estate
from evac.model.observation import Observation
from evac.model.plan import Plan
from evac.model.scenario import Scenario
from evac.model.situation import DomainState, Effects, LostNow, Moved, Situation
from evac.planning.plan import plan
from evac.steps.registry import kind_of
from evac.verify import check
from tests.unit.truth.written import servers, written

SITES = "abc"
Counts = Counter[tuple[str, str]]
"""(service, place or site) -> replicas."""

HEAD = """
name: chain
sites: {a: {}, b: {}, c: {}}
classes: {web: {cpu: 8 cores, memory: 32 GiB, boot: 1 min, boot_odds: 100 %}}
"""


def random_estate(rng: Random, folder: Path) -> Estate:
    """Services in pools or on servers of three sites, with enough capacity in each pair of them."""
    bare, pools, rows = rng.random() < 0.4, list[str](), list[str]()
    for site in "" if bare else SITES:
        pools += [f"{site}{k}" for k in range(1, rng.randint(2, 3))]
    size = rng.choice([40, 100])
    parts = [f"  {pool}: {{site: {pool[0]}, cpu: {size} cores, memory: 640 GiB}}" for pool in pools]
    text = HEAD + ("" if bare else "pools:\n" + "\n".join(parts)) + "\nservices:\n"
    for name in (f"s{n}" for n in range(rng.randint(2, 4))):
        homes = rng.sample(SITES, rng.randint(1, 3))
        text += f"  {name}: {{tier: {rng.randint(0, 2)}, people: 9, start: {rng.choice([5, 20, 60])} s, "
        text += (
            f"share: {rng.choice([50, 100])} %, shed_time: 3 s, movable: {rng.choice(['true', 'false'])}, "
        )
        text += f"sheddable: {rng.choice(['true', 'false'])}, "
        text += rng.choice(["traffic: {kind: none}, ", "traffic: {kind: dns, change: 5 s, ttl: 1 s}, "])
        if not bare:
            text += f"replicas: {{{', '.join(f'{site}1: {rng.randint(1, 2)}' for site in homes)}}}, "
        text += f"demand: {{cpu: {rng.choice([1, 4])} core, memory: 1 GiB}}}}\n"
        rows += [f"{name},{site}{k},1" for site in homes for k in rng.sample(range(4), rng.randint(1, 2))]
    if not bare:
        return written(folder, text)
    fleet = [f"{s}{k},{s},,web,{'serving' if k < 4 else 'spare'}," for s in SITES for k in range(8)]
    table = "\n".join(("service,target,count", *rows, ""))
    return written(folder, text, servers=servers(*fleet), replicas=table)


class World:
    """What really runs, next to what the files and the effects of runs say."""

    def __init__(self, files: Estate, rng: Random) -> None:
        self.files, self.rng, self.places = files, rng, PlaceCounts(topology(files))
        self.marks: dict[str, DomainState] = {}
        self.moved: list[Moved] = []
        self.real = self.running(files)
        self.home = self.per_site(self.real)

    def situation(self) -> Situation:
        lost = tuple(LostNow(site, state, 1) for site, state in sorted(self.marks.items()))
        seen = Observation(at_ms=len(self.moved), effects=Effects(lost, tuple(self.moved)))
        return of(self.files, seen)

    def running(self, estate: Estate) -> Counts:
        counts = PlaceCounts(topology(estate))
        return Counter({(s.id, at): n for s in self.files.services for at, n in counts.running(s.id).items()})

    def per_site(self, counts: Mapping[tuple[str, str], int]) -> Counts:
        """Without sites that were left: what still runs there counts for nothing."""
        found, left = Counts(), [site for site, mark in self.marks.items() if mark != "evacuating"]
        for (service, place), count in counts.items():
            if self.places.site(place) not in left:
                found[service, self.places.site(place)] += count
        return +found

    def takes(self, kind: str, site: str, cut: bool) -> None:
        """A run of a plan that is made now. cut: it ends after some of its steps."""
        before = self.situation().estate
        deadline_ms = 3_600_000 if kind == "evacuate" else None
        made = plan(before, Scenario(kind, (site,), deadline_ms=deadline_ms))  # type: ignore[arg-type]
        verdict = check(before, made)
        assert verdict.holds, verdict.violations
        done, known = promised(before, made), self.running(before)
        done = done[: self.rng.randrange(len(done))] if cut and done else done
        gone = (known, self.real) if kind in ("lose", "restore") else ()
        for counts in (known,) if self.marks.get(site) == "evacuated" else gone:
            for key in [key for key in counts if self.places.site(key[1]) == site]:
                del counts[key]
        for one in done:
            self._does(made, one, site, known)
        phase, number = "cancelled" if cut else "succeeded", len(self.moved) + 1
        left = moved(before, made.scenario, done, run=f"r{number}", ended_ms=number, phase=phase)
        self.moved.append(replace(left, number=number))
        if kind == "lose":
            self.marks[site] = "lost"
        elif kind == "evacuate":
            self.marks[site] = "evacuating" if cut else "evacuated"
        elif not cut:
            self.marks.pop(site, None)
        assert self.per_site(self.running(self.situation().estate)) == self.per_site(self.real)

    def _does(self, made: Plan, one: Done, site: str, known: Counts) -> None:
        """One step. Drivers get totals: a start leaves at least that many, a stop at most."""
        step, sign = one.step, kind_of(one.step.kind).replicas
        before = sum(n for (service, _), n in self.real.items() if service == step.target)
        for place, count in step.servers if sign else ():
            key = (step.target, place)
            assert sign > 0 or self.real[key] >= count, "stops what is not there"
            known[key] = max(0, known[key] + sign * count)
            self.real[key] = (max if sign > 0 else min)(self.real[key], known[key])
        if sign < 0 and not step.servers:  # an evacuation stops everything there
            for key in [key for key in self.real if key[0] == step.target]:
                self.real[key] *= self.places.site(key[1]) != site
        after = sum(n for (service, _), n in self.real.items() if service == step.target)
        stays_off = {one.service for one in made.outcomes if one.state in ("unplaced", "shed")}
        if step.kind == "stop" and before:
            assert after or step.target in stays_off, "stops the only running replica"

    def next(self) -> None:
        site, cut = self.rng.choice(SITES), self.rng.random() < 0.5
        mark = self.marks.get(site)
        full = [one for one in SITES if self.marks.get(one) not in ("lost", "evacuated")]
        if mark == "lost":
            self.takes("restore", site, cut)
        elif mark == "evacuated" or len(full) < 2:
            self.takes("failback", site, cut)
        else:
            self.takes(self.rng.choice(["lose", "evacuate", "failback"]), site, cut)
        if self.marks.get(site) == "evacuating" and self.rng.random() < 0.5:
            del self.marks[site]  # a person clears it


@pytest.mark.parametrize("seed", [*range(100, 130), 1, 5, 8, 30, 36, 37, 168, 240, 1154, 1408, 2001])
def test_after_any_chain_of_moves_everything_comes_home_once(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    world = World(random_estate(rng, tmp_path), rng)
    for _ in range(rng.randint(1, 6)):
        world.next()
    for site in SITES:
        if world.marks.get(site) == "lost":
            world.takes("restore", site, False)
    world.marks = {site: mark for site, mark in world.marks.items() if mark == "evacuated"}
    for site in 2 * SITES:
        world.takes("failback", site, False)
    assert world.per_site(world.real) == world.home
    assert [one for one in world.situation().services if one.home != one.now] == []


@pytest.mark.parametrize("seed", range(3))
def test_a_failback_of_what_is_at_home_does_nothing(tmp_path: Path, seed: int) -> None:
    """Once it is known what runs did, the files do not count as empty; they stay the same estate."""
    rng = Random(seed)
    world = World(random_estate(rng, tmp_path), rng)
    now = world.situation().estate
    assert estate_digest(now) == estate_digest(world.files)
    for site in SITES:
        assert plan(now, Scenario("failback", (site,))).steps == ()
    assert any(plan(world.files, Scenario("failback", (site,))).steps for site in SITES)
