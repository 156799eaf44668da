"""Make a server follow a primary: as it is, or with its data replaced."""

from __future__ import annotations

from typing import Final

from evac.drivers import store_driver
from evac.drivers.mariadb.link import (
    POLL_S,
    PORT,
    REFUSED,
    RIGHTS,
    MariadbFacts,
    MariadbLink,
    MariadbMember,
    alone,
    end_writes,
    linked,
    member_of,
    obey,
    read_facts,
    stop_receiving,
)
from evac.drivers.mariadb.rebuild import (
    has_data_without_position,
    only_here,
    problems_of,
    range_words,
    rebuild,
    workshop_of,
)
from evac.drivers.parameters import text, whole
from evac.drivers.port import Action, Checked, Evidence, Order
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net.secrets import resolve, scrub

_NO_LONGER_KEPT: Final = frozenset({1236})
"""Error of a copy that needs log that its primary no longer has, or never had."""
_TLS_FAILED: Final = 2026
"""Error of a copy that makes no TLS connection to its primary."""
_NO_CONNECTION: Final = frozenset({2003, 2005})
"""Errors of a copy that does not reach its primary, or does not resolve its name."""
_WITHOUT_TLS: Final = frozenset({"DISABLED", "NO"})
"""Values of `have_ssl` of a server that offers no TLS."""


def _primary(action: Action) -> MariadbMember:
    own, parameters = member_of(action), action.parameters
    return own.at(text(parameters, "primary_host"), whole(parameters, "primary_port", PORT, 65_535))


def is_rejoined(action: Action, facts: MariadbFacts) -> bool:
    """Whether a server follows the primary with complete data."""
    follows = facts.follows and facts.upstream == _primary(action).address
    return follows and not facts.seen.rebuilding


async def check_rejoin(action: Action, order: Order, facts: MariadbFacts) -> Checked:
    """Whether it can follow, and whether its data is replaced for that."""
    refused = await _rejoin_refused(action, order, facts)
    shop = workshop_of(action, member_of(action)) if isinstance(refused, Permanent) else None
    if refused is not None and shop is not None:
        said = {"how": "rebuild", "would": refused.message[: store_driver.WORDS_MOST]}
        return Checked(tuple(problems_of(shop)), {**facts.evidence(), **said})
    ends_writes = isinstance(refused, Permanent) and facts.writable and not order.dry_run
    words = () if refused is None or ends_writes else (refused.message,)
    return Checked(words, facts.evidence(), refused if words else None)


async def _rejoin_refused(action: Action, order: Order, facts: MariadbFacts) -> ActionError | None:
    """Permanent: its data must be replaced, and another primary accepts writes. Retryable: not yet. That
    primary is expected to live: unlike a peer of a promotion, it has the time of the step to answer.
    """
    primary = _primary(action)
    problem = ""
    try:
        async with linked(primary, order.timeout_s) as link:
            theirs = await read_facts(link)
    except ActionError:
        problem = "does not answer"
    else:
        if not theirs.writable:
            problem = "is not a primary that accepts writes"
        elif theirs.seen.rebuilding:
            problem = "has incomplete data itself: a rejoin that replaces it did not finish"
        elif not theirs.keeps_log:
            problem = "has no complete binary log: set log_bin and log_slave_updates"
        elif facts.seen.rebuilding:
            said = f"the data of {member_of(action).address} is only partly replaced"
            return Permanent("mariadb-diverged", f"{said}; {_by_agent(action)}")
        elif theirs.written and await has_data_without_position(member_of(action), facts, order):
            said = f"{member_of(action).address} has data, but no GTID that says which"
            why = f"from {primary.address} it would get everything again"
            return Permanent("mariadb-without-position", f"{said}: {why}; {_by_agent(action)}")
        elif errant := only_here(facts, theirs):
            own = member_of(action).address
            said = f"{own} holds transactions that {primary.address} never had: {range_words(errant)}"
            return Permanent("mariadb-diverged", f"{said}; {_by_agent(action)}")
    return Retryable("mariadb-not-ready", f"{primary.address} {problem}", after_ms=500) if problem else None


def _by_agent(action: Action) -> str:
    """What lets its data be replaced."""
    agent = "let the agent of its site do this step, so that it"
    if not text(action.settings, "archive", ""):
        agent = "set archive on its endpoint, so that the agent of its site"
    by_hand = "or copy what you need from it, rebuild it with mariadb-backup, then retry this step"
    return f"{agent} keeps them and rebuilds it; {by_hand}"


async def rejoin(link: MariadbLink, action: Action, order: Order) -> Evidence:
    """Make a server follow the primary. One with transactions of its own stops accepting more; then its data
    is replaced, if its endpoint says where to keep them.
    """
    primary = _primary(action)
    facts = await alone(link, order)
    if is_rejoined(action, facts):
        await obey(link, facts.seen, order, fence=0, demoted=0)
        return {**facts.evidence(), "already": True}
    refused = await _rejoin_refused(action, order, facts)
    shop = workshop_of(action, link.member)
    diverged = isinstance(refused, Permanent)
    ends_writes = facts.writable or (diverged and shop is not None and not facts.read_only)
    if ends_writes and (refused is None or diverged):
        await obey(link, facts.seen, order, demoted=max(1, order.epoch), confirms=())
        await end_writes(link)
        # What waited for a copy is in its log now, and may be nowhere else.
        refused = await _rejoin_refused(action, order, await read_facts(link))
    kept: Evidence = {}
    if isinstance(refused, Permanent) and shop is not None:
        kept = await rebuild(link, shop, primary, action, order)
    elif refused is not None:
        raise refused
    facts = await read_facts(link)
    await obey(link, facts.seen, order, confirms=())
    await link.change("SET GLOBAL rpl_semi_sync_master_enabled = OFF")
    try:
        after = await _follow(link, primary, facts)
    except Permanent as error:
        if error.code != LOG_GONE or shop is None or kept:
            raise
        kept = await rebuild(link, shop, primary, action, order)
        after = await _follow(link, primary, await read_facts(link))
    await obey(link, after.seen, order, fence=0, demoted=0)
    return {**after.evidence(), **kept, "epoch": order.epoch}


