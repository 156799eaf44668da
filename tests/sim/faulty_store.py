"""A cluster of store members over three sites, and the way to it from each process: a way that fails.

Requests and replies are lost, late and doubled; a request that was given up may still arrive. Leases end
late, never early. A site that is cut off, or burns, reaches no majority. The cluster is one
`MemoryStore`: what it accepts happens at one instant, and whoever watches it sees every change then.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from evac.model.errors import EvacError, LockHeld, Unavailable
from evac.store.port import PREFIX_END, Change, Compare, Entry, Lease, MemoryStore
from evac_lab.virtual_loop import VirtualLoop, VirtualProcess

T = TypeVar("T")
DEADLINE_S: Final = 1.0
"""After which a client gives up on one request."""
HINT_MOST_S: Final = 2.0


@dataclass(slots=True)
class Weather:
    """How bad the way to the store is, in permille of requests, and how long messages take.

    late: arrives after its sender gave up. late_lease_ms: how much later than asked a lease may end.
    """

    lost: int = 0
    reply_lost: int = 0
    doubled: int = 0
    late: int = 0
    slow_ms: int = 4
    late_lease_ms: int = 0
    lazy: bool = False
    """Whether the end of a lease is noticed only when something is asked, as in the store of one machine."""

    def clear(self) -> None:
        self.lost = self.reply_lost = self.doubled = self.late = self.late_lease_ms = 0


Watcher = Callable[[Sequence[Compare], Sequence[Change], Lease | None], None]


class Cluster(MemoryStore):
    """What all members agree on. seen: is told every transaction that was accepted, at its instant."""

    name = "simulated"

    def __init__(self, loop: VirtualLoop, weather: Weather) -> None:
        super().__init__(loop.now_ms, quorum=True)
        self._loop, self.weather = loop, weather
        self.seen: list[Watcher] = []
        self.hints: dict[Hints, str] = {}
        self.stalled_until_ms = 0
        self._awaiting = False

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        revision = await super().transact(compares, changes, guard)
        if changes:
            for watcher in self.seen:
                watcher(compares, changes, guard)
        return revision

    async def acquire(self, name: str, owner: str, ttl_ms: int) -> Lease:
        """As etcd does, it does not say when the lease of somebody else ends."""
        try:
            lease = await super().acquire(name, owner, ttl_ms)
        except LockHeld as held:
            raise LockHeld(name, held.owner) from None
        self._lengthen(name)
        self._await_end()
        return lease

    async def renew(self, lease: Lease) -> None:
        await super().renew(lease)
        self._lengthen(lease.name)

    def _await_end(self) -> None:
        """Whatever hangs on a lease vanishes when it ends, though nobody asks for anything then."""
        if not self._awaiting and self._leases and not self.weather.lazy:
            self._awaiting = True
            ends_ms = min(held.ends_ms for held in self._leases.values())
            self._loop.in_world((ends_ms - self._clock() + 1) / 1_000, self._end_due)

    def _end_due(self) -> None:
        self._awaiting = False
        self._expire()
        self._await_end()

    def elect(self, stall_ms: int) -> None:
        """A member was lost that led the others: nothing is answered for a while, and leases begin anew."""
        self.stalled_until_ms = self._clock() + stall_ms
        for held in self._leases.values():
            held.ends_ms = max(held.ends_ms, self.stalled_until_ms + held.lease.ttl_ms)

    def token_of(self, name: str) -> int:
        """The token under which a lease is held at this instant; 0 where nobody holds it."""
        self._expire()
        held = self._leases.get(name)
        return 0 if held is None else held.lease.token

    def value(self, key: str) -> bytes | None:
        """The value of a key at this instant, for whoever checks the world."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def entries(self, prefix: str) -> list[Entry]:
        start = bisect_left(self._keys, prefix)
        end = bisect_left(self._keys, prefix + PREFIX_END, start)
        return [self._entries[key] for key in self._keys[start:end]]

    def _lengthen(self, name: str) -> None:
        most = self.weather.late_lease_ms
        if most:
            self._leases[name].ends_ms += int(self._loop.random.random() * most)

    def _notify(self, keys: Sequence[str] | None) -> None:
        super()._notify(keys)
        for hints, prefix in self.hints.items():
            if keys is None:
                hints.stir()
                continue
            for key in keys:
                if key.startswith(prefix):
                    hints.stir()
                    break


