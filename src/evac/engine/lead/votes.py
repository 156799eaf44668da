"""Votes of witnesses in the store: how they are written and read.

    votes/<target>/<witness>     the newest vote of a witness on a site or hall

A vote is written under its witness's lease, so it vanishes with its witness. The reader measures its age on
its own monotonic clock from when it saw the number change, because clocks of two sites may be minutes apart.
In a sealed store a controller also rejects old votes that someone put back (`evac.engine.lead.challenges`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from typing import Any, Final

import orjson

from evac.engine.clock import Clock
from evac.engine.lead.challenges import PREFIX as CHALLENGES
from evac.engine.lead.challenges import Challenge, challenges_in
from evac.engine.lead.challenges import key_of as challenge_key
from evac.model import errors
from evac.model.run_policy import WatchProfile
from evac.store.port import MAX_CHANGES, Entry, Lease, Put, Store
from evac.watch.verdict import Ballot, Vote

PREFIX: Final = "votes/"
_OPINIONS: Final = frozenset({"up", "down", "unknown"})
_MOST_VOTES: Final = 1_000
_JOINED: Final = 10
"""An unchanged vote waits at most this part of a period for votes on other targets."""


def key_of(vote: Vote) -> str:
    return f"{PREFIX}{vote.target}/{vote.witness}"


def encode(vote: Vote, process: str = "", repeated: Sequence[str] = ()) -> bytes:
    """process: the writer. repeated: challenges of readers."""
    return orjson.dumps(
        {
            "opinion": vote.opinion,
            "evidence": dict(vote.evidence),
            "since_ms": vote.since_ms,
            "at_ms": vote.at_ms,
            "number": vote.number,
            "reason": vote.reason,
            **({"halls": {name: dict(found) for name, found in vote.halls}} if vote.halls else {}),
            "process": process,
            "repeated": list(repeated),
        }
    )


def _is_new(entry: Entry, vote: Vote, challenge: Challenge) -> bool:
    told = orjson.loads(entry.value)
    process, repeated = told.get("process"), told.get("repeated")
    if type(process) is not str or not isinstance(repeated, list):
        return False
    return challenge.takes(entry.key, process, vote.number, repeated)


def decode(entry: Entry) -> Vote | None:
    """The vote under a key; None if it is not a vote and so counts as silence."""
    try:
        _, target, witness = entry.key.split("/")
        document: dict[str, Any] = orjson.loads(entry.value)
        evidence = tuple(sorted(document["evidence"].items()))
        halls = tuple(
            (name, tuple(sorted(f.items()))) for name, f in sorted(document.get("halls", {}).items())
        )
        opinions = {
            document["opinion"],
            *(said for _, found in (("", evidence), *halls) for _, said in found),
        }
        if not opinions <= _OPINIONS:
            return None
        return Vote(
            witness,
            target,
            document["opinion"],
            evidence,
            int(document["since_ms"]),
            int(document["at_ms"]),
            int(document["number"]),
            str(document.get("reason", "")),
            halls,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


async def votes_in(store: Store) -> list[Vote]:
    """The votes of all live witnesses; those that cannot be read are left out. Raises Unavailable."""
    found = (decode(entry) for entry in await store.list(PREFIX, limit=_MOST_VOTES))
    return [vote for vote in found if vote is not None]


class VotePublisher:
    """Writes the newest vote on each target. owner: unique per process, also within a site.

    `publish` never waits: what could not be written yet is replaced by the next vote. challenge: of the
    reader in this process; it is put into the store, and votes repeat it and those of others.
    """

    def __init__(
        self, store: Store, site: str, owner: str, profile: WatchProfile, challenge: Challenge | None = None
    ) -> None:
        self._store, self._site, self._owner, self._profile = store, site, owner, profile
        self._challenge = challenge
        self._challenged: tuple[Lease, str] | None = None
        self._process = "" if challenge is None else secrets.token_hex(8)
        self._waiting: dict[str, Vote] = {}
        self._said: dict[str, object] = {}
        """Target -> content of the last vote on it, however old."""
        self._some, self._due = asyncio.Event(), asyncio.Event()
        self._renewed_s = 0.0
        self._repeated: Sequence[str] | None = None

    def publish(self, vote: Vote) -> None:
        """Writes changes at once; repeats wait briefly for votes on other targets."""
        said = (vote.opinion, vote.evidence, vote.halls, vote.reason)
        self._waiting[vote.target] = vote
        self._some.set()
        if self._said.get(vote.target) != said or len(self._waiting) == len(self._said):
            self._due.set()
        self._said[vote.target] = said

    async def run(self) -> None:
        """Writes votes until cancelled. While the store does not answer, the votes age, which is correct."""
        async with asyncio.TaskGroup() as tasks:
            if self._challenge is not None:
                tasks.create_task(self._follow_challenges(), name="challenges")
            tasks.create_task(self._write_all(), name="votes written")

    async def _follow_challenges(self) -> None:
        while True:
            with contextlib.suppress(errors.Unavailable):
                async for _ in self._store.watch(CHALLENGES):
                    self._repeated = await challenges_in(self._store)
            await asyncio.sleep(self._profile.period_ms / 1_000)

    async def _write_all(self) -> None:
        lease: Lease | None = None
        try:
            while True:
                try:
                    lease = lease or await self._acquire()
                    await self._write(lease)
                except errors.LeaseLost:
                    lease = None
                except (errors.Unavailable, errors.LockHeld):
                    await asyncio.sleep(self._profile.period_ms / 1_000)
        finally:
            await self._leave(lease)

    async def _acquire(self) -> Lease:
        name = f"witness/{self._site}/{self._owner}"
        self._renewed_s = asyncio.get_running_loop().time()
        return await self._store.acquire(name, self._owner, self._profile.vote_ttl_ms)

    async def _write(self, lease: Lease) -> None:
        """One pass: renews after a third of the lease and writes waiting votes."""
        now_s = asyncio.get_running_loop().time
        renew_s = self._renewed_s + self._profile.vote_ttl_ms / 3_000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(renew_s):
                await self._some.wait()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._profile.period_ms / (1_000 * _JOINED)):
                        await self._due.wait()
        if (asked_s := now_s()) >= renew_s:
            await self._store.renew(lease)
            self._renewed_s = asked_s
        votes = [self._waiting.pop(target) for target in sorted(self._waiting)[: MAX_CHANGES - 1]]
        self._due.clear()
        if not self._waiting:
            self._some.clear()
        if not votes:
            return
        repeated: Sequence[str] = ()
        puts: list[Put] = []
        if self._challenge is not None:
            if self._repeated is None:
                self._repeated = await challenges_in(self._store)
            repeated, mine = self._repeated, self._challenge.text
            if self._challenged != (lease, mine):
                puts = [Put(challenge_key(self._site, self._owner), mine.encode(), lease)]
        puts += [Put(key_of(vote), encode(vote, self._process, repeated), lease) for vote in votes]
        await self._store.transact((), puts)
        if self._challenge is not None:
            self._challenged = (lease, mine)

    async def _leave(self, lease: Lease | None) -> None:
        """A stopping witness withdraws its votes at once if the store answers."""
        if lease is None:
            return
        try:
            async with asyncio.timeout(1):
                await self._store.release(lease)
        except (errors.StoreError, TimeoutError):
            return


class VoteReader:
    """All votes with the moment at which this reader saw each change.

    A vote that was there before the reader first looked, or that changed while it slept, is not proven: its
    age is unknown until it changes again. challenge: ignores votes that do not prove to be new.
    """

    def __init__(
        self, store: Store, clock: Clock, profile: WatchProfile, challenge: Challenge | None = None
    ) -> None:
        self._store, self._clock, self._profile = store, clock, profile
        self._challenge = challenge
        self._ballots: dict[str, Ballot] = {}
        self._values: dict[str, bytes] = {}
        self._read_at_ms: int | None = None

    @property
    def ballots(self) -> tuple[Ballot, ...]:
        return tuple(self._ballots.values())

    async def refresh(self) -> tuple[Ballot, ...]:
        """Reads all votes. Raises `Unavailable`; what was read before then keeps aging."""
        entries = await self._store.list(PREFIX, limit=_MOST_VOTES)
        now_ms = self._clock.monotonic_ms()
        awake = self._read_at_ms is not None and now_ms - self._read_at_ms <= self._profile.vote_ttl_ms
        found: dict[str, Ballot] = {}
        for entry in entries:
            known = self._ballots.get(entry.key)
            if known is not None and self._values.get(entry.key) == entry.value:
                found[entry.key] = known
                continue
            vote = decode(entry)
            if vote is None:
                continue
            if known is not None and known.vote.number == vote.number:
                found[entry.key] = known
            elif self._challenge is None or _is_new(entry, vote, self._challenge):
                found[entry.key] = Ballot(vote, now_ms, proven=awake)
            else:
                found[entry.key] = known or Ballot(vote, now_ms, proven=False)
        self._ballots, self._read_at_ms = found, now_ms
        self._values = {entry.key: entry.value for entry in entries}
        return tuple(found.values())
