"""Driver for plain PostgreSQL: fence, promote, demote, protect and rejoin members, and report their state.

Settings: host, port, user, password (reference), dbname, name; data, bin and system_user if the site's agent
runs on the member's own machine. The user must be a superuser, because it changes server settings. The
function for each verb documents its parameters.

Before a fenced standby becomes the primary, it fetches log that another copy has and it lacks. A primary
sends its log to each copy independently, so at a loss an asynchronous copy may have more than the synchronous
one. If the latter were promoted as it is, the former would have to be rewound before it can follow, and
commits that wait for it would wait for seconds. Instead, the candidate briefly follows the fuller copy
("Cascading Replication" in the PostgreSQL manual); the old primary does not notice, because only its direct
receivers confirm its commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from evac.drivers.parameters import many, refuse_stale, text
from evac.drivers.port import Action, Checked, Evidence, Observed, Order
from evac.drivers.postgres import fence
from evac.drivers.postgres.facts import (
    FETCH_NAME,
    Authority,
    PostgresFacts,
    alone,
    history_of,
    obey,
    precheck_sync,
    read_facts,
    seen_authority,
    timeline_held,
)
from evac.drivers.postgres.link import (
    POLL_S,
    REFUSED,
    KeptLinks,
    Link,
    Member,
    SyncSet,
    all_of,
    linked,
    member_of,
    reload,
    set_system,
)
from evac.drivers.postgres.rejoin import rejoin, rejoin_problems, stopped_here
from evac.drivers.postgres_log import lsn_number, lsn_text
from evac.drivers.store_driver import (
    OTHER_PROOFS,
    STAYS,
    DatabaseDriver,
    another_primary,
    only_others,
    standing_problems,
)
from evac.model.errors import ActionError, Permanent, Retryable


def promote_problems(action: Action, facts: PostgresFacts, seen: Authority) -> list[str]:
    """Why this standby may not be promoted now. Its fence is visible here, or another proof was given."""
    problems = []
    proof = text(action.parameters, "proof", "sync")
    if proof not in OTHER_PROOFS and not fence.cut_off(facts, seen):
        problems.append("no fence proof: this standby is not cut off, and no other proof was given")
    least = least_lsn(action)
    if facts.lsn < least and not facts.receiver:
        problems.append(
            f"it holds {lsn_text(facts.lsn)}, but must hold at least {lsn_text(least)} to be promoted"
        )
    return problems


def least_lsn(action: Action) -> int:
    """The minimum position of a candidate, in bytes; 0 if none is required."""
    given = text(action.parameters, "least_lsn", "0/0")
    try:
        return lsn_number(given)
    except ValueError as error:
        raise Permanent("setting-wrong", f"least_lsn: {given[:40]!r} is not a position") from error


async def promote(link: Link, action: Action, order: Order) -> Evidence:
    """Make a fenced standby the primary, with its synchronous set in place before the first commit."""
    wanted = all_of(many(action.parameters, "synchronous"))
    async with alone(link, order) as seen:
        facts = await read_facts(link)
        if facts.role == "primary":
            return _promoted_already(link, facts, await obey(link, seen, order))
        before = facts
        peers, facts = await asyncio.gather(fence.ask_peers(action), _until_least(link, action, facts))
        if writable := fence.writable_of(peers, facts.system):
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
        "silent_peers": " ".join(fence.silent_of(peers))[:500],
    }


def _promoted_already(link: Link, facts: PostgresFacts, seen: Authority) -> Evidence:
    """An earlier try succeeded; its synchronous set was in place before."""
    if facts.read_only or facts.fenced:
        raise Permanent(
            "demoted",
            f"{link.member.address} is a primary that was demoted",
            "let it rejoin, or undo the demotion",
        )
    return {**facts.evidence(), "epoch": seen.epoch, "already": True}


async def _until_least(link: Link, action: Action, facts: PostgresFacts) -> PostgresFacts:
    """Wait for the last bytes of a cleanly demoted primary; a standby that was cut off gets no more."""
    least = least_lsn(action)
    while facts.lsn < least and facts.receiver:
        await link.pause(0.02)
        facts = await read_facts(link)
    return facts


async def _until_primary(link: Link, wanted: SyncSet) -> PostgresFacts:
    """Poll often: pg_promote's own wait polls every 100 ms."""
    while await link.value("SELECT pg_is_in_recovery()"):
        await link.pause(POLL_S)
    while await link.value("SELECT current_setting('synchronous_standby_names')") != wanted.text():
        await link.pause(POLL_S)
    return await read_facts(link)


FETCH_S = 2.0
"""Maximum time a promotion waits for it: less than a rewind takes."""
_RECEIVED = "SELECT coalesce(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0'), 0)::bigint"
_HAS_SLOT = "SELECT current_setting('primary_slot_name') <> ''"


