"""The lab as a whole: up, status, down. Starts the servers of all sites in parallel, in a fixed order.

Nothing here acts for evac; faults are in `faults`.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from evac.drivers.process.client import Lines
from evac.model.records import dataclass
from evac_lab import (
    authorities,
    clients,
    doctor,
    faults,
    lab_estate,
    messenger,
    namespaces,
    orders,
    receipts,
    site_servers,
)
from evac_lab import process as processes
from evac_lab.orders_database import STORE as ORDERS
from evac_lab.process import Process
from evac_lab.servers import dns, haproxy, postgres
from evac_lab.site_servers import (
    Ground,
    Secrets,
    balancer,
    dns_records,
    dns_server,
    etcd_member,
    postgres_primary,
    postgres_standby,
    redis_server,
)
from evac_lab.state import (
    PORTS,
    SERVICE,
    SERVICE_NAME,
    LabError,
    LabFolder,
    LabState,
    Progress,
    Site,
    Starter,
    Topology,
    World,
    answers,
    default_folder,
    living,
    store_url,
    topology,
    wait_for,
)
from evac_lab.status import leader_site, watchers

READY_SECONDS: Final = 30.0
ROOM_SECONDS: Final = 120.0
"""A war room yields to everything else that starts."""
PLANS_SECONDS: Final = 60.0
SYNCHRONOUS: Final = "messages"
"""The store whose synchronous copy is its fence."""
"""Time for the first plans: a fire before them waits for the planner."""
_STEPS: Final = 32
_LOOK_SECONDS: Final = 0.5
_KEPT: Final = ("fires",)
"""What a lab leaves behind: the reports of its fires."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a lab. writers: number of writing clients. delay_ms: one way, between sites (namespaces).
    clocks: evac's processes get clocks that may jump. controllers: False: people must put fires out. plans_s:
    how long to wait for a plan for the loss of each site. ask: controllers wait for approvals, and serve the
    war room (loopback). halls: the estate includes halls. second: also the database without a live copy.
    mariadb: also the MariaDB.
    """

    world: World = "loopback"
    offset: int = 0
    writers: int = 20
    pause_s: float = 0.2
    delay_ms: float = 0.0
    clocks: bool = False
    controllers: bool = True
    plans_s: float = PLANS_SECONDS
    ask: bool = False
    halls: bool = False
    second: bool = False
    mariadb: bool = False


def up(
    options: Options, folder: LabFolder | None = None, progress: Progress = lambda share, words: None
) -> LabState:
    """Starts a lab, or leaves nothing behind. Raises `LabError`, `MissingProgram`, `ServerFailed`."""
    place = folder or LabFolder(default_folder())
    with place.locked():
        _clear_dead_lab(place)
        doctor.require(topology(options.world, options.offset), place.path)
        _empty(place)
        state = LabState(
            options.world, options.offset, time.time(), delay_ms=options.delay_ms, folder=str(place.path)
        )
        place.write(state)
        starter = Starter(place, state, progress, _STEPS)
        try:
            _start_all(starter, options)
        except BaseException:
            _end_all(place, starter.state)
            starter.let_go()
            raise
        starter.change(phase="up")
        starter.let_go()
        return starter.state


def down(folder: LabFolder | None = None) -> int:
    """Ends everything that the lab started, including leftovers of a crash; returns the number of
    processes.
    """
    place = folder or LabFolder(default_folder())
    if not place.path.exists():
        return 0
    with place.locked():
        try:
            state = place.read()
        except LabError:
            # the state is unreadable; the marks of the processes are enough
            state = None
        ended = _end_all(place, state)
        _empty(place)
        return ended


def _clear_dead_lab(place: LabFolder) -> None:
    """Raises `LabError` if a lab runs in the folder; removes leftovers of a dead one (a reboot, a kill)."""
    try:
        state = place.read()
    except LabError:
        if living(None, place):
            raise
        state = None
    if living(state, place):
        phase = state.phase if state is not None else "starting"
        what = "a lab is running" if phase == "up" else "a lab that did not start is left over"
        raise LabError("lab-up", f"{what} in {place.path}", "evac lab down")
    _end_all(place, state)


def _end_all(place: LabFolder, state: LabState | None) -> int:
    """Sends SIGKILL until nothing is alive: a family may grow while it is being killed."""
    ended = 0
    for _ in range(20):
        pids = living(state, place)
        if not pids:
            break
        ended += len(pids)
        processes.send(pids, 9)
        processes.wait_gone(pids, 5.0)
    if state is not None:
        namespaces.remove(state)
    return ended


def _empty(place: LabFolder) -> None:
    """Removes everything except reports, the lock and foreign files (of which none are expected)."""
    for path in place.path.iterdir() if place.path.exists() else ():
        if path.name in (*_KEPT, "lock"):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _start_all(starter: Starter, options: Options) -> None:
    ground = Ground(starter.folder, starter.state.topology)
    starter.folder.path.chmod(0o755)
    Secrets(starter.folder.secrets).make()
    starter.folder.store.touch(mode=0o600)
    starter.folder.store.write_text(store_url(ground.topology) + "\n", encoding="utf-8")
    authorities.make(starter.folder.certificates, ground.topology)
    lab_estate.write(
        ground,
        options.delay_ms,
        ask=options.ask,
        halls=options.halls,
        second=options.second,
        mariadb=options.mariadb,
    )
    if options.second:
        receipts.prepare(ground)
    if options.world == "namespaces":
        namespaces.build(starter, ground.topology, options.delay_ms)
    with ThreadPoolExecutor(max_workers=12) as pool:
        sites = ground.topology.sites
        database = pool.submit(_start_postgres, starter, ground, pool)
        quorum = [pool.submit(_start_etcd, starter, ground, site) for site in sites]
        rest = [pool.submit(_start_simple, starter, ground, site) for site in sites]
        rest += [pool.submit(_start_agent, starter, ground, site, options) for site in sites]
        _results(quorum)
        asyncio.run(site_servers.lock_etcd(ground))
        _results(rest)
        database.result()
        # before anyone leads: an agent that has obeyed a leader accepts no order of ours
        _results([pool.submit(_start_messenger, starter, ground, site) for site in sites])
        if options.second:
            receipts.start(starter, ground)
        if options.mariadb:
            orders.start(starter, ground)
        if options.controllers:
            _results([pool.submit(_start_controller, starter, ground, site, options) for site in sites])
            # A lab is up when someone leads.
            wait_for(lambda: bool(leader_site(ground.topology)), READY_SECONDS, "electing a leader")
            starter.tell("a controller leads")
    starter.check()
    start_clients(starter, ground, options)
    if options.controllers:
        wait_for_plans(ground.topology, starter.tell, options.plans_s, synchronous(starter.state))
    for url in map(site_servers.room_url, ground.topology.sites if options.ask else ()):
        wait_for(partial(answers, f"{url}/readyz"), ROOM_SECONDS, f"the war room at {url}")
        starter.tell(f"the war room {url}")


def _results(futures: Sequence[Future[None]]) -> None:
    for future in futures:
        future.result()


def _start_postgres(starter: Starter, ground: Ground, pool: ThreadPoolExecutor) -> None:
    """Starts the primary, then both replicas at once; then commits wait for the replica of the second
    site.
    """
    first, *others = ground.topology.sites
    primary = postgres_primary(ground, first)
    starter.launch(first.name, "postgres", primary.process)
    starter.wait(primary.process, primary.answers, READY_SECONDS, "PostgreSQL primary")
    primary.sql(messenger.schema(ground.secrets.value("messenger")))
    _results([pool.submit(_start_standby, starter, ground, primary, site) for site in others])
    postgres.set_synchronous(primary, (others[0].member,))
    postgres.wait_for_standby(primary, others[0].member, ("sync",), READY_SECONDS)
    starter.tell("PostgreSQL is synchronous")


def _start_standby(starter: Starter, ground: Ground, primary: postgres.PostgresServer, site: Site) -> None:
    server = postgres_standby(ground, primary, site)
    starter.launch(site.name, "postgres", server.process)
    starter.wait(server.process, server.answers, READY_SECONDS, f"PostgreSQL in {site.name}")
    postgres.wait_for_standby(primary, site.member, timeout_s=READY_SECONDS)


def _start_etcd(starter: Starter, ground: Ground, site: Site) -> None:
    member = etcd_member(ground, site)
    starter.launch(site.name, "etcd", member.process)
    starter.wait(member.process, member.answers, READY_SECONDS, f"etcd in {site.name}")


def _start_simple(starter: Starter, ground: Ground, site: Site) -> None:
    """Starts Redis, DNS and load balancer of a site: they do not depend on each other."""
    store = redis_server(ground, site)
    starter.launch(site.name, "redis", store.process)
    names = dns_server(ground, site)
    dns.prepare(names, dns_records(ground.topology), ttl_seconds=1)
    named = starter.launch(site.name, "dns", dns.process(names))
    door = balancer(ground, site)
    haproxy.prepare(door)
    opened = starter.launch(site.name, "haproxy", haproxy.process(door))
    starter.wait(store.process, store.answers, READY_SECONDS, f"Redis in {site.name}")
    starter.wait(named, lambda: dns.answers(names, 0.2), READY_SECONDS, f"DNS in {site.name}")
    starter.wait(opened, lambda: haproxy.answers(door), READY_SECONDS, f"HAProxy in {site.name}")


def _start_messenger(starter: Starter, ground: Ground, site: Site) -> None:
    """Starts it through the site's agent, as its unit."""
    site_servers.start_unit(ground, site, SERVICE)
    wait_for(
        lambda: answers(f"{site.url('messenger')}/ready"), READY_SECONDS, f"the messenger of {site.name}"
    )
    starter.tell(f"messenger in {site.name}")


