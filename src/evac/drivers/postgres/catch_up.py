"""What another copy holds and a candidate does not, fetched before the candidate is promoted.

A primary sends its log to each copy by itself, so that an asynchronous copy may hold more than the
synchronous one at the moment of a loss. Were the latter promoted as it is, the former would have to be
rewound before it can follow, and commits that wait for it would wait for seconds. The candidate follows the
fuller copy for a moment instead ("Cascading Replication" of the PostgreSQL manual); the old primary hears
nothing of that: only whoever receives from it confirms its commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evac.drivers.port import Evidence
from evac.drivers.postgres.facts import FETCH_NAME, PostgresFacts, lsn_text, read_facts
from evac.drivers.postgres.fence import cut, kept_upstream, put_aside, until_silent
from evac.drivers.postgres.link import Link, linked
from evac.drivers.postgres.peers import ANSWER_S, Peer
from evac.drivers.postgres.replicas import upstream_of
from evac.drivers.postgres.settings import POLL_S, reload, set_system
from evac.drivers.postgres.timelines import history_of, timeline_held
from evac.model.errors import ActionError

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
