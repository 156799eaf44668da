"""Cut members off: a candidate from its primary (the fence proof `sync`), a reachable primary from its
clients (`demote`), and undo both if that is safe.

Also: which members confirm commits, which primary a standby follows, and whether another member of the same
data set accepts writes, with all members queried at once and briefly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from evac.drivers.parameters import many, whole
from evac.drivers.port import Action, Evidence, Order
from evac.drivers.postgres.facts import (
    FENCE_MEMBER,
    Authority,
    PostgresFacts,
    alone,
    obey,
    read_facts,
)
from evac.drivers.postgres.link import (
    PASSFILE,
    POLL_S,
    Link,
    Member,
    SyncSet,
    all_of,
    format_conninfo,
    linked,
    literal,
    member_of,
    parse_conninfo,
    reload,
    set_sync,
    set_system,
    stir,
)
from evac.drivers.postgres_log import lsn_text
from evac.drivers.store_driver import ANSWER_MS, CONNECT_MS, standing_problems, takes_connections
from evac.model.errors import ActionError, Permanent, Retryable
from evac.model.records import dataclass

ANSWER_S: Final = ANSWER_MS / 1_000


@dataclass(frozen=True, slots=True)
class ReplicaPeer:
    """facts: None for a silent member."""

    member: Member
    facts: PostgresFacts | None = None


def peers_of(action: Action) -> tuple[Member, ...]:
    """Members in the parameters: `peers` and `copies` (host:port or name=host:port), `old_host`,
    `primary_host`.
    """
    own = member_of(action, "candidate")
    found = [
        member_of(action, prefix) for prefix in ("old", "primary") if f"{prefix}_host" in action.parameters
    ]
    for entry in (*many(action.parameters, "peers"), *many(action.parameters, "copies")):
        host, _, port = entry.rpartition("=")[2].rpartition(":")
        if not host or not port.isdigit():
            raise Permanent("setting-wrong", f"peers: {entry[:80]!r} is not host:port")
        found.append(Member(host, int(port), own.user, own.password, own.dbname))
    unique = {peer.address: peer for peer in found if peer.address != own.address}
    return tuple(unique.values())


async def ask_peers(action: Action) -> tuple[ReplicaPeer, ...]:
    """The responses of all members. Parameter `peer_ms`: time limit for a connection."""
    connect_s = whole(action.parameters, "peer_ms", CONNECT_MS, 60_000) / 1_000

    async def ask(peer: Member) -> ReplicaPeer:
        if not await takes_connections(peer.host, peer.port, connect_s):
            return ReplicaPeer(peer)
        try:
            async with linked(peer, ANSWER_S, ANSWER_S) as link:
                return ReplicaPeer(peer, await read_facts(link))
        except ActionError:
            return ReplicaPeer(peer)

    return tuple(await asyncio.gather(*(ask(peer) for peer in peers_of(action))))


def writable_of(peers: Iterable[ReplicaPeer], system: str) -> list[str]:
    """Addresses of those that respond as writable primaries of the same data."""
    return [
        one.member.address
        for one in peers
        if one.facts is not None and one.facts.writable and one.facts.system == system
    ]


def silent_of(peers: Iterable[ReplicaPeer]) -> list[str]:
    """Addresses of those that do not respond."""
    return [one.member.address for one in peers if one.facts is None]


UPSTREAM_FILE = "evac_upstream"
"""In the data folder: the primary_conninfo that a fence put aside, hex of its bytes."""


def cut_off(facts: PostgresFacts, seen: Authority) -> bool:
    """Whether this standby receives nothing from its primary and will not start to."""
    silent = facts.fetching or not (facts.has_upstream or facts.receiver)
    return facts.role == "standby" and silent and seen.fence > 0


async def fence(link: Link, action: Action, order: Order) -> Evidence:
    """Stop the candidate's WAL receiver permanently: from then on none of the old primary's commits is
    confirmed.
    """
    if problems := standing_problems(action, link.member.name):
        raise Permanent("fence-unproven", problems[0], "fence by network, by power, or by hand")
    async with alone(link, order) as seen:
        facts = await read_facts(link)
        if facts.role == "primary":
            if seen.fence and seen.fence == order.epoch:
                return {**facts.evidence(), "proof": "sync", "already": True}
            raise Permanent("not-a-standby", f"{link.member.address} is a primary, so it cannot be cut off")
        seen = await obey(link, seen, order, fence=max(1, order.epoch))
        if facts.fetching or not cut_off(facts, seen):
            await cut(link, facts)
        facts = await until_silent(link)
    return {
        **facts.evidence(),
        "proof": "sync",
        "candidate": link.member.name,
        "epoch": order.epoch,
        "standing_age_ms": whole(action.parameters, "standing_age_ms", 0),
        "limits": "the old primary may still answer reads",
    }


async def cut(link: Link, facts: PostgresFacts) -> None:
    """Stop following, and put the previous primary aside. The receiver may still run for a moment."""
    await put_aside(link, facts)
    await set_system(link, "primary_conninfo", "")
    await reload(link)


async def put_aside(link: Link, facts: PostgresFacts) -> None:
    """Store the connection to the member's primary for `kept_upstream`."""
    if facts.has_upstream:
        await link.change(
            "COPY (SELECT encode(convert_to(current_setting('primary_conninfo'), 'UTF8'), 'hex')) "
            f"TO {literal(f'{facts.folder}/{UPSTREAM_FILE}')}"
        )