def _start_agent(starter: Starter, ground: Ground, site: Site, options: Options) -> None:
    env = faults.environment(starter.folder, site.name) if options.clocks else {}
    more = receipts.of_agent(ground, site) if options.second else site_servers.AgentMore()
    more = more.and_also(orders.of_agent(ground, site)) if options.mariadb else more
    process = starter.launch(site.name, "agent", site_servers.agent(ground, site, env, more))
    url = f"{site.url('agent')}/v1/health"
    line = Lines(authorities.operator(ground.folder.certificates)).to(url)
    starter.wait(process, lambda: answers(url, line=line), READY_SECONDS, f"agent of {site.name}")


def _start_controller(starter: Starter, ground: Ground, site: Site, options: Options) -> None:
    env = faults.environment(starter.folder, site.name) if options.clocks else {}
    process = site_servers.controller(ground, site, env, room=options.ask)
    starter.launch(site.name, "controller", process)
    starter.tell(f"controller of {site.name}")


def synchronous(state: LabState) -> tuple[str, ...]:
    """Stores of a lab whose synchronous copy is their fence."""
    return (SYNCHRONOUS, ORDERS) if any(one.role == ORDERS for one in state.processes) else (SYNCHRONOUS,)


def wait_for_plans(
    topology: Topology,
    told: Callable[[str], None] = lambda words: None,
    within_s: float = PLANS_SECONDS,
    stores: Sequence[str] = (SYNCHRONOUS,),
) -> tuple[str, ...]:
    """Waits until each site's loss has a standby plan and a synchronous copy of each of the stores is proven
    to have every commit; returns the sites and stores still lacking it. A lab without them is up, but slower
    to respond to a fire.
    """
    deadline = time.monotonic() + within_s
    known: set[str] = set()
    while True:
        seen = watchers(topology)
        ready = seen.ready if seen is not None else ()
        for site in ready:
            if site not in known:
                known.add(site)
                told(f"a plan for the loss of {site}")
        left = [site.name for site in topology.sites if site.name not in ready]
        left += [store for store in stores if seen is None or store not in seen.proven]
        if not left or time.monotonic() > deadline:
            return tuple(left)
        time.sleep(_LOOK_SECONDS)


