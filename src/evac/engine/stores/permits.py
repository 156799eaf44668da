"""The fence proof `lease`: the leader permits a site to hold the primary of a store, and waits for permits to
expire.

    permit/<store>     {"site", "ttl_ms"}: the agent of this site watches the store, and stops its primary
                       when no permit comes; written once the agent said so, deleted when it says that it has
                       no fence for the store any more. ttl_ms: of the longest permit that may still be valid

Only stores whose policy chose it use permits, so that nothing else turns read-only when evac is gone. A
permit proves a fence when the fact is recorded, granting has stopped, and the longest permit that can have
been granted has expired, with a margin for clock drift.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, Protocol

import orjson

from evac.drivers.port import NO_EVIDENCE, Action, Checked, Evidence, Observed, Order, Verb
from evac.engine.clock import Clock
from evac.engine.stores.datasets import DataSets, Epoch
from evac.engine.stores.guards import read_register
from evac.engine.stores.refusals import Refusals, Say
from evac.model.errors import ActionError, Permanent, Unavailable
from evac.model.run_policy import RunPolicy
from evac.store.port import Delete, Lease, Put, Store

PREFIX: Final = "permit/"
TIMEOUT_S: Final = 2.0
DRIFT_PERMILLE: Final = 100
MARGIN_MS: Final = 1_000
UNWATCHED: Final = "store-unknown"
"""Error code of an agent without a fence for a store."""

RESUME_S: Final = 2.0


class Permitter(Protocol):
    """The agent of a site, reduced to permits."""

    async def resume(
        self, units: Collection[str], stores: Collection[str], token: int, timeout_s: float
    ) -> Collection[str]: ...

    async def renew(
        self, store: str, epoch: int, ttl_ms: int, token: int, timeout_s: float
    ) -> Mapping[str, Any]: ...


def wait_ms(ttl_ms: int) -> int:
    """How long after the last grant a permit of `ttl_ms` has certainly expired on any clock."""
    return ttl_ms + ttl_ms * DRIFT_PERMILLE // 1_000 + MARGIN_MS


RunsAt = Callable[[str], Awaitable[tuple[Collection[str], Collection[str]]]]
"""Site -> units of services that run there now, and stores with a member there."""


class Permitting:
    """Grants permits while we lead; stops for a store being fenced. agent: of a site, None if it has none;
    holder: the site of a store's primary as last observed. obeyed: the highest epoch that members of a store
    have obeyed. runs_at: what a restarted agent may start again; None: nothing. see: observes what members
    have obeyed; has_looked: whether holders were observed in this term. say: reports a store whose epoch is
    unreadable; other stores do not wait for it.
    """

    def __init__(
        self,
        store: Store,
        sets: DataSets,
        policy: RunPolicy,
        clock: Clock,
        agent: Callable[[str], Permitter | None],
        holder: Callable[[str], str],
        obeyed: Callable[[str], int] = lambda store: 0,
        runs_at: RunsAt | None = None,
        see: Callable[[], Awaitable[object]] | None = None,
        has_looked: Callable[[Lease], bool] = lambda guard: True,
        *,
        say: Say,
    ) -> None:
        self._say, self._refusals, self._refused_in = say, Refusals(say), -1
        self._obeyed, self._runs_at, self._see, self._has_looked = obeyed, runs_at, see, has_looked
        self._seen_in = -1
        self._store, self._sets, self._policy, self._clock = store, sets, policy, clock
        self._agent, self._holder = agent, holder
        self._token = -1
        self._led_since_ms = clock.monotonic_ms()
        self._granted_ms: dict[str, int] = {}
        self._longest: dict[str, tuple[int, int]] = {}
        """Store -> length of its longest permit that may still be valid, and when it was last granted."""
        self._stopped: set[str] = set()
        self._newest: dict[str, Epoch] = {}
        self._told: dict[str, bytes] = {}

    @property
    def stores(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, one in self._policy.stores.items() if one.self_fence))

    async def chore(self, guard: Lease) -> None:
        """One round of permits, then a pause of a third of the shortest permit."""
        if guard.token != self._token:
            self._token, self._led_since_ms = guard.token, self._clock.monotonic_ms()
            self._granted_ms.clear()
            self._longest.clear()
            self._told.clear()
            self._stopped.clear()
        if not self.stores:
            await asyncio.sleep(3_600)
            return
        await self._observe(guard)
        await asyncio.gather(*(self._permit(store, guard) for store in self.stores))
        await asyncio.sleep(min(self._policy.store(store).lease_ttl_ms for store in self.stores) / 3_000)

    async def resume(self, guard: Lease) -> None:
        """Sends the agent of every site in service which of its units may run again after a restart. Sends
        nothing if the register is unreadable.
        """
        if self._runs_at is not None:
            await self._observe(guard)
            register = await read_register(self._store)
            active = [site for site, mark in sorted(register.items()) if mark == "active"]
            await asyncio.gather(*(self._resume(site, guard, self._runs_at) for site in active))
        await asyncio.sleep(RESUME_S)

    async def _observe(self, guard: Lease) -> None:
        """Learn once a term what members have obeyed: someone may have restored an older record."""
        if guard.token != self._seen_in and self._see is not None:
            await self._see()
            self._seen_in = guard.token

    def _refusals_in(self, guard: Lease) -> Refusals:
        """Those of this term: each term reports them once."""
        if guard.token != self._refused_in:
            self._refusals, self._refused_in = Refusals(self._say), guard.token
        return self._refusals

    async def _resume(self, site: str, guard: Lease, runs_at: RunsAt) -> None:
        """An agent that does not answer, or is of an older version, is retried in the next round."""
        agent = self._agent(site)
        if agent is None:
            return
        with contextlib.suppress(ActionError, Unavailable):
            units, stores = await runs_at(site)
            own = await self._held_at(site, stores, guard)
            if units or own:
                await agent.resume(units, own, guard.stamp, TIMEOUT_S)

    async def _held_at(self, site: str, stores: Collection[str], guard: Lease) -> list[str]:
        """Those of the stores whose primary may run at this site. Leaves out, and reports, each store whose
        epoch cannot be read.
        """
        (known, unreadable), found = await self._sets.read_all(), list[str]()
        for store in stores:
            with self._refusals_in(guard).of(store, f"no agent starts {store} again after a restart"):
                if store in unreadable:
                    raise unreadable[store]
                epoch = self._newest_of(known.get(store, Epoch(store)))
                if epoch.settled and self._site_of(epoch, guard) == site:
                    found.append(store)
        return found

    def _newest_of(self, epoch: Epoch) -> Epoch:
        """The newest epoch of its store that this process has read: someone may have restored an older
        record.
        """
        known = self._newest.get(epoch.store)
        if known is None or epoch.number >= known.number:
            known = self._newest[epoch.store] = epoch
        return known

    def _site_of(self, epoch: Epoch, guard: Lease) -> str:
        """Where a store's primary may run. If its members have obeyed a newer epoch than the one recorded,
        someone restored an older record: then it is where it was observed in this term, if at all.
        """
        is_old = epoch.number < self._obeyed(epoch.store)
        if epoch.holder and not is_old:
            return epoch.holder
        return "" if is_old and not self._has_looked(guard) else self._holder(epoch.store)

    async def _permit(self, store: str, guard: Lease) -> None:
        """An agent that does not answer gets no permit and stops its primary in time, as intended. Nor does
        one of a store whose epoch cannot be read, which is reported.
        """
        refusals, words = (
            self._refusals_in(guard),
            f"{store} gets no permit, and its primary stops without one",
        )
        with refusals.of(store, words), contextlib.suppress(ActionError):
            epoch = self._newest_of(await self._sets.read(store))
            site = self._site_of(epoch, guard)
            agent = self._agent(site)
            if agent is None or store in self._stopped or not epoch.settled:
                return
            longest_ms = await self._longest_after(store)
            # A fence may have stopped it meanwhile. Nothing may wait between this and the time of the grant.
            if store in self._stopped:
                return
            self._granted_ms[store] = self._clock.monotonic_ms()
            number, ttl_ms = max(epoch.number, self._obeyed(store)), self._policy.store(store).lease_ttl_ms
            try:
                await agent.renew(store, number, ttl_ms, guard.stamp, TIMEOUT_S)
            except Permanent as error:
                if error.code == UNWATCHED:
                    self._told.pop(store, None)
                    await self._store.transact((), (Delete(PREFIX + store),), guard)
                return
            fact = orjson.dumps({"site": site, "ttl_ms": longest_ms})
            if self._told.get(store) != fact:
                await self._store.transact((), (Put(PREFIX + store, fact),), guard)
                self._told[store] = fact

    async def _longest_after(self, store: str) -> int:
        """Length of the longest permit that may be valid once one more is granted: one granted before policy
        shortened them may outlast it. Raises Unavailable.
        """
        now, ttl_ms = self._clock.monotonic_ms(), self._policy.store(store).lease_ttl_ms
        if store not in self._longest:
            known = await self.fact(store)
            self._longest[store] = (0 if known is None else known[1], self._led_since_ms)
        longest_ms, since_ms = self._longest[store]
        if ttl_ms >= longest_ms or now >= since_ms + wait_ms(longest_ms):
            self._longest[store] = (ttl_ms, now)
        return self._longest[store][0]

    async def fact(self, store: str) -> tuple[str, int] | None:
        """(site, ttl_ms) of the agent that watches a store; None if none is known to. An earlier leader may
        have granted a permit by the present policy and died before recording it.
        """
        entry = await self._store.get(PREFIX + store)
        if entry is None:
            return None
        try:
            found = orjson.loads(entry.value)
            return str(found["site"]), max(int(found["ttl_ms"]), self._policy.store(store).lease_ttl_ms)
        except (ValueError, KeyError, TypeError):
            return None

    def stop(self, store: str) -> None:
        """Grants no more permits for a store in this term."""
        self._stopped.add(store)

    def stopped(self, store: str) -> bool:
        return store in self._stopped

    def go_on(self, store: str) -> None:
        self._stopped.discard(store)

    def over_at_ms(self, store: str, ttl_ms: int) -> int:
        """Monotonic time when every permit of this store has expired; an earlier leader may have granted one
        until we took over.
        """
        return max(self._led_since_ms, self._granted_ms.get(store, 0)) + wait_ms(ttl_ms)

    def now_ms(self) -> int:
        return self._clock.monotonic_ms()


class LeaseDriver:
    """Fences a store by waiting until its permit has expired."""

    name = "lease"
    verbs: frozenset[Verb] = frozenset({"fence"})

    def __init__(self, permits: Permitting) -> None:
        self._permits = permits

    async def check(self, action: Action, order: Order) -> Checked:
        problems = await self._problems(action)
        return Checked(problems)

    async def execute(self, action: Action, order: Order) -> Evidence:
        """Raises Permanent where no agent is known to watch the store: waiting would prove nothing."""
        if problems := await self._problems(action):
            raise Permanent("lease-unproven", problems[0], "fence by network, by power, or by hand")
        if order.dry_run:
            return {"dry_run": "would wait until the permit expires"}
        found = await self._permits.fact(action.target)
        assert found is not None
        _, ttl_ms = found
        self._permits.stop(action.target)
        began = self._permits.now_ms()
        while (left := self._permits.over_at_ms(action.target, ttl_ms) - self._permits.now_ms()) > 0:
            await asyncio.sleep(left / 1_000)
        return {"proof": "lease", "ttl_ms": ttl_ms, "waited_ms": self._permits.now_ms() - began}

    async def observe(self, action: Action, order: Order) -> Observed:
        """Done once every permit has expired and none was granted since."""
        fact = await self._permits.fact(action.target)
        if fact is None or not self._permits.stopped(action.target):
            return Observed("absent")
        over = self._permits.now_ms() >= self._permits.over_at_ms(action.target, fact[1])
        return Observed("done" if over else "absent", {"proof": "lease"} if over else NO_EVIDENCE)

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Grants permits again; a primary that stopped itself is started by its own site."""
        if not order.dry_run:
            self._permits.go_on(action.target)
        return {"undone": "fence"}

    async def close(self) -> None:
        """Nothing is open."""

    async def _problems(self, action: Action) -> tuple[str, ...]:
        try:
            fact = await self._permits.fact(action.target)
        except Unavailable as error:
            return (error.message,)
        if fact is None:
            return (f"no agent has ever been observed watching {action.target}",)
        if fact[0] != action.parameters.get("old"):
            return (f"the agent that watches {action.target} is at {fact[0]}",)
        return ()
