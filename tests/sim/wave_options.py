"""What a boot wave of the simulation is made of: drawn from a seed, and the same for it everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Literal
from zlib import crc32

from evac.drivers.port import Action
from evac.model.run_policy import Patience
from evac.run.values import KEPT, RunLimit, RunSpec, RunStep
from tests.sim.floor import FAULTS, Fault, Floor, Server

PER_RACK: Final = 4
Row = tuple[str, str, tuple[str, ...], str, int, int, float, float, Fault]
"""Name, rack, feeds, boot server, watts, watts and seconds of inrush, seconds of a boot, what is wrong."""
What = Literal["kill", "switch", "boot-server", "trip", "budget", "refuse", "network"]


@dataclass(frozen=True, slots=True)
class Happening:
    """at_s: when, from the beginning, or since the last boot has begun. for_s: how long a switch or the only
    boot server is dead, a budget another, a password wrong; 0: for good. share: of a budget.
    """

    at_s: float
    what: What
    name: str = ""
    for_s: float = 0.0
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class WaveOptions:
    """dawdles: share of requests, and of answers, that take seconds. unseen: feeds whose breakers nobody can
    ask. in_flight: what happens once nothing is left to power on. successor_dies_s: how long after a boot
    server was given up the one that takes over dies as well; negative: it lives.
    """

    seed: int
    servers: tuple[Row, ...]
    halls: tuple[tuple[str, str], ...]
    budgets: tuple[tuple[str, int], ...]
    inrush: tuple[tuple[str, int], ...]
    at_once: int
    happenings: tuple[Happening, ...]
    dawdles: float = 0.1
    unseen: tuple[str, ...] = ()
    in_flight: tuple[Happening, ...] = ()
    successor_dies_s: float = -1.0


def draw(seed: int) -> WaveOptions:
    """A site of a few racks, scarce in one way or another, and what befalls it."""
    rng = Random(seed)
    racks, feeds = rng.randrange(6, 16), rng.randrange(2, 5)
    dual = rng.random() < 0.4
    faulty = rng.choice((0.0, 0.05, 0.15))
    classes = [
        (rng.randrange(200, 700), rng.uniform(1.2, 2.2), rng.uniform(2, 10), rng.uniform(20, 90))
        for _ in range(3)
    ]
    servers: list[Row] = []
    halls = []
    for rack in range(racks):
        mine = (f"f{rack % feeds}", f"f{(rack + 1) % feeds}") if dual and feeds > 1 else (f"f{rack % feeds}",)
        halls.append((f"r{rack}", f"h{rack % 2}"))
        for n in range(PER_RACK):
            watts, rush, rush_s, boot_s = classes[rng.randrange(3)]
            fault: Fault = rng.choice(FAULTS) if rng.random() < faulty else ""
            servers.append(
                (
                    f"s{rack}-{n}",
                    f"r{rack}",
                    mine,
                    f"b{rng.randrange(2)}",
                    watts,
                    int(watts * rush),
                    round(rush_s, 1),
                    round(boot_s, 1),
                    fault,
                )
            )
    budgets, happenings = _budgets(rng, servers, dict(halls)), _happenings(rng, racks, feeds)
    if rng.random() < 0.4:  # the utility gives less at first, and more later
        domain = rng.choice([name for name in sorted(budgets) if name[0] in "fh"])
        share = rng.uniform(0.3, 0.8)
        budgets[domain] = int(budgets[domain] * share)
        happenings = [one for one in happenings if one.what != "budget" or one.name != domain]
        happenings.append(Happening(rng.uniform(60, 400), "budget", domain, 0.0, 1.5 / share))
    alone = Random(f"{seed}/alone")
    if alone.random() < 0.15:  # the site has no other boot server, and people mend the one it has
        servers = [(*row[:3], "b0", *row[4:]) for row in servers]
        happenings = [one for one in happenings if one.what != "boot-server"]
        happenings.append(
            Happening(alone.uniform(5, 120), "boot-server", "b0", float(alone.randrange(60, 1_200)))
        )
    successor_dies_s, three = -1.0, Random(f"{seed}/three")
    if seed % 16 == 9:  # there are three boot servers, and two of them die
        servers = [(*row[:3], f"b{three.randrange(3)}", *row[4:]) for row in servers]
        happenings = [one for one in happenings if one.what != "boot-server"]
        happenings.append(Happening(three.uniform(5, 60), "boot-server", "b0"))
        if three.random() < 0.3:
            happenings.append(Happening(three.uniform(60, 300), "boot-server", f"b{three.randrange(1, 3)}"))
        else:
            successor_dies_s = three.uniform(0, 20)
    inrush, at_once, dawdles = _inrush(rng, servers), rng.randrange(4, 24), 0.1
    unseen = _unseen(Random(f"{seed}/unseen"), feeds)
    if rng.random() < 0.3:  # a busy machine: requests take long, and controllers die in the thick of it
        dawdles = rng.uniform(0.4, 0.9)
        happenings += [Happening(rng.uniform(10, 300), "kill") for _ in range(10)]
    in_flight: tuple[Happening, ...] = ()
    if seed % 4 == 2:  # many begin together, and their boot server dies when all of them have
        in_flight = _in_flight(Random(f"{seed}/in flight"), servers)
        happenings = [one for one in happenings if one.what != "boot-server"]
        inrush = {feed: 6 * watts for feed, watts in inrush.items()}
        at_once += 40
    if seed % 8 == 5:  # the network of the controllers comes up late
        late = Random(f"{seed}/network")
        where = "" if dual or late.random() < 0.4 else f"f{late.randrange(feeds)}"
        happenings = [one for one in happenings if one.what != "switch"]
        happenings.append(Happening(0.0, "network", where, late.uniform(20, 900)))
    return WaveOptions(
        seed,
        tuple(servers),
        tuple(halls),
        tuple(budgets.items()),
        tuple(inrush.items()),
        at_once,
        tuple(sorted(happenings, key=lambda one: one.at_s)),
        dawdles,
        unseen,
        in_flight,
        successor_dies_s,
    )


def _in_flight(rng: Random, servers: list[Row]) -> tuple[Happening, ...]:
    """A boot server that dies when all that boots has begun; perhaps its leader after it."""
    at_s = rng.choice((0.0, rng.uniform(0, 20)))
    several = any(row[3] != "b0" for row in servers)
    found = [Happening(at_s, "boot-server", "b0", 0.0 if several else float(rng.randrange(60, 1_200)))]
    found += [Happening(at_s + rng.uniform(1, 150), "kill") for _ in range(rng.choice((0, 0, 1, 2)))]
    return tuple(found)


def _unseen(rng: Random, feeds: int) -> tuple[str, ...]:
    share = rng.choice((0.0, 0.5, 1.0))
    return tuple(f"f{feed}" for feed in range(feeds) if rng.random() < share)


def _budgets(rng: Random, servers: list[Row], halls: dict[str, str]) -> dict[str, int]:
    """All servers fit, with little to spare."""
    found: dict[str, int] = {}
    for _, rack, feeds, _, watts, *_ in servers:
        for domain in (*feeds, halls[rack], rack):
            found[domain] = found.get(domain, 0) + watts
    return {domain: int(watts * rng.uniform(1.0, 1.2)) for domain, watts in sorted(found.items())}


def _inrush(rng: Random, servers: list[Row]) -> dict[str, int]:
    most = max(one[5] for one in servers)
    feeds = sorted({feed for one in servers for feed in one[2]})
    return {feed: int(most * rng.uniform(1.0, 6.0)) for feed in feeds}


def _happenings(rng: Random, racks: int, feeds: int) -> list[Happening]:
    found = [Happening(rng.uniform(1, 200), "kill") for _ in range(rng.choice((0, 1, 1, 2, 5)))]
    if rng.random() < 0.4:
        found.append(
            Happening(rng.uniform(1, 150), "switch", f"r{rng.randrange(racks)}", rng.uniform(20, 400))
        )
    if rng.random() < 0.3:
        found.append(Happening(rng.uniform(5, 120), "boot-server", f"b{rng.randrange(2)}"))
    if rng.random() < 0.35:
        found.append(Happening(rng.uniform(5, 200), "trip", f"f{rng.randrange(feeds)}"))
    if rng.random() < 0.4:
        domain = rng.choice((f"f{rng.randrange(feeds)}", "h0"))
        found.append(
            Happening(rng.uniform(1, 90), "budget", domain, rng.uniform(30, 200), rng.uniform(0.3, 0.9))
        )
    if rng.random() < 0.15:
        found.append(Happening(rng.uniform(1, 60), "refuse", "", rng.uniform(5, 60)))
    return found


def floor_of(
    options: WaveOptions, later: Callable[..., None], fail: Callable[[BaseException], None]
) -> Floor:
    servers = {row[0]: Server(*row, patient=bool(crc32(row[0].encode()) % 2)) for row in options.servers}
    return Floor(later, fail, servers, dict(options.halls), dict(options.budgets), dict(options.inrush))


def spec_of(options: WaveOptions) -> RunSpec:
    """As binding makes it: power steps, and boots that are after them; the longest boot first."""
    halls, feeds = dict(options.halls), sorted({feed for row in options.servers for feed in row[2]})
    steps = [RunStep(f"power:{feed}", "power", feed, 0, 1_000, site="here") for feed in feeds]
    for name, rack, mine, boot_server, watts, rush, rush_s, boot_s, _ in options.servers:
        uses = [(f"power:{domain}", watts, KEPT) for domain in (*mine, halls[rack], rack)]
        uses += [(f"inrush:{feed}", rush, int(rush_s * 1_000)) for feed in mine]
        steps.append(
            RunStep(
                f"boot:{name}",
                "boot",
                name,
                int(1_000 * (200 - boot_s)),
                int(boot_s * 1_000),
                tuple(f"power:{feed}" for feed in mine),
                (*uses, (f"boots:{boot_server}", 1, 0)),
                site="here",
                rack=rack,
                feeds=mine,
                boot_server=boot_server,
                cold=True,
            )
        )
    limits = [RunLimit(f"power:{domain}", "slots", watts) for domain, watts in options.budgets]
    limits += [RunLimit(f"inrush:{feed}", "slots", watts) for feed, watts in options.inrush]
    several = sorted({"b0", "b1"} | {row[3] for row in options.servers})
    limits += [RunLimit(f"boots:{name}", "slots", options.at_once) for name in several]
    return RunSpec(
        "run-1",
        "dark",
        "plan-1",
        tuple(steps),
        tuple(limits),
        approvals=0,
        patience=Patience(attempts=4, deadline_factor=3, deadline_least_ms=20_000),
    )


def actions_of(spec: RunSpec) -> dict[str, tuple[Action, ...]]:
    return {
        step.id: (
            Action("boot", step.target, "redfish", "here")
            if step.kind == "boot"
            else Action("start", step.target, "redfish", "here", {}, {"circuit": step.target}),
        )
        for step in spec.steps
    }