def start_clients(starter: Starter, ground: Ground, options: Options) -> None:
    """Starts the clients, outside every site, and their probes."""
    path = starter.folder.path / "clients.json"
    first = ground.topology.clients if options.world == "loopback" else ""
    config = clients.ClientsConfig(
        SERVICE_NAME,
        PORTS["haproxy"],
        ground.topology.hosts("dns"),
        PORTS["dns"],
        str(starter.folder.ledger),
        ground.database,
        first,
        options.writers,
        options.pause_s,
        orders=orders.database(ground) if options.mariadb else None,
    )
    clients.write_config(path, config)
    process = _own(starter, (sys.executable, "-m", "evac_lab.clients", str(path)), None, "clients")
    starter.wait(process, lambda: _written(starter.folder.ledger), READY_SECONDS, "clients")


def _own(starter: Starter, argv: tuple[str, ...], site: Site | None, role: str) -> Process:
    """One of evac's own Python processes."""
    name = site.name if site else ""
    log = starter.folder.logs / f"{f'{name}-' if name else ''}{role}.log"
    prefix = site.prefix if site else ()
    return starter.launch(name, role, Process(f"{role} {name}".strip(), argv, log, prefix=prefix))


def _written(ledger: Path) -> bool:
    return ledger.exists() and b'"ack"' in ledger.read_bytes()[-65_536:]
