"""Which members confirm commits, and whom a standby follows."""

from __future__ import annotations

from collections.abc import Callable

from evac.drivers.parameters import many
from evac.drivers.port import Action, Evidence, Order
from evac.drivers.postgres.authority import Authority, alone, obey
from evac.drivers.postgres.conninfo import PASSFILE, SyncSet, all_of, format_conninfo, parse_conninfo
from evac.drivers.postgres.facts import PostgresFacts, read_facts
from evac.drivers.postgres.fence import kept_upstream
from evac.drivers.postgres.link import Link, Member
from evac.drivers.postgres.settings import reload, set_sync, set_system, stir
from evac.model.errors import Retryable


def protect_problems(facts: PostgresFacts, wanted: SyncSet) -> list[str]:
    """Why the set cannot be made what is wanted without commits that hang."""
    if facts.role == "standby":
        return ["this member is a standby: only a primary has a synchronous set"]
    if facts.read_only or facts.fenced:
        return ["this primary was demoted"]
    return [
        f"{name} does not stream now; commits would hang"
        for name in wanted.names
        if not facts.streaming(name)
    ]


async def protect(link: Link, action: Action, order: Order) -> Evidence:
    """Makes exactly the named members synchronous, each of them for every commit; none named: asynchronous.
    Commits that hang for a lost standby go on at once.
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
    """Whether the set is the wanted one and each member of it confirms now."""
    if facts.role != "primary" or facts.sync != wanted:
        return False
    seen = [facts.streaming(name) for name in wanted.names]
    return all(one is not None and one.sync_state in ("sync", "quorum") for one in seen)


def upstream_of(
    current: str, member: Member, primary: Member, write_passfile: Callable[[], str] = lambda: ""
) -> str:
    """The connection string that makes `member` follow `primary`, with what it had before where it had it.

    write_passfile: writes the member's password into a file on its machine, and says where that is; asked
    only where the string has no password and no passfile but ours. Without such a file the password stands in
    the string, and PostgreSQL writes that into its log when the setting changes.
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
    """Points a running standby at another primary and waits until it streams from there."""
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
