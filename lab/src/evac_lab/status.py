"""What is alive, what takes writes, how the clients are doing, and evac's view; as text and live.

Reads evac's store like any other reader; a lab without controllers has no such data.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype
import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evac.engine.plans import library
from evac.engine.runs.live_actions import PREFIX as STANDING
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.guards import SITES_KEY
from evac.model.errors import EvacError, Unavailable
from evac.model.records import dataclass
from evac.model.run_policy import SUCCEEDED
from evac.model.step_id import StepId
from evac.run.decide import EVAC
from evac.run.values import ENDED
from evac.store.journal import head_of, read
from evac.store.opening import open_store
from evac.store.port import Entry, Store, owner_in
from evac_lab import clients
from evac_lab.primaries import ASK_SECONDS, Database, Failures, redis_master
from evac_lab.site_servers import Ground
from evac_lab.state import HOSTS, PORTS, SERVICE_NAME, SITES, LabFolder, LabState, Site, Topology, store_url

LEADER: Final = "leader"
WATCHERS_SECONDS: Final = 3.0
LEFT_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 0.25
_RUN_PREFIX: Final = "incident/"
_WATCH_STREAM: Final = "watch"
UNHARMED: Final = "unharmed"
"""State of a fire for which nothing had to move."""
ENDED_WELL: Final = SUCCEEDED | {UNHARMED}
_STEP_MILESTONES: Final = {
    "fence": "fenced",
    "promote": "promoted",
    "protect": "promoted",
    "shift": "shifted",
}
"""Kind of step -> milestone. For a hanging primary, another synchronous replica is what a promotion is for a
lost one: from then on writes succeed.
"""
_FIRST: Final = ("detected", "decided")
"""Milestones of which the first counts, if several runs respond to one fire."""
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run. seconds: milestone -> seconds since the fire. phase: of the run, "" while it is open."""

    run: str
    phase: str
    seconds: Mapping[str, float]


def ask(topology: Topology, question: Callable[[Store], Awaitable[Answer]], first: str = "") -> Answer:
    """Opens the store, runs a query, closes it."""

    async def asked() -> Answer:
        store = open_store(store_url(topology, first))
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(asked())


def leader_site(topology: Topology, first: str = "") -> str:
    """Site of the leading controller; "" if none leads or the store does not answer."""

    async def question(store: Store) -> str:
        lease = await store.holder(LEADER)
        return site_in(lease.owner) if lease is not None else ""

    try:
        return ask(topology, question, first)
    except EvacError:
        return ""


@dataclass(frozen=True, slots=True)
class Watchers:
    """What evac's controllers report. leader: site of the leader, "" if none. ready: sites whose loss has a
    standby plan; problems: site -> why it has none. open_runs: not ended. proven: stores with a synchronous
    copy proven to have every commit; promoting another copy waits for a person.
    """

    leader: str
    ready: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    open_runs: tuple[str, ...] = ()
    proven: tuple[str, ...] = ()


def watchers(topology: Topology, first: str = "", within_s: float = WATCHERS_SECONDS) -> Watchers | None:
    """None if the store does not answer in time."""

    sites = tuple(site.name for site in topology.sites)

    async def question(store: Store) -> Watchers:
        async with asyncio.timeout(within_s):
            lease, plans, runs, proofs = await asyncio.gather(
                store.holder(LEADER), plans_ready(store, sites), store.list(OPEN), store.list(STANDING)
            )
        return Watchers(
            site_in(lease.owner) if lease is not None else "",
            tuple(site for site, ready in plans.items() if ready.plan),
            {site: ready.problem for site, ready in plans.items() if not ready.plan},
            tuple(entry.key.removeprefix(OPEN) for entry in runs),
            tuple(entry.key.removeprefix(STANDING) for entry in proofs),
        )

    try:
        return ask(topology, question, first)
    except (EvacError, TimeoutError):
        return None


def left_sites(topology: Topology, first: str = "", within_s: float = LEFT_SECONDS) -> tuple[str, ...]:
    """Sites that evac took out of service and that have not been restored; none if the store does not answer
    in time, for example while electing after a member returned.
    """

    async def question(store: Store) -> tuple[str, ...]:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    entry = await store.get(SITES_KEY)
                    break
                except Unavailable:
                    await asyncio.sleep(_AGAIN_SECONDS)
        register = {} if entry is None else orjson.loads(entry.value)
        return tuple(site for site, mark in register.items() if mark != "active")

    try:
        return ask(topology, question, first)
    except (EvacError, TimeoutError):
        return ()


