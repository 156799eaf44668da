"""Requests to the leader outside runs that need a proven person: end a hold, clear a mark.

release/<id>      a request (`requests.encode`), signed over this very hold, or with a domain as its step over
                  this very mark
answer/<id>       {"done"}, or why it was refused
hold/released     who ended the last hold, why, and how that person was proven
rules/proof       {"needed"}: whether the leader takes anything on a typed name
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

import orjson

from evac.engine.clock import Clock
from evac.engine.lead.watch_journal import Notice, Tell
from evac.engine.runs import requests
from evac.engine.runs.effects import mark_digest, may_clear
from evac.engine.runs.proposals import ANSWER, refused
from evac.engine.runs.proving import OF_HOLD, OF_MARK, Asked
from evac.engine.stores.guards import HOLD_ENDED, HOLD_KEY
from evac.model.access import Proven
from evac.model.errors import Conflict, EvacError, LeaseLost, Unavailable
from evac.model.records import dataclass
from evac.store.port import Change, Compare, Delete, Lease, Put, Store

RELEASE: Final = "release/"
RULES: Final = "rules/proof"
BATCH: Final = 50


def hold_digest(value: bytes) -> str:
    """What a signature names the hold by: it ends this hold and no later one."""
    return hashlib.sha256(value).hexdigest()


def released(who: str, reason: str, at_ms: int, proof: Proven) -> Put:
    """Written with the end of a hold."""
    told = {"who": who, "reason": reason, "at_ms": at_ms, "proof": proof.to_data()}
    return Put(HOLD_ENDED, orjson.dumps(told))


async def proof_needed(store: Store) -> bool:
    """Whether the last leader accepts no typed name as proof."""
    entry = await store.get(RULES)
    with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
        return entry is not None and orjson.loads(entry.value).get("needed") is True
    return True


@dataclass(frozen=True, slots=True)
class _Done:
    compares: Sequence[Compare] = ()
    changes: Sequence[Change] = ()
    words: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


class Releases:
    """Answers requests about holds and marks while we lead. needed: whether a typed name is no proof. prove:
    how the person was proven; raises NotAllowed.
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
        answer, here = f"{ANSWER}{key.removeprefix(RELEASE)}", Compare(key, revision)
        try:
            request = requests.decode(key, value)
            found = await (self._mark(request) if request.step else self._hold(request))
            reply = Put(answer, orjson.dumps({"done": found.words or "nothing was on hold"}))
            await self._store.transact((here, *found.compares), (Delete(key), *found.changes, reply), guard)
            if found.words and not request.step:  # of marks another chore tells
                self._tell(Notice("run", self._clock.now_ms(), "", found.words, found.about))
        except (LeaseLost, Unavailable):
            raise
        except Conflict:
            return  # read again at the next look
        except EvacError as error:
            reply = Put(answer, orjson.dumps(refused(error)))
            with contextlib.suppress(Conflict):
                await self._store.transact((here,), (Delete(key), reply), guard)

    async def _hold(self, request: requests.Request) -> _Done:
        """Ends the hold. Raises NotAllowed."""
        hold = await self._store.get(HOLD_KEY)
        if hold is None:
            return _Done()
        proof = await self._prove(Asked(OF_HOLD, bound=hold_digest(hold.value)), request)
        end = released(request.who, request.reason, self._clock.now_ms(), proof)
        return _Done(
            (Compare(HOLD_KEY, hold.revision),),
            (Delete(HOLD_KEY), end),
            f"{request.who} ended the hold ({proof.words}): {request.reason}",
            {"who": request.who, "proof": proof.to_data()},
        )

    async def _mark(self, request: requests.Request) -> _Done:
        """Clears the mark of a site, or of a domain below one. Raises NotAllowed."""
        now_ms = self._clock.now_ms()
        bound = await mark_digest(self._store, request.step, now_ms)
        proof = await self._prove(Asked(OF_MARK, bound=bound), request)
        permit = await may_clear(self._store, request.step, request.who, request.reason, now_ms, proof)
        return _Done(permit.compares, permit.changes, f"{request.step}: the mark was cleared")
