"""Stories of dry runs: what one says of a plan, and what becomes of the plan when it is carried out.

A world with some trouble in it: copies that do not run, no proof kept, a promotion in doubt. Somebody asks
for a dry run, then the site of the plan burns, and controllers run the plan.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import orjson

from evac.drivers.registry import Drivers
from evac.engine.runs.dry_run import Known, problems_of, read_kept
from evac.engine.stores.datasets import Epoch, encode, key_of
from evac.run.values import ENDED
from evac.run.view import RunView
from evac.store.port import Delete, Put
from tests.sim import plans
from tests.sim.drivers import makers
from tests.sim.faulty_store import at_once
from tests.sim.fire_options import FireOptions, draw
from tests.sim.fires import OBSERVED, PREFIX, FireStory

CALM_S = 3.0
"""Until proofs are kept."""
END_S = 120.0


@dataclass(frozen=True, slots=True)
class Told:
    """predicted, met: steps that would not work, and that did not; met counts those that were tried."""

    predicted: frozenset[str]
    met: frozenset[str]
    succeeded: bool
    trouble: tuple[str, ...]
    steps: int

    @property
    def agrees(self) -> bool:
        """Where nothing is said to be in the way the run succeeds; else a step of those named fails."""
        if not self.predicted:
            return self.succeeded and not self.met
        return not self.succeeded and self.met <= self.predicted


def quiet(seed: int) -> FireOptions:
    """The same estates and policies as those of fires, without faults and weather."""
    options = draw(seed, whole=False)
    return replace(
        options,
        mode="hold",
        weather={"slow_ms": 2},
        faults={},
        acts=(),
        lying_disks=(),
        drift_ppm=(0,) * len(options.sites),
        wall_offset_ms=(0,) * len(options.sites),
        person_every_ms=0,
        strike=(0, "", 0),
    )


class DryRunStory(FireStory):
    """One dry run, and one run."""

    told: Told

    def __init__(self, seed: int) -> None:
        super().__init__(quiet(seed))
        self.draws = Random(seed * 7 + 1)
        self.trouble: list[str] = []

    def _detect(self, site: str) -> None:
        """Nobody reacts by themselves here."""

    async def tell(self) -> None:
        value = {name: database.roles() for name, database in self.world.databases.items()}
        first = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        at_once(self.world.cluster.transact((), (Put(OBSERVED, first),)))
        for site in self.options.sites:
            self.start(site)
        await asyncio.sleep(CALM_S)
        lost = self.draws.choice(self.options.sites)
        kept = [site for site in self.options.sites if site != lost]
        healthy = self.draws.random() < 0.3
        self._disturb(lost, kept)
        data = plans.loss_plan(self.shape, self.policy, self.roles(), (lost,), healthy)
        predicted = await self._predict(data, kept[0], () if healthy else (lost,))
        if not healthy:
            self.burn(lost)
        mark = ("evacuating", "evacuated") if healthy else ("lost", "lost")
        self.person._propose(data, {"leaving": [lost], "mark": mark[0], "ends": {lost: mark[1]}})
        await self.until(lambda: "" if self.referee.books else "no run", END_S, "is not made")
        view = await self._end()
        met = {view.steps[i].id for i in range(len(view.steps)) if view.failures.get(i)}
        steps = len(view.steps)
        self.told = Told(predicted, frozenset(met), view.phase == "succeeded", tuple(self.trouble), steps)

    def _disturb(self, lost: str, kept: list[str]) -> None:
        """Some trouble, or none."""
        for name, database in self.world.databases.items():
            for site in kept:
                if self.draws.random() < 0.15:
                    database.of(site).powered = False
                    self.trouble.append(f"{name} at {site} does not run")
            primary = next((one for one in database.members.values() if one.writable), None)
            if self.draws.random() < 0.15 and primary is not None:
                primary.sync = ()
                at_once(self.world.cluster.transact((), (Delete(PREFIX + name),)))
                self.trouble.append(f"no proof of {name} is kept")
            if self.draws.random() < 0.08:
                doubt = Epoch(name, 3, lost, kept[0], "promote", "attest", "other-run", True)
                at_once(self.world.cluster.transact((), (Put(key_of(name), encode(doubt)),)))
                self.trouble.append(f"what became of {name} at {kept[0]} is in doubt")

    async def _predict(self, data: bytes, at: str, gone: tuple[str, ...]) -> frozenset[str]:
        found: list[Any] = []
        node = self.nodes[at]

        async def work() -> None:
            bound = plans.bind(data, self.policy, run="dry", incident="dry", digest="dry")
            kept = await read_kept(node.store)
            known = Known(self._seen(at), kept, self.policy, node.process.now_ms, gone)
            drivers = Drivers(makers(self.world, node.process))
            found.append(await problems_of(bound, drivers.get, known))

        node.process.spawn(work())
        await self.until(lambda: "" if found else "the dry run", END_S, "does not end")
        return frozenset(step for step, problems in found[0].items() if problems)

    def _seen(self, at: str) -> dict[str, dict[str, str]]:
        """Roles as drivers report them."""
        return {
            name: {
                site: role if self.world.reach(at, site) and database.of(site).powered else "unreachable"
                for site, role in database.roles().items()
            }
            for name, database in self.world.databases.items()
        }

    async def _end(self) -> RunView:
        """The run at its end, or once a step failed for good. A person agrees, vouches, and fixes nothing."""
        (name,) = self.referee.books
        asked: set[tuple[str, str]] = set()

        def once(verb: Any, step: str = "") -> None:
            if (verb, step) not in asked:
                asked.add((verb, step))
                self.person.ask(name, verb, step)

        end_s = self.loop.time() + END_S
        while self.loop.time() < end_s:
            await asyncio.sleep(0.25)
            view = self.referee.books[name].view
            if view.phase in ENDED or "failed" in view.phases:
                break
            if view.phase == "awaiting_approval":
                once("approve")
            for i, step in enumerate(view.steps):
                if step.gate and i not in view.gates_open and view.phases[i] in ("pending", "ready"):
                    once("approve", step.id)
                elif i in view.manual_running and (step.id, "") not in asked:
                    asked.add((step.id, ""))
                    if step.kind == "fence":
                        self.person._vouch(name, view, i)
                    else:
                        self.person.ask(name, "attest", step.id)
        return self.referee.books[name].view


def told(seed: int) -> Told:
    """What the dry run of a seed said, and what came of it."""
    story = DryRunStory(seed)
    outcome = story.play()
    assert not outcome.error, (seed, outcome.error)
    return story.told
