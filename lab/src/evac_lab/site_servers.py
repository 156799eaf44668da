"""Configures and starts the servers of the three sites, including evac's own.

Each function prepares or starts one kind of server at one site. Addresses come from the topology and secrets
from the lab's folder; `world` decides the order of starts.
"""

from __future__ import annotations

import asyncio
import json
import secrets as randomness
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from evac.agent.config import LOCAL_DRIVERS
from evac.drivers.port import Action, Order
from evac.drivers.process.client import AgentPeer
from evac.drivers.process.driver import ProcessDriver
from evac.model.generation import SET_UP_TOKEN
from evac.model.records import dataclass
from evac.net.etcd_gateway import Gateway
from evac_lab import authorities, messenger
from evac_lab import process as processes
from evac_lab.primaries import Database
from evac_lab.process import Process
from evac_lab.servers import dns, etcd, haproxy, postgres, redis
from evac_lab.state import PORTS, SERVICE, SITES, STORE_USER, ZONE, LabFolder, Site, Topology, store_url

KEY_NAME: Final = "evac-lab"
Endpoint = tuple[str, str, str, Mapping[str, Any]]
"""Name without its site, subject, driver, settings."""
_SECRETS: Final = (
    "postgres",
    "messenger",
    "redis",
    "mariadb",
    "dns",
    "etcd",
    "etcd-root",
    "store-seal",
    *(f"agent-{site}" for site in SITES),
)


@dataclass(frozen=True, slots=True)
class Secrets:
    """The lab's own secrets, made at startup; each is a file that the estate refers to."""

    folder: Path

    def make(self) -> None:
        """New random secrets, readable by this user only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in _SECRETS:
            raw = randomness.token_bytes(32)
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(dns.make_secret(raw) if name == "dns" else raw.hex(), encoding="ascii")

    def value(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="ascii").strip()

    def reference(self, name: str) -> str:
        return f"file:{self.folder / name}"


@dataclass(frozen=True, slots=True)
class Ground:
    """What every server of the lab is configured from."""

    folder: LabFolder
    topology: Topology

    @property
    def secrets(self) -> Secrets:
        return Secrets(self.folder.secrets)

    @property
    def database(self) -> Database:
        """How messengers and clients reach PostgreSQL: with a role that cannot take the last connections."""
        return self._database(messenger.ROLE, "messenger")

    @property
    def operators_database(self) -> Database:
        """How evac, and anyone inspecting the lab, reaches PostgreSQL."""
        return self._database(postgres.USER, "postgres")

    def _database(self, user: str, secret: str) -> Database:
        hosts = {site.name: site.host("postgres") for site in self.topology.sites}
        return Database(hosts, PORTS["postgres"], user, self.secrets.value(secret), "postgres")


def etcd_member(ground: Ground, site: Site, fresh: bool = True) -> etcd.EtcdServer:
    peers = {one.name: f"https://{one.host('etcd')}:{PORTS['peer']}" for one in ground.topology.sites}
    return etcd.etcd(
        ground.folder.data(site.name, "etcd"),
        site.host("etcd"),
        PORTS["etcd"],
        PORTS["peer"],
        site.name,
        peers,
        prefix=site.prefix,
        fresh=fresh,
        tls=authorities.member_files(ground.folder.certificates, site.name),
    )


def root_of_etcd(ground: Ground, site: Site, user: str = etcd.ROOT) -> Gateway:
    """Access to an etcd member as administrator. user: "" before there are any."""
    files = authorities.store_files(ground.folder.certificates)
    tls = (str(files.ca), str(files.cert), str(files.key))
    password = ground.secrets.reference("etcd-root")
    return Gateway([site.url("etcd")], user=user, password=password, tls=tls)


async def lock_etcd(ground: Ground) -> None:
    """Creates users: one for controllers, which can access only evac's own keys."""
    gateway = root_of_etcd(ground, ground.topology.sites[0], "")
    users = {STORE_USER: (ground.secrets.value("etcd"), "evac/")}
    try:
        await etcd.add_users(gateway, ground.secrets.value("etcd-root"), users)
    finally:
        await gateway.close()


def postgres_primary(ground: Ground, site: Site) -> postgres.PostgresServer:
    """The first primary: acknowledges nothing before the replica at the second site has it."""
    return postgres.primary(
        ground.folder.data(site.name, "postgres"),
        site.host("postgres"),
        PORTS["postgres"],
        site.member,
        {"synchronous_commit": "on"},
        password=ground.secrets.value("postgres"),
        prefix=site.prefix,
    )