async def kept_upstream(link: Link, facts: PostgresFacts) -> str:
    """The primary_conninfo of now, or from before a fence; "" if there is none."""
    if facts.has_upstream:
        return str(await link.value("SELECT current_setting('primary_conninfo')"))
    kept = await link.value("SELECT pg_read_file($1, 0, 65536, true)", UPSTREAM_FILE)
    return bytes.fromhex(kept.strip()).decode() if kept else ""


async def until_silent(link: Link) -> PostgresFacts:
    """Wait for two reads in a row without a receiver, and not a byte more between them."""
    last = -1
    while True:
        facts = await read_facts(link)
        silent = not (facts.receiver or facts.has_upstream or facts.fetching)
        if silent and facts.received == last:
            return facts
        last = facts.received if silent else -1
        await link.pause(POLL_S)


async def unfence(link: Link, order: Order) -> Evidence:
    """Let the standby follow its primary again, as before the fence; or let a demoted primary write."""
    async with alone(link, order) as seen:
        facts = await read_facts(link)
        if facts.role == "primary":
            raise Permanent(
                "store-moved", f"{link.member.address} is now a primary: a store that moved stays"
            )
        if not facts.has_upstream:
            kept = await kept_upstream(link, facts)
            if not kept:
                raise Permanent(
                    "upstream-forgotten",
                    f"{link.member.address} does not know which primary it followed",
                    "let it rejoin the primary",
                )
            await set_system(link, "primary_conninfo", kept, secret=True)
        await obey(link, seen, order, fence=0)
        await reload(link)
        facts = await read_facts(link)
    return {**facts.evidence(), "undone": "fence"}


