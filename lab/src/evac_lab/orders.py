"""The lab's MariaDB: a primary at the first site, and one copy at the second that confirms every commit.

Started with `evac lab up --mariadb`. No service writes to it: each of its servers is probed directly, as each
PostgreSQL is, so that the first write after a fire can be compared between the two.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from evac.drivers.mariadb.driver import MariadbDriver
from evac.drivers.port import Action, Order, Value, Verb
from evac.model.generation import SET_UP_TOKEN
from evac_lab.orders_database import CLIENT, STORE, OrdersDatabase
from evac_lab.process import ServerFailed, find_program
from evac_lab.servers import mariadb
from evac_lab.servers.mariadb import MariadbServer
from evac_lab.site_servers import AgentMore, Endpoint, Ground
from evac_lab.state import PORTS, SITES, LabError, Site, Starter

PLACES: Final = SITES[:2]
"""Where the primary is at first, and its copy."""
POLICY: Final = f"  {STORE}: {{fence_proofs: [sync, attest], on_sync_loss: async, async_promotion: ask}}\n"
_SECONDS: Final = 60.0


def database(ground: Ground) -> OrdersDatabase:
    hosts = {name: ground.topology.site(name).host(STORE) for name in PLACES}
    return OrdersDatabase(hosts, PORTS[STORE], ground.secrets.value("mariadb"))


def server(ground: Ground, site: Site) -> MariadbServer:
    """The server of a site, as it was made."""
    folder, password = ground.folder.data(site.name, STORE), ground.secrets.value("mariadb")
    return MariadbServer(
        site.member, site.host(STORE), PORTS[STORE], folder, site.number, password, site.prefix
    )


def start(starter: Starter, ground: Ground) -> None:
    """Starts both servers, and makes them primary and copy through the driver, as on an ordinary day."""
    sites = [ground.topology.site(name) for name in PLACES]
    password = ground.secrets.value("mariadb")
    accounts = (
        f"CREATE USER IF NOT EXISTS {CLIENT}@'%' IDENTIFIED BY '{password}'",
        f"GRANT SELECT, INSERT ON app.* TO {CLIENT}@'%'",
    )
    template = mariadb.install(ground.folder.path / "mariadb")
    for site in sites:
        made = mariadb.mariadb(
            ground.folder.data(site.name, STORE),
            site.host(STORE),
            PORTS[STORE],
            site.member,
            site.number,
            template=template,
            password=password,
            prefix=site.prefix,
            accounts=accounts,
        )
        starter.launch(site.name, STORE, made.process)
        starter.wait(made.process, made.answers, _SECONDS, f"MariaDB in {site.name}")
    asyncio.run(_lead(ground, *sites))
    starter.tell("MariaDB is synchronous")


async def _lead(ground: Ground, first: Site, copy: Site) -> None:
    async def do(verb: Verb, site: Site, **parameters: Value) -> None:
        order = Order(
            "lab", "up", 1, SET_UP_TOKEN, 0, "the lab comes up", _SECONDS, f"lab/{site.name}/{STORE}"
        )
        action = Action(verb, STORE, "mariadb", site.name, reach(ground, site), parameters)
        await driver.execute(action, order)

    driver = MariadbDriver()
    await do("promote", first, proof="none")
    server(ground, first).sql(
        "CREATE DATABASE app",
        "CREATE TABLE app.probes (member VARCHAR(20), number BIGINT, PRIMARY KEY (member, number))",
    )
    await do("rejoin", copy, primary_host=first.host(STORE), primary_port=PORTS[STORE])
    await do("protect", first, synchronous=(copy.member,))


def reach(ground: Ground, site: Site) -> dict[str, Value]:
    """How evac reaches the member of a site."""
    return {
        "host": site.host(STORE),
        "port": PORTS[STORE],
        "password": ground.secrets.reference("mariadb"),
        "name": site.member,
        "archive": str(ground.folder.archive),
        "bin": program_folder(),
        "rebuild_user": mariadb.ADMIN,
        "rebuild_password": ground.secrets.reference("mariadb"),
    }


def program_folder() -> str:
    """Where MariaDB's client programs are. Raises `MissingProgram`."""
    return str(Path(find_program("mariadb", mariadb.CLIENT_PACKAGE)).parent)


def of_agent(ground: Ground, site: Site) -> AgentMore:
    """What a site's agent may contact and run to rebuild its member; nothing at a site without one."""
    if site.name not in PLACES:
        return AgentMore()
    hosts = tuple(ground.topology.site(name).host(STORE) for name in PLACES)
    return AgentMore(hosts, (program_folder(),), secrets=(ground.secrets.reference("mariadb"),))


def in_estate(document: dict[str, Any], seconds: int) -> None:
    """Adds the store. seconds: duration of a fence or promotion."""
    document["stores"][STORE] = {
        "engine": "mariadb",
        "rpo": "0 s",
        "fence_rung": "isolate",
        "sync_timeout": "never",
        "fence": f"{seconds} s",
        "promote": f"{seconds} s",
        "automatic": False,
        "members": [{"at": PLACES[0], "mode": "primary"}, {"at": PLACES[1], "mode": "sync", "lag": "0 s"}],
    }
    document["services"]["messenger"]["needs"].append({"store": STORE, "hard": False})


def endpoints(ground: Ground, site: Site) -> list[Endpoint]:
    """The endpoint of a site's member; none at a site without one."""
    return [(STORE, STORE, "mariadb", reach(ground, site))] if site.name in PLACES else []


def lost(ground: Ground, acknowledged: set[tuple[str, int]], lost_site: str) -> list[str]:
    """Acknowledged rows that the present primary lacks; the lost site, which may be cut off, is asked last.
    Raises `LabError` if none answers as a primary.
    """
    for name in sorted(PLACES, key=lambda name: name == lost_site):
        try:
            said = server(ground, ground.topology.site(name)).sql(
                "SELECT @@read_only", "SELECT member, number FROM app.probes"
            )
        except ServerFailed:
            continue
        writable, *rows = said.splitlines()
        if writable == "0":
            found = {(member, int(number)) for member, number in map(str.split, rows)}
            return [f"{STORE}/{member}-{number}" for member, number in sorted(acknowledged - found)]
    raise LabError("lab-no-primary", "no MariaDB accepts writes", "evac lab status")
