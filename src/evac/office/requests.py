"""Requests that people make through the war room: to runs, the hold, incident notes. Each names its author.

An idempotency key makes a repeated request the same as a single one:

    asked/<sha256 of person and key>    {"body", "status", "answer"}, written together with the request

It is kept for a day under a lease that is never renewed. The same key with a different body is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import orjson

from evac.app import incidents, runs
from evac.engine.clock import Clock
from evac.engine.lead.signed_heads import key_named
from evac.engine.runs import requests
from evac.engine.runs.effects import may_clear
from evac.engine.runs.open_runs import OPEN, made_in
from evac.engine.runs.proposals import proposing
from evac.engine.runs.proving import OF_PROPOSAL, RoomKey
from evac.engine.runs.releases import proof_needed, released
from evac.engine.stores.guards import HOLD_KEY
from evac.incident.records import Note
from evac.model.access import GlassUse, Proven
from evac.model.errors import Conflict, Corrupt, InvalidInput, NotAllowed, RunError
from evac.model.records import dataclass
from evac.net.secrets import ROOM_KEY
from evac.store.port import Change, Compare, Delete, Lease, Put, Store
from evac.views.status_document import HoldLine

ASKED: Final = "asked/"
KEPT_MS: Final = 86_400_000
KEY_LONGEST: Final = 200
LEASE_HOUR_MS: Final = 3_600_000
TEXT_MOST: Final = requests.TEXT_MOST


@dataclass(frozen=True, slots=True)
class Asked:
    """Who makes the request, why, and the idempotency key."""

    who: str
    reason: str
    key: str = ""
    body: str = ""
    """Digest of the whole request."""
    glass: GlassUse | None = None
    """Use of the break-glass credential, if one was used."""
    proof: Proven | None = None
    """How the person proved their identity; None without sign-in."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A stored response."""

    status: int
    """HTTP status, stored so that a repeated request gets the same one."""
    told: Mapping[str, Any]
    again: bool = False
    """Whether this repeats an earlier request."""


@dataclass(frozen=True, slots=True)
class RequestTold:
    """`state`: `waiting` for a leader, `taken`, or `refused`, with the reason and what to do instead."""

    request: str
    run: str
    verb: str
    who: str
    at_ms: int
    state: str
    why: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ProposalTold:
    """`state`: `made`, with the run; `refused`, with code, reason, kind of error and what to do next;
    `untaken`: no leader accepted it in time, so it was withdrawn and no run is created; `waiting`: the
    request did not wait (`wait_s=0`), so repeat it with the same key.
    """

    proposal: str
    plan: str
    incident: str
    who: str
    at_ms: int
    state: str
    run: str
    code: str
    why: str
    kind: str
    hint: str


@dataclass(frozen=True, slots=True)
class Released:
    """Who released the hold, and why."""

    released: bool
    who: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class SiteCleared:
    """The site or domain whose mark was cleared."""

    domain: str
    who: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class NoteTold:
    """The note as recorded."""

    note: str
    incident: str
    kind: str
    who: str
    at_ms: int


Told = RequestTold | ProposalTold | HoldLine | Released | SiteCleared | NoteTold


