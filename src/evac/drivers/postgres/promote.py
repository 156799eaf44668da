"""Making a fenced standby the primary.

What another copy holds and a candidate does not, fetched before the candidate is promoted.

A primary sends its log to each copy by itself, so that an asynchronous copy may hold more than the
synchronous one at the moment of a loss. Were the latter promoted as it is, the former would have to be
rewound before it can follow, and commits that wait for it would wait for seconds. The candidate follows the
fuller copy for a moment instead ("Cascading Replication" of the PostgreSQL manual); the old primary hears
nothing of that: only whoever receives from it confirms its commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from evac.drivers.parameters import many, text
from evac.drivers.port import Action, Evidence, Order
from evac.drivers.postgres.conninfo import SyncSet, all_of
from evac.drivers.postgres.facts import (
    FETCH_NAME,
    Authority,
    PostgresFacts,
    alone,
    lsn_number,
    lsn_text,
    obey,
    read_facts,
)
from evac.drivers.postgres.fence import cut, cut_off, kept_upstream, put_aside, until_silent, upstream_of
from evac.drivers.postgres.history import history_of, timeline_held
from evac.drivers.postgres.link import POLL_S, Link, linked, reload, set_system
from evac.drivers.postgres.peers import ANSWER_S, Peer, ask_peers, silent_of, writable_of
from evac.drivers.store_driver import another_primary
from evac.model.errors import ActionError, Permanent

OTHER_PROOFS = ("lease", "network", "power", "attest", "demote", "none")
"""Of the parameter `proof`: what somebody else proved. none: policy says that nothing need be fenced."""


def promote_problems(action: Action, facts: PostgresFacts, seen: Authority) -> list[str]:
    """Why this standby may not be promoted now. Its fence is seen here, or another proof was given."""
    problems = []
    proof = text(action.parameters, "proof", "sync")
    if proof not in OTHER_PROOFS and not cut_off(facts, seen):
        problems.append("no fence proof: this standby is not cut off, and no other proof was given")
    least = least_lsn(action)
    if facts.lsn < least and not facts.receiver:
        problems.append(
            f"it holds {lsn_text(facts.lsn)}, and {lsn_text(least)} is the least that may be promoted"
        )
    return problems


def least_lsn(action: Action) -> int:
    """The least position a candidate must hold, as bytes; 0 where none is asked."""
    given = text(action.parameters, "least_lsn", "0/0")
    try:
        return lsn_number(given)
    except ValueError as error:
        raise Permanent("setting-wrong", f"least_lsn: {given[:40]!r} is no position") from error


async def promote(link: Link, action: Action, order: Order) -> Evidence:
    """Makes a fenced standby the primary. Its synchronous set is in place before the first commit comes."""
    wanted = all_of(many(action.parameters, "synchronous"))
    async with alone(link, order) as seen:
        facts = await read_facts(link)
        if facts.role == "primary":
            return _promoted_already(link, facts, await obey(link, seen, order))
        before = facts
        peers, facts = await asyncio.gather(ask_peers(action), _until_least(link, action, facts))
        if writable := writable_of(peers, facts.system):
            raise another_primary(writable[0])
        if problems := promote_problems(action, facts, seen):
            raise Permanent("promote-refused", problems[0], "fence the old primary first")
        seen = await obey(link, seen, order)
        facts, fetched = await catch_up(link, facts, peers)
        await set_system(link, "synchronous_standby_names", wanted.text())
        if facts.read_only:
            await set_system(link, "default_transaction_read_only", "off")
        await reload(link)
        await link.change("SELECT pg_promote(false)")
        after = await _until_primary(link, wanted)
    return {
        **after.evidence(),
        "proof": text(action.parameters, "proof", "sync"),
        "epoch": order.epoch,
        "timeline_before": before.timeline,
        "held": lsn_text(facts.lsn),
        **fetched,
        "silent_peers": " ".join(silent_of(peers))[:500],
    }


def _promoted_already(link: Link, facts: PostgresFacts, seen: Authority) -> Evidence:
    """A try before this one got there; its synchronous set was in place before it."""
    if facts.read_only or facts.fenced:
        raise Permanent(
            "demoted",
            f"{link.member.address} is a primary that was demoted",
            "let it rejoin, or take the demotion back",
        )
    return {**facts.evidence(), "epoch": seen.epoch, "already": True}


async def _until_least(link: Link, action: Action, facts: PostgresFacts) -> PostgresFacts:
    """Waits for the last bytes of a primary that was demoted in order; a cut off standby gets no more."""
    least = least_lsn(action)
    while facts.lsn < least and facts.receiver:
        await link.pause(0.02)
        facts = await read_facts(link)
    return facts


async def _until_primary(link: Link, wanted: SyncSet) -> PostgresFacts:
    """Looks often: pg_promote's own wait looks every 100 ms."""
    while await link.value("SELECT pg_is_in_recovery()"):
        await link.pause(POLL_S)
    while await link.value("SELECT current_setting('synchronous_standby_names')") != wanted.text():
        await link.pause(POLL_S)
    return await read_facts(link)


