"""The lab as a whole: up, status, down. Starts the servers of all sites in parallel, in a fixed order, and
writes the lab as an estate, with a policy that lets evac act.

Nothing here acts for evac; faults are in `faults`.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from evac.drivers.process.client import Lines
from evac.model.records import dataclass
from evac.model.run_policy import PROFILES
from evac_lab import authorities, clients, doctor, faults, messenger, namespaces, receipts, site_servers
from evac_lab import process as processes
from evac_lab.process import Process
from evac_lab.servers import dns, haproxy, postgres
from evac_lab.site_servers import (
    KEY_NAME,
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
    HALLS,
    PORTS,
    SERVICE,
    SERVICE_NAME,
    SITES,
    ZONE,
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

ROUND_TRIPS: Final = 20
"""Time for a fence or promotion of a PostgreSQL at another site, including its connection."""
PROBE_ROUND_TRIPS: Final = 2
"""Time for a probe: connection and question."""
_POOL: Final = {"cpu": "8 cores", "memory": "8 GiB", "disk": "20 GiB"}
_POLICY: Final = """\
mode: %(mode)s
envelope: {sites: [pangyo, anyang, ansan], stores: [messages, presence%(stores)s], most_lost: 60 s}
watch: %(watch)s
stores:
  messages: {fence_proofs: [sync, attest], on_sync_loss: next, async_promotion: ask}
  presence: {fence_proofs: [none], async_promotion: allow, most_lost: 60 s}
