"""Driver for MariaDB: fence, promote, demote, protect and rejoin members with GTID replication.

A semi-synchronous primary without a timeout acknowledges nothing that its only copy did not store. So that
copy is the fence: once it receives nothing more, the old primary cannot commit (proof `sync`). With several
copies MariaDB waits for any one; then no copy is certain to have every commit, and nothing is proved.

A server's runtime settings are lost on restart, so its configuration file must make it harmless at every
start (`read_only`, `init_rpl_role=SLAVE`): evac makes it a primary at runtime.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from evac.drivers import store_driver
from evac.drivers.mariadb.link import (
    FOR_EVER_MS,
    PORT,
    REFUSED,
    MariadbFacts,
    MariadbLink,
    MariadbMember,
    alone,
    covers,
    end_writes,
    linked,
    member_of,
    obey,
    positions,
    read_facts,
    stop_receiving,
)
from evac.drivers.mariadb.rejoin import check_rejoin, is_rejoined, rejoin
from evac.drivers.parameters import many, refuse_stale, text, whole
from evac.drivers.port import Action, Checked, Evidence, Observed, Order
from evac.model.errors import ActionError, Permanent, Retryable


class MariadbDriver(store_driver.DatabaseDriver):
    """One connection for each action, closed at its end."""

    name = "mariadb"
    refused = REFUSED

    async def _check(self, action: Action, order: Order) -> Checked:
        async with linked(member_of(action), order.timeout_s) as link:
            facts = await read_facts(link)
            refuse_stale(
                link.member.address,
                facts.seen.token,
                facts.seen.epoch,
                order,
                own_hand=action.verb == "demote",
            )
        if action.verb == "rejoin" and not _is_done(action, facts):
            return await check_rejoin(action, order, facts)
        others = await _others(action, order, facts)
        problems = await _problems(action, order, facts)
        words = tuple(store_driver.another_primary(address).message for address in others)
        return Checked((*words, *problems), facts.evidence(), store_driver.only_others(others, problems))

    async def _execute(self, action: Action, order: Order) -> Evidence:
        async with linked(member_of(action), order.timeout_s) as link:
            match action.verb:
                case "fence":
                    return await _fence(link, action, order)
                case "unfence":
                    return await _unfence(link, order)
                case "promote":
                    return await _promote(link, action, order)
                case "demote":
                    return await _demote(link, order)
                case "protect":
                    return await _protect(link, action, order)
                case "rejoin":
                    return await rejoin(link, action, order)
                case _:
                    return await _verified(link, action)

    async def _observe(self, action: Action, order: Order) -> Observed:
        facts = await self.facts(action, order.timeout_s)
        if not _is_done(action, facts):
            return Observed("absent", facts.evidence())
        proof = {"proof": "sync"} if action.verb == "fence" else {}
        evidence = _demoted(facts) if action.verb == "demote" else facts.evidence()
        return Observed("done", {**evidence, **proof})

    async def undo(self, action: Action, order: Order) -> Evidence:
        """Undo a fence if nothing was promoted, and a demotion if there is no other primary."""
        if action.verb not in ("fence", "demote"):
            return await super().undo(action, order)
        async with linked(member_of(action), order.timeout_s) as link:
            if order.dry_run:
                return {**(await read_facts(link)).evidence(), "dry_run": f"would undo {action.verb}"}
            if action.verb == "fence":
                return await _unfence(link, order)
            return await _undo_demote(link, action, order)

    async def facts(self, action: Action, timeout_s: float) -> MariadbFacts:
        """State of an endpoint's server. Raises `Retryable`, `Permanent`."""
        async with linked(member_of(action), timeout_s) as link:
            return await read_facts(link)

    async def precheck_sync(
        self, action: Action, timeout_s: float, candidate: str, sites: Mapping[str, str], may_be_lost: str
    ) -> Checked:
        """Check at the healthy primary whether every commit needs `candidate`. Never raises."""
        try:
            facts = await self.facts(action, timeout_s)
        except ActionError as error:
            return Checked((error.message,))
        problems = [*facts.wait_problems, *store_driver.place_problems(candidate, sites, may_be_lost)]
        if not facts.writable:
            problems.append("this member is not a primary that accepts writes: check the primary instead")
        elif candidate not in facts.copies:
            problems.append(f"no copy with report_host {candidate} is connected")
        elif len(facts.copies) > 1:
            problems.append(
                f"{len(facts.copies)} copies are connected, and a commit needs any one of them, "
                f"so no commit needs {candidate}"
            )
        elif not facts.clients:
            problems.append(f"{candidate} does not confirm: rpl_semi_sync_slave_enabled is OFF there")
        evidence: Evidence = {
            **facts.evidence(),
            "candidate": candidate,
            "strict": not problems,
            "limits": "reads are not fenced; a session with BINLOG ADMIN can write without logging",
        }
        return Checked(tuple(problems), evidence)

    def _subject(self, action: Action) -> str:
        return member_of(action).address


