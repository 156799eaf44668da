"""Detects by polling every agent that this store's leader must not act: a newer generation of the
installation was opened, or agents obey the leader of another store.

Each agent receives our generation and returns the newest one that it knows. Once learned, it is written to
the store for good. Two rules make an older generation harmless:

- It acts no more as soon as anyone tells it. Before an effect, what is known is never older than `FRESH_MS`:
  else every agent is asked once more, and only then it begins.
- Where the policy says `generation: asked`, the agent of the site where an effect lands must have answered in
  that time; an effect at a site whose agent is silent waits.

Drivers of systems that keep tokens need neither: the generation stands in the high bits of each token.

The same agents show that this store is not the one whose leader they obey. A new store is compared with
what they have obeyed before anyone leads in it. Later, an agent that has obeyed a higher token than that of
the lease that we hold has it from another store, because one store issues each token once and in order.
Whether we hold the lease is read from the store: our clock may have stood still while someone else took it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from evac.drivers.port import Action, Checked, Driver, Evidence, Observed, Order
from evac.engine.clock import Clock
from evac.engine.lead.leadership import LEADER
from evac.engine.lead.watch_journal import Notice
from evac.model.errors import (
    ActionError,
    EvacError,
    LeaseLost,
    Retryable,
    StoreError,
    StoreNotObeyed,
    Superseded,
)
from evac.model.generation import SUPERSEDED, token_in
from evac.store.generation import (
    Behind,
    Generation,
    Newer,
    read_behind,
    read_generation,
    read_newer,
    takes_place_of,
    write_behind,
    write_newer,
)
from evac.store.port import Store

PERIOD_S: Final = 2.0
ASK_S: Final = 1.0
FRESH_MS: Final = 4_000
AGAIN_MS: Final = 1_000
LOOK_AGAIN_MS: Final = 10_000
"""How often systems are asked again what they have obeyed while a new store has no leader."""


class Asker(Protocol):
    """The agent of a site: receives our generation, returns (newest generation, who opened it, highest token
    that it has obeyed, or None if it does not say).
    """

    async def ask(self, generation: int, opener: str, timeout_s: float) -> tuple[int, str, int | None]: ...


class Generations:
    """What one controller knows. agents: of every site that has one. strict: whether, by the policy of now,
    the agent of the place must have answered before an effect. compare: raises NotAllowed if the store is new
    and systems have obeyed the leader of another one. on_ended: called once, as soon as it is known that this
    store's leader must not act; on_raised: when someone made this very store one of another generation;
    on_lost: when someone else may hold the lease. leads_with: the token of a lease that we hold by our own
    clock; 0: none.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        agents: Mapping[str, Asker],
        *,
        strict: Callable[[], bool] = lambda: False,
        compare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store, self._clock, self._agents, self._strict = store, clock, agents, strict
        self._compare = compare
        self.on_ended: Callable[[], None] = lambda: None
        self.on_raised: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None
        self.leads_with: Callable[[], int] = lambda: 0
        self.own = Generation()
        self.newer: Newer | None = None
        self.behind: Behind | None = None
        self._refused: StoreNotObeyed | None = None
        """Why a new store could not be led when it was last compared."""
        self._compared_ms: int | None = None
        self._obeyed = dict[str, int]()
        """Site -> highest token that its agent has reported."""
        self.answered: dict[str, int] = {}
        """Site -> monotonic moment at which its agent was asked, when it last answered."""
        self._asked_ms: int | None = None
        self._round: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Reads the store. Raises `StoreError`: without a known generation nothing may act."""
        own, newer = await read_generation(self._store), await read_newer(self._store)
        behind = await read_behind(self._store, own)
        before, self.own = self.own, own
        if takes_place_of(newer, self.own) and newer is not None:
            self._learn(newer)
        elif self.newer is not None and not takes_place_of(self.newer, self.own):
            self.newer = None  # a person opened a still newer one in this very store
        if self.own != before:
            self.behind = self._refused = None
            self.on_raised()
        if behind is not None:
            self._learn_behind(behind)

    async def compare(self) -> None:
        """Before we lead in a store. Raises `StoreNotObeyed` if it is new and systems have obeyed the leader
        of another one.
        """
        now_ms = self._clock.monotonic_ms()
        is_due = self._compared_ms is None or now_ms - self._compared_ms >= LOOK_AGAIN_MS
        if self.newer is None and self._compare is not None and is_due:
            try:
                await self._compare()
                self._compare = self._refused = None
            except StoreError:
                raise
            except EvacError as error:  # whatever prevents the comparison: no one leads before it is made
                self._refused = StoreNotObeyed(error.code, error.message, error.hint)
            self._compared_ms = now_ms
        self.check()

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            with contextlib.suppress(StoreError):
                await self.begin()
            await self.ask()
            await asyncio.sleep(PERIOD_S)

    @property
    def over(self) -> bool:
        """Whether it is known that this store's leader must not act."""
        return self.newer is not None or self.behind is not None

    def notice(self, site: str) -> Notice:
        """The notice that this store's leader must not act."""
        if self.newer is None:
            assert self.behind is not None
            error = self.behind.error
            return Notice("trouble", self._clock.now_ms(), site, error.with_hint, {"code": error.code})
        words = f"{Superseded(self.own.number, self.newer.number).message} (reported by {self.newer.by})"
        told = {"code": SUPERSEDED, "generation": self.newer.number}
        return Notice("trouble", self._clock.now_ms(), site, words, told)

    def check(self) -> None:
        """Raises `Superseded` if a newer generation is known, `StoreNotObeyed` if another store leads."""
        if self.newer is not None:
            raise Superseded(self.own.number, self.newer.number)
        if self.behind is not None:
            raise self.behind.error
        if self._refused is not None:
            raise StoreNotObeyed(self._refused.code, self._refused.message, self._refused.hint)

    def ended(self, generation: int) -> bool:
        """Whether a lease taken under this generation of the store is void by now."""
        return self.over or generation != self.own.number

    async def may_act(self, at: str) -> None:
        """Before an effect at a site. Raises as `check` and `compare_tokens` do, and `Retryable` where no one
        there can say.
        """
        self.check()
        if not self._agents:
            return
        if not self._is_fresh(self._asked_ms):
            await self.ask()
        await self.compare_tokens()
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
        with contextlib.suppress(LeaseLost):  # `on_lost` has ended the term
            await self.compare_tokens()
        if self.over:
            await self._write()

    async def _ask_one(self, site: str, began_ms: int) -> None:
        """An agent that does not answer counts as no information; a burning site must not stop the others."""
        try:
            async with asyncio.timeout(ASK_S):
                told = await self._agents[site].ask(self.own.number, self.own.opener, ASK_S)
        except (EvacError, TimeoutError, OSError):
            return
        number, opener, token = told
        self.answered[site] = began_ms
        newer = Newer(number, opener, site, self._clock.now_ms())
        if takes_place_of(newer, self.own):
            self._learn(newer)
        elif token is not None:
            self._obeyed[site] = token

    async def compare_tokens(self) -> None:
        """Learns whether an agent has obeyed a token above ours, which is then from another store: this one
        has issued none above that of who holds its lease. Raises LeaseLost if that is not us, or unknown.
        """
        ours = self.leads_with()
        site = max(self._obeyed, key=lambda one: (self._obeyed[one], one), default="")
        if not site or not ours or self._obeyed[site] <= ours or self.over:
            return
        token = self._obeyed[site]
        if not await self._still_holds(ours):
            self.on_lost()
            raise LeaseLost(LEADER)
        self._learn_behind(Behind(self.own.number, site, token, ours, self._clock.now_ms()))
        await self._write()

    async def _still_holds(self, token: int) -> bool:
        """Whether the store says that the lease with this token is held now."""
        try:
            held = await self._store.holder(LEADER)
        except StoreError:
            return False
        return held is not None and token_in(self.own.number, held.token) == token

    def _learn(self, newer: Newer) -> None:
        known = self.newer
        if known is None or newer.number > known.number:
            self.newer = newer
        if known is None:
            self.on_ended()

    def _learn_behind(self, behind: Behind) -> None:
        if self.behind is None:
            self.behind = behind
            self.on_ended()

    async def _write(self) -> None:
        """Records why the leader must not act, so that no controller of this store leads again even if no
        agent answers it.
        """
        with contextlib.suppress(StoreError):
            if self.newer is not None:
                await write_newer(self._store, self.newer)
            if self.behind is not None:
                await write_behind(self._store, self.behind)


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