FOLLOW_S: Final = 60.0
"""How long a server may take until it follows; a rebuild before that has its own, longer limit."""
LOG_GONE: Final = "mariadb-log-gone"
"""The code of a copy that needs log that its primary no longer has."""


async def _follow(link: MariadbLink, primary: MariadbMember, facts: MariadbFacts) -> MariadbFacts:
    """Replicate from a primary, from where this server is. Raises `Permanent` if that log is gone."""
    if facts.upstream:
        await stop_receiving(link, "STOP SLAVE")
    how = "CHANGE MASTER TO MASTER_HOST = %s, MASTER_PORT = %s, MASTER_USE_GTID = slave_pos"
    if facts.upstream:
        await link.change(how, primary.host, primary.port)
    else:
        secret = resolve(primary.replication_password) if primary.replication_password else None
        link.secrets += [secret] if secret is not None else []
        await link.change("SET GLOBAL gtid_slave_pos = %s", facts.held)
        await link.change(
            f"{how}, MASTER_USER = %s, MASTER_PASSWORD = %s, MASTER_CONNECT_RETRY = 2",
            primary.host,
            primary.port,
            primary.replication_user,
            secret.reveal() if secret is not None else "",
        )
    await link.change("START SLAVE")
    end_s = link.left_s() - FOLLOW_S
    is_again = False
    while not (after := await read_facts(link)).follows:
        if after.receive_error in _NO_LONGER_KEPT:
            message = f"{primary.address} no longer has the log that {link.member.address} needs"
            hint = "set archive on its endpoint, or rebuild it with mariadb-backup"
            raise Permanent(LOG_GONE, message, hint)
        if after.receive_error in RIGHTS and not facts.upstream:
            await stop_receiving(link, "STOP SLAVE")
            await link.change("RESET SLAVE ALL")  # so that the next try sends the account again
        if await _is_refused(link, primary, after, is_again):
            is_again = True
            await stop_receiving(link, "STOP SLAVE")
            await link.change("START SLAVE")  # its error may be of before the primary answered
        _refuse_broken(link, primary, after, has_ended=link.left_s() < max(end_s, 2 * POLL_S))
        await link.pause()
    return after


async def _is_refused(link: MariadbLink, primary: MariadbMember, after: MariadbFacts, is_again: bool) -> bool:
    """Whether a server could not connect to its primary while evac can. is_again: it tried again since then;
    raises `Permanent` if it is refused still. What secures the connection is left as it is.
    """
    if after.receive_error != _TLS_FAILED and after.receive_error not in _NO_CONNECTION:
        return False
    try:
        async with linked(primary, min(store_driver.ANSWER_MS / 1_000, link.left_s())) as other:
            if not (await read_facts(other)).writable:
                return False
            found = await other.rows("SHOW GLOBAL VARIABLES LIKE 'have_ssl'")
    except ActionError:
        return False
    if not is_again:
        return True
    own, said = link.member.address, _not_received(link, primary, after)
    if after.receive_error in _NO_CONNECTION:
        hint = f"check name resolution, routes and firewalls from {own} to {primary.address}, then retry"
        raise Permanent("mariadb-unreachable", f"{said}; {primary.address} answers evac", hint)
    if any(row.get("Value") in _WITHOUT_TLS for row in found):
        words = f"{primary.address} offers no TLS, but {own} demands it: {said}"
        hint = (
            f"enable TLS on {primary.address} (no ssl = OFF, no skip_ssl), or, if the network may read the "
            f"data, run on {own}: STOP SLAVE; CHANGE MASTER TO MASTER_SSL = 0; then retry"
        )
        raise Permanent("mariadb-no-tls", words, hint)
    hint = (
        f"check MASTER_SSL_CA on {own}, and the certificate of {primary.address}; without MASTER_SSL_CA, the "
        "replication account needs a password"
    )
    raise Permanent("mariadb-tls", said, hint)


def _not_received(link: MariadbLink, primary: MariadbMember, after: MariadbFacts) -> str:
    said = f"{link.member.address} does not receive from {primary.address}: error {after.receive_error}: "
    return said + scrub(after.receive_words, link.secrets)


def _refuse_broken(
    link: MariadbLink, primary: MariadbMember, after: MariadbFacts, *, has_ended: bool
) -> None:
    """Raise if a server that should follow does not apply, may not log in, or took too long."""
    own, received = link.member.address, after.receive_error
    said = _not_received(link, primary, after)
    if after.apply_error and not after.applies:
        words = f"{own} stopped applying what it received: error {after.apply_error}: {after.apply_words}"
        raise Permanent("mariadb-not-applied", words, "run SHOW ALL SLAVES STATUS there")
    if received in RIGHTS:
        hint = "check replication_user, replication_password and the permissions of that account"
        raise Permanent(REFUSED, said, hint)
    if has_ended:
        words = said if received else f"{own} does not follow {primary.address} after {FOLLOW_S:.0f} s"
        raise OutcomeUnknown("mariadb-slow", words)