class Hints:
    """One watch: yields at once, soon after a change, and every two seconds. Breaks off with its site."""

    def __init__(self, way: SiteStore, prefix: str) -> None:
        self._way, self._prefix = way, prefix
        self._waiter: asyncio.Future[None] | None = None
        self._stirred = True

    def __aiter__(self) -> Hints:
        self._way.cluster.hints[self] = self._prefix
        return self

    async def __anext__(self) -> None:
        way = self._way
        if not self._stirred:
            waiter = self._waiter = way.loop.create_future()
            timer = way.loop.call_later(HINT_MOST_S, self._wake)
            try:
                await waiter
            finally:
                timer.cancel()
                if not waiter.done() or waiter.cancelled():
                    way.cluster.hints.pop(self, None)
        self._stirred = False
        if not way.connected():
            way.cluster.hints.pop(self, None)
            await asyncio.sleep(way.delay_s())
            raise Unavailable("the watch broke off")

    async def aclose(self) -> None:
        self._way.cluster.hints.pop(self, None)

    def stir(self) -> None:
        """Something changed; the hint takes a while to arrive."""
        if not self._stirred:
            self._stirred = True
            self._way.loop.in_world(self._way.delay_s(), self._wake)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class SiteStore:
    """The store as one process reaches it (the port `Store`). connected: whether it reaches a majority."""

    name = "simulated"
    quorum = True

    def __init__(
        self, cluster: Cluster, loop: VirtualLoop, process: VirtualProcess, connected: Callable[[], bool]
    ) -> None:
        self.cluster, self.loop, self._process = cluster, loop, process
        self._connected, self._random = connected, loop.random.random

    def connected(self) -> bool:
        return self._process.alive and self._connected()

    def delay_s(self) -> float:
        return (0.3 + self._random()) * self.cluster.weather.slow_ms / 1_000

    def get(self, key: str) -> Coroutine[Any, Any, Entry | None]:
        return self._ask(self.cluster.get, key)

    def list(self, prefix: str, after: str = "", limit: int = 1_000) -> Coroutine[Any, Any, list[Entry]]:
        return self._ask(self.cluster.list, prefix, after, limit)

    def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> Coroutine[Any, Any, int]:
        return self._ask(self.cluster.transact, compares, changes, guard, changes=True)

    def acquire(self, name: str, owner: str, ttl_ms: int) -> Coroutine[Any, Any, Lease]:
        return self._ask(self.cluster.acquire, name, owner, ttl_ms, changes=True)

    def renew(self, lease: Lease) -> Coroutine[Any, Any, None]:
        return self._ask(self.cluster.renew, lease, changes=True)

    def release(self, lease: Lease) -> Coroutine[Any, Any, None]:
        return self._ask(self.cluster.release, lease, changes=True)

    def holder(self, name: str) -> Coroutine[Any, Any, Lease | None]:
        return self._ask(self.cluster.holder, name)

    def watch(self, prefix: str) -> AsyncIterator[None]:
        return Hints(self, prefix)

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _ask(
        self, call: Callable[..., Coroutine[Any, Any, T]], *given: Any, changes: bool = False
    ) -> T:
        """One request: it may not arrive, arrive late or twice, and its reply may not come back."""
        while self._process.stopped:  # in the middle of a callback: it is sent when the process goes on
            await asyncio.sleep(0)
        if not self._process.alive:
            raise Unavailable("this process is dead")
        answer: asyncio.Future[T] = self.loop.create_future()
        _Request(self, call, given, answer, changes).send()
        return await answer


class _Request:
    """One message to the cluster and its reply."""

    __slots__ = ("answer", "call", "changes", "given", "way")

    def __init__(
        self,
        way: SiteStore,
        call: Callable[..., Coroutine[Any, Any, Any]],
        given: tuple[Any, ...],
        answer: asyncio.Future[Any],
        changes: bool,
    ) -> None:
        self.way, self.call, self.given, self.answer, self.changes = way, call, given, answer, changes

    def send(self) -> None:
        way = self.way
        weather, random = way.cluster.weather, way._random
        draw = int(random() * 1_000)
        delay_s = (0.3 + random()) * weather.slow_ms / 1_000
        if draw < weather.lost + weather.late + weather.doubled:
            if draw < weather.lost:
                self._give_up_later()
                return
            draw -= weather.lost
            if draw < weather.late:
                delay_s = DEADLINE_S * (0.5 + 1.5 * random())
                self._give_up_later()
            elif self.changes:
                way.loop.in_world(delay_s + way.delay_s() * 4, self._arrive_again)
        way.loop.in_world(delay_s, self._arrive)

    def _give_up_later(self) -> None:
        self.way.loop.in_world(DEADLINE_S, self._give_up)

    def _give_up(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(Unavailable("no answer in time"))

    def _arrive(self) -> None:
        """At the cluster. What a dead process sent before it died arrives all the same."""
        way = self.way
        if not way._connected():
            self._give_up_later()
            return
        if way.cluster.stalled_until_ms:
            stalled_ms = way.cluster.stalled_until_ms - way.loop.now_ms()
            if stalled_ms > 0:
                self._give_up_later()
                if stalled_ms < DEADLINE_S * 1_000:
                    way.loop.in_world(stalled_ms / 1_000, self._arrive)
                return
        try:
            self.call(*self.given).send(None)  # as `at_once` does
        except StopIteration as end:
            self._reply(end.value, None)
        except EvacError as error:
            self._reply(None, error)
        else:
            raise AssertionError("the cluster answers at once")

    def _arrive_again(self) -> None:
        if self.way._connected():
            try:
                at_once(self.call(*self.given))
            except EvacError:
                return  # nobody waits for this answer

    def _reply(self, result: Any, error: EvacError | None) -> None:
        way = self.way
        weather, random = way.cluster.weather, way._random
        if int(random() * 1_000) < weather.reply_lost:
            self._give_up_later()
            return
        delay_s = (0.3 + random()) * weather.slow_ms / 1_000
        way.loop.in_world(delay_s, self._deliver, result, error)

    def _deliver(self, result: Any, error: EvacError | None) -> None:
        if self.answer.done():
            return
        if not self.way._connected():
            self._give_up_later()
        elif error is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(result)


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """The result of a call that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("the cluster answers at once")
