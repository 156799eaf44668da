"""What a person at a terminal does after a fire, step by step, where no controller of evac runs."""

from __future__ import annotations

import asyncio

import dns.query
import dns.rdatatype
import dns.tsig
import dns.update

from evac_lab.primaries import Connection
from evac_lab.site_servers import KEY_NAME, Ground
from evac_lab.state import PORTS, SERVICE, ZONE, LabFolder


def ground_of(folder: LabFolder) -> Ground:
    return Ground(folder, folder.need().topology)


def sql(folder: LabFolder, site: str, *statements: str) -> list[str]:
    """Runs statements on a site's PostgreSQL; returns the first value of each."""
    return asyncio.run(_sql(ground_of(folder), site, statements))


async def _sql(ground: Ground, site: str, statements: tuple[str, ...]) -> list[str]:
    database = ground.operators_database
    connection = await database.connect(database.hosts[site], "by-hand")
    try:
        return [await _one(connection, statement) for statement in statements]
    finally:
        connection.end()


async def _one(connection: Connection, statement: str) -> str:
    rows = await connection.rows(statement, seconds=10.0)
    return str(rows[0][0]) if rows else ""


def promote(folder: LabFolder, site: str) -> None:
    """Nothing more from the old primary, then a primary that waits for nobody."""
    sql(folder, site, "alter system set primary_conninfo = ''", "select pg_reload_conf()")
    sql(folder, site, "select pg_promote(true, 10)", "alter system set synchronous_standby_names = ''")
    sql(folder, site, "select pg_reload_conf()")


def point_names(folder: LabFolder, site: str, without: str = "") -> None:
    """Every living DNS server answers with the load balancer of one site."""
    ground = ground_of(folder)
    keyring = {
        dns.name.from_text(KEY_NAME): dns.tsig.Key(KEY_NAME, ground.secrets.value("dns"), "hmac-sha256")
    }
    for one in ground.topology.sites:
        if one.name != without:
            update = dns.update.UpdateMessage(ZONE, keyring=keyring)
            update.replace(SERVICE, 1, dns.rdatatype.A, ground.topology.site(site).host("haproxy"))
            dns.query.tcp(update, one.host("dns"), 5.0, PORTS["dns"])