async def catch_up(
    link: Link, facts: PostgresFacts, copies: Sequence[fence.ReplicaPeer]
) -> tuple[PostgresFacts, Evidence]:
    """Fetch what the fullest of the other copies has; return the candidate's facts, cut off again, and what
    was done.

    What cannot be fetched in time is skipped: that copy is rewound later. Raises the errors of the
    candidate's link.
    """
    if facts.fetching:  # an earlier try was interrupted
        await fence.cut(link, facts)
        facts = await fence.until_silent(link)
    if facts.receiver:
        return facts, {}
    fullest = max((one for one in copies if _is_fuller(one, facts)), key=_lsn, default=None)
    if fullest is None or not await _of_one_history(link, facts, fullest):
        return facts, {}
    before, wanted = facts.lsn, _lsn(fullest)
    whole = await _fetch(link, facts, fullest, wanted)
    facts = await read_facts(link)
    await fence.cut(link, facts)
    facts = await fence.until_silent(link)
    told: dict[str, str | int | bool] = {
        "fetched_from": fullest.member.address,
        "fetched_bytes": max(0, facts.lsn - before),
    }
    return facts, told if whole else {**told, "short_of": lsn_text(wanted)}


def _lsn(peer: fence.ReplicaPeer) -> int:
    return peer.facts.lsn if peer.facts is not None else 0


def _is_fuller(peer: fence.ReplicaPeer, facts: PostgresFacts) -> bool:
    theirs = peer.facts
    return (
        theirs is not None
        and theirs.role == "standby"
        and theirs.system == facts.system
        and theirs.lsn > facts.lsn
    )


async def _of_one_history(link: Link, facts: PostgresFacts, peer: fence.ReplicaPeer) -> bool:
    """Whether the other copy's log continues this one's."""
    assert peer.facts is not None
    try:
        if await link.value(_HAS_SLOT):  # the other copy does not have the slot
            return False
        ours = await timeline_held(link, facts)
        async with linked(peer.member, fence.ANSWER_S, fence.ANSWER_S) as other:
            theirs = await timeline_held(other, peer.facts)
            return ours == theirs and await history_of(link, ours) == await history_of(other, theirs)
    except ActionError:
        return False


async def _fetch(link: Link, facts: PostgresFacts, peer: fence.ReplicaPeer, wanted: int) -> bool:
    """Follow the peer until everything it was seen to have is here; False if that took too long."""
    await fence.put_aside(link, facts)
    ours = replace(link.member, name=FETCH_NAME)
    upstream = fence.upstream_of(await fence.kept_upstream(link, facts), ours, peer.member)
    await set_system(link, "primary_conninfo", upstream, secret=True)
    await reload(link)
    end = link.left_s() - min(FETCH_S, link.left_s() / 2)
    while await link.value(_RECEIVED) < wanted:
        if link.left_s() <= end:
            return False
        await link.pause(POLL_S)
    return True


_PREFIX: Final[Mapping[str, str]] = {"fence": "candidate", "unfence": "candidate", "promote": "candidate"}


