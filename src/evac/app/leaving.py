"""What is seen of a site right before a run takes it for lost: whether it answers, and what it gives up.

A loss plan that runs against a healthy site is an outage that evac makes. So the leader looks before it makes
a run of one that a person proposed, and a dry run shows the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from evac.app.observing import probes_of, store_endpoints
from evac.app.observing import seen_at as member_at
from evac.derive.domains import Topology, topology
from evac.drivers.registry import Drivers
from evac.model.estate import Estate
from evac.model.fleet import AT_SITE, ON_POOL, ON_SERVER, BoolColumn
from evac.model.observation import LeavingSite, MemberSeen
from evac.watch.witness import Probe

LOOK_S: Final = 2.0
AGENT: Final = "agent"


async def look_at(
    estate: Estate, drivers: Drivers, sites: Sequence[str], now_ms: int, timeout_s: float = LOOK_S
) -> tuple[LeavingSite, ...]:
    """Asks everything at these sites that can be asked, all at once. estate: as it is now."""
    probes = probes_of(estate, drivers, timeout_s)
    return tuple(
        await asyncio.gather(
            *(_site(estate, drivers, site, sites, probes.get(site, ()), now_ms, timeout_s) for site in sites)
        )
    )


async def _site(
    estate: Estate,
    drivers: Drivers,
    site: str,
    leaving: Sequence[str],
    probes: Sequence[Probe],
    now_ms: int,
    timeout_s: float,
) -> LeavingSite:
    ends = [end for end in store_endpoints(estate) if end.at == site]
    subjects = {end.id: end.subject for end in estate.endpoints}
    members, ups = await asyncio.gather(
        asyncio.gather(*(member_at(end, drivers, timeout_s) for end in ends)),
        asyncio.gather(*(_is_up(probe, timeout_s) for probe in probes)),
    )
    answering = {one.store for one in members if _answers(one)}
    answering |= {subjects.get(probe.name, AGENT) for probe, up in zip(probes, ups, strict=True) if up}
    there = _served_from(topology(estate), site)
    others = {one.id for one in estate.sites if one.role == "full"} - {*estate.lost, *leaving}
    return LeavingSite(
        site,
        "answers" if answering else "silent" if ends or probes else "unknown",
        now_ms,
        tuple(sorted(answering)),
        tuple(sorted(one.store for one in members if one.role == "primary")),
        int(there.sum()),
        sum(
            service.people or 0 for service, is_there in zip(estate.services, there, strict=True) if is_there
        ),
        not others,
    )


def _answers(member: MemberSeen) -> bool:
    """Whether something is alive there, even if it lets nobody in."""
    return member.role != "unreachable" or member.error is not None


async def _is_up(probe: Probe, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return (await probe.ask()).opinion == "up"
    except Exception:  # whatever a driver raises, it is not an answer
        return False


def _served_from(top: Topology, site: str) -> BoolColumn:
    """(S,) services with replicas at this site."""
    estate, number = top.estate, [one.id for one in top.estate.sites].index(site)
    replicas = estate.replicas
    where = np.full(len(replicas), -1, np.int64)
    for kind, lookup in ((ON_SERVER, estate.fleet.site), (ON_POOL, top.pool_site)):
        rows = replicas.kind == kind
        where[rows] = lookup[replicas.target[rows]]
    rows = replicas.kind == AT_SITE
    where[rows] = replicas.target[rows]
    found = np.zeros(len(estate.services), np.bool_)
    found[replicas.service[where == number]] = True
    return found
