"""Leadership by a lease: taken, renewed, and given up in good time on the holder's own clock.

Invariant: `check` passes only while the lease is certainly ours, counted from before the last renewal
request. A process stopped for longer (SIGSTOP, a frozen machine) notices before its next effect, because the
clock kept running.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, TypeVar

from evac.engine.clock import Clock
from evac.model.errors import LeaseLost, Unavailable
from evac.store.port import Lease, Put, Store

T = TypeVar("T")
LEADER: Final = "leader"
SIGN: Final = "sign"
"""Key of the leader, under its lease, so that followers need not poll for the lease."""
MARGIN_PERMILLE: Final = 250
"""Unused rest of the lease: covers clock drift and effects that take a moment to stop."""

_PAUSE_LEAST_S: Final = 0.05


def begin(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
    """Starts one more task of a term. Raises LeaseLost if the term is ending: a group that is shutting down
    accepts no new task, and the caller is about to be cancelled too.
    """
    try:
        return tasks.create_task(work, name=name)
    except RuntimeError as error:
        work.close()
        raise LeaseLost(LEADER) from error


class Leadership:
    """One lease, held. Made by `acquire`; `release` ends it.

    on_lost: called once, when the lease has ended or too little is left to be sure. trouble: what the store
    last said when renewals failed; empty if the last one succeeded or nothing was said. given_up: the lease
    could not be kept.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        clock: Clock,
        asked_ms: int,
        on_lost: Callable[[], None],
    ) -> None:
        self.lease = lease
        self._store, self._clock, self._on_lost = store, clock, on_lost
        self._usable_ms = lease.ttl_ms * (1_000 - MARGIN_PERMILLE) // 1_000
        self._safe_ms = asked_ms + self._usable_ms
        self._lost = False
        self.given_up = False
        self.trouble: tuple[str, ...] = ()
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._keep(), name=f"lease {lease.name}")

    @classmethod
    async def acquire(
        cls,
        store: Store,
        owner: str,
        ttl_ms: int,
        clock: Clock,
        on_lost: Callable[[], None] = lambda: None,
        name: str = LEADER,
        generation: int = 0,
    ) -> Leadership:
        """Takes the lease. generation: of the store; its tokens are greater than all of a smaller one. Raises
        `LockHeld`, `Unavailable`.
        """
        asked_ms = clock.monotonic_ms()
        lease = replace(await store.acquire(name, owner, ttl_ms), generation=generation)
        return cls(store, lease, clock, asked_ms, on_lost)

    @property
    def token(self) -> int:
        """The token in orders: the store's generation in the high bits, then the count."""
        return self.lease.stamp

    @property
    def left_ms(self) -> int:
        """How many milliseconds we may still act; never more than is certain."""
        return 0 if self._lost else self._safe_ms - self._clock.monotonic_ms()

    @property
    def holding(self) -> bool:
        return self.left_ms > 0

    def check(self) -> None:
        """Raises `LeaseLost` unless the lease is certainly ours now. Call it right before every effect."""
        if self._lost or self._clock.monotonic_ms() >= self._safe_ms:
            self._give_up()
            raise LeaseLost(self.lease.name)

    async def hang_out_sign(self) -> None:
        """Publishes that someone leads, for as long as the lease lasts. Raises `LeaseLost`."""
        while True:
            with contextlib.suppress(Unavailable):
                await self._store.transact(
                    (), (Put(SIGN, self.lease.owner.encode(), self.lease),), self.lease
                )
                return
            await asyncio.sleep(_PAUSE_LEAST_S)

    async def over(self) -> None:
        """Waits until it is lost."""
        await self._over.wait()

    async def release(self) -> None:
        """Stops renewing and ends the lease, so that the next leader need not wait for it."""
        self._on_lost = lambda: None
        self._lost = True
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        with contextlib.suppress(TimeoutError, Unavailable, LeaseLost):
            async with asyncio.timeout(self.lease.ttl_ms / 1_000):
                await self._store.release(self.lease)

    def _give_up(self) -> None:
        if not self._lost:
            self._lost = self.given_up = True
            self._over.set()
            self._on_lost()

    async def _keep(self) -> None:
        """Renews; however it ends, the lease no longer counts afterwards."""
        try:
            await self._renew()
        finally:
            self._give_up()

    async def _renew(self) -> None:
        """Renews three times per ttl, counted from the request: after a slow answer the next renewal follows
        at once. Failed renewals are retried until too little is left.
        """
        every_ms = self.lease.ttl_ms // 3
        ask_ms = self._safe_ms - self._usable_ms + every_ms
        while not self._lost:
            now_ms = self._clock.monotonic_ms()
            if now_ms >= self._safe_ms:
                return
            await asyncio.sleep(max(0, min(ask_ms, self._safe_ms) - now_ms) / 1_000)
            asked_ms = self._clock.monotonic_ms()
            try:
                async with asyncio.timeout(max(0.001, self.left_ms / 1_000)):
                    await self._store.renew(self.lease)
            except LeaseLost:
                return
            except (TimeoutError, Unavailable) as error:
                if isinstance(error, Unavailable):  # the last try has hardly any time: it says less
                    self.trouble = (str(error),)
                ask_ms = self._clock.monotonic_ms() + round(_PAUSE_LEAST_S * 1_000)
                continue
            self.trouble = ()
            self._safe_ms = asked_ms + self._usable_ms
            ask_ms = asked_ms + every_ms