async def plans_ready(store: Store, sites: Sequence[str]) -> dict[str, library.Ready]:
    """Standby plans for the loss of each single site; plans made for other roles than those last seen do not
    count, as they are made again.
    """
    from evac.app.published import KEY, digest_in

    keys = [KEY, *(library.key_of((site,)) for site in sites)]
    observed, *entries = await asyncio.gather(*(store.get(key) for key in keys))
    digest = "" if observed is None else digest_in(observed.value)
    found = [library.decode(entry) for entry in entries if entry is not None]
    return {ready.lost[0]: ready for ready in found if ready is not None and digest in ("", ready.estate)}


def site_in(owner: str) -> str:
    """The site of a lease holder; empty if it is none of the lab's."""
    site = owner_in(owner).site
    return site if site in SITES else ""


@dataclass(frozen=True, slots=True)
class Before:
    """What the store contained before a fire, so that it need not be read again. runs: of all incidents;
    watched: segments of the watch journal.
    """

    runs: frozenset[str] = frozenset()
    watched: int = 0


NO_RECORD = Before()


def before_fire(topology: Topology, first: str = "") -> Before:
    """Empty if the store does not answer: then everything is read."""

    async def question(store: Store) -> Before:
        head, entries = await asyncio.gather(head_of(store, _WATCH_STREAM), store.list(_RUN_PREFIX))
        return Before(frozenset(map(_run_in, entries)), 0 if head is None else head.segment)

    try:
        return ask(topology, question, first)
    except EvacError:
        return Before()


def _run_in(entry: Entry) -> str:
    return str(orjson.loads(entry.value).get("run", ""))


def run_of_fire(
    topology: Topology,
    site: str,
    burnt_at: float,
    first: str,
    ahead: Mapping[str, float],
    before: Before = NO_RECORD,
) -> RunFacts | None:
    """Milestones of the runs created after the fire. None while there are none, unless a controller reported
    that nothing has to move.

    A loss may create two: one that evacuates, and one for each store that only lost its synchronous replica.
    ahead: site -> seconds that its clock was made to jump, by which its leader's times are corrected.
    """

    async def question(store: Store) -> RunFacts | None:
        watched = [row async for row in _records(store, _WATCH_STREAM, before.watched)]
        lease = await store.holder(LEADER)
        shift_ms = round(1_000 * ahead.get(site_in(lease.owner) if lease is not None else "", 0.0))
        watched = moved(watched, shift_ms)
        runs: list[RunFacts] = []
        for entry in await store.list(_RUN_PREFIX):
            run = _run_in(entry)
            if run in before.runs:
                continue
            events = moved([row async for row in _records(store, run)] if run else [], shift_ms)
            if events and events[0][1] >= burnt_at * 1_000 and not is_withdrawn(events):
                runs.append(facts(run, events, watched, site, burnt_at))
        return together(runs) or unharmed(watched, site, burnt_at)

    try:
        return ask(topology, question, first)
    except EvacError:
        return None


def moved(rows: Sequence[Sequence[Any]], shift_ms: int) -> list[Sequence[Any]]:
    """Records with corrected times: [kind, at_ms, ...] of a clock that was ahead by `shift_ms`."""
    return [[kind, int(at_ms) - shift_ms, *rest] for kind, at_ms, *rest in rows]


def is_withdrawn(events: Sequence[Sequence[Any]]) -> bool:
    """Whether evac itself withdrew a run that asked a person, because stalled commits resumed."""
    return any(
        kind == "cancelled" and bool(rest) and isinstance(rest[-1], dict) and rest[-1].get("who") == EVAC
        for kind, _, *rest in events
    )


def together(runs: Sequence[RunFacts]) -> RunFacts | None:
    """Several runs as one: it ends when all have, with the worst outcome. For detection and decision the
    first counts, for actions the last.
    """
    if not runs:
        return None
    seconds: dict[str, float] = {}
    for one in runs:
        for name, at in one.seconds.items():
            which = min if name in _FIRST else max
            seconds[name] = which(at, seconds.get(name, at))
    phases = [one.phase for one in runs]
    bad = [phase for phase in phases if phase and phase not in SUCCEEDED]
    phase = "" if "" in phases else (bad or phases)[0]
    if not phase:
        seconds.pop("ended", None)
    return RunFacts(", ".join(one.run for one in runs), phase, seconds)


async def _records(store: Store, stream: str, after: int = 0) -> Any:
    async for segment in read(store, stream, after):
        for record in segment.records:
            yield orjson.loads(record)


