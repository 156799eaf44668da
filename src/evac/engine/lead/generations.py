"""Detects a newer generation of the installation by polling every agent.

Each agent receives our generation and returns the newest one that it knows. Once learned, it is written to
the store for good. Two rules make an older generation harmless:

- It acts no more as soon as anyone tells it. Before an effect, what is known is never older than `FRESH_MS`:
  else every agent is asked once more, and only then it begins.
- Where the policy says `generation: asked`, the agent of the site where an effect lands must have answered in
  that time; an effect at a site whose agent is silent waits.

Drivers of systems that keep tokens need neither: the generation stands in the high bits of each token.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from evac.drivers.port import Action, Checked, Driver, Evidence, Observed, Order
from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import Notice
from evac.model.errors import ActionError, EvacError, Retryable, StoreError, Superseded
from evac.model.generation import SUPERSEDED
from evac.store.generation import Generation, Newer, read_generation, read_newer, takes_place_of, write_newer
from evac.store.port import Store

PERIOD_S: Final = 2.0
ASK_S: Final = 1.0
FRESH_MS: Final = 4_000
AGAIN_MS: Final = 1_000


class Asker(Protocol):
    """The agent of a site: receives our generation, returns (newest generation, who opened it)."""

    async def ask(self, generation: int, opener: str, timeout_s: float) -> tuple[int, str]: ...


class Generations:
    """What one controller knows. agents: of every site that has one. strict: whether, by the policy of now,
    the agent of the place must have answered before an effect. on_newer: called once, as soon as a newer
    generation is known; on_raised: when someone made this very store one of another generation.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        agents: Mapping[str, Asker],
        *,
        strict: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store, self._clock, self._agents, self._strict = store, clock, agents, strict
        self.on_newer: Callable[[Newer], None] = lambda newer: None
        self.on_raised: Callable[[], None] = lambda: None
        self.own = Generation()
        self.newer: Newer | None = None
        self.answered: dict[str, int] = {}
        """Site -> monotonic moment at which its agent was asked, when it last answered."""
        self._asked_ms: int | None = None
        self._round: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Reads the store. Raises `StoreError`: without a known generation nothing may act."""
        before, self.own = self.own, await read_generation(self._store)
        newer = await read_newer(self._store)
        if takes_place_of(newer, self.own) and newer is not None:
            self._learn(newer)
        elif self.newer is not None and not takes_place_of(self.newer, self.own):
            self.newer = None  # a person opened a still newer one in this very store
        if self.own != before:
            self.on_raised()

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            with contextlib.suppress(StoreError):
                await self.begin()
            await self.ask()
            await asyncio.sleep(PERIOD_S)

    def notice(self, site: str) -> Notice:
        """The notice for a newer generation."""
        assert self.newer is not None
        words = f"{Superseded(self.own.number, self.newer.number).message} (reported by {self.newer.by})"
        told = {"code": SUPERSEDED, "generation": self.newer.number}
        return Notice("trouble", self._clock.now_ms(), site, words, told)

    def check(self) -> None:
        """Raises `Superseded` if a newer generation is known."""
        if self.newer is not None:
            raise Superseded(self.own.number, self.newer.number)

    def ended(self, generation: int) -> bool:
        """Whether a lease taken under this generation of the store is void by now."""
        return self.newer is not None or generation != self.own.number

    async def may_act(self, at: str) -> None:
        """Before an effect at a site. Raises `Superseded`, and `Retryable` where no one there can say."""
        self.check()
        if not self._agents:
            return
        if not self._is_fresh(self._asked_ms):
            await self.ask()
            self.check()
        if at in self._agents and not self._is_fresh(self.answered.get(at)) and self._strict():
            raise Retryable(
                "generation-unknown",
                f"the agent at {at} does not report whether a newer generation is active there",
                "start the agent, or set generation: told in the policy",
                AGAIN_MS,
            )

    async def ask(self) -> None:
        """One round over all agents; callers during a round share it."""
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._ask_all(), name="generations")
        await asyncio.shield(self._round)

    async def refused(self, by: str) -> None:
        """A system refused an order as superseded, so someone knows a newer generation."""
        await self.ask()
        if self.newer is None:
            self._learn(Newer(self.own.number + 1, "", by, self._clock.now_ms()))
            await self._write()

    def guarded(self, driver: Callable[[str], Driver]) -> Callable[[str], Driver]:
        """The same drivers, each of which asks `may_act` before it changes anything."""
        return lambda name: GuardedDriver(driver(name), self)

    def _is_fresh(self, asked_ms: int | None) -> bool:
        return asked_ms is not None and self._clock.monotonic_ms() - asked_ms <= FRESH_MS

    async def _ask_all(self) -> None:
        began_ms = self._clock.monotonic_ms()
        await asyncio.gather(*(self._ask_one(site, began_ms) for site in self._agents))
        self._asked_ms = began_ms
        if self.newer is not None:
            await self._write()

    async def _ask_one(self, site: str, began_ms: int) -> None:
        """An agent that does not answer counts as no information; a burning site must not stop the others."""
        try:
            async with asyncio.timeout(ASK_S):
                number, opener = await self._agents[site].ask(self.own.number, self.own.opener, ASK_S)
        except (EvacError, TimeoutError, OSError):
            return
        self.answered[site] = began_ms
        newer = Newer(number, opener, site, self._clock.now_ms())
        if takes_place_of(newer, self.own):
            self._learn(newer)

    def _learn(self, newer: Newer) -> None:
        known = self.newer
        if known is None or newer.number > known.number:
            self.newer = newer
        if known is None:
            self.on_newer(newer)

    async def _write(self) -> None:
        """Records the newer generation, so that no controller of this store leads again even if no agent
        answers it.
        """
        if self.newer is not None:
            with contextlib.suppress(StoreError):
                await write_newer(self._store, self.newer)


class GuardedDriver:
    """A driver that changes nothing while a newer generation may act where it would. It still looks."""

    def __init__(self, driver: Driver, generations: Generations) -> None:
        self._driver, self._generations = driver, generations
        self.name, self.verbs = driver.name, driver.verbs

    async def check(self, action: Action, order: Order) -> Checked:
        return await self._driver.check(action, order)

    async def execute(self, action: Action, order: Order) -> Evidence:
        if order.dry_run:
            return await self._driver.execute(action, order)
        await self._generations.may_act(action.at)
        try:
            return await self._driver.execute(action, order)
        except ActionError as error:
            raise await self._understood(error) from error

    async def observe(self, action: Action, order: Order) -> Observed:
        return await self._driver.observe(action, order)

    async def undo(self, action: Action, order: Order) -> Evidence:
        if order.dry_run:
            return await self._driver.undo(action, order)
        await self._generations.may_act(action.at)
        try:
            return await self._driver.undo(action, order)
        except ActionError as error:
            raise await self._understood(error) from error

    async def close(self) -> None:
        await self._driver.close()

    async def _understood(self, error: ActionError) -> EvacError:
        """A refusal because of the generation ends our leadership; any other goes to the step."""
        if error.code != SUPERSEDED:
            return error
        await self._generations.refused(self._driver.name)
        newer = self._generations.newer
        return Superseded(self._generations.own.number, 0 if newer is None else newer.number)
