"""From a seed to a boot wave: servers and their faults, scarce power, and which acts happen when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final
from zlib import crc32

from tests.sim.floor import FAULTS, Fault, Server
from tests.sim.story import Act, Options

PER_RACK: Final = 4


@dataclass(frozen=True, slots=True)
class WaveOptions(Options):
    """One dark site."""

    servers: tuple[Server, ...]
    halls: dict[str, str]
    budgets: dict[str, int]
    inrush: dict[str, int]
    at_once: int
    """How many may boot from one boot server at the same time."""
    dawdles: float = 0.0
    unseen: tuple[str, ...] = ()
    """Feeds whose breakers nobody can ask."""
    in_flight: tuple[Act, ...] = ()
    """What happens once nothing is left to power on."""
    successor_dies_s: float = -1.0
    """How long after a boot server was given up the one that takes over dies as well; negative: it lives."""


def draw(seed: int) -> WaveOptions:
    """A site of a few racks, scarce in one way or another, and what befalls it."""
    rng = Random(seed)
    racks, feeds = rng.randrange(6, 16), rng.randrange(2, 5)
    dual = rng.random() < 0.4
    servers, halls = _servers(rng, racks, feeds, dual), {f"r{rack}": f"h{rack % 2}" for rack in range(racks)}
    budgets, acts = _budgets(rng, servers, halls), _acts(rng, racks, feeds)
    if rng.random() < 0.4:  # the utility gives less at first, and more later
        domain = rng.choice([name for name in sorted(budgets) if name[0] in "fh"])
        share = rng.uniform(0.3, 0.8)
        budgets[domain] = int(budgets[domain] * share)
        acts = [act for act in acts if act.what != "budget" or act.name != domain]
        acts.append(Act(rng.uniform(60, 400), "budget", domain, share=1.5 / share))
    servers, acts, successor_dies_s = _boot_servers(seed, servers, acts)
    inrush, at_once, dawdles = _inrush(rng, servers), rng.randrange(4, 24), 0.1
    if rng.random() < 0.3:  # a busy machine: requests take long, and controllers die in the thick of it
        dawdles = rng.uniform(0.4, 0.9)
        acts += [Act(rng.uniform(10, 300), "kill") for _ in range(10)]
    in_flight: tuple[Act, ...] = ()
    if seed % 4 == 2:  # many begin together, and their boot server dies when all of them have
        in_flight = _in_flight(Random(f"{seed}/in flight"), servers)
        acts = _without(acts, "boot-server")
        inrush = {feed: 6 * watts for feed, watts in inrush.items()}
        at_once += 40
    if seed % 8 == 5:  # the network of the controllers comes up late
        late = Random(f"{seed}/network")
        where = "" if dual or late.random() < 0.4 else f"f{late.randrange(feeds)}"
        acts = [*_without(acts, "switch"), Act(0.0, "network", where, late.uniform(20, 900))]
    acts.sort(key=lambda act: act.at_s)
    unseen = _unseen(Random(f"{seed}/unseen"), feeds)
    scarce = (halls, budgets, inrush, at_once, dawdles)
    return WaveOptions(seed, tuple(acts), tuple(servers), *scarce, unseen, in_flight, successor_dies_s)


def _servers(rng: Random, racks: int, feeds: int, dual: bool) -> list[Server]:
    faulty = rng.choice((0.0, 0.05, 0.15))
    classes = [
        (rng.randrange(200, 700), rng.uniform(1.2, 2.2), rng.uniform(2, 10), rng.uniform(20, 90))
        for _ in range(3)
    ]
    found = []
    for rack in range(racks):
        mine = (f"f{rack % feeds}", f"f{(rack + 1) % feeds}") if dual and feeds > 1 else (f"f{rack % feeds}",)
        for n in range(PER_RACK):
            name, (watts, rush, rush_s, boot_s) = f"s{rack}-{n}", classes[rng.randrange(3)]
            fault: Fault = rng.choice(FAULTS) if rng.random() < faulty else ""
            from_, power = f"b{rng.randrange(2)}", (watts, int(watts * rush), round(rush_s, 1))
            patient = bool(crc32(name.encode()) % 2)
            found.append(Server(name, f"r{rack}", mine, from_, *power, round(boot_s, 1), fault, patient))
    return found


def _boot_servers(seed: int, servers: list[Server], acts: list[Act]) -> tuple[list[Server], list[Act], float]:
    """Some sites have one boot server, which people mend, and some have three, two of which die."""
    alone, three, successor_dies_s = Random(f"{seed}/alone"), Random(f"{seed}/three"), -1.0
    if alone.random() < 0.15:
        servers = [replace(server, boot_server="b0") for server in servers]
        at_s, for_s = alone.uniform(5, 120), float(alone.randrange(60, 1_200))
        acts = [*_without(acts, "boot-server"), Act(at_s, "boot-server", "b0", for_s)]
    if seed % 16 == 9:
        servers = [replace(server, boot_server=f"b{three.randrange(3)}") for server in servers]
        acts = [*_without(acts, "boot-server"), Act(three.uniform(5, 60), "boot-server", "b0")]
        if three.random() < 0.3:
            acts.append(Act(three.uniform(60, 300), "boot-server", f"b{three.randrange(1, 3)}"))
        else:
            successor_dies_s = three.uniform(0, 20)
    return servers, acts, successor_dies_s


def _without(acts: list[Act], what: str) -> list[Act]:
    return [act for act in acts if act.what != what]


def _in_flight(rng: Random, servers: list[Server]) -> tuple[Act, ...]:
    """A boot server that dies when all that boots has begun; perhaps its leader after it."""
    at_s = rng.choice((0.0, rng.uniform(0, 20)))
    several = any(server.boot_server != "b0" for server in servers)
    found = [Act(at_s, "boot-server", "b0", 0.0 if several else float(rng.randrange(60, 1_200)))]
    found += [Act(at_s + rng.uniform(1, 150), "kill") for _ in range(rng.choice((0, 0, 1, 2)))]
    return tuple(found)


def _unseen(rng: Random, feeds: int) -> tuple[str, ...]:
    share = rng.choice((0.0, 0.5, 1.0))
    return tuple(f"f{feed}" for feed in range(feeds) if rng.random() < share)


def _budgets(rng: Random, servers: list[Server], halls: dict[str, str]) -> dict[str, int]:
    """All servers fit, with little to spare."""
    found: dict[str, int] = {}
    for server in servers:
        for domain in (*server.feeds, halls[server.rack], server.rack):
            found[domain] = found.get(domain, 0) + server.watts
    return {domain: int(watts * rng.uniform(1.0, 1.2)) for domain, watts in sorted(found.items())}


def _inrush(rng: Random, servers: list[Server]) -> dict[str, int]:
    most = max(server.inrush_watts for server in servers)
    feeds = sorted({feed for server in servers for feed in server.feeds})
    return {feed: int(most * rng.uniform(1.0, 6.0)) for feed in feeds}


def _acts(rng: Random, racks: int, feeds: int) -> list[Act]:
    found = [Act(rng.uniform(1, 200), "kill") for _ in range(rng.choice((0, 1, 1, 2, 5)))]
    if rng.random() < 0.4:
        found.append(Act(rng.uniform(1, 150), "switch", f"r{rng.randrange(racks)}", rng.uniform(20, 400)))
    if rng.random() < 0.3:
        found.append(Act(rng.uniform(5, 120), "boot-server", f"b{rng.randrange(2)}"))
    if rng.random() < 0.35:
        found.append(Act(rng.uniform(5, 200), "trip", f"f{rng.randrange(feeds)}"))
    if rng.random() < 0.4:
        domain = rng.choice((f"f{rng.randrange(feeds)}", "h0"))
        found.append(Act(rng.uniform(1, 90), "budget", domain, rng.uniform(30, 200), rng.uniform(0.3, 0.9)))
    if rng.random() < 0.15:
        found.append(Act(rng.uniform(1, 60), "refuse", "", rng.uniform(5, 60)))
    return found