def facts(
    run: str, events: Sequence[Sequence[Any]], watched: Sequence[Sequence[Any]], site: str, burnt_at: float
) -> RunFacts:
    """Milestones of a run. An event is [kind, at_ms, step, attempt, data]; a step milestone is reached when
    the last step of its kind succeeds.
    """
    seconds: dict[str, float] = {}
    phase = ""
    for kind, at_ms, *rest in events:
        at = round(at_ms / 1_000 - burnt_at, 3)
        if kind == "run_created":
            seconds.setdefault("decided", at)
        elif kind == "step_succeeded" and (name := _STEP_MILESTONES.get(StepId.parse(str(rest[0])).kind)):
            seconds[name] = at
        elif kind == "run_ended":
            data = rest[-1]
            found = str(data.get("phase", "") if isinstance(data, dict) else data[0])
            phase = found if found in ENDED else "failed"
            seconds["ended"] = at
    lost = [at_ms for at_ms in _lost_at(watched, site) if at_ms >= burnt_at * 1_000]
    if lost:
        seconds["detected"] = round(min(lost) / 1_000 - burnt_at, 3)
    return RunFacts(run, phase, seconds)


def unharmed(watched: Sequence[Sequence[Any]], site: str, burnt_at: float) -> RunFacts | None:
    """The facts if a controller reported that nothing has to move for what burnt; no run is created then."""
    for kind, at_ms, about, _, data in watched:
        of_site = kind == "loss" and about.partition("/")[0] == site and at_ms >= burnt_at * 1_000
        if of_site and data.get("steps") == 0:
            return replace(facts("", (), watched, site, burnt_at), phase=UNHARMED)
    return None


def _lost_at(watched: Sequence[Sequence[Any]], site: str) -> list[int]:
    """When verdicts reported the site, or a hall of it, as lost.

    A record is [kind, at_ms, site, words, data].
    """
    return [
        int(at_ms)
        for kind, at_ms, about, _, data in watched
        if kind == "verdict" and about.partition("/")[0] == site and data.get("state") == "lost"
    ]


_TAIL_BYTES: Final = 262_144
_RECENT_SECONDS: Final = 3.0
_ROLE: Final = """
select pg_is_in_recovery(), application_name, sync_state
from (values (true)) as one left join pg_stat_replication on not pg_is_in_recovery()
order by application_name
"""


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """One site. servers: role -> "up", "down" or "stopped" according to the process table."""

    name: str
    state: str
    servers: Mapping[str, str]
    postgres: str
    """"primary" or "replica"; empty if it does not answer."""
    redis: str
    names: tuple[str, ...]
    copies: Mapping[str, str] = field(default_factory=dict)
    """Copies that follow its primary -> how they confirm commits, such as "sync"."""


@dataclass(frozen=True, slots=True)
class Status:
    """The whole lab. writes_per_second: acknowledged to clients in the last seconds. watchers: None if no
    controller of evac runs or its store does not answer.
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
    """One look: about a second, or three if evac's store does not answer."""
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
            copies,
        )
        for site, ((postgres, copies), names) in zip(state.topology.sites, rows, strict=True)
    )
    writes, failures, last = pulse(folder.ledger)
    return Status(state.world, state.phase, sites, writes, failures, last, _watchers(state))


def _watchers(state: LabState) -> Watchers | None:
    """From a member whose site is neither burnt nor cut off."""
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


async def _look(ground: Ground) -> Sequence[tuple[tuple[str, dict[str, str]], tuple[str, ...]]]:
    database = ground.operators_database
    sites = ground.topology.sites
    roles = asyncio.gather(*(_postgres(database, site.name) for site in sites))
    names = asyncio.gather(*(_names(site.host("dns")) for site in sites))
    return list(zip(await roles, await names, strict=True))


async def _postgres(database: Database, site: str) -> tuple[str, dict[str, str]]:
    """Its role, and the copies that follow it."""
    try:
        connection = await database.connect(database.hosts[site], "lab-status")
    except Failures:
        return "", {}
    try:
        rows = await connection.rows(_ROLE, seconds=ASK_SECONDS)
        copies = {str(name): str(how) for _, name, how in rows if name is not None}
        return "replica" if rows[0][0] else "primary", copies
    except Failures:
        return "", {}
    finally:
        connection.end()


async def _names(host: str) -> tuple[str, ...]:
    """This site's DNS answer for the service."""
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
    """The messenger is a unit of the site's agent and counts as up when it answers. So does a PostgreSQL that
    the agent restarted after a rewind.
    """
    known = {one.role: one.alive for one in state.of_site(site.name)}
    known["messenger"] = unit_lives(site)
    if postgres:
        known["postgres"] = True
    return {role: "up" if known[role] else "down" for role in HOSTS if role in known}


