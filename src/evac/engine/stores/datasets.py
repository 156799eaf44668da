"""Data sets: one lease and one epoch per store, so that two candidates are never promoted at once.

    store/<id>    a lease, held by whoever is changing the roles of this store, renewed as long as it takes
    epoch/<id>    {"epoch", "holder", "candidate", "purpose", "rung", "run", "begun", "synchronous",
                  "changes"}

An epoch is claimed before the fence, begun in the transaction that starts the promotion, and settled once the
outcome was observed. While a begun candidate is unsettled, no other can claim, however long that takes and
whatever leader is in office. Promotions and changes of the synchronous set share one epoch. A promotion
overtakes only a change of the set: that leaves the primary where it is, its late order has an older epoch,
and earlier observations of who confirms commits no longer prove anything. What this module allows it returns
as a permit, which is written in the transaction of the matching journal event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, TypeVar

import orjson

from evac.engine.clock import Clock
from evac.engine.stores.guards import Permit
from evac.model.errors import LeaseLost, LockHeld, NotAllowed, Retryable, Unavailable
from evac.model.records import dataclass
from evac.model.run_policy import FENCE_PROOFS, StorePolicy
from evac.model.step_id import target_step
from evac.store.port import Compare, Entry, Lease, Put, Store, entries

Purpose = Literal["promote", "protect"]
_PURPOSES: Final = frozenset({"", "promote", "protect"})
RUNGS: Final = frozenset({"demote", *FENCE_PROOFS})
"""Valid values of `rung`. demote: the old primary was alive, gave up its role itself, and was seen to."""

PREFIX: Final = "epoch/"
HELD: Final = "data-set-held"
"""Error code while someone else changes the roles of a store."""
MARGIN_PERMILLE: Final = 200
"""Unused rest of a lease: covers clock drift and effects that take a moment to stop."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Epoch:
    """State of the roles of one store."""

    store: str
    number: int = 0
    holder: str = ""
    """Site of its primary, as last settled."""
    candidate: str = ""
    """The site being promoted or whose synchronous set changes; empty when settled."""
    purpose: str = ""
    rung: str = ""
    """The fence proof completed in this epoch."""
    run: str = ""
    begun: bool = False
    """Whether the candidate may be the primary by now: its promotion was started and the outcome has not been
    observed.
    """
    synchronous: tuple[str, ...] = ()
    revision: int = 0
    """Of the key; 0 if not written yet."""
    changes: int = 0
    """How often the set that confirms commits may have changed; observations under another number prove
    nothing.
    """

    @property
    def settled(self) -> bool:
        return not self.candidate


class Epochs(NamedTuple):
    """Epochs of every store whose roles ever changed."""

    known: dict[str, Epoch]
    unreadable: dict[str, NotAllowed]
    """Stores whose epoch cannot be read, and why. Their roles are unknown; other stores do not wait for them.
    """

    def refusal(self) -> NotAllowed | None:
        """One refusal that names every store whose epoch cannot be read; None if all can be."""
        return _unreadable(*sorted(self.unreadable)) if self.unreadable else None

    def refuse(self) -> None:
        """Raises `NotAllowed` if an epoch cannot be read; it names every such store."""
        if (refusal := self.refusal()) is not None:
            raise refusal


def key_of(store: str) -> str:
    return PREFIX + store


