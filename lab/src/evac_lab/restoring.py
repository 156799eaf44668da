"""A burnt site comes back: power, network and its servers; its data only as evac says.

Everything is started as it was but what stood here as a primary: that must not come up as one. A Redis
follows whoever takes writes now; a PostgreSQL that was a primary stays down until evac has archived what it
had alone, rewound it and lets it rejoin; where nobody was promoted in its place it runs on as it was. The
agent starts its own units again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from evac.drivers.process.peers import Lines
from evac_lab import agent_certificates, proc_table
from evac_lab.journal_facts import store_url
from evac_lab.network import network_of
from evac_lab.primaries import redis_master
from evac_lab.site_servers import Ground
from evac_lab.starting import Starter
from evac_lab.state import LabFolder, LabState, Running
from evac_lab.topology import PORTS
from evac_lab.waiting import answers, takes_connections, wait_for

_REDIS: Final = "redis"
_FIRST: Final = ("etcd", "dns", "haproxy", "agent")
READY_SECONDS: Final = 20.0
_LISTENING: Final = ("etcd", "postgres", "redis", "dns", "haproxy", "agent")
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back. whole: everything that was asked for."""

    site: str
    started: tuple[str, ...]
    whole: bool
    words: tuple[str, ...] = ()

    def as_text(self) -> str:
        lines = [f"{self.site}: {', '.join(self.started) or 'nothing'} started", *self.words]
        return "\n".join(lines) + "\n"


def start_site(folder: LabFolder, site: str, told: Told = lambda words: None) -> tuple[str, ...]:
    """Starts what a burnt site had, but no old primary; a site that was only cut off misses nothing."""
    with folder.locked():
        state = folder.need()
        state.topology.site(site)
        network_of(folder, state).join(site)
        starter = Starter(folder, state, lambda share, words: told(words))
        pending = [one for one in state.of_site(site) if not one.alive and _may_start(folder, one)]
        early = [one for one in pending if one.role in _FIRST]
        late = [one for one in pending if one.role not in _FIRST]
        for rows in (early, late):
            with ThreadPoolExecutor(max_workers=8) as pool:
                list(pool.map(lambda one: _again(starter, one), rows))
        wait_until_ready(folder, state, site, [one.role for one in pending], told)
        starter.check()
        burnt = {name: at for name, at in starter.state.burnt.items() if name != site}
        starter.change(burnt=burnt, cut=tuple(one for one in starter.state.cut if one != site))
        starter.let_go()
    return tuple(one.role for one in pending)


def wait_until_ready(
    folder: LabFolder, state: LabState, site: str, roles: Sequence[str], told: Told = lambda words: None
) -> None:
    """Until every server that was started takes connections, and the agent answers. Raises `LabError` that
    names the one that does not.
    """
    one = state.topology.site(site)
    for role in _LISTENING:
        if role in roles:
            listens = partial(takes_connections, one.host(role), PORTS[role])
            wait_for(listens, READY_SECONDS, f"{role} of {site}")
    if "agent" in roles:
        url = f"{one.url('agent')}/v1/health"
        line = Lines(agent_certificates.operator(folder.certificates)).to(url)
        wait_for(lambda: answers(url, line=line), READY_SECONDS, f"the agent of {site}")
    told(f"{site} answers again")


def _may_start(folder: LabFolder, one: Running) -> bool:
    """A PostgreSQL that was a primary stays down: only evac may let it rejoin, rewound."""
    if one.role != "postgres":
        return True
    return (folder.data(one.site, "postgres") / "data" / "standby.signal").exists()


def _again(starter: Starter, one: Running) -> None:
    process = one.again()
    if one.role == "dns":
        # Knot does not start while the pid in its old file is anybody's.
        (starter.folder.data(one.site, "dns") / "run" / "knot.pid").unlink(missing_ok=True)
    if one.role == _REDIS:
        process.argv = (*_plain(one.argv), *_following(starter, one))
    starter.launch(one.site, one.role, process)


def _plain(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Without whom it followed the last time."""
    return argv[: argv.index("--replicaof")] if "--replicaof" in argv else argv


def _following(starter: Starter, one: Running) -> tuple[str, ...]:
    """Redis has no mark that says what it was: it follows whoever takes writes now, if another does."""
    ground = Ground(starter.folder, starter.state.topology)
    others = [site.host(_REDIS) for site in ground.topology.others(one.site)]
    master = asyncio.run(redis_master(others, PORTS[_REDIS], ground.secrets.value(_REDIS)))
    return ("--replicaof", f"{master} {PORTS[_REDIS]}") if master else ()


def restore(
    folder: LabFolder, site: str, told: Told = lambda words: None, *, failback: bool = False, reason: str = ""
) -> Restored:
    """The site starts, then evac brings its data back. Returns when that has ended."""
    from evac_lab import returning

    started = start_site(folder, site, told)
    state = folder.need()
    if not any(one.role == "controller" for one in state.processes):
        return Restored(site, started, True, ("no controller runs: its data stays as it is",))
    url = store_url(state.topology, state.topology.others(site)[0].name)
    words: list[str] = []
    whole = True
    if asyncio.run(returning.as_it_was(folder, url, site, partial(_old_primary, folder, site))):
        words.append("nobody else was promoted: its PostgreSQL runs on as the primary")
        started = (*started, "postgres")
    for question in ("restore", "failback") if failback else ("restore",):
        back = asyncio.run(returning.bring_back(folder, url, site, question, reason, told))
        words += returning.as_words(back)
        whole = whole and back.whole
        if not whole:
            break
    for other in state.topology.sites:
        # Whoever was rewound runs anew: the old primary here, and on the way home the one that was demoted.
        if adopt_postgres(folder, other.name) and other.name == site:
            started = (*started, "postgres")
    return Restored(site, started, whole, tuple(words))


def _old_primary(folder: LabFolder, site: str) -> bool:
    """Starts the PostgreSQL that was a primary here as it was; False where it lives, or is none."""
    with folder.locked():
        state = folder.need()
        old = next((one for one in state.of_site(site) if one.role == "postgres" and not one.alive), None)
        if old is None or _may_start(folder, old):
            return False
        starter = Starter(folder, state, lambda share, words: None)
        _again(starter, old)
        wait_until_ready(folder, state, site, ["postgres"])
        starter.check()
        starter.let_go()
    return True


def adopt_postgres(folder: LabFolder, site: str) -> bool:
    """Remembers the PostgreSQL that the site's agent started after a rewind; False where none runs anew."""
    path = folder.data(site, "postgres") / "data" / "postmaster.pid"
    with folder.locked():
        state = folder.need()
        old = next((one for one in state.of_site(site) if one.role == "postgres"), None)
        try:
            pid = int(path.read_text(encoding="ascii").split()[0])
        except (OSError, ValueError, IndexError):
            return False
        since = proc_table.started(pid)
        if old is None or old.alive or not since:
            return False
        folder.write(state.with_process(replace(old, pid=pid, started=since)))
    return True