class PostgresDriver(DatabaseDriver):
    """Between two actions only connections are kept, briefly."""

    name = "postgres"
    refused = REFUSED

    def __init__(self) -> None:
        self._links = KeptLinks()

    async def _check(self, action: Action, order: Order) -> Checked:
        if action.verb == "rejoin":
            return await rejoin_problems(action, order)
        async with self._links.linked(_member(action), order.timeout_s) as link:
            facts = await read_facts(link)
            seen = seen_authority(facts)
            refuse_stale(link.member.address, seen.token, seen.epoch, order, own_hand=action.verb == "demote")
            problems = _problems(link, action, order, facts, seen)
            others = await _others(action, order, facts, seen)
        told = tuple(another_primary(address).message for address in others)
        return Checked((*told, *problems), facts.evidence(), only_others(others, problems))

    async def _execute(self, action: Action, order: Order) -> Evidence:
        if action.verb == "rejoin":
            return await rejoin(action, order)
        async with self._links.linked(_member(action), order.timeout_s) as link:
            match action.verb:
                case "fence":
                    return await fence.fence(link, action, order)
                case "unfence":
                    return await fence.unfence(link, order)
                case "promote":
                    return await promote(link, action, order)
                case "demote":
                    return await fence.demote(link, order)
                case "protect":
                    return await fence.protect(link, action, order)
                case _:
                    return await _verified(link, action)

    async def _observe(self, action: Action, order: Order) -> Observed:
        try:
            async with self._links.linked(_member(action), order.timeout_s) as link:
                facts = await read_facts(link)
        except Retryable as error:
            if action.verb == "rejoin" and await stopped_here(action):
                return Observed("absent", {"problem": f"its server is stopped: {error.message}"})
            raise
        if not _is_done(action, order, facts, seen_authority(facts)):
            return Observed("absent", facts.evidence())
        return Observed("done", _evidence_of_done(action, facts))

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Undo a fence if nothing was promoted, and a demotion if there is no other primary."""
        if action.verb not in ("fence", "demote"):
            return await super().undo(action, order)
        async with linked(_member(action), order.timeout_s) as link:
            if order.dry_run:
                return {**(await read_facts(link)).evidence(), "dry_run": f"would undo {action.verb}"}
            if action.verb == "fence":
                return await fence.unfence(link, order)
            return await fence.undo_demote(link, action, order)

    async def close(self) -> None:
        await self._links.close()

    async def facts(self, action: Action, timeout_s: float) -> PostgresFacts:
        """Role, timeline, position, lag and synchronous state of the endpoint's member, for probes and plans.
        Raises `Retryable`, `Permanent`.
        """
        async with linked(_member(action), timeout_s, timeout_s) as link:
            return await read_facts(link)

    async def precheck_sync(
        self, action: Action, timeout_s: float, candidate: str, sites: Mapping[str, str], may_be_lost: str
    ) -> Checked:
        """Check at the healthy primary whether `candidate` could be the fence when `may_be_lost` is gone. If
        ready, the caller stores the fact with its time, and passes it to `fence` as `standing` and
        `standing_age_ms`. Never raises.
        """
        try:
            async with linked(member_of(action), timeout_s) as link:
                return await precheck_sync(link, candidate, sites, may_be_lost)
        except ActionError as error:
            return Checked((error.message,))

    def _subject(self, action: Action) -> str:
        return _member(action).address


def _member(action: Action) -> Member:
    return member_of(action, _PREFIX.get(action.verb, ""))


async def _others(action: Action, order: Order, facts: PostgresFacts, seen: Authority) -> tuple[str, ...]:
    """Other primaries that respond and accept writes, if one is to be promoted that is not primary yet."""
    if action.verb != "promote" or _is_done(action, order, facts, seen):
        return ()
    return tuple(fence.writable_of(await fence.ask_peers(action), facts.system))


def _problems(link: Link, action: Action, order: Order, facts: PostgresFacts, seen: Authority) -> list[str]:
    """What prevents the verb now; none if it is already done."""
    if _is_done(action, order, facts, seen):
        return []
    match action.verb:
        case "fence":
            standing = standing_problems(action, link.member.name)
            return standing + ([] if facts.role == "standby" else ["a primary cannot be cut off"])
        case "promote":
            return promote_problems(action, facts, seen)
        case "protect":
            return fence.protect_problems(facts, all_of(many(action.parameters, "synchronous")))
        case "unfence":
            return [] if facts.role == "standby" else [f"it is now a primary: {STAYS}"]
        case "verify":
            return [f"it is {facts.role}, which is not expected"]
        case _:
            return []


def _is_done(action: Action, order: Order, facts: PostgresFacts, seen: Authority) -> bool:
    match action.verb:
        case "fence":
            promoted = facts.role == "primary" and seen.fence > 0 and seen.fence == order.epoch
            return fence.cut_off(facts, seen) or promoted
        case "unfence":
            return facts.role == "standby" and facts.has_upstream
        case "promote":
            return facts.writable
        case "demote":
            return fence.demoted(facts)
        case "protect":
            return fence.protected(facts, all_of(many(action.parameters, "synchronous")))
        case "rejoin":
            return fence.follows(facts, member_of(action, "primary"))
        case _:
            return _as_expected(action, facts)


def _evidence_of_done(action: Action, facts: PostgresFacts) -> Evidence:
    """Evidence of a fence that is only observed, after a crash, is as good as that of making one."""
    if action.verb == "demote":
        return fence.demoted_evidence(facts)
    return {**facts.evidence(), **({"proof": "sync"} if action.verb == "fence" else {})}


def _as_expected(action: Action, facts: PostgresFacts) -> bool:
    """Parameter `expect`: primary (accepts writes, and its synchronous set confirms) or standby."""
    if text(action.parameters, "expect", "primary") == "standby":
        return facts.role == "standby" and facts.receiver == "streaming"
    return facts.writable and fence.protected(facts, facts.sync)


async def _verified(link: Link, action: Action) -> Evidence:
    facts = await read_facts(link)
    if not _as_expected(action, facts):
        words = f"{link.member.address} is {facts.role} and not yet as the step expects it"
        raise Retryable("not-as-expected", words, "", 500)
    return {**facts.evidence(), "expect": text(action.parameters, "expect", "primary")}