class Counter:
    """Records what people request in the store. One per process."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._key = RoomKey(key_named(ROOM_KEY))
        self._lease: tuple[int, Lease] | None = None
        self._turn = asyncio.Lock()

    async def ask(self, run: str, asked: Asked, request: requests.Request) -> Answer:
        """A request to a run, by the id of the run. Raises RunError, Conflict, Unavailable."""
        known = await self.known(asked)
        if known is not None:
            return known
        now_ms = self._clock.now_ms()
        request = replace(
            request,
            id=runs.new_id(now_ms),
            who=asked.who,
            reason=asked.reason,
            at_ms=now_ms,
            glass=asked.glass,
        )
        opened = await self._store.get(OPEN + run)
        if opened is None and request.verb != "attest":
            raise RunError("run-over", f"{run} has ended", f"GET /v1/runs/{run}")
        if opened is not None:
            request = replace(request, made=made_in(opened.value))
        if asked.proof is not None:
            proof = asked.proof if asked.proof.at_ms else replace(asked.proof, at_ms=now_ms)
            request = await self._key.seen(self._store, run, replace(request, proof=proof))
        value = requests.encode(request)
        key = requests.key_of(run, request.id)
        told = RequestTold(request.id, run, request.verb, asked.who, now_ms, "waiting", "")
        return await self._once(asked, 202, told, (Compare(key, 0),), (Put(key, value),))

    async def propose(self, asked: Asked, proposal: runs.Proposal, digest: str) -> Answer:
        """Asks the leader to create a run from a stored plan. The answer names the proposal."""
        known = await self.known(asked)
        if known is not None:
            return known
        now_ms = self._clock.now_ms()
        number = runs.new_id(now_ms)
        told = ProposalTold(
            number, digest, proposal.incident, asked.who, now_ms, "waiting", "", "", "", "", ""
        )
        request = None
        if asked.proof is not None:
            request = proposing(number, runs.proposal_told(digest, proposal), now_ms)
            proof = asked.proof if asked.proof.at_ms else replace(asked.proof, at_ms=now_ms)
            request = await self._key.seen(self._store, OF_PROPOSAL, replace(request, proof=proof))
        key, value = runs.proposal_entry(number, digest, proposal, request)
        return await self._once(asked, 202, told, (Compare(key, 0),), (Put(key, value),))

    async def hold(self, asked: Asked) -> Answer:
        """Places a hold. Raises Conflict, and changes nothing, if one is already in place."""
        known = await self.known(asked)
        if known is not None:
            return known
        if not asked.who.strip() or not asked.reason.strip() or len(asked.reason) > TEXT_MOST:
            raise InvalidInput("hold-unsigned", "a hold needs a name and a reason", "send a reason")
        now_ms = self._clock.now_ms()
        told = HoldLine(asked.who, asked.reason, now_ms)
        compares: tuple[Compare, ...] = (Compare(HOLD_KEY, 0),)
        try:
            await self._store.get(HOLD_KEY)
        except Corrupt:  # what someone else planted there keeps no one from placing a hold
            compares = ()
        return await self._once(asked, 201, told, compares, (Put(HOLD_KEY, orjson.dumps(told)),))

    async def clear_site(self, asked: Asked, domain: str) -> Answer:
        """Clears the lost or evacuated mark of a domain. Raises NotAllowed, Conflict."""
        known = await self.known(asked)
        if known is not None:
            return known
        if not asked.who.strip() or not asked.reason.strip() or len(asked.reason) > TEXT_MOST:
            raise InvalidInput("clear-unsigned", "clearing a mark needs a name and a reason", "send a reason")
        if asked.proof is None and await proof_needed(self._store):
            raise NotAllowed("unproven", f"{asked.who[:80]} is a typed name", "sign in first")
        now_ms = self._clock.now_ms()
        permit = await may_clear(self._store, domain, asked.who, asked.reason, now_ms)
        told = SiteCleared(domain, asked.who, asked.reason, now_ms)
        return await self._once(asked, 201, told, permit.compares, permit.changes)

    async def release(self, asked: Asked, revision: int) -> Answer:
        """Releases the hold with this revision. Raises Conflict if it has another one."""
        known = await self.known(asked)
        if known is not None:
            return known
        told = Released(True, asked.who, asked.reason, self._clock.now_ms())
        compares = (Compare(HOLD_KEY, revision),)
        proof = asked.proof or Proven()
        if asked.proof is None and await proof_needed(self._store):
            raise NotAllowed("unproven", f"{asked.who[:80]} is a typed name", "sign in first")
        changes = (Delete(HOLD_KEY), released(asked.who, asked.reason, told.at_ms, proof))
        return await self._once(asked, 200, told, compares, changes)

    async def note(self, asked: Asked, note: Note, new: bool = False, begins: bool = False) -> Answer:
        """Records a note on an incident, with the current time. `new`: the incident may be unknown; `begins`:
        it must be. Raises InvalidInput, RunError, Conflict, Unavailable.
        """
        known = await self.known(asked)
        if known is not None:
            return known
        now_ms = self._clock.now_ms()
        made = replace(note, id=runs.new_id(now_ms), who=asked.who, at_ms=now_ms)
        if begins and made.incident in await incidents.names(self._store):
            raise Conflict(made.incident, f"incident {made.incident} already exists")
        _, compares, changes = await incidents.note_changes(self._store, made, new or begins)
        told = NoteTold(made.id, made.incident, made.kind, made.who, now_ms)
        return await self._once(asked, 201, told, compares, changes)

    async def known(self, asked: Asked) -> Answer | None:
        """The earlier answer to the same key. Raises InvalidInput if the key was used for a different
        request.
        """
        if not asked.key:
            return None
        if len(asked.key) > KEY_LONGEST:
            raise InvalidInput(
                "idempotency-key", f"an idempotency key can have at most {KEY_LONGEST} characters"
            )
        entry = await self._store.get(_key(asked))
        if entry is None:
            return None
        kept = orjson.loads(entry.value)
        if kept["body"] != asked.body:
            raise InvalidInput(
                "idempotency-reused",
                "this idempotency key was used for a different request",
                "send a new key with a new request",
            )
        return Answer(int(kept["status"]), kept["answer"], again=True)

    async def _once(
        self,
        asked: Asked,
        status: int,
        told: Told,
        compares: Sequence[Compare],
        changes: Sequence[Change],
    ) -> Answer:
        """Writes the request with its key in one transaction; a second request gets the answer of
        the first.
        """
        answer = Answer(status, asdict(told))
        if not asked.key:
            await self._store.transact(compares, changes)
            return answer
        value = orjson.dumps({"body": asked.body, "status": status, "answer": answer.told})
        kept = Put(_key(asked), value, await self._day())
        try:
            await self._store.transact((Compare(_key(asked), 0), *compares), (kept, *changes))
        except Conflict as error:
            if error.key != _key(asked):
                raise
            known = await self.known(asked)
            return known if known is not None else answer
        return answer

    async def _day(self) -> Lease:
        """A lease that lasts a day and is never renewed; a new one each hour."""
        async with self._turn:
            hour = self._clock.monotonic_ms() // LEASE_HOUR_MS
            if self._lease is None or self._lease[0] != hour:
                owner = f"{os.getpid()}/{os.urandom(4).hex()}"
                lease = await self._store.acquire(f"{ASKED}{owner}", owner, KEPT_MS)
                self._lease = (hour, lease)
            return self._lease[1]


def body_digest(*parts: object) -> str:
    """Digest of everything that identifies a request."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _key(asked: Asked) -> str:
    return ASKED + hashlib.sha256(f"{asked.who}\0{asked.key}".encode()).hexdigest()