def _is_done(action: Action, facts: MariadbFacts) -> bool:
    match action.verb:
        case "fence":
            promoted = facts.writable and facts.seen.fence > 0
            return promoted or (facts.is_cut and facts.seen.fence > 0)
        case "unfence":
            return bool(facts.upstream) and not facts.is_cut and not facts.seen.fence
        case "promote":
            return facts.serves
        case "demote":
            return bool(facts.upstream) or facts.read_only
        case "protect":
            return _protected(facts, many(action.parameters, "synchronous"))
        case "rejoin":
            return is_rejoined(action, facts)
        case _:
            expect = text(action.parameters, "expect", "primary")
            return facts.follows if expect == "standby" else facts.serves


async def _problems(action: Action, order: Order, facts: MariadbFacts) -> list[str]:
    """What prevents the verb now; none if it is already done."""
    if _is_done(action, facts):
        return []
    member = member_of(action)
    match action.verb:
        case "fence":
            standing = store_driver.standing_problems(action, member.name)
            return standing + ([] if facts.upstream else ["it follows no primary, so it cannot be cut off"])
        case "unfence":
            return [] if facts.upstream else [f"it now follows no primary: {store_driver.STAYS}"]
        case "promote":
            return _promote_problems(action, facts)
        case "protect":
            return _protect_problems(facts, many(action.parameters, "synchronous"))
        case "verify":
            return [f"it is {facts.report().role}, which is not expected"]
        case _:
            return []


async def _fence(link: MariadbLink, action: Action, order: Order) -> Evidence:
    """End the candidate's connection to its primary: nothing is confirmed from then on. What it received is
    kept, and applied by the promotion.
    """
    if problems := store_driver.standing_problems(action, link.member.name):
        raise Permanent("fence-unproven", problems[0], "fence by network, by power, or by hand")
    facts = await alone(link, order)
    if facts.writable and facts.seen.fence and facts.seen.fence == order.epoch:
        return {**facts.evidence(), "proof": "sync", "already": True}
    if not facts.upstream:
        message = f"{link.member.address} follows no primary, so it cannot be cut off"
        raise Permanent("not-a-standby", message)
    await obey(link, facts.seen, order, fence=max(1, order.epoch))
    if not facts.is_cut:
        await stop_receiving(link, "STOP SLAVE IO_THREAD")
    while not (facts := await read_facts(link)).is_cut:
        await link.pause()
    return {
        **facts.evidence(),
        "proof": "sync",
        "candidate": link.member.name,
        "epoch": order.epoch,
        "standing_age_ms": whole(action.parameters, "standing_age_ms", 0),
        "limits": "the old primary may still answer reads",
    }


async def _unfence(link: MariadbLink, order: Order) -> Evidence:
    facts = await alone(link, order)
    if not facts.upstream:
        raise Permanent("store-moved", f"{link.member.address} now follows no primary: {store_driver.STAYS}")
    await obey(link, facts.seen, order, fence=0)
    if facts.is_cut:
        await link.change("START SLAVE IO_THREAD")
    end_s = link.left_s() / 2  # its primary may be gone, and it keeps retrying
    while not (facts := await read_facts(link)).receives and link.left_s() > end_s:
        await link.pause()
    return {**facts.evidence(), "undone": "fence"}


def _promote_problems(action: Action, facts: MariadbFacts) -> list[str]:
    """Why this server may not be promoted now. Its fence is visible here, or another proof was given."""
    problems = [_INCOMPLETE] if facts.seen.rebuilding else []
    proof = text(action.parameters, "proof", "sync")
    if proof not in store_driver.OTHER_PROOFS and not (facts.is_cut and facts.seen.fence):
        problems.append("no fence proof: this copy is not cut off, and no other proof was given")
    if not facts.upstream and facts.seen.demoted:
        problems.append("it is a primary that was demoted: let it rejoin, or undo the demotion")
    least = _least(action)
    if not facts.receives and not covers(f"{facts.held},{facts.received}", least):
        problems.append(f"it holds {facts.held}, but must hold at least {least} to be promoted")
    if facts.upstream and not facts.applies and not covers(facts.held, facts.received):
        problems.append(_not_applied(facts))
    names = many(action.parameters, "synchronous")
    if len(names) > 1:
        problems.append(_ONE_AT_MOST)
    return problems