%(second)spatience: {backoff: 100 ms, backoff_most: 2 s}
pace: {shares: [10 %%, 50 %%, 100 %%], wait: 1 s}
"""


def write(
    ground: Ground, delay_ms: float = 0, *, ask: bool = False, halls: bool = False, second: bool = False
) -> Path:
    """Writes estate and policy; returns the folder. delay_ms: one way between sites; slows everything. ask:
    nothing begins without a person. halls: the estate includes halls. second: includes the database without a
    live copy.
    """
    folder = ground.folder.estate
    folder.mkdir(parents=True, exist_ok=True)
    ground.folder.archive.mkdir(exist_ok=True)
    heading = "# The lab as an estate: written by `evac lab up`.\n"
    files = {
        "estate.yaml": document(ground, delay_ms, ask=ask),
        "endpoints.yaml": {"endpoints": endpoints(ground)},
    }
    if second:
        receipts.in_estate(ground, files["estate.yaml"])
        for site in ground.topology.sites:
            files["endpoints.yaml"]["endpoints"] |= _named(site, receipts.endpoints(ground, site))
    if halls:
        _place_in_halls(files["estate.yaml"], files["endpoints.yaml"]["endpoints"])
        rows = [f"{site}-1,{site}/hall-2/rack-1,{site}-pool,8000,8192,20" for site in SITES]
        head = "server,rack,pool,cpu_millicores,memory_mib,disk_gib"
        (folder / "servers.csv").write_text("\n".join((head, *rows, "")), encoding="utf-8")
    for name, content in files.items():
        text = yaml.safe_dump(content, sort_keys=False, width=110)
        (folder / name).write_text(heading + text, encoding="utf-8")
    policy = _POLICY % {
        "mode": "hold" if ask else "act",
        "watch": watch(delay_ms),
        "stores": f", {receipts.STORE}" if second else "",
        "second": receipts.POLICY if second else "",
    }
    (folder / "policy.yaml").write_text(policy, encoding="utf-8")
    return folder


def _place_in_halls(estate: dict[str, Any], ends: dict[str, Any]) -> None:
    """Assigns everything to its hall, so that the loss of one can be judged and planned."""
    hall_of = {role: hall for hall, roles in HALLS.items() for role in roles}
    estate["halls"] = {f"{site}/{hall}": {} for site in SITES for hall in HALLS}
    estate["racks"] = {f"{site}/hall-2/rack-1": {} for site in SITES}
    estate["services"][SERVICE]["replicas"] = {f"{site}-pool": 1 for site in SITES}
    for store, role in (("messages", "postgres"), ("presence", "redis")):
        for member in estate["stores"][store]["members"]:
            member["at"] += f"/{hall_of[role]}"
    for name, end in ends.items():
        server = _ROLE_OF.get(name.rpartition("-")[0])
        if server is not None:
            end["hall"] = f"{end['at']}/{hall_of[server]}"


def watch(delay_ms: float) -> str:
    """Watch settings for links of that delay, one way.

    A probe connects and asks, which is two round trips: distant sites need that much more time, or they look
    dead whenever the machine is slightly late. A lost site is then detected that much later.
    """
    profile = PROFILES["lab"]
    if not delay_ms:
        return f"{{profile: {profile.name}}}"
    deadline_ms = profile.deadline_ms + math.ceil(PROBE_ROUND_TRIPS * 2 * delay_ms)
    period_ms = max(profile.period_ms, deadline_ms)
    return f"{{profile: {profile.name}, deadline: {deadline_ms} ms, period: {period_ms} ms}}"


def document(ground: Ground, delay_ms: float = 0, *, ask: bool = False) -> dict[str, Any]:
    """Sites, pools, services and stores."""
    sites = [site.name for site in ground.topology.sites]
    return {
        "evac": 1,
        "name": "lab",
        "detection": "2 s",
        "approval": "1 min" if ask else "0 s",
        "limits": {"manual": {"unprotect": "5 s"}},
        "sites": {site: {"people": "nobody; a lab"} for site in sites},
        "pools": {f"{site}-pool": {"site": site, **_POOL} for site in sites},
        "services": _services(sites),
        "stores": _stores(1 + math.ceil(ROUND_TRIPS * 2 * delay_ms / 1_000)),
    }


def _services(sites: list[str]) -> dict[str, Any]:
    return {
        SERVICE: {
            "owner": "lab",
            "tier": 0,
            "people": 1_000,
            "rto": "30 s",
            "rpo": "0 s",
            "demand": {"cpu": "100 mCPU", "memory": "64 MiB"},
            "replicas": dict.fromkeys(sites, 1),
            "share": "1/3",
            "start": "2 s",
            "verify": "1 s",
            "needs": [{"store": "messages"}, {"store": "presence", "hard": False}],
            "traffic": {"kind": "dns", "ttl": "1 s", "change": "1 s", "settle": "1 s"},
        },
    }


def _stores(seconds: int) -> dict[str, Any]:
    """Messages lose nothing between the first two sites; presence may lose what it can learn again. seconds:
    duration of a fence or promotion.
    """
    messages: list[dict[str, str]] = [{"at": SITES[0], "mode": "primary"}]
    messages += [
        {"at": SITES[1], "mode": "sync", "lag": "0 s"},
        {"at": SITES[2], "mode": "async", "lag": "1 s"},
    ]
    presence: list[dict[str, str]] = [{"at": SITES[0], "mode": "primary"}]
    presence += [{"at": site, "mode": "async", "lag": f"{row} s"} for row, site in enumerate(SITES[1:], 1)]
    times = {"fence": f"{seconds} s", "promote": f"{seconds} s", "automatic": False}
    return {
        "messages": {
            "engine": "postgresql",
            "rpo": "0 s",
            "fence_rung": "isolate",
            "sync_timeout": "never",
            **times,
            "members": messages,
        },
        "presence": {"engine": "redis", "rpo": "60 s", "fence_rung": "none", **times, "members": presence},
    }


def endpoints(ground: Ground) -> dict[str, Any]:
    """How to reach each real server, one site at a time."""
    found: dict[str, Any] = {}
    for site in ground.topology.sites:
        found |= _named(site, (*_data(ground, site), *_traffic(ground, site)))
    return found


def _named(site: Site, ends: Sequence[receipts.Endpoint]) -> dict[str, Any]:
    return {
        f"{name}-{site.name}": {"for": subject, "driver": driver, "settings": dict(settings), "at": site.name}
        for name, subject, driver, settings in ends
    }


_ROLE_OF: Final = {
    "member": "etcd",
    "unit": "agent",
    "names": "dns",
    "balancer": "haproxy",
    "door": "haproxy",
}
"""Endpoint, without its site -> the server that it reaches; for stores the members say where they are."""


def _data(ground: Ground, site: Site) -> list[receipts.Endpoint]:
    """Endpoints of stores and of what runs the service."""
    secrets = ground.secrets
    messages = site_servers.reach_of_messages(ground, site)
    password = secrets.reference("redis")
    presence = {"host": site.host("redis"), "port": PORTS["redis"], "password": password}
    unit = {"agent": site.url("agent"), "secret": secrets.reference(f"agent-{site.name}"), "unit": SERVICE}
    return [
        ("messages", "messages", "postgres", messages),
        ("presence", "presence", "redis", presence),
        ("member", site.name, "etcd", {"url": site.url("etcd"), **_shown_to_etcd(ground)}),
        ("unit", SERVICE, "process", unit),
    ]


def _shown_to_etcd(ground: Ground) -> Mapping[str, str]:
    """A witness presents the same certificate as an operator: it asks whether the member is alive, and has no
    user.
    """
    files = authorities.store_files(ground.folder.certificates)
    return {"ca": f"file:{files.ca}", "cert": f"file:{files.cert}", "key": f"file:{files.key}"}


def _traffic(ground: Ground, site: Site) -> list[receipts.Endpoint]:
    sites = ground.topology.sites
    balancers = ",".join(f"{one.name}:{one.host('haproxy')}" for one in sites)
    health = f"{site.url('haproxy')}/health"
    names = {
        "server": site.host("dns"),
        "port": PORTS["dns"],
        "zone": ZONE,
        "key_name": KEY_NAME,
        "key_secret": ground.secrets.reference("dns"),
        "key_algorithm": "hmac-sha256",
        "records": [f"{SERVICE}={balancers}"],
    }
    balancer = {
        "host": site.host("haproxy"),
        "port": PORTS["runtime"],
        "backend": SERVICE,
        "servers": [f"{one.name}={one.name}" for one in sites],
    }
    return [
        ("names", SERVICE, "dns", names),
        ("balancer", SERVICE, "haproxy", balancer),
        ("door", SERVICE, "http", {"url": health, "method": "GET", "observe_url": health}),
    ]


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
    write(ground, options.delay_ms, ask=options.ask, halls=options.halls, second=options.second)
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
        if options.controllers:
            _results([pool.submit(_start_controller, starter, ground, site, options) for site in sites])
            # A lab is up when someone leads.
            wait_for(lambda: bool(leader_site(ground.topology)), READY_SECONDS, "electing a leader")
            starter.tell("a controller leads")
    starter.check()
    start_clients(starter, ground, options)
    if options.controllers:
        wait_for_plans(ground.topology, starter.tell, options.plans_s)
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
    process = starter.launch(site.name, "agent", site_servers.agent(ground, site, env, more))
    url = f"{site.url('agent')}/v1/health"
    line = Lines(authorities.operator(ground.folder.certificates)).to(url)
    starter.wait(process, lambda: answers(url, line=line), READY_SECONDS, f"agent of {site.name}")


def _start_controller(starter: Starter, ground: Ground, site: Site, options: Options) -> None:
    env = faults.environment(starter.folder, site.name) if options.clocks else {}
    process = site_servers.controller(ground, site, env, room=options.ask)
    starter.launch(site.name, "controller", process)
    starter.tell(f"controller of {site.name}")


def wait_for_plans(
    topology: Topology, told: Callable[[str], None] = lambda words: None, within_s: float = PLANS_SECONDS
) -> tuple[str, ...]:
    """Waits until each site's loss has a standby plan and a synchronous copy is proven to have every message;
    returns the sites and stores still lacking it. A lab without them is up, but slower to respond to a fire.
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
        left += [] if seen is not None and SYNCHRONOUS in seen.proven else [SYNCHRONOUS]
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
