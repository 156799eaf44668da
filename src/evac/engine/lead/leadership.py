"""Leadership by a lease: taken, renewed, and given up in good time on the holder's own clock.

Invariant: `check` passes only while the lease is certainly ours, counted from before the last renewal was
asked for. Whoever was stopped for longer than that (SIGSTOP, a frozen machine) finds out before its next
effect, because the clock went on.
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
"""Key of whoever leads, under their lease: who waits for the lease need not ask for it all the time."""
MARGIN_PERMILLE: Final = 250
"""How much of the lease is left unused, for clocks that run apart and effects that take a moment to stop."""

_PAUSE_LEAST_S: Final = 0.05


def begin(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
    """One more task of a term. Raises LeaseLost if the term is ending: its group, which one task of it has
    shut down by what it raised, takes no other, and whoever asks is about to be cancelled as well.
    """
    try:
        return tasks.create_task(work, name=name)
    except RuntimeError as error:
        work.close()
        raise LeaseLost(LEADER) from error


class Leadership:
    """One lease, held. Made by `acquire`; `release` ends it.

    on_lost: called once, when the lease is over or too little of it is left to be sure. trouble: why it could
    not be renewed the last time, in words; empty if it could, or no one knows. given_up: it could not be
    kept.
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
        """As orders carry it: the generation of the store goes before the count."""
        return self.lease.stamp

    @property
    def left_ms(self) -> int:
        """How long we may still act; never more than is certain."""
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
        """Shows that someone leads, for as long as the lease lasts. Raises `LeaseLost`."""
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
        """However it ends, no one believes in the lease any more."""
        try:
            await self._renew()
        finally:
            self._give_up()

    async def _renew(self) -> None:
        """Three times a ttl, counted from when it was asked for: where an answer takes long, the next one is
        asked for at once. What was not answered is tried again until too little is left.
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
                self.trouble = (str(error),) if isinstance(error, Unavailable) else ()
                ask_ms = self._clock.monotonic_ms() + round(_PAUSE_LEAST_S * 1_000)
                continue
            self.trouble = ()
            self._safe_ms = asked_ms + self._usable_ms
            ask_ms = asked_ms + every_ms