_INCOMPLETE: Final = "its data is incomplete, because a rejoin that replaces it did not finish: let it rejoin"
_ONE_AT_MOST: Final = "MariaDB waits for any one copy: let at most one confirm"


def _least(action: Action) -> str:
    """GTIDs that a candidate must have. Raises `Permanent`."""
    given = text(action.parameters, "least_lsn", "")
    try:
        positions(given)
    except ValueError as error:
        raise Permanent("setting-wrong", f"least_lsn: {given[:40]!r} is not a list of GTIDs") from error
    return given


async def _promote(link: MariadbLink, action: Action, order: Order) -> Evidence:
    """Apply everything received, then enable writes. Which copies confirm is set before that."""
    facts = await alone(link, order)
    if facts.seen.rebuilding:
        raise Permanent("promote-refused", f"{link.member.address}: {_INCOMPLETE}", "let it rejoin")
    if facts.writable:
        await obey(link, facts.seen, order)
        return {**facts.evidence(), "epoch": order.epoch, "already": True}
    writable, silent = await _other_primaries(action, order, facts.upstream)
    if writable:
        raise store_driver.another_primary(writable[0])
    while not covers(facts.held, _least(action)) and facts.receives:
        await link.pause()
        facts = await read_facts(link)
    if problems := _promote_problems(action, facts):
        raise Permanent("promote-refused", problems[0], "fence the old primary first")
    names = many(action.parameters, "synchronous")
    await obey(link, facts.seen, order, confirms=names)
    if facts.upstream:
        if not facts.is_cut:
            await stop_receiving(link, "STOP SLAVE IO_THREAD")
        facts = await _until_applied(link)
        await link.change("STOP SLAVE SQL_THREAD")
        await link.change("RESET SLAVE ALL")
    await _wait_for(link, names)
    await link.change("SET GLOBAL read_only = OFF")
    after = await read_facts(link)
    return {
        **after.evidence(),
        "proof": text(action.parameters, "proof", "sync"),
        "epoch": order.epoch,
        "held": facts.held[:300],
        "silent_peers": " ".join(silent)[:500],
    }


async def _until_applied(link: MariadbLink) -> MariadbFacts:
    """Wait until everything received is applied. Raises `Permanent` if applying has stopped. The applier
    thread is not started here: while both threads are stopped, a start would drop what was received but not
    applied.
    """
    while not ((facts := await read_facts(link)).is_cut and covers(facts.held, facts.received)):
        if not facts.applies:
            raise Permanent("promote-refused", _not_applied(facts), "run SHOW ALL SLAVES STATUS there")
        await link.pause()
    return facts


def _not_applied(facts: MariadbFacts) -> str:
    return f"it received {facts.received}, applied {facts.held} and then stopped: error {facts.apply_error}"


async def _wait_for(link: MariadbLink, names: Sequence[str]) -> None:
    """Make commits wait for a copy without a timeout, or for none."""
    if names:
        await link.change("SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC")
        await link.change("SET GLOBAL rpl_semi_sync_master_wait_no_slave = ON")
        await link.change(f"SET GLOBAL rpl_semi_sync_master_timeout = {FOR_EVER_MS}")
    await link.change(f"SET GLOBAL rpl_semi_sync_master_enabled = {'ON' if names else 'OFF'}")


async def _demote(link: MariadbLink, order: Order) -> Evidence:
    """Make a reachable primary refuse writes; end its sessions, so that a hanging commit is not confirmed."""
    facts = await alone(link, order, own_hand=True)
    await obey(link, facts.seen, order, demoted=max(1, order.epoch))
    if facts.upstream or facts.read_only:
        return {**_demoted(facts), "already": True}
    ended = await end_writes(link)
    return {
        **_demoted(await read_facts(link)),
        "sessions_ended": ended,
        "epoch": order.epoch,
        "limits": "an account with READ_ONLY ADMIN can still write",
    }


def _demoted(facts: MariadbFacts) -> dict[str, str | int | bool]:
    """Proof only of what was reached and seen. last_lsn: what a successor must have."""
    is_proof = not facts.upstream and facts.read_only
    return {**facts.evidence(), **({"proof": "demote", "last_lsn": facts.held[:300]} if is_proof else {})}


async def _undo_demote(link: MariadbLink, action: Action, order: Order) -> Evidence:
    facts = await alone(link, order)
    if facts.upstream:
        raise Permanent(
            "store-moved", f"{link.member.address} follows {facts.upstream} now: {store_driver.STAYS}"
        )
    if facts.seen.rebuilding:
        raise Permanent("store-incomplete", f"{link.member.address}: {_INCOMPLETE}")
    writable, silent = await _other_primaries(action, order)
    if writable or silent or not _peers(action):
        raise Permanent(
            "undo-unsafe",
            "it is not certain that no other primary exists: "
            f"{', '.join(writable or silent) or 'no peers are set'}",
        )
    names = many(action.parameters, "synchronous")
    await obey(link, facts.seen, order, demoted=0, confirms=names)
    if facts.read_only:
        await _wait_for(link, names)
        await link.change("SET GLOBAL read_only = OFF")
    return {**(await read_facts(link)).evidence(), "undone": "demote"}


