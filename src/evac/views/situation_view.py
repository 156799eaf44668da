"""The situation in words and as data: what is away from home and why, what is lost, and what must not
happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from evac.model.observation import LeavingSite
from evac.model.situation import (
    BUSY,
    Away,
    Cause,
    Counts,
    LostNow,
    Rivals,
    Routed,
    Silent,
    Situation,
    StoreAway,
)
from evac.views.words import listed, moment, people, plural, wall_clock_here


def when(at_ms: int, now_ms: int) -> str:
    """`02:14 UTC`, with its date if that is not today; empty if it is not known."""
    return wall_clock_here().local(at_ms, now_ms) if at_ms > 0 else ""


def cause_words(cause: Cause, now_ms: int) -> str:
    """` since 02:14 UTC, run fire-1`, or who saw it."""
    at = when(cause.at_ms, now_ms)
    since = f" since {at}" if at else ""
    if cause.source == "run":
        return f"{since}, run {cause.by}"
    return f", as {cause.by} reports{since}" if cause.by else f", as observed{since}"


def service_words(one: Away, now_ms: int, with_home: bool = True) -> str:
    def places(counts: Counts) -> str:
        return ", ".join(f"{site} ({count})" for site, count in counts)

    home = places(one.home) or "nowhere"
    runs = f"runs in {places(one.now)}" if one.now else "runs nowhere"
    if one.in_lost:
        runs = f"{runs}, and has replicas" if one.now else "has replicas only"
        is_marked = "is marked" if len(one.in_lost) == 1 else "are marked"
        runs += f" in {places(one.in_lost)}, which {is_marked} as lost or evacuated"
    words = f"{one.service} {runs}{cause_words(one.cause, now_ms)}"
    if not with_home:
        return words
    words += f"; home: {home}"
    words += f"; surplus: {places(one.surplus)}" if one.surplus else ""
    sites = {site for site, _ in one.now}
    if one.traffic and (one.now == one.home or not set(one.traffic) <= sites):
        only = "only " if set(one.traffic) < sites else ""
        words += f"; its users are routed {only}to {', '.join(one.traffic)}"
    return words


def routed_words(one: Routed, now_ms: int) -> str:
    """`users of shop are sent only to east, as haproxy reports since 02:14 UTC; it also runs in west`."""
    words = f"users of {one.service} are sent only to {listed(one.sites, 3)}{cause_words(one.cause, now_ms)}"
    return f"{words}; it also runs in {listed(one.rest, 3)}"


def store_words(one: StoreAway, now_ms: int, with_home: bool = True) -> str:
    where = f"has its primary in {one.now}" if one.now else "has no primary"
    home = f"; home: {one.home}" if with_home else ""
    return f"{one.store} {where}{cause_words(one.cause, now_ms)}{home}"


def lost_words(one: LostNow, now_ms: int) -> str:
    at = when(one.since_ms, now_ms)
    words = f"{one.domain} is {one.state}" + (f" since {at}" if at else "")
    return f"{words}, run {one.run}" if one.run else words


def rivals_words(one: Rivals) -> str:
    """The most severe condition of a store, in words."""
    words = f"{len(one.sites)} writable primaries: {', '.join(one.sites)}"
    if not one.unheard:
        return f"{one.store} has {words}"
    silent = f"{listed(one.unheard, 3)} {'does' if len(one.unheard) == 1 else 'do'} not answer now"
    return f"{one.store} had {words}; {silent}, so it is unknown whether writes there have stopped"


def silent_words(one: Silent) -> str:
    """`the primary of orders in west does not answer, although west does: 9 services cannot serve, 41 million
    users`.
    """
    if one.role == BUSY:
        words = f"the primary of {one.store} in {one.site} is alive, but accepts no connections"
    elif one.role:
        answer = {"detached": "a copy that follows no primary", "none": "a server that is not a member"}
        what = answer.get(one.role, f"{one.role} copy")
        words = f"no member of {one.store} accepts writes: its primary in {one.site} answers as {what}"
    else:
        words = f"the primary of {one.store} in {one.site} does not answer"
        words += f", although {one.site} does" if one.answers else ""
    if one.services:
        words += f": {plural(one.services, 'service')} cannot serve, {_users(one.people, one.unstated)}"
    return words


def _users(count: int, unstated: int) -> str:
    """unstated: those of the services that do not state how many people use them."""
    if unstated and not count:
        return "an unknown number of users"
    return f"{people(count, unstated)} users"


NO_PRIMARY_HINT: Final = "if the primary only restarted, make it writable again with the server's own command"


BUSY_HINT: Final = "evac observe ESTATE shows why; free connections, or wait until it has started"


def silent_hint(one: Silent) -> str:
    """What to do: repair the primary, or treat its site as lost. One that is alive is never given up."""
    if one.role == BUSY:
        return BUSY_HINT
    if one.role:
        return f"{NO_PRIMARY_HINT}; if it can't serve: evac plan ESTATE --lose {one.at}, and apply it"
    where = f"{one.at} is" if one.at != one.site else f"that part of {one.site} is"
    return f"start it again if possible; if {where} lost: evac plan ESTATE --lose {one.at}, and apply it"


def site_words(one: LeavingSite) -> str:
    """`west answers; its primary accepts writes (orders); 9 services, 41 million users`."""
    if one.state == "answers":
        words = f"{one.site} answers ({listed(one.answering, 3)})"
    elif one.state == "silent":
        words = f"{one.site} does not answer"
    else:
        words = f"it is unknown whether {one.site} is up: nothing there can be queried"
    if one.writable:
        its = "its primary accepts" if len(one.writable) == 1 else "its primaries accept"
        words += f"; {its} writes ({listed(one.writable, 3)})"
    if one.services:
        words += f"; {plural(one.services, 'service')}, {_users(one.people, one.unstated)}"
    return words + ("; it is the last full site" if one.is_last else "")


def abandon_hint(sites: Sequence[str], asked: str) -> str:
    """asked: the command that was refused; it only needs this addition."""
    words = " ".join(f"--confirm {site} --abandon {site}" for site in sites)
    where = ", ".join(sites)
    return (
        f"if {where} is healthy, move away with evac plan ESTATE --evacuate {sites[0]}; to treat it as lost "
        f"anyway: {asked} --reason WHY {words}"
    )


def rivals_hint(
    one: Rivals, lost: Iterable[LostNow] = (), away: Iterable[StoreAway] = (), run: str = ""
) -> str:
    """lost, away: what runs evacuated, if that is known: it tells the old primary from the current one.
    run: the one in progress; it takes precedence over another plan.
    """
    old = _old_primaries(one, lost, away)
    which = f"the one in {listed(old, 3)}" if old else "the old one"
    first, *others = old[:1] or one.sites
    words = f"stop writes to {which} now: fence it, or stop its database; then "
    if run:
        return f"{words}see what is in progress: evac run show {run}"
    words += f"make it follow again: evac plan ESTATE --restore {first}"
    return words + "".join(f", or --restore {site} if the old one is there" for site in others)


def _old_primaries(one: Rivals, lost: Iterable[LostNow], away: Iterable[StoreAway]) -> tuple[str, ...]:
    """Sites of the writable members that a run evacuated, or that are not where a run put the primary;
    empty if no run did either.
    """
    gone = {mark.domain for mark in lost}
    old = tuple(site for site in one.sites if site in gone)
    if old:
        return old if len(old) < len(one.sites) else ()
    now = next((a.now for a in away if a.store == one.store and a.cause.source == "run"), "")
    return tuple(site for site in one.sites if site != now) if now in one.sites else ()


def lines_of(situation: Situation, now_ms: int, with_home: bool = True) -> Iterator[str]:
    """Everything that differs from the files, worst first. with_home: also say where each belongs."""
    yield from (rivals_words(one) for one in situation.rivals)
    yield from (silent_words(one) for one in situation.silent)
    yield from (lost_words(one, now_ms) for one in situation.lost)
    yield from (store_words(one, now_ms, with_home) for one in situation.stores)
    yield from (service_words(one, now_ms, with_home) for one in situation.services)
    yield from (routed_words(one, now_ms) for one in situation.routed)


def differences(situation: Situation, most: int = 3) -> str:
    """What differs from the files, briefly; empty if nothing does. A plan also depends on what is known of
    backups, which changes more often than all else, so it comes last.
    """
    found = list(lines_of(situation, situation.at_ms, with_home=False))
    pairs = zip(situation.home.stores, situation.estate.stores, strict=True)
    if known := [now.id for home, now in pairs if now.backups != home.backups]:
        found.append(f"more is known of the backups of {listed(known)}")
    return listed(found, most)


def stale_words(differs: str, by_files: bool) -> tuple[str, str]:
    """Why a plan does not match the current estate, and what to do. differs: from the files."""
    again = "plan from the current state and apply that: evac plan ESTATE --observe"
    if by_files:
        return f"this plan was made from the files only, and now {differs}", again
    if differs:
        return (
            f"this plan was made from a different estate, or before something changed; now {differs}"
        ), again
    return "this plan was made from a different estate; now everything is as the files declare", again


def next_of(situation: Situation, estate: str, run: str = "") -> str:
    """The next command; empty if everything is at home. run: the one in progress, whose moves are not
    complete.
    """
    if situation.rivals:
        found = rivals_hint(situation.rivals[0], situation.lost, situation.stores, run)
        return found.replace("ESTATE", estate)
    if situation.silent:
        return silent_hint(situation.silent[0]).replace("ESTATE", estate)
    if run:
        return f"evac run show {run}"
    if situation.lost:
        domain = situation.lost[0].domain
        more = (n > dict(one.home).get(site, 0) for one in situation.services for site, n in one.now)
        moved = situation.stores or any(more)
        clear = "" if moved else f", or if it is healthy: evac site clear {domain} --reason WHY"
        return f"evac plan {estate} --restore {domain}{clear}"
    away = {one.store: one.home for one in situation.stores}
    for store in situation.estate.stores:
        copies = (one for one in store.members if one.at == store.home and not one.detached)
        if store.id in away and not any(one.mode in ("sync", "async") for one in copies):
            return f"evac plan {estate} --restore {away[store.id]}"  # what does not follow cannot take over
    homes = set(away.values())
    for one in situation.services:
        now = dict(one.now)
        short = {site for site, count in one.home if now.get(site, 0) < count}
        back = short or {site for site, _ in one.home if one.traffic and site not in one.traffic}
        if not back and one.service in situation.estate.surplus:
            back = {site for site, _ in one.home} - {site for site, _ in one.surplus}
        homes |= back
    return f"evac plan {estate} --failback {min(homes)}" if homes else ""


def document(situation: Situation) -> dict[str, Any]:
    """For JSON."""

    def cause(one: Cause) -> dict[str, Any]:
        return {"source": one.source, "by": one.by, "step": one.step, "at": moment(one.at_ms)}

    lost = [(o.domain, o.state, moment(o.since_ms), o.run) for o in situation.lost]
    return {
        "lost": [dict(zip(("domain", "state", "since", "run"), row, strict=True)) for row in lost],
        "services": [
            {
                "service": o.service,
                "home": dict(o.home),
                "now": dict(o.now),
                "in_lost": dict(o.in_lost),
                "surplus": dict(o.surplus),
                "traffic": list(o.traffic),
                "cause": cause(o.cause),
            }
            for o in situation.services
        ],
        "routed": [
            {"service": o.service, "sites": list(o.sites), "rest": list(o.rest), "cause": cause(o.cause)}
            for o in situation.routed
        ],
        "stores": [
            {"store": o.store, "home": o.home, "now": o.now, "cause": cause(o.cause)}
            for o in situation.stores
        ],
        "rivals": [
            {
                "store": o.store,
                "sites": list(o.sites),
                "since": moment(o.since_ms),
                "unheard": list(o.unheard),
            }
            for o in situation.rivals
        ],
        "silent": [
            {
                "store": o.store,
                "site": o.site,
                "at": o.at,
                "since": moment(o.since_ms),
                "services": o.services,
                "people": o.people,
                "site_answers": o.answers,
                "role": o.role,
            }
            for o in situation.silent
        ],
    }
