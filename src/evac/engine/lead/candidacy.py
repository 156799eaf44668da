"""A controller that waits until no one leads.

Invariant: `why` is empty while this controller leads or can read who leads. Otherwise it names the cause: a
store that does not answer, refuses writes while no one leads, is unreadable, is superseded, or is new while
systems obey the leader of another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from evac.engine.lead.leadership import LEADER, SIGN
from evac.model.errors import (
    Corrupt,
    LockHeld,
    StoreBehind,
    StoreError,
    StoreNotObeyed,
    Superseded,
    Unavailable,
)
from evac.store.port import Store

SHUT_S: Final = 10.0
Term = TypeVar("Term")


class Candidacy(Generic[Term]):
    """take: becomes leader; raises LockHeld while someone else leads, Superseded, StoreNotObeyed, Corrupt,
    Unavailable. tell: called once each time the store becomes unreadable or a new one must not be led, or is
    unavailable for longer than an election takes. Who learns that it is superseded or behind tells that.
    """

    def __init__(
        self,
        store: Store,
        take: Callable[[], Awaitable[Term]],
        pause_s: float,
        tell: Callable[[StoreError], None],
    ) -> None:
        self._store, self._take, self._pause_s, self._tell = store, take, pause_s, tell
        self._said = ""
        self._shut_s: float | None = None
        """Since when the store has been unavailable, by the loop's time; infinite once reported."""
        self.why = ""

    async def wait(self) -> Term:
        """Tries when the leader's sign is gone, and every two seconds, with one small transaction."""
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(SIGN)) as hints:  # type: ignore[type-var]
                    async for _ in hints:
                        if (term := await self._try()) is not None:
                            return term
            except Unavailable as error:
                self.why = "" if await self._somebody_leads() else error.message
                self._is_shut(error)
            await asyncio.sleep(self._pause_s)

    async def _try(self) -> Term | None:
        """None while someone else leads, a newer generation acts, or the generation is unreadable. A store
        whose leases expire may send no hint, so it is polled.
        """
        while True:
            try:
                term = await self._take()
            except Superseded as error:
                self.why, self._shut_s = error.message, None
                return None
            except Corrupt as error:
                self.why, self._shut_s = error.message, None
                self._say_once(error)
                return None
            except StoreNotObeyed as error:
                self.why, self._shut_s = error.with_hint, None
                if not isinstance(error, StoreBehind):
                    self._say_once(error)
                return None
            except LockHeld as held:
                self.why, self._shut_s, self._said = "", None, ""
                if not held.ttl_ms:
                    return None
            else:
                self.why, self._shut_s, self._said = "", None, ""
                return term
            await asyncio.sleep(self._pause_s)

    async def _somebody_leads(self) -> bool:
        """A controller that cannot write but reads that someone leads is still a follower."""
        try:
            return await self._store.holder(LEADER) is not None
        except (Unavailable, Corrupt):
            return False

    def _is_shut(self, error: Unavailable) -> None:
        """Reported once, if it lasts: an election or a restart of the store takes a moment too."""
        now_s = asyncio.get_running_loop().time()
        if not self.why:
            self._shut_s = None
        elif self._shut_s is None:
            self._shut_s = now_s
        elif now_s - self._shut_s >= SHUT_S:
            self._shut_s = math.inf
            self._tell(error)

    def _say_once(self, error: StoreError) -> None:
        """A controller that must not act for the state of its store continues to watch."""
        if self._said != error.message:
            self._said = error.message
            self._tell(error)