_END_SESSIONS = """
SELECT count(pg_terminate_backend(pid))::int FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def demoted(facts: PostgresFacts) -> bool:
    return facts.role == "standby" or (facts.read_only and facts.fenced)


def demoted_evidence(facts: PostgresFacts) -> dict[str, str | int | bool]:
    """Proof only of what was reached and seen. last_lsn: the minimum position of a successor."""
    proof = {"proof": "demote", "last_lsn": lsn_text(facts.lsn)} if facts.role == "primary" else {}
    return {**facts.evidence(), **proof}


async def demote(link: Link, order: Order) -> Evidence:
    """Make a reachable primary refuse writes: new transactions are read-only, its sessions end, and any
    commit that gets through waits for a standby that does not exist.
    """
    async with alone(link, order, own_hand=True) as seen:
        facts = await read_facts(link)
        await obey(link, seen, order)
        if demoted(facts):
            return {**demoted_evidence(facts), "already": True}
        await set_system(link, "default_transaction_read_only", "on")
        await set_sync(link, all_of((f"{FENCE_MEMBER}-{order.epoch}",)))
        ended = await link.value(_END_SESSIONS)
        while await link.value(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
        ):
            await link.pause(POLL_S)
        facts = await read_facts(link)
    return {
        **demoted_evidence(facts),
        "sessions_ended": int(ended),
        "epoch": order.epoch,
        "limits": "a session that sets transaction_read_only off and synchronous_commit off can still write",
    }


async def undo_demote(link: Link, action: Action, order: Order) -> Evidence:
    """Let the old primary write again, only if every other member responds and none is a primary."""
    async with alone(link, order) as seen:
        facts = await read_facts(link)
        if facts.role == "standby":
            raise Permanent(
                "store-moved", f"{link.member.address} is a standby: a store that moved stays moved"
            )
        peers = await ask_peers(action)
        writable, silent = writable_of(peers, facts.system), silent_of(peers)
        if writable or silent or not peers:
            raise Permanent(
                "undo-unsafe",
                "it is not certain that no other primary exists: "
                f"{', '.join(writable or silent) or 'no peers are set'}",
            )
        await obey(link, seen, order)
        await set_system(link, "default_transaction_read_only", "off")
        await set_sync(link, all_of(many(action.parameters, "synchronous")))
        await stir(link)
        facts = await read_facts(link)
    return {**facts.evidence(), "undone": "demote"}


def protect_problems(facts: PostgresFacts, wanted: SyncSet) -> list[str]:
    """Why the set cannot be changed as wanted without hanging commits."""
    if facts.role == "standby":
        return ["this member is a standby: only a primary has a synchronous set"]
    if facts.read_only or facts.fenced:
        return ["this primary was demoted"]
    return [
        f"{name} is not streaming; commits would block" for name in wanted.names if not facts.streaming(name)
    ]


async def protect(link: Link, action: Action, order: Order) -> Evidence:
    """Make exactly the named members synchronous, all of them for every commit; none named: asynchronous.
    Commits that hang for a lost standby continue at once.
    """
    wanted = all_of(many(action.parameters, "synchronous"))
    async with alone(link, order) as seen:
        facts = await read_facts(link)
        await obey(link, seen, order)
        if facts.sync != wanted:
            if problems := protect_problems(facts, wanted):
                raise Retryable("protect-refused", problems[0], after_ms=500)
            await set_sync(link, wanted)
            await stir(link)
        facts = await read_facts(link)
        while not protected(facts, wanted):
            await link.pause(0.02)
            facts = await read_facts(link)
    return {**facts.evidence(), "epoch": order.epoch, "asynchronous": not wanted.names}


def protected(facts: PostgresFacts, wanted: SyncSet) -> bool:
    """Whether the set is as wanted and each of its members confirms now."""
    if facts.role != "primary" or facts.sync != wanted:
        return False
    seen = [facts.streaming(name) for name in wanted.names]
    return all(one is not None and one.sync_state in ("sync", "quorum") for one in seen)


def upstream_of(
    current: str, member: Member, primary: Member, write_passfile: Callable[[], str] = lambda: ""
) -> str:
    """The connection string with which `member` follows `primary`, keeping its previous options if there are
    any.

    write_passfile: writes the member's password into a file on its machine, and returns the path; called only
    if the string has no password and no passfile other than ours. Without such a file the password is in the
    string, and PostgreSQL logs it when the setting changes.
    """
    pairs = parse_conninfo(current)
    secret, known = member.secret(), pairs.get("passfile", "")
    if secret is not None and "password" not in pairs and (not known or known.endswith(PASSFILE)):
        if file := write_passfile():
            pairs["passfile"] = file
        elif not known:
            pairs["password"] = secret.reveal()
    pairs.setdefault("user", member.user)
    pairs.setdefault("connect_timeout", "2")
    pairs |= {"host": primary.host, "port": str(primary.port)}
    if member.name:
        # Without it no synchronous set ever matches.
        pairs["application_name"] = member.name
    return format_conninfo(pairs)


def follows(facts: PostgresFacts, primary: Member) -> bool:
    return facts.role == "standby" and facts.receiver == "streaming" and facts.upstream == primary.address


async def follow(
    link: Link, primary: Member, seen: Authority, order: Order, write_passfile: Callable[[], str]
) -> PostgresFacts:
    """Point a running standby at another primary and wait until it streams from there."""
    current = await kept_upstream(link, await read_facts(link))
    await obey(link, seen, order, fence=0)
    upstream = upstream_of(current, link.member, primary, write_passfile)
    await set_system(link, "primary_conninfo", upstream, secret=True)
    await reload(link)
    facts = await read_facts(link)
    while not follows(facts, primary):
        await link.pause(0.02)
        facts = await read_facts(link)
    return facts
