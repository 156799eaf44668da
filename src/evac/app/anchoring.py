"""Heads of journals at agents of other sites: stored while a controller leads, and compared when a journal is
verified.

The engine writes runs and the watch journal, and stores their heads itself. A separate process writes alerts
and a chore writes plans: the leader follows those journals, and stores their heads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson

from evac import estate as estates
from evac.app.access_log import JOURNALS, READ_ON, is_of_no_run
from evac.app.runs import who_am_i
from evac.drivers.process.client import (
    PLAIN_HINT,
    AgentAt,
    AgentPeer,
    agent_endpoints,
    peer_of,
    plain_problem,
)
from evac.drivers.process.driver import AgentAnchors
from evac.engine.clock import Clock, SystemClock
from evac.engine.lead import access_chapters as chapters
from evac.engine.lead import access_journal, watch_journal
from evac.engine.lead.generations import Generations
from evac.engine.lead.signed_heads import HeadSigner, key_named
from evac.engine.lead.watch_journal import Notice, Tell
from evac.engine.stores.guards import HOLD_KEY
from evac.estate.codecs.policy import load_policy, policy_beside
from evac.model import errors
from evac.model.estate import Estate
from evac.model.generation import SUPERSEDED
from evac.net.secrets import HEAD_KEY, Secret, resolve
from evac.net.tls import client_context
from evac.notices import values as notices
from evac.store.anchors import Anchor, hash_of, key_of
from evac.store.journal import Journal, head_of, read
from evac.store.opening import Repair, SealedStore, open_store, open_unsealed, repair_journal, row_of
from evac.store.port import Compare, Lease, Put, Store

Sink = Callable[[Anchor], Awaitable[None]]
"""Stores a head with one agent. Raises ActionError."""
Newest = Callable[[str], Awaitable[Anchor | None]]
"""The newest head of a journal at one agent. Raises ActionError."""
HOLDER: Final = "evac"
PUT_BACK: Final = "put-back/"
ASK_S: Final = 3.0
COMPARE_S: Final = 1.0
"""A burning site does not respond, and the run has to continue."""
LOOK_S: Final = 2.0
KEEP_S: Final = 2.0
REPAIR_TRIES: Final = 10
CONTRADICTED: Final = frozenset({"anchor-backwards", "anchor-changed"})
SAID_MOST: Final = 64
"""Maximum number of journals of one site that are reported at a time."""


AgentReach = tuple[AgentAt, AgentPeer]
"""The agent, and TLS settings."""


def signing(store: Store, site: str, clock: Clock, generations: Generations) -> dict[str, Sink]:
    """Where the heads signed by this controller go; none without a key. Raises NotAllowed."""
    key = key_named(HEAD_KEY)
    if key is None:
        return {}
    signer = HeadSigner(store, key, site, clock)

    async def keep(head: Anchor) -> None:
        await signer.keep(head, generations.own.number)

    return {"the store": keep}


def agents_of(estate: Estate) -> dict[str, AgentReach]:
    """Site -> how to reach its agent, from the estate's endpoints and the environment. Raises
    InvalidInput.
    """
    peer = peer_of()
    found: dict[str, AgentReach] = {}
    for site, end in agent_endpoints(estate).items():
        found[site] = (AgentAt(site, str(end.settings["agent"]), str(end.settings.get("secret", ""))), peer)
    return found


def check_agents(estate: Estate) -> None:
    """Raise NotAllowed if agents on other machines would be reached unencrypted or if two agents have one
    key, InvalidInput if our certificates are unusable.
    """
    found = agents_of(estate)
    problems = {plain_problem(at.url, peer) for at, peer in found.values()} - {""}
    if problems:
        raise errors.NotAllowed("agent-plain", "; ".join(sorted(problems)), PLAIN_HINT)
    keys: list[tuple[Secret, AgentAt]] = []
    for at, _ in found.values():
        try:
            key = resolve(at.secret)
        except errors.Permanent:
            continue  # unreachable agents are reported elsewhere
        other = next((at for known, at in keys if known == key), None)
        keys.append((key, at))
        if other is not None:
            raise errors.NotAllowed(
                "agent-key-shared",
                f"the agents of {other.site} and {at.site} share a key: {other.secret} and {at.secret}",
                "give each agent its own key, so that a stolen key opens only one site",
            )
    if any(at.url.startswith("https:") for at, _ in found.values()):
        client_context(next(iter(found.values()))[1].files)


def heard(site: str, keep: Sink, say: Callable[[str, Mapping[str, Any]], None]) -> Sink:
    """Wrap a sink to report heads that the site's agent refuses, and why: once for each journal, until its
    heads are accepted again. An agent that does not respond is not reported. say: message and data.
    """
    said: dict[str, str] = {}

    async def kept(head: Anchor) -> None:
        try:
            await keep(head)
        except (errors.Permanent, errors.OutcomeUnknown) as error:
            own = error.code != SUPERSEDED and not error.code.startswith("tls-")
            if own and said.get(head.stream) != error.code and len(said) < SAID_MOST:
                said[head.stream] = error.code
                words = (
                    f"the agent of {site} did not store the head of journal {head.stream}: {error.message}"
                )
                say(f"{words}; {error.hint}" if error.hint else words, {"code": error.code, "agent": site})
            raise
        said.pop(head.stream, None)

    return kept


STRANGE_LOOK_S: Final = 10.0
STRANGE_NAMED: Final = 5


class StrangeEntryChore:
    """Runs in the leader: reports store entries that this installation did not write. They are ignored, but
    they mean that someone else writes to the store.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        tell: Tell,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store, self._clock, self._tell, self._pause = store, clock, tell, pause
        self._reported: set[tuple[str, int]] = set()

    async def chore(self, guard: Lease) -> None:
        self.look()
        await self._pause(STRANGE_LOOK_S)

    def look(self) -> None:
        found = set(strange_entries(self._store).items())
        new = sorted(key for key, _ in found - self._reported)
        if new:
            self._reported = found
            named = ", ".join(new[:STRANGE_NAMED]) + (" and more" if len(new) > STRANGE_NAMED else "")
            words = f"someone else is writing to the store; ignored: {named}"
            self._tell(
                Notice(
                    "trouble", self._clock.now_ms(), "", words, {"code": "store-strange", "keys": new[:100]}
                )
            )