def decode(store: str, entry: Entry | None) -> Epoch:
    """The epoch under a key. Raises `NotAllowed` if it is unreadable: then no one may claim."""
    if entry is None:
        return Epoch(store)
    try:
        document: dict[str, Any] = orjson.loads(entry.value)
        epoch = Epoch(
            store,
            int(document["epoch"]),
            str(document["holder"]),
            str(document["candidate"]),
            str(document["purpose"]),
            str(document["rung"]),
            str(document["run"]),
            bool(document["begun"]),
            tuple(str(name) for name in document["synchronous"]),
            entry.revision,
            int(document.get("changes", 0)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(store) from error
    if epoch.purpose not in _PURPOSES or epoch.rung not in ("", *RUNGS):
        raise _unreadable(store)
    return epoch


def encode(epoch: Epoch) -> bytes:
    return orjson.dumps(
        {
            "epoch": epoch.number,
            "holder": epoch.holder,
            "candidate": epoch.candidate,
            "purpose": epoch.purpose,
            "rung": epoch.rung,
            "run": epoch.run,
            "begun": epoch.begun,
            "synchronous": list(epoch.synchronous),
            "changes": epoch.changes,
        }
    )


def claim(
    before: Epoch,
    *,
    holder: str,
    candidate: str,
    purpose: Purpose,
    run: str,
    fenced: str = "",
    obeyed: int = 0,
) -> tuple[Epoch, Permit]:
    """The next epoch for this candidate. The same claim again (after a crash) gives the same epoch. obeyed:
    the highest epoch that members have obeyed, which is greater if this store replaced a lost one.

    Raises `NotAllowed` while another candidate, purpose or run was begun and is not settled. A claim that was
    not begun is overtaken: it can no longer begin. fenced: sites that a person attests cannot write.
    """
    if not fenced and before.holder and holder and holder != before.holder:
        raise NotAllowed(
            "roles-stale",
            f"{before.store}: the plan assumes the primary is {holder}, but it is {before.holder}",
            "make a new plan for the current state of the stores",
        )
    if not before.settled:
        is_same = (before.candidate, before.purpose, before.run) == (candidate, purpose, run)
        if is_same and (before.begun or before.number >= obeyed):
            return before, Permit((_as_read(before),))
        keeps_primary = (before.purpose, purpose) == ("protect", "promote")
        if before.begun and not keeps_primary and before.candidate not in names_in(fenced):
            raise _in_doubt(before)
    after = Epoch(
        before.store,
        max(before.number, obeyed) + 1,
        before.holder or holder,
        candidate,
        purpose,
        "",
        run,
        False,
        before.synchronous,
        before.revision,
        before.changes + (before.purpose == "protect" and before.begun),
    )
    return after, _change(before, after)


def prove(before: Epoch, rung: str, policy: StorePolicy) -> tuple[Epoch, Permit]:
    """The fence of the claimed epoch is complete by this proof. Raises `NotAllowed` if policy requires a
    stronger one.
    """
    if before.settled or before.purpose != "promote":
        raise NotAllowed("not-claimed", f"{before.store}: no claimed epoch needs a fence")
    if not _is_taken(rung, policy):
        raise NotAllowed(
            "proof-refused",
            f"{before.store}: the policy does not accept fence proof {rung or 'none'}",
            f"the policy accepts: {', '.join(policy.proofs)}",
        )
    after = replace(before, rung=rung)
    return after, _change(before, after)


def begin(before: Epoch, candidate: str, run: str, policy: StorePolicy) -> tuple[Epoch, Permit]:
    """Begins what was claimed. Raises `NotAllowed` unless this run claimed it for this candidate and, for a
    promotion, the fence is proved.

    A run whose candidate burnt as well continues with another one under the next epoch, if the proof concerns
    only the old primary and nothing was begun.
    """
    if (before.purpose, before.run) == ("promote", run):
        before = _with(before, candidate)
    if (before.candidate, before.run) != (candidate, run):
        raise NotAllowed("not-claimed", f"{before.store}: {candidate} did not claim epoch {before.number}")
    if before.purpose == "promote" and not _is_taken(before.rung, policy):
        raise NotAllowed(
            "not-fenced",
            f"{before.store}: there is no fence proof that the policy accepts; nothing is promoted",
            "prove the fence, or attest it: evac run attest",
        )
    after = replace(before, begun=True, changes=before.changes + (before.purpose == "protect"))
    return after, _change(before, after)


def _with(before: Epoch, candidate: str) -> Epoch:
    """The claim of a run, for another candidate. Raises `NotAllowed` if it was begun."""
    if before.candidate == candidate or before.rung in ("", "sync"):
        return before
    if before.begun:
        raise _in_doubt(before)
    return replace(before, number=before.number + 1, candidate=candidate)


def names_in(told: str) -> frozenset[str]:
    """The names in a person's text, such as `anyang, ansan`."""
    return frozenset(told.replace(",", " ").split())


def _in_doubt(epoch: Epoch) -> NotAllowed:
    step = target_step(epoch.purpose, epoch.store)
    return NotAllowed(
        "candidate-unknown",
        f"{epoch.store}: the outcome of {epoch.candidate} in epoch {epoch.number} is unknown; check it, then "
        f"evac run attest {epoch.run} {step} --seen fenced={epoch.candidate} if it can no longer write, "
        f"or --seen primary={epoch.candidate} if it is the primary",
        "check it first: evac run show " + epoch.run,
    )


def stay(epoch: Epoch) -> Permit:
    """Ensures that no one claims this store meanwhile."""
    return Permit((_as_read(epoch),))


def not_done(before: Epoch) -> tuple[Epoch, Permit]:
    """What was begun certainly did not happen; it stays claimed and may be begun or overtaken."""
    after = replace(before, begun=False)
    return after, _change(before, after)


def settle(before: Epoch, done: bool, synchronous: tuple[str, ...] | None = None) -> tuple[Epoch, Permit]:
    """Records the observed outcome: the candidate is the primary (or the set is changed), or not.

    Only an observation may settle. The number stays used either way.
    """
    if before.settled:
        return before, Permit((_as_read(before),))
    moved = done and before.purpose == "promote"
    after = replace(
        before,
        holder=before.candidate if moved else before.holder,
        candidate="",
        purpose="",
        run="",
        begun=False,
        synchronous=synchronous if done and synchronous is not None else before.synchronous,
        changes=before.changes + (moved or before.purpose == "protect"),
    )
    return after, _change(before, after)


def vouch(before: Epoch, holder: str) -> tuple[Epoch, Permit]:
    """A person states where the primary is, for a store whose run ended in doubt. The number stays used."""
    after = replace(
        before, holder=holder, candidate="", purpose="", run="", begun=False, changes=before.changes + 1
    )
    return after, _change(before, after)


class DataSets:
    """Leases and epochs of all stores, as one controller sees them. owner: of its leases. linger_ms: how long
    an unused lease is kept, because the next step of the same store usually follows at once.
    """

    def __init__(self, store: Store, owner: str, clock: Clock, linger_ms: int = 0) -> None:
        self._store, self._owner, self._clock = store, owner, clock
        self._linger_ms = linger_ms
        self._kept: dict[str, HeldSet] = {}
        self._releasing: set[asyncio.Task[None]] = set()

    async def read(self, store: str) -> Epoch:
        """The present epoch."""
        return decode(store, await self._store.get(key_of(store)))

    async def read_all(self) -> Epochs:
        """Epochs of every store whose roles ever changed."""
        found = Epochs({}, {})
        async for entry in entries(self._store, PREFIX):
            store = entry.key.removeprefix(PREFIX)
            try:
                found.known[store] = decode(store, entry)
            except NotAllowed as error:
                found.unreadable[store] = error
        return found

    @asynccontextmanager
    async def hold(self, store: str, ttl_ms: int) -> AsyncIterator[HeldSet]:
        """The lease of a store for the whole block. Raises `Retryable` while someone else holds it."""
        held = self._kept.pop(store, None)
        if held is None or held.lease.ttl_ms != ttl_ms or held.left_ms < ttl_ms // 2:
            held = await self._acquired(store, ttl_ms)
        try:
            yield held
        finally:
            await self._let_go(held)

    async def _acquired(self, store: str, ttl_ms: int) -> HeldSet:
        try:
            asked_ms = self._clock.monotonic_ms()
            lease = await self._store.acquire(f"store/{store}", self._owner, ttl_ms)
        except LockHeld as error:
            raise Retryable(
                HELD,
                f"{error.owner} is changing the roles of {store}",
                "it continues once that has finished",
                max(100, error.ttl_ms),
            ) from error
        return HeldSet(self._store, store, lease, self._clock, asked_ms)

    async def _let_go(self, held: HeldSet) -> None:
        if not self._linger_ms or held.left_ms < held.lease.ttl_ms // 2:
            await held.release()
            return
        self._kept[held.store] = held
        task = asyncio.get_running_loop().create_task(self._release_later(held))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _release_later(self, held: HeldSet) -> None:
        await asyncio.sleep(self._linger_ms / 1_000)
        if self._kept.get(held.store) is held:
            del self._kept[held.store]
            await held.release()

    async def close(self) -> None:
        """Releases leases that are only kept."""
        for task in self._releasing:
            task.cancel()
        kept, self._kept = list(self._kept.values()), {}
        await asyncio.gather(*(held.release() for held in kept))


class HeldSet:
    """The lease of one store. `during` renews it, and it is given up before anyone else can have it."""

    def __init__(self, keys: Store, store: str, lease: Lease, clock: Clock, asked_ms: int) -> None:
        self._keys, self.store, self.lease, self._clock = keys, store, lease, clock
        self._safe_ms = asked_ms + self._usable_ms

    @property
    def _usable_ms(self) -> int:
        return self.lease.ttl_ms * (1_000 - MARGIN_PERMILLE) // 1_000

    @property
    def left_ms(self) -> int:
        """How long this holder may still act, by its own clock."""
        return self._safe_ms - self._clock.monotonic_ms()

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits the work, renewing the lease as long as it takes. If it cannot be kept, cancels the work and
        raises `LeaseLost` before the lease ends.
        """
        task = asyncio.ensure_future(work)
        keeper = asyncio.ensure_future(self._keep())
        try:
            await asyncio.wait((task, keeper), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise LeaseLost(self.lease.name)
            return task.result()
        finally:
            for one in (task, keeper):
                one.cancel()
            await asyncio.gather(task, keeper, return_exceptions=True)

    async def release(self) -> None:
        """Ends the lease early; an unreachable one expires by itself."""
        try:
            async with asyncio.timeout(max(0.1, self.left_ms / 1_000)):
                await self._keys.release(self.lease)
        except (TimeoutError, Unavailable, LeaseLost):
            return

    async def _keep(self) -> None:
        """Renews until the lease is lost or too little is left to be sure."""
        while self.left_ms > 0:
            await asyncio.sleep(min(self.lease.ttl_ms / 4, self.left_ms) / 1_000)
            asked_ms = self._clock.monotonic_ms()
            try:
                async with asyncio.timeout(max(0.001, self.left_ms / 1_000)):
                    await self._keys.renew(self.lease)
            except LeaseLost:
                return
            except (TimeoutError, Unavailable):
                continue
            self._safe_ms = asked_ms + self._usable_ms


def _is_taken(rung: str, policy: StorePolicy) -> bool:
    return rung == "demote" or rung in policy.proofs


def _as_read(epoch: Epoch) -> Compare:
    return Compare(key_of(epoch.store), epoch.revision)


def _change(before: Epoch, after: Epoch) -> Permit:
    return Permit((_as_read(before),), (Put(key_of(after.store), encode(after)),))


def _unreadable(*stores: str) -> NotAllowed:
    what = f"epoch{'s' if len(stores) > 1 else ''} of {', '.join(stores)}"
    return NotAllowed(
        "epoch-unreadable", f"cannot read the {what}, so none can be claimed", "evac run verify"
    )
