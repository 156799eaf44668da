"""The lab as it is at this moment: what lives, who takes writes, how the clients fare. Changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype

from evac_lab import ledger
from evac_lab.journal_facts import Watchers, watchers
from evac_lab.primaries import ASK_SECONDS, Database, Failures, redis_master
from evac_lab.site_servers import Ground
from evac_lab.state import LabFolder, LabState
from evac_lab.topology import HOSTS, PORTS, SERVICE_NAME, Site

_TAIL_BYTES: Final = 262_144
_RECENT_SECONDS: Final = 3.0
_ROLE: Final = """
select case when pg_is_in_recovery() then 'replica'
       else 'primary' || coalesce(' -> ' || (select string_agg(application_name || ' ' || sync_state, ', '
            order by application_name) from pg_stat_replication), '') end
"""


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """One site. servers: role -> "up", "down" or "stopped" as the machine's process table says."""

    name: str
    state: str
    servers: Mapping[str, str]
    postgres: str
    redis: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The whole lab. writes_per_second: acknowledged to clients, over the last seconds. watchers: None where
    no controller of evac runs, or its store does not answer.
    """

    world: str
    phase: str
    sites: tuple[SiteStatus, ...]
    writes_per_second: float
    failures_per_second: float
    last_write_seconds: float | None
    watchers: Watchers | None = None

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": 1, **asdict(self)}


def look(folder: LabFolder, state: LabState) -> Status:
    """One look, of about a second, and three where the store of evac does not answer."""
    ground = Ground(folder, state.topology)
    master = asyncio.run(_master(ground))
    rows = asyncio.run(_look(ground))
    sites = tuple(
        SiteStatus(
            site.name,
            _state_of(state, site),
            servers := _servers(state, site, postgres),
            postgres,
            _redis(site, master, servers),
            names,
        )
        for site, (postgres, names) in zip(state.topology.sites, rows, strict=True)
    )
    writes, failures, last = pulse(folder.ledger)
    return Status(state.world, state.phase, sites, writes, failures, last, _watchers(state))


def _watchers(state: LabState) -> Watchers | None:
    """Asked of a member whose site neither burnt nor is cut off."""
    if not any(one.role == "controller" for one in state.processes):
        return None
    living = [one.name for one in state.topology.sites if one.name not in (*state.burnt, *state.cut)]
    return watchers(state.topology, living[0] if living else "")


async def _master(ground: Ground) -> str:
    return await redis_master(ground.topology.hosts("redis"), PORTS["redis"], ground.secrets.value("redis"))


def _redis(site: Site, master: str, servers: Mapping[str, str]) -> str:
    if site.host("redis") == master:
        return "primary"
    return "replica" if master and servers.get("redis") == "up" else ""


async def _look(ground: Ground) -> Sequence[tuple[str, tuple[str, ...]]]:
    database = ground.operators_database
    sites = ground.topology.sites
    roles = asyncio.gather(*(_postgres(database, site.name) for site in sites))
    names = asyncio.gather(*(_names(site.host("dns")) for site in sites))
    return list(zip(await roles, await names, strict=True))


async def _postgres(database: Database, site: str) -> str:
    try:
        connection = await database.connect(database.hosts[site], "lab-status")
    except Failures:
        return ""
    try:
        (row,) = await connection.rows(_ROLE, seconds=ASK_SECONDS)
        return str(row[0])
    except Failures:
        return ""
    finally:
        connection.end()


async def _names(host: str) -> tuple[str, ...]:
    """What this site's DNS server answers for the service."""
    query = dns.message.make_query(SERVICE_NAME, dns.rdatatype.A)
    try:
        answer = await dns.asyncquery.udp(query, host, ASK_SECONDS, PORTS["dns"])
    except (OSError, EOFError, dns.exception.DNSException):
        return ()
    return tuple(sorted(record.to_text() for rrset in answer.answer for record in rrset))


def _state_of(state: LabState, site: Site) -> str:
    if site.name in state.burnt:
        return "burnt"
    return "cut off" if site.name in state.cut else "up"


def _servers(state: LabState, site: Site, postgres: str) -> dict[str, str]:
    """The messenger is a unit of the site's agent; it counts as up when it answers. So does a PostgreSQL,
    which the agent starts anew when it was rewound.
    """
    known = {one.role: one.alive for one in state.of_site(site.name)}
    known["messenger"] = unit_lives(site)
    if postgres:
        known["postgres"] = True
    return {role: "up" if known[role] else "down" for role in HOSTS if role in known}


def unit_lives(site: Site) -> bool:
    """Whether a messenger listens in the site, and answers."""
    import urllib.request

    try:
        with urllib.request.urlopen(f"{site.url('messenger')}/health", timeout=ASK_SECONDS) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def pulse(path: Path, now: float | None = None) -> tuple[float, float, float | None]:
    """(acknowledged a second, failed a second, seconds since the last one) from the end of the ledger."""
    moment = time.time() if now is None else now
    start = max(0, ledger.size(path) - _TAIL_BYTES)
    rows = list(ledger.read_ledger(path, _line_start(path, start)))
    acks = [row.at for row in rows if row.kind == "ack"]
    fails = [row.at for row in rows if row.kind == "fail"]
    since = moment - _RECENT_SECONDS
    return (
        round(sum(at > since for at in acks) / _RECENT_SECONDS, 1),
        round(sum(at > since for at in fails) / _RECENT_SECONDS, 1),
        max(0.0, round(moment - acks[-1], 2)) if acks else None,
    )


def _line_start(path: Path, offset: int) -> int:
    """The first position at or after `offset` where a line begins."""
    if offset == 0:
        return 0
    with path.open("rb") as file:
        file.seek(offset - 1)
        file.readline()
        return file.tell()
