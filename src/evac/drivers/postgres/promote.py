"""Making a fenced standby the primary."""

from __future__ import annotations

import asyncio

from evac.drivers.data_peers import another_primary
from evac.drivers.parameters import many, text
from evac.drivers.port import Action, Evidence, Order
from evac.drivers.postgres.authority import Authority, alone, obey
from evac.drivers.postgres.catch_up import catch_up
from evac.drivers.postgres.conninfo import SyncSet, all_of
from evac.drivers.postgres.facts import PostgresFacts, lsn_number, lsn_text, read_facts
from evac.drivers.postgres.fence import cut_off
from evac.drivers.postgres.link import Link
from evac.drivers.postgres.peers import ask_peers, silent_of, writable_of
from evac.drivers.postgres.settings import POLL_S, reload, set_system
from evac.model.errors import Permanent

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