def unit_lives(site: Site) -> bool:
    """Whether the site's messenger listens and answers."""
    import urllib.request

    try:
        with urllib.request.urlopen(f"{site.url('messenger')}/health", timeout=ASK_SECONDS) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def pulse(path: Path, now: float | None = None) -> tuple[float, float, float | None]:
    """(acknowledged per second, failed per second, seconds since the last one) from the end of the ledger."""
    moment = time.time() if now is None else now
    start = max(0, clients.size(path) - _TAIL_BYTES)
    rows = list(clients.read_ledger(path, _line_start(path, start)))
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


_STYLES = {"up": "green", "burnt": "bold red", "cut off": "yellow"}


def picture(status: Status) -> RenderableType:
    """Sites side by side, then the clients."""
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    table.add_column("")
    for site in status.sites:
        table.add_column(Text(site.name, style="bold"))
    table.add_row("site", *(Text(site.state, style=_STYLES.get(site.state, "")) for site in status.sites))
    table.add_row("servers", *(_server_lines(site) for site in status.sites))
    table.add_row("messages", *(_word(site.postgres) for site in status.sites))
    if any(site.copies for site in status.sites):
        table.add_row("  copies", *(_copies(site.copies) for site in status.sites))
    table.add_row("presence", *(_word(site.redis) for site in status.sites))
    table.add_row("DNS says", *(Text(", ".join(site.names) or "-") for site in status.sites))
    for row in _evac(status):
        table.add_row(*row)
    return Group(table, Text(""), _clients(status), *_runs(status))


def _evac(status: Status) -> Iterator[tuple[RenderableType, ...]]:
    """The leader, and which site losses have a standby plan."""
    if not any("controller" in site.servers for site in status.sites):
        return
    seen = status.watchers
    if seen is None:
        yield ("evac", *(Text("no answer", style="red") for _ in status.sites))
        return
    yield ("evac", *(_controller(site, seen.leader) for site in status.sites))
    yield ("plan for it", *(_plan(site.name, seen) for site in status.sites))


def _controller(site: SiteStatus, leader: str) -> Text:
    if site.servers.get("controller") != "up":
        return Text("-")
    return Text("leads", style="bold") if site.name == leader else Text("watches")


def _plan(site: str, seen: Watchers) -> Text:
    """Whether a fire there would have to wait for the planner."""
    if site in seen.ready:
        return Text("ready", style="green")
    return Text("none" if site in seen.problems else "being made", style="yellow")


def _runs(status: Status) -> list[Text]:
    """What a fire would need a person for; open runs, and where to read more."""
    if status.watchers is None:
        return []
    waits = not status.watchers.proven and any("controller" in site.servers for site in status.sites)
    words = "no synchronous copy is proven to hold every message: a fire would wait for a person"
    return [Text(words, style="yellow")] * waits + [
        Text(f"in progress: {run}", style="yellow") for run in status.watchers.open_runs
    ]


def _server_lines(site: SiteStatus) -> Text:
    down = [role for role, state in site.servers.items() if state != "up"]
    if not down:
        return Text(f"all {len(site.servers)} up", style="green")
    return Text(f"down: {', '.join(down)}" if len(down) < len(site.servers) else "all down", style="red")


def _word(role: str) -> Text:
    return Text(role or "-", style="bold" if role == "primary" else "")


def _copies(found: Mapping[str, str]) -> Text:
    """Copies that follow a primary, one per line; those that confirm commits first."""
    rows = sorted((how != "sync", f"{name} {how}") for name, how in found.items())
    return Text("\n".join(words for _, words in rows))


def _clients(status: Status) -> Text:
    last = "never" if status.last_write_seconds is None else f"{status.last_write_seconds:.1f} s ago"
    well = status.last_write_seconds is not None and status.last_write_seconds < 1.0
    words = (
        f"clients: {status.writes_per_second:g} writes/s acknowledged, last one {last}; "
        f"{status.failures_per_second:g} attempts/s failed"
    )
    return Text(words, style="green" if well else "red")


def as_text(status: Status, width: int, colour: bool) -> str:
    """One picture as text."""
    console = Console(width=width, no_color=not colour, force_terminal=colour, highlight=False)
    with console.capture() as captured:
        console.print(picture(status))
    return captured.get()


def live(look: Callable[[], Status], period_s: float = 0.5, seconds: float | None = None) -> None:
    """Redraws until interrupted, or for a number of seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    with Live(picture(look()), refresh_per_second=8, screen=False) as shown:
        while end is None or time.monotonic() < end:
            time.sleep(period_s)
            shown.update(picture(look()))