FETCH_S = 2.0
"""How long a promotion waits for it: less than a rewind takes."""
_RECEIVED = "SELECT coalesce(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0'), 0)::bigint"
_HAS_SLOT = "SELECT current_setting('primary_slot_name') <> ''"


async def catch_up(
    link: Link, facts: PostgresFacts, copies: Sequence[Peer]
) -> tuple[PostgresFacts, Evidence]:
    """The facts of a candidate that now holds what the fullest of the other copies does, cut off again, and
    what was done. What cannot be fetched in time is left: the copy is rewound then, as ever.

    Raises what the link to the candidate raises.
    """
    if facts.fetching:  # a try before this one ended on the way
        await cut(link, facts)
        facts = await until_silent(link)
    if facts.receiver:
        return facts, {}
    fullest = max((one for one in copies if _is_fuller(one, facts)), key=_lsn, default=None)
    if fullest is None or not await _of_one_history(link, facts, fullest):
        return facts, {}
    before, wanted = facts.lsn, _lsn(fullest)
    whole = await _fetch(link, facts, fullest, wanted)
    facts = await read_facts(link)
    await cut(link, facts)
    facts = await until_silent(link)
    told: dict[str, str | int | bool] = {
        "fetched_from": fullest.member.address,
        "fetched_bytes": max(0, facts.lsn - before),
    }
    return facts, told if whole else {**told, "short_of": lsn_text(wanted)}


def _lsn(peer: Peer) -> int:
    return peer.facts.lsn if peer.facts is not None else 0


def _is_fuller(peer: Peer, facts: PostgresFacts) -> bool:
    theirs = peer.facts
    return (
        theirs is not None
        and theirs.role == "standby"
        and theirs.system == facts.system
        and theirs.lsn > facts.lsn
    )


async def _of_one_history(link: Link, facts: PostgresFacts, peer: Peer) -> bool:
    """Whether what the other copy holds goes on where this one ends."""
    assert peer.facts is not None
    try:
        if await link.value(_HAS_SLOT):  # which the other copy does not have
            return False
        ours = await timeline_held(link, facts)
        async with linked(peer.member, ANSWER_S, ANSWER_S) as other:
            theirs = await timeline_held(other, peer.facts)
            return ours == theirs and await history_of(link, ours) == await history_of(other, theirs)
    except ActionError:
        return False


async def _fetch(link: Link, facts: PostgresFacts, peer: Peer, wanted: int) -> bool:
    """Follows the peer until all that it was seen to hold is here; False where that took too long."""
    await put_aside(link, facts)
    ours = replace(link.member, name=FETCH_NAME)
    upstream = upstream_of(await kept_upstream(link, facts), ours, peer.member)
    await set_system(link, "primary_conninfo", upstream, secret=True)
    await reload(link)
    end = link.left_s() - min(FETCH_S, link.left_s() / 2)
    while await link.value(_RECEIVED) < wanted:
        if link.left_s() <= end:
            return False
        await link.pause(POLL_S)
    return True