def postgres_standby(ground: Ground, of: postgres.PostgresServer, site: Site) -> postgres.PostgresServer:
    folder = ground.folder.data(site.name, "postgres")
    host = site.host("postgres")
    return postgres.standby(of, folder, host, PORTS["postgres"], site.member, prefix=site.prefix)


def redis_server(ground: Ground, site: Site) -> redis.RedisServer:
    """The Redis of a site: the first one takes writes, the others follow it."""
    first = ground.topology.sites[0]
    password = ground.secrets.value("redis")
    port = PORTS["redis"]
    of = None
    if site.name != first.name:
        folder = ground.folder.data(first.name, "redis")
        of = redis.RedisServer(first.name, first.host("redis"), port, folder, password)
    return redis.redis(
        ground.folder.data(site.name, "redis"),
        site.host("redis"),
        port,
        site.name,
        of=of,
        password=password,
        prefix=site.prefix,
    )


def dns_server(ground: Ground, site: Site) -> dns.DnsServer:
    return dns.DnsServer(
        f"dns {site.name}",
        site.host("dns"),
        PORTS["dns"],
        ground.folder.data(site.name, "dns"),
        ZONE,
        KEY_NAME,
        ground.secrets.value("dns"),
        site.prefix,
    )


def dns_records(topology: Topology) -> list[tuple[str, str, str]]:
    """Initially all traffic goes to the first site, where the data is."""
    return [(SERVICE, "A", topology.sites[0].host("haproxy"))]


def balancer(ground: Ground, site: Site) -> haproxy.Balancer:
    """Sends to its own site's messenger; hardly anything to the others, and everything while that one does
    not answer. No server is a backup, because backups take all or nothing, and traffic comes home in shares.
    """
    servers = tuple(
        haproxy.Backend(
            one.name,
            one.host("messenger"),
            PORTS["messenger"],
            weight=haproxy.WEIGHT_MOST if one.name == site.name else 1,
        )
        for one in ground.topology.sites
    )
    return haproxy.Balancer(
        f"haproxy {site.name}",
        site.host("haproxy"),
        PORTS["haproxy"],
        PORTS["runtime"],
        ground.folder.data(site.name, "haproxy"),
        SERVICE,
        servers,
        check="/health",
        check_ms=500,
        prefix=site.prefix,
    )


def messenger_config(ground: Ground, site: Site) -> Path:
    """Writes the configuration of a site's messenger; returns the file."""
    path = ground.folder.data(site.name, "messenger") / "config.json"
    config = messenger.MessengerConfig(
        site.name,
        site.host("messenger"),
        PORTS["messenger"],
        ground.database,
        ground.topology.hosts("redis"),
        PORTS["redis"],
        ground.secrets.value("redis"),
    )
    messenger.write_config(path, config)
    return path


INSTANCES_MOST: Final = 4
_START_SECONDS: Final = 15.0


def agent(ground: Ground, site: Site, env: Mapping[str, str], more: AgentMore) -> Process:
    """The agent of a site, with its file written, not started. env: extra variables. more: extra file
    content.
    """
    path = ground.folder.data(site.name, "agent") / "agent.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(agent_file(ground, site, more), encoding="utf-8")
    log = ground.folder.logs / f"{site.name}-agent.log"
    return Process(
        f"agent {site.name}",
        (sys.executable, "-m", "evac", "agent", str(path)),
        log,
        prefix=site.prefix,
        env=env,
    )


def room_url(site: Site) -> str:
    """War room URL of a site, in a lab that asks for approvals."""
    return f"http://{site.host('controller')}:{PORTS['room']}"


def controller(ground: Ground, site: Site, env: Mapping[str, str], *, room: bool = False) -> Process:
    """The controller of a site, not started. It uses the etcd of all sites, its own member first. room: also
    serves the war room.
    """
    store = store_url(ground.topology, site.name)
    estate = str(ground.folder.estate)
    listen = ("--listen", room_url(site).removeprefix("http://")) if room else ()
    argv = (sys.executable, "-m", "evac", "serve", estate, "--site", site.name, "--store", store, *listen)
    log = ground.folder.logs / f"{site.name}-controller.log"
    # an internal error must leave its trace in the log
    known = authorities.environment(ground.folder.certificates, site.name)
    debug = {**env, **known, "EVAC_DEBUG": "1"}
    return Process(f"controller {site.name}", argv, log, prefix=site.prefix, env=debug)


