"""Stories of fires in a row: a site burns, comes back, often takes back what was its own, and another burns.

What a plan moves follows from what runs left behind, as the store keeps it: a service is started elsewhere,
and its users are sent there, only where it is known to run in what is lost. After each fire, and on each way
home, a service of which no run left anything undone must run where its users are sent.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import Final

import orjson

from evac.engine.runs import effects
from evac.engine.runs.desk import ActionsOf
from evac.engine.runs.effects import EffectsReader
from evac.model.situation import Moved
from evac.run.view import RunView
from evac.store.port import Put
from tests.sim import plans
from tests.sim.faulty_store import at_once
from tests.sim.fire_options import FireOptions, draw
from tests.sim.fires import END_S, OBSERVED, FireStory
from tests.sim.referee import Books
from tests.sim.story import Outcome
from tests.sim.world import Broken

FIRES: Final = 3
CALM_S: Final = 3.0
"""Between two fires: until proofs are kept."""
FAILS_BACK: Final = 0.6


def options_of(seed: int) -> FireOptions:
    """Estates, policies, faults and strikes as in stories of one fire; the fires are told by the row."""
    options = draw(seed, whole=False)
    return replace(options, mode="act", acts=(), lying_disks=(), person_every_ms=0, pause_verbs=False)


class RowStory(FireStory):
    """Some fires, with the way home between them."""

    def __init__(self, seed: int, tracing: bool = False) -> None:
        super().__init__(options_of(seed), tracing)
        self.draws = Random(seed * 11 + 5)
        sites = self.options.sites
        self.homes = {name: sites[number % len(sites)] for number, name in enumerate(self.shape.services)}
        for service, home in self.homes.items():
            for site in sites:
                self.world.units[service, site].count = int(site == home)
                self.world.proxies[service, site].to = {home}
                self.world.names[service, site].to = {home}

    # What is known of the past.

    async def _left_behind(self, view: RunView, actions_of: ActionsOf) -> bytes | None:
        """What a run moved, in the words of its steps."""
        placed: dict[str, tuple[tuple[str, int], ...]] = {}
        traffic: dict[str, tuple[str, ...]] = {}
        for i, step in enumerate(view.steps):
            if view.phases[i] != "succeeded":
                continue
            if step.kind == "start":
                placed[step.target] = ((step.site, 1),)
            elif step.kind == "shift":
                traffic[step.target] = (str(actions_of(step.id)[0].parameters["to"]),)
        began_ms = max(0, view.started_ms)
        moved = Moved(view.spec.run, "lose", (), began_ms, view.last_ms, view.phase, placed, traffic)
        return effects.encode(await effects.numbered(self.world.cluster, moved))

    def placed(self) -> dict[str, str]:
        """Service -> where it runs, by what runs left behind; at home where none did."""
        known = at_once(EffectsReader(self.world.cluster).read(self.loop.now_ms()))
        found = dict(self.homes)
        for one in known.moved:
            found |= {service: places[0][0] for service, places in one.placed.items()}
        return found

    def _estate(self) -> str:
        return f"{super()._estate()} {sorted(self.placed().items())}"

    async def _plan(self, lost: tuple[str, ...]) -> bytes:
        there = tuple(service for service, site in self.placed().items() if site in lost)
        shape = replace(self.shape, services=there)
        return plans.loss_plan(shape, self.policy, self.roles(), lost)

    # What happens.

    async def tell(self) -> None:
        value = {name: database.roles() for name, database in self.world.databases.items()}
        first = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        at_once(self.world.cluster.transact((), (Put(OBSERVED, first),)))
        for site in self.options.sites:
            self.start(site)
        self._write_on()
        self.person.begin(300, helpful=True)
        for _ in range(FIRES):
            await asyncio.sleep(CALM_S)
            site = self.draws.choice(self.options.sites)
            self.burn(site)
            await self._over(site)
            self._check_served()
            await self._come_back(site)
            if self.draws.random() < FAILS_BACK:
                await self._go_home(site)
        self._heal()
        await self.until(self._all_ended, END_S, "does not end, whatever people answer")
        self._close()

    async def _over(self, site: str) -> None:
        """Until a site is left and no run is open."""

        def what() -> str:
            return self._all_ended() if site in self.person._left() else f"the loss of {site}"

        await self.until(what, END_S, "is not over")

    async def _come_back(self, site: str) -> None:
        """Its machines run; its copies follow again, its proxy and its name server have what others have."""
        self.restore(site)
        other = next(one for one in self.options.sites if one != site)
        for service in self.shape.services:
            for servers in (self.world.proxies, self.world.names):
                servers[service, site].to = set(servers[service, other].to)
        await asyncio.sleep(CALM_S)
        while site in self.person._left():
            self.person._propose_return()
            await self.until(self._taken, END_S, "is not taken up")
            await self.until(self._all_ended, END_S, "does not end")
            await asyncio.sleep(CALM_S / 3)

    def _taken(self) -> str:
        entries = self.world.cluster.entries("proposal/")
        return next((entry.key for entry in entries), "")

    async def _go_home(self, site: str) -> None:
        placed = self.placed()
        away = {name: placed[name] for name, home in self.homes.items() if home == site != placed[name]}
        data = plans.failback_plan(self.shape, away, site)
        before = set(self.referee.books)
        self.person._propose(data, {"leaving": [], "mark": "evacuating", "ends": {}})
        await self.until(
            lambda: "" if set(self.referee.books) - before else site, END_S, "is not failed back"
        )
        await self.until(self._all_ended, END_S, "does not end")
        self._check_served()

    def _vouched(self, books: Books) -> set[str]:
        """Steps that a person vouched for, who may be wrong."""
        return {event.step for event in books.events if event.kind == "step_attested"}

    def _check_served(self) -> None:
        """Each service but those of which a run left something undone."""
        undone = {
            step.target
            for books in self.referee.books.values()
            for i, step in enumerate(books.view.steps)
            if books.view.phases[i] != "succeeded" or step.id in self._vouched(books)
        }
        for service in set(self.shape.services) - undone:
            for site in set(self.options.sites) - self.world.burnt:
                to = self.world.names[service, site].to
                runs = {at for at in to if self.world.units[service, at].count}
                if to - runs:
                    at = ", ".join(sorted(to - runs))
                    raise Broken(f"users of {service} are sent to {at}, and it does not run there")


def play_row(seed: int, *, tracing: bool = False) -> Outcome:
    """The row of a seed."""
    return RowStory(seed, tracing).play()