def _protected(facts: MariadbFacts, names: Sequence[str]) -> bool:
    if not facts.serves:
        return False
    if not names:
        return any(one.startswith("rpl_semi_sync_master_enabled") for one in facts.wait_problems)
    return facts.waits and facts.clients == len(names) == 1 and set(names) <= set(facts.copies)


def _protect_problems(facts: MariadbFacts, names: Sequence[str]) -> list[str]:
    """Why commits cannot wait for these copies without hanging."""
    if facts.seen.rebuilding:
        return [_INCOMPLETE]
    if not facts.writable:
        return ["it is not a primary that accepts writes"]
    if len(names) > 1:
        return [_ONE_AT_MOST]
    missing = [
        f"{name} is not following now; commits would block" for name in names if name not in facts.copies
    ]
    if names and not missing and not facts.clients:
        return [f"{names[0]} does not confirm: rpl_semi_sync_slave_enabled is OFF there"]
    if names and facts.clients > 1:
        return [
            f"{facts.clients} copies confirm, and a commit needs any one of them; "
            f"set rpl_semi_sync_slave_enabled to OFF on all but {names[0]}"
        ]
    return missing


async def _protect(link: MariadbLink, action: Action, order: Order) -> Evidence:
    """Make commits wait for the named copy, or for none; then hanging commits continue at once."""
    names = many(action.parameters, "synchronous")
    facts = await alone(link, order)
    if not _protected(facts, names):
        if problems := _protect_problems(facts, names):
            hint = "let the copy confirm commits, or name another one"
            raise Retryable("protect-refused", problems[0], hint, after_ms=500)
        await obey(link, facts.seen, order, confirms=names)
        await _wait_for(link, names)
    else:
        await obey(link, facts.seen, order, confirms=names)
    while not _protected(facts := await read_facts(link), names):
        await link.pause()
    return {**facts.evidence(), "epoch": order.epoch, "asynchronous": not names}


async def _verified(link: MariadbLink, action: Action) -> Evidence:
    facts = await read_facts(link)
    if not _is_done(action, facts):
        message = f"{link.member.address} is {facts.report().role}, not as expected"
        raise Retryable("not-as-expected", message, "", 500)
    return {**facts.evidence(), "expect": text(action.parameters, "expect", "primary")}


def _peers(action: Action, upstream: str = "") -> list[MariadbMember]:
    """Members in the parameters, and the one it follows."""
    own = member_of(action)
    named = [entry.rpartition("=")[2] for entry in many(action.parameters, "peers")]
    if "old_host" in action.parameters:
        named.append(
            f"{text(action.parameters, 'old_host')}:{text(action.parameters, 'old_port', str(PORT))}"
        )
    found = []
    for address in dict.fromkeys([*named, *([upstream] if upstream else [])]):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise Permanent("setting-wrong", f"{address[:80]!r} is not host:port")
        if address != own.address:
            found.append(own.at(host, int(port)))
    return found


async def _others(action: Action, order: Order, facts: MariadbFacts) -> list[str]:
    """Other primaries that respond and accept writes, if one is to be promoted that is not primary yet."""
    if action.verb != "promote" or _is_done(action, facts):
        return []
    return (await _other_primaries(action, order, facts.upstream))[0]


async def _other_primaries(action: Action, order: Order, upstream: str = "") -> tuple[list[str], list[str]]:
    """Peers that respond as primaries accepting writes, and silent peers."""
    connect_s = whole(action.parameters, "peer_ms", store_driver.CONNECT_MS, 60_000) / 1_000

    async def ask(peer: MariadbMember) -> str:
        if not await store_driver.takes_connections(peer.host, peer.port, connect_s):
            return "silent"
        try:
            async with linked(peer, min(store_driver.ANSWER_MS / 1_000, order.timeout_s)) as link:
                return "writable" if (await read_facts(link)).writable else "harmless"
        except ActionError:
            return "silent"

    peers = _peers(action, upstream)
    answers = await asyncio.gather(*(ask(peer) for peer in peers))
    found: dict[str, list[str]] = {"writable": [], "silent": [], "harmless": []}
    for peer, answer in zip(peers, answers, strict=True):
        found[answer].append(peer.address)
    return found["writable"], found["silent"]