@dataclass(frozen=True, slots=True)
class AgentMore:
    """Additional content of an agent's file beyond the messenger and its database. units: TOML tables."""

    hosts: tuple[str, ...] = ()
    bin: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    units: str = ""
    facts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    def and_also(self, other: AgentMore) -> AgentMore:
        """Both."""
        return AgentMore(
            self.hosts + other.hosts,
            self.bin + other.bin,
            self.data + other.data,
            self.drivers + other.drivers,
            self.units + other.units,
            self.facts + other.facts,
            self.secrets + other.secrets,
        )


def mark_of(ground: Ground, site: Site) -> Mapping[str, str]:
    """The mark of a unit, because an agent passes on no variables of its own."""
    return {processes.MARK: f"{ground.folder.mark}{site.name}"}


def reach_of_messages(ground: Ground, site: Site) -> dict[str, str | int]:
    """How to reach the message database's member at a site."""
    return {
        "host": site.host("postgres"),
        "port": PORTS["postgres"],
        "user": postgres.USER,
        "password": ground.secrets.reference("postgres"),
        "dbname": ground.database.name,
        "name": site.member,
        "data": str(ground.folder.data(site.name, "postgres") / "data"),
        "bin": postgres.program_folder(),
        "system_user": postgres.USER,
        "archive": str(ground.folder.archive),
    }


def agent_file(ground: Ground, site: Site, more: AgentMore) -> str:
    """TOML. The fence is idle while the lab's policy requests no permits."""
    settings = ", ".join(
        f"{key} = {json.dumps(value)}" for key, value in reach_of_messages(ground, site).items()
    )
    argv = (sys.executable, "-m", "evac_lab.messenger", str(messenger_config(ground, site)))
    ((name_of_mark, mark),) = mark_of(ground, site).items()
    hosts = [*ground.topology.hosts("postgres"), *more.hosts]
    programs = [postgres.program_folder(), *more.bin]
    folders = [str(ground.folder.data(site.name, "postgres")), str(ground.folder.archive), *more.data]
    certificates = ground.folder.certificates
    names = [authorities.client_name(one.name) for one in ground.topology.sites]
    names.append(authorities.client_name())
    return "\n".join(
        [
            f"site = {_toml(site.name)}",
            f"host = {_toml(site.host('agent'))}",
            f"port = {PORTS['agent']}",
            'state = "state"',
            *([f"drivers = {json.dumps([*LOCAL_DRIVERS, *more.drivers])}"] if more.drivers else []),
            f"secret = {_toml(ground.secrets.reference(f'agent-{site.name}'))}",
            "",
            "[tls]",
            f"cert = {_toml(f'file:{certificates}/agent-{site.name}.pem')}",
            f"key = {_toml(f'file:{certificates}/agent-{site.name}.key')}",
            f"ca = {_toml(f'file:{certificates}/ca.pem')}",
            f"names = [{', '.join(_toml(name) for name in names)}]",
            "",
            "[allow]",
            f"hosts = {json.dumps(hosts)}",
            f"secrets = {json.dumps([ground.secrets.reference('postgres'), *more.secrets])}",
            f"bin = {json.dumps(programs)}",
            f"data = {json.dumps(folders)}",
            f"facts = {json.dumps(more.facts)}",
            "",
            "[[units]]",
            f"name = {_toml(SERVICE)}",
            f"argv = [{', '.join(_toml(word) for word in argv)}]",
            f"check_url = {_toml(site.url('messenger') + '/health')}",
            f"most = {INSTANCES_MOST}",
            "stop_ms = 1000",
            f"env = {{ {name_of_mark} = {_toml(mark)} }}",
            "",
            "[[fences]]",
            'store = "messages"',
            f"units = [{_toml(SERVICE)}]",
            f'action = {{ driver = "postgres", settings = {{ {settings} }} }}',
            "",
            more.units,
        ]
    )


def _toml(text: str) -> str:
    """A basic TOML string is a JSON string."""
    return json.dumps(text)


def start_unit(ground: Ground, site: Site, unit: str) -> None:
    """Orders one instance and waits until it answers. Raises `ActionError`.

    The token is below that of every leader, so that the first one is obeyed after it.
    """
    settings = {
        "agent": site.url("agent"),
        "secret": ground.secrets.reference(f"agent-{site.name}"),
        "unit": unit,
    }
    action = Action("scale", unit, "process", site.name, settings, {"replicas": 1})
    order = Order(
        "lab", "up", 1, SET_UP_TOKEN, 0, "the lab comes up", _START_SECONDS, f"lab/{site.name}/{unit}"
    )
    asyncio.run(_execute(action, order, authorities.operator(ground.folder.certificates)))


async def _execute(action: Action, order: Order, peer: AgentPeer) -> None:
    driver = ProcessDriver(peer)
    try:
        await driver.execute(action, order)
    finally:
        await driver.close()
