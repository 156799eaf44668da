"""The simulated drivers of `tests/sim`, each in a world of its own in virtual time, for the suites."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evac.drivers.capabilities import (
    AnswersProbe,
    BootsServers,
    HealthReport,
    ProvesSync,
    ReportsHealth,
    ReportsRole,
    RestoresData,
    TakesBackups,
)
from evac.drivers.port import Action, Order, Value, Verb
from evac.engine.lead.leadership import LEADER
from evac_lab.virtual_loop import VirtualLoop, VirtualProcess, run
from tests.contract.capabilities.story import Case, nothing, order
from tests.contract.capabilities.suites import (
    Adapter,
    Asked,
    AskedBackups,
    AskedHealth,
    AskedPower,
    AskedProbe,
    AskedRestore,
    AskedRole,
    AskedSync,
)
from tests.sim.backups import Filled, Repository
from tests.sim.drivers import SPECS, makers
from tests.sim.faulty_store import at_once
from tests.sim.floor import Server
from tests.sim.world import World

FEED, RACK = "feed-a", "rack-1"
_SERVER: Mapping[str, Any] = {
    "rack": RACK,
    "feeds": (FEED,),
    "boot_server": "pxe",
    "watts": 400,
    "inrush_watts": 900,
    "inrush_s": 1.0,
    "boot_s": 10.0,
}


class Unrefereed(World):
    """A world without a referee of leases: the suites play an older leader on purpose."""

    def begins(self, process: VirtualProcess, action: Action, order: Order) -> None:
        self.effects += 1


class Stage:
    """A store, a cache, a service and a hall of servers, and a controller in ansan that reaches them."""

    def __init__(self) -> None:
        self.loop = VirtualLoop(7)
        self.world = Unrefereed(self.loop)
        self.world.add_store("messages", "postgres", "pangyo", "anyang")
        self.world.add_store("presence", "redis", "pangyo", fenced=False)
        self.world.add_service("web", ("pangyo",))
        servers = [Server(name, **_SERVER) for name in ("web-1", "web-2", "web-3")]
        servers[2].fault = "wrong-serial"
        limits = {"halls": {RACK: "hall-1"}, "budgets": {FEED: 10_000}, "inrush": {FEED: 10_000}}
        self.floor = self.world.add_floor("anyang", servers, **limits)
        # Its referee forbids controllers to switch off what is up; an undo is asked to.
        self.floor.cut_off = self.floor.switch_off  # type: ignore[method-assign]
        for site in ("anyang", "pangyo"):
            self.world.repositories["messages", site] = Repository(f"of-{site}")
        self.process = VirtualProcess(self.loop, "ansan-1", "ansan")
        lease = None
        while lease is None or lease.token < 7:
            if lease is not None:
                at_once(self.world.cluster.release(lease))
            lease = at_once(self.world.cluster.acquire(LEADER, "ansan-1", 10_000_000))
        self.order: Order = order(token=lease.token)

    def member(self, site: str, store: str = "messages") -> Any:
        return self.world.databases[store].of(site)

    def driver(self, name: str) -> Any:
        return makers(self.world, self.process)[name]()

    def play(self, story: Any) -> None:
        run(self.loop, story)

    def members(self, store: str) -> object:
        return [
            (m.site, m.role, m.upstream, m.sync, m.read_only, m.powered, m.path, m.fence, m.token, m.epoch)
            for m in self.world.databases[store].members.values()
        ]

    async def silence(self) -> None:
        for site in ("pangyo", "anyang"):
            self.world.cut_link("ansan", site)

    async def speak(self) -> None:
        self.world.mend()

    async def dark(self) -> None:
        """The switch of the management controllers."""
        self.floor.dark_switches.add(RACK)

    async def light(self) -> None:
        self.floor.dark_switches.clear()


def later(ask: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def answer() -> Any:
        return ask()

    return answer


def _case(
    stage: Stage, action: Action, state: Callable[[], object], is_done: Callable[[], bool], **changes: Any
) -> Case:
    found: dict[str, Any] = {
        "silence": stage.silence,
        "speak": stage.speak,
        "silent_codes": ("unreachable", "silent"),
        "order": stage.order,
        **changes,
    }
    return Case(stage.driver(action.driver), action, later(state), later(is_done), run=stage.play, **found)


def _of_store(stage: Stage, driver: str, verb: Verb) -> Case:
    store = {"postgres": "messages", "redis": "presence"}[driver]
    anyang, pangyo = stage.member("anyang", store), stage.member("pangyo", store)
    site = "pangyo" if verb in ("demote", "protect") else "anyang"
    given: dict[str, dict[str, Value]] = {
        "fence": {"proof": "sync", "old": "pangyo", "standing": "dc-anyang", "standing_age_ms": 10},
        "promote": {"candidate": "anyang"},
        "demote": {},
        "protect": {"synchronous": ("dc-ansan",)},
        "rejoin": {"primary_host": "ansan"},
    }
    done: dict[str, Callable[[], bool]] = {
        "fence": lambda: anyang.cut_off,
        "promote": lambda: anyang.writable,
        "demote": lambda: pangyo.read_only,
        "protect": lambda: pangyo.sync == ("dc-ansan",),
        "rejoin": lambda: anyang.upstream == "ansan",
    }

    def lost() -> None:
        anyang.upstream, anyang.fence, pangyo.path, pangyo.powered = "", 3, False, False

    def moved() -> None:
        pangyo.powered = False
        stage.world.databases[store].promote("ansan", ())

    prepare = {"promote": later(lost), "rejoin": later(moved)}.get(verb, nothing)
    return _case(
        stage,
        Action(verb, store, driver, site, {"host": site, "port": 1, "name": f"dc-{site}"}, given[verb]),
        partial(stage.members, store),
        done[verb],
        prepare=prepare,
        tokens=True,
        epochs=True,
        undo="done" if verb == "fence" else "refused",
    )


def _of_traffic(stage: Stage, driver: str, verb: Verb) -> Case:
    traffic = {"haproxy": stage.world.proxies, "dns": stage.world.names}[driver]["web", "anyang"]
    site = {"drain": "pangyo", "ready": "anyang"}.get(verb, "anyang")
    shift: dict[str, Value] = {"to": "anyang", "away": "pangyo", "share": 1_000}
    after = {"shift": {"anyang"}, "drain": {"anyang"}, "ready": {"pangyo", "anyang"}}[verb]

    def another_takes_work() -> None:
        traffic.to = {"pangyo", "anyang"}

    return _case(
        stage,
        Action(
            verb,
            "web",
            driver,
            site,
            {"host": "anyang", "server": "anyang"},
            shift if verb == "shift" else {"site": site},
        ),
        lambda: sorted(traffic.to),
        lambda: traffic.to == after,
        prepare=later(another_takes_work) if verb == "drain" else nothing,
        tokens=driver == "dns",
        undo="done",
    )


def _of_units(stage: Stage, verb: Verb) -> Case:
    units = stage.world.units["web", "anyang"]
    given: dict[str, dict[str, Value]] = {
        "start": {"replicas": 2},
        "scale": {"replicas": 2, "from_replicas": 0},
        "stop": {"from_replicas": 2},
        "verify": {"expect": 2},
    }
    wanted = 0 if verb == "stop" else 2

    def two() -> None:
        units.count = 2

    return _case(
        stage,
        Action(verb, "web", "process", "anyang", {"agent": "anyang"}, given[verb]),
        lambda: (units.count, units.token),
        lambda: units.count == wanted,
        prepare=later(two) if verb in ("stop", "verify") else nothing,
        tokens=True,
        undo="done",
    )


def _of_keys(stage: Stage, driver: str, verb: Verb) -> Case:
    member = stage.member("pangyo")
    proof = {"http": "network", "command": "power"}[driver]
    case = _case(
        stage,
        Action(verb, "messages", driver, "anyang", {"url": "anyang"}, {"proof": proof, "old": "pangyo"}),
        lambda: (member.powered, member.path),
        lambda: not (member.powered and member.path),
    )
    return replace(case, silence=None) if driver == "command" else case


def _of_floor(stage: Stage, verb: Verb) -> Case:
    if verb != "boot":
        stage.floor.closed[FEED] = verb == "stop"
        return _case(
            stage,
            Action(verb, FEED, "redfish", "anyang"),
            lambda: stage.floor.closed[FEED],
            lambda: stage.floor.closed[FEED] is (verb == "start"),
            silence=None,
        )
    stage.floor.close(FEED)
    server = stage.floor.servers["web-1"]
    return _case(
        stage,
        Action(verb, "web-1", "redfish", "anyang"),
        lambda: (server.on, server.starts),
        lambda: server.up,
        silence=stage.dark,
        speak=stage.light,
        silent_codes=("bmc-silent",),
        silent_timeout_s=6.0,
        order=replace(stage.order, timeout_s=40.0),
        undo="done",
    )


def _of_copies(stage: Stage) -> Case:
    stage.world.repositories["messages", "anyang"].take(1)
    return _case(
        stage,
        _copies("/places/here"),
        lambda: dict(stage.world.places),
        lambda: ("ansan", "/places/here") in stage.world.places,
        tokens=True,
        epochs=True,
    )


def _copies(place: str = "/places/here", site: str = "anyang") -> Action:
    return Action("restore", "messages", "restic", "ansan", {"repository": site, "place": place})


@contextmanager
def _of_backups(kind: type, folder: Path) -> Iterator[Asked]:
    """A repository in anyang with a copy, and an empty one in pangyo."""
    stage = Stage()
    places = stage.world.places
    here = stage.world.repositories["messages", "anyang"]
    here.take(86_400 * 9)

    async def change() -> None:
        here.content += 1

    async def spoil() -> None:
        here.spoilt = True

    async def holds(place: Path) -> bool:
        found = places.get(("ansan", str(place)))
        return found is not None and found.tree == "tree-0"

    async def fill(place: Path) -> None:
        places["ansan", str(place)] = Filled("of someone else", "")

    about = stage.driver("restic"), _copies(), stage.silence, stage.speak
    if kind is TakesBackups:
        yield AskedBackups(
            *about,
            play=stage.play,
            change=change,
            spoil=spoil,
            wrong={"backup-no-repository": replace(_copies(), target="presence")},
            to=_copies(site="pangyo"),
            deletable=False,
        )
    else:
        yield AskedRestore(
            *about,
            play=stage.play,
            place=Path("/places/here"),
            holds=holds,
            spoil=spoil,
            left=later(lambda: sorted((key, one.tree) for key, one in places.items())),
            fill=fill,
        )
    stage.loop.close()


def _made(stage: Stage, driver: str, verb: Verb) -> Case:
    match driver:
        case "postgres" | "redis":
            return _of_store(stage, driver, verb)
        case "haproxy" | "dns":
            return _of_traffic(stage, driver, verb)
        case "process":
            return _of_units(stage, verb)
        case "http" | "command":
            return _of_keys(stage, driver, verb)
        case "restic":
            return _of_copies(stage)
        case _:
            return _of_floor(stage, verb)


@contextmanager
def _acts(driver: str, folder: Path, verb: Verb) -> Iterator[Case]:
    stage = Stage()
    yield _made(stage, driver, verb)
    stage.loop.close()


@contextmanager
def _looks(folder: Path) -> Iterator[Asked]:
    stage = Stage()
    stage.floor.close(FEED)
    stage.floor.switch_on(stage.floor.servers["web-2"])
    off, on, another = (Action("boot", f"web-{number}", "redfish", "anyang") for number in (1, 2, 3))
    yield AskedPower(
        stage.driver("redfish"), off, stage.dark, stage.light, play=stage.play, on=on, another=another
    )
    stage.loop.close()


@contextmanager
def _asks(kind: type, driver: str, folder: Path) -> Iterator[Asked]:
    """Questions to the primary of a store in pangyo, whose copy is in anyang."""
    stage = Stage()
    store = {"postgres": "messages", "redis": "presence"}[driver]
    here, there = (
        Action("verify", store, driver, site, {"host": site, "port": 1, "name": f"dc-{site}"})
        for site in ("pangyo", "anyang")
    )
    about = stage.driver(driver), here, stage.silence, stage.speak
    if kind is ReportsRole:
        confirms = stage.member("pangyo", store).sync
        yield AskedRole(*about, play=stage.play, replica=there, confirms=confirms)
    elif kind is ProvesSync:
        sites = {f"dc-{site}": site for site in stage.world.sites}
        yield AskedSync(*about, play=stage.play, candidate="dc-anyang", sites=sites)
    else:
        stage.member("anyang", store).powered = False
        yield AskedProbe(*about, play=stage.play, gone=there)
    stage.loop.close()


@contextmanager
def _health(folder: Path) -> Iterator[Asked]:
    """A service with two instances in anyang, which end."""
    stage = Stage()
    units = stage.world.units["web", "anyang"]
    units.count = 2

    async def fails() -> None:
        units.count = 0

    yield AskedHealth(
        stage.driver("http"),
        Action("verify", "web", "http", "anyang", {"url": "anyang"}),
        stage.silence,
        stage.speak,
        play=stage.play,
        fails=fails,
        seen=HealthReport(5, 0),
        failed=HealthReport(5, 5),
    )
    stage.loop.close()


_ASKED = (ReportsRole, ProvesSync, AnswersProbe, ReportsHealth, TakesBackups)
ADAPTERS = tuple(
    Adapter(
        spec,
        acts=dict.fromkeys((one for one in spec.capabilities if one not in _ASKED), partial(_acts, name)),
        asks={BootsServers: _looks}
        if spec.can(BootsServers)
        else {one: partial(_of_backups, one) for one in (TakesBackups, RestoresData)}
        if spec.can(TakesBackups)
        else {
            one: _health if one is ReportsHealth else partial(_asks, one, name)
            for one in _ASKED
            if spec.can(one)
        },
        marks=(),
        world="simulated",
    )
    for name, spec in SPECS.items()
)