def strange_entries(store: Store) -> dict[str, int]:
    """Keys that were ignored because this installation did not write them, with their revision."""
    from evac.store.etcd import EtcdStore  # a file store does not need the HTTP library

    if isinstance(store, SealedStore):
        return {**strange_entries(store.inner), **store.unsealed}
    return dict(store.foreign) if isinstance(store, EtcdStore) else {}


class HeadChore:
    """Runs in the leader: stores the heads of `READ_ON` with the agents of the other sites (site -> sink)
    soon after they change.

    It continues from the last stored head, link by link: a journal that does not continue from there gets no
    new head, which is reported once.
    """

    def __init__(
        self,
        store: Store,
        sinks: Mapping[str, Sink],
        clock: Clock,
        tell: Tell,
        site: str,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store, self._sinks, self._clock, self._tell = store, sinks, clock, tell
        self._site, self._pause = site, pause
        self._guard: Lease | None = None
        self._heads: dict[str, Anchor] = {}
        self._left: dict[tuple[str, str], Anchor] = {}
        self._said: set[tuple[str, str]] = set()

    async def chore(self, guard: Lease) -> None:
        """Store new heads while this controller leads. Raises Unavailable."""
        if guard != self._guard:  # An agent keeps the heads of each generation separately.
            self._guard = guard
            self._left.clear()
        await self.look()
        await self._pause(LOOK_S)

    async def look(self) -> None:
        """Store new heads; an agent that does not respond gets them next time. Raises Unavailable."""
        for stream in READ_ON if self._sinks else ():
            try:
                chapter = await chapters.newest_of(self._store) if stream == access_journal.STREAM else stream
                head = await self._read_on(chapter) if chapter else None
            except errors.Corrupt as error:
                self._say("", stream, f"journal {stream} can no longer be verified: {error.message}")
                continue
            if head is not None:
                late = [site for site in self._sinks if self._left.get((site, stream)) != head]
                await asyncio.gather(*(self._leave(site, head) for site in late))

    async def _read_on(self, stream: str) -> Anchor | None:
        known = self._heads.get(stream)
        if known is None:
            known = await head_of(self._store, stream)
        else:
            async for segment in read(self._store, stream, known):
                known = Anchor(stream, segment.number, segment.last, segment.hash)
        if known is not None:
            self._heads[stream] = known
        return known

    async def _leave(self, site: str, head: Anchor) -> None:
        try:
            async with asyncio.timeout(KEEP_S):
                await self._sinks[site](head)
        except errors.Permanent as error:
            if error.code in CONTRADICTED:
                self._say(
                    site,
                    head.stream,
                    f"the agent of {site} has a different head of a journal: {error.message}",
                )
        except (errors.EvacError, TimeoutError, OSError):
            return
        else:
            self._left[site, head.stream] = head

    def _say(self, site: str, stream: str, words: str) -> None:
        if (site, stream) not in self._said:
            self._said.add((site, stream))
            told = {"code": "journal-broken"}
            words = f"{words}; evac run verify --estate ESTATE"
            self._tell(Notice("trouble", self._clock.now_ms(), self._site, words, told))


class HeldJournals:
    """Compares the journal of a run being taken over with the heads at agents of other sites, and places a
    hold if they contradict it: someone restored an older state of the store, or rewrote the journal, and what
    the run has done is unknown.

    agents: site -> newest head that its agent keeps of a journal. A contradiction counts if no other
    responding agent agrees with the journal: the key of one agent is not enough to stop all sites.

    put-back/<run>    the heads that contradicted it when it was held: site -> [segment, hash]

    A person who ends that hold has seen these heads: the next takeover places a hold only for others.
    """

    def __init__(
        self, store: Store, agents: Mapping[str, Newest], clock: Clock, site: str, tell: Tell
    ) -> None:
        self._store, self._agents, self._clock, self._site, self._tell = store, agents, clock, site, tell

    async def compare(self, run: str) -> None:
        """Compare the journal of a run with the stored heads. Raises Unavailable."""
        asked = await asyncio.gather(*(self._newest(site, run) for site in self._agents))
        against: dict[str, list[int | str]] = {}
        agree = 0
        for site, head in zip(self._agents, asked, strict=True):
            if head is None:
                continue
            entry = await self._store.get(key_of(run, head.segment))
            if entry is not None and hash_of(entry.value) == head.hash:
                agree += 1
            else:
                against[site] = [head.segment, head.hash]
        if not against:
            return
        found, key = orjson.dumps(against, option=orjson.OPT_SORT_KEYS), PUT_BACK + run
        known = await self._store.get(key)
        is_released = known is not None and _all_in(against, known.value)
        words = f"the journal of {run} does not match the heads stored by the agents of {', '.join(against)}"
        told = {"run": run, "code": "journal-put-back", "agents": list(against)}
        if agree:
            words += "; another agent agrees with it, so the run continues"
        elif is_released:
            words += "; the hold for this was released, so the run continues"
        else:
            words += "; everything is on hold: find out who restored an older state of the store"
            hold = {"who": HOLDER, "reason": words, "at_ms": self._clock.now_ms()}
            with contextlib.suppress(errors.Conflict):  # A hold is there already.
                puts = (Put(HOLD_KEY, orjson.dumps(hold)), Put(key, found))
                await self._store.transact((Compare(HOLD_KEY, 0),), puts)
        words += f"; evac run verify {run} --estate ESTATE"
        self._tell(Notice("trouble", self._clock.now_ms(), self._site, words, told))

    async def _newest(self, site: str, run: str) -> Anchor | None:
        try:
            async with asyncio.timeout(COMPARE_S):
                return await self._agents[site](run)
        except (errors.EvacError, TimeoutError, OSError):
            return None


def _all_in(against: Mapping[str, list[int | str]], value: bytes) -> bool:
    """Whether people were shown all of these heads. If that record is unreadable, they were not."""
    with contextlib.suppress(ValueError, AttributeError):
        known = orjson.loads(value)
        return all(known.get(site) == head for site, head in against.items())
    return False


async def repair(
    url: str, journal: str, reason: str, keep: Callable[[bytes], None] | None, clock: Clock | None = None
) -> Repair:
    """Repair a journal that belongs to no run, and record the repair in the watch journal; for a month of the
    access log in that log too. keep: as in `repair_journal`. Raises NotAllowed for the journal of a run,
    Conflict, Unavailable.
    """
    is_month = journal not in JOURNALS
    if not is_of_no_run(journal):
        raise errors.NotAllowed(
            "journal-unrepairable",
            f"{journal} is not a journal that can be repaired",
            f"name one of: {', '.join(JOURNALS)}, access-YYYY-MM; for a run, look at the real systems first",
        )
    at_ms = (clock or SystemClock()).now_ms()
    gone = "this record was changed or deleted in the store"
    lost = {
        watch_journal.STREAM: watch_journal.encode(Notice("trouble", at_ms, "", gone)),
        notices.STREAM: notices.record_of(notices.Delivery(0, "", "given up", 0, at_ms, gone)),
    }
    saved = list[bytes]()

    def keep_first(data: bytes) -> None:
        if keep is not None and not saved:
            keep((b"" if entry is None else row_of(entry)) + data)
        saved.append(data)

    inner, seal = open_unsealed(url)
    store = open_store(url)
    try:
        entry = await chapters.unread_entry(store, inner, journal) if is_month else None
        if is_month:
            lost[journal] = chapters.lost_record(at_ms)
        for tries_left in reversed(range(REPAIR_TRIES)):
            try:
                done = keep and keep_first
                found = await repair_journal(inner, seal, journal, lost.get(journal, b""), done)
                break
            except errors.Conflict:  # a controller wrote in the meantime
                if not tries_left:
                    raise
        if entry is not None:
            found = replace(found, foreign=(*found.foreign, entry.key))
            if keep is not None:
                keep_first(b"")
                await store.transact((), (chapters.begun_by_name(journal).put(),))
        whole = await chapters.erased(store, journal) if is_month else None
        if whole is not None:
            found = replace(found, segments=(1,), lost=whole.records)
            if keep is not None:
                keep_first(b"")
                begun = chapters.begun_by_name(journal).put()
                await Journal.create(store, journal, None, (), (begun,), (lost[journal],))
        if saved:
            words = (
                f"{who_am_i()} repaired the journal {journal} (records lost: {found.lost} or more): {reason}"
            )
            told = {"journal": journal, "segments": list(found.segments[:100]), "code": "journal-repaired"}
            record = watch_journal.encode(Notice("trouble", at_ms, "", words, told))
            await _append(store, watch_journal.STREAM, record)
            head = await head_of(store, journal) if is_month else None
            if head is not None:
                row = chapters.repaired_record(at_ms, head, words)
                await _append(store, await chapters.newest_of(store), row)
    finally:
        await inner.close()
        await store.close()
    return found


async def _append(store: Store, stream: str, record: bytes) -> None:
    """Append without leading. Raises Conflict if a controller keeps writing, Unavailable."""
    for tries_left in reversed(range(REPAIR_TRIES)):
        try:
            await (await Journal.at_end(store, stream, None)).append([record], None)
            return
        except errors.Conflict:
            if not tries_left:
                raise


def controllers_of(path: str, given: Path | None = None) -> Mapping[str, Sequence[str]]:
    """Site -> public keys of the controllers that sign heads, from a policy, else from the one next to an
    estate. Raises EstateError.
    """
    policy = given or policy_beside(Path(path))
    return {} if policy is None else load_policy(policy, estates.load(Path(path))).controllers


async def heads_of(path: str, stream: str, generation: int = 0) -> tuple[list[Anchor], list[str]]:
    """Every head of a journal in this generation at the agents of this estate, and the sites whose agents did
    not respond. Raises StoreError if none responds.
    """
    found: list[Anchor] = []
    silent: list[str] = []
    agents = agents_of(estates.load(Path(path)))
    for site, found_at in sorted(agents.items()):
        client = AgentAnchors(*found_at)
        try:
            for row in await client.heads(stream, ASK_S, generation):
                found.append(Anchor(stream, int(row["segment"]), int(row["records"]), str(row["hash"])))
        except errors.ActionError:
            silent.append(site)
        finally:
            await client.close()
    if agents and len(silent) == len(agents):
        hint = (
            "check that they are running, trust EVAC_AGENT_CERT, and have "
            "certificates that EVAC_AGENT_CA trusts"
        )
        raise errors.StoreError("agents-silent", f"no agent answers: {', '.join(silent)}", hint)
    return found, silent
