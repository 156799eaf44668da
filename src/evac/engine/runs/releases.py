"""The end of a hold, where a person must be proven for it: asked for in the store, done by the leader.

release/<id>      a request (`requests.encode`), signed over this very hold
answer/<id>       {"done"}, or why it was refused
hold/released     who ended the last hold, why, and how that person was proven
rules/proof       {"needed"}: whether the leader takes anything on a typed name
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import Notice, Tell
from evac.engine.runs import requests
from evac.engine.runs.proposals import ANSWER, refused
from evac.engine.runs.proving import OF_HOLD, Asked
from evac.engine.stores.guards import HOLD_KEY
from evac.model.access import Proven
from evac.model.errors import Conflict, EvacError, LeaseLost, Unavailable
from evac.store.port import Compare, Delete, Lease, Put, Store

RELEASE: Final = "release/"
RELEASED: Final = "hold/released"
RULES: Final = "rules/proof"
BATCH: Final = 50


def hold_digest(value: bytes) -> str:
    """What a signature names the hold by: it ends this one, and no later one."""
    return hashlib.sha256(value).hexdigest()


def released(who: str, reason: str, at_ms: int, proof: Proven) -> Put:
    """Rides with the end of a hold."""
    told = {"who": who, "reason": reason, "at_ms": at_ms, "proof": proof.to_data()}
    return Put(RELEASED, orjson.dumps(told))


async def proof_needed(store: Store) -> bool:
    """Whether the last leader takes nothing on a typed name."""
    entry = await store.get(RULES)
    with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
        return entry is not None and orjson.loads(entry.value).get("needed") is True
    return True


class Releases:
    """Answers what people ask of a hold while we lead. needed: whether a typed name counts for nothing.
    prove: how the person was proven; raises NotAllowed.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        tell: Tell,
        needed: Callable[[], bool],
        prove: Callable[[Asked, requests.Request], Awaitable[Proven]],
    ) -> None:
        self._store, self._clock, self._tell = store, clock, tell
        self._needed, self._prove = needed, prove
        self._told: bool | None = None

    async def chore(self, guard: Lease) -> None:
        async for _ in self._store.watch(RELEASE):
            needed = self._needed()
            if self._told is not needed:
                await self._store.transact((), (Put(RULES, orjson.dumps({"needed": needed})),), guard)
                self._told = needed
            for entry in await self._store.list(RELEASE, limit=BATCH):
                await self._answer(entry.key, entry.value, entry.revision, guard)

    async def _answer(self, key: str, value: bytes, revision: int, guard: Lease) -> None:
        hold, answer = await self._store.get(HOLD_KEY), f"{ANSWER}{key.removeprefix(RELEASE)}"
        compares, changes = [Compare(key, revision)], [Delete(key)]
        words, about = "", {}
        told: dict[str, Any] = {"done": "nobody held anything"}
        try:
            request = requests.decode(key, value)
            if hold is not None:
                proof = await self._prove(Asked(OF_HOLD, bound=hold_digest(hold.value)), request)
                compares.append(Compare(HOLD_KEY, hold.revision))
                end = released(request.who, request.reason, self._clock.now_ms(), proof)
                words = f"{request.who} ended the hold ({proof.words}): {request.reason}"
                told, about = {"done": words}, {"who": request.who, "proof": proof.to_data()}
                await self._store.transact(
                    compares, (*changes, Delete(HOLD_KEY), end, Put(answer, orjson.dumps(told))), guard
                )
                self._tell(Notice("run", self._clock.now_ms(), "", words, about))
                return
        except (LeaseLost, Unavailable):
            raise
        except Conflict:
            return  # read again at the next look
        except EvacError as error:
            told = refused(error)
        with contextlib.suppress(Conflict):
            await self._store.transact(compares[:1], (*changes, Put(answer, orjson.dumps(told))), guard)
