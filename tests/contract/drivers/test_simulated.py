"""The simulated drivers keep the contract of the real ones, in the same story."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from evac.drivers import registry
from evac.drivers.port import Action, Order, Value
from evac.engine.lead.leadership import LEADER
from evac.model.errors import Permanent
from evac.model.generation import token_in
from evac_lab.virtual_loop import Process, VirtualLoop, run
from tests.contract.drivers.suite import Case, keep_contract, order
from tests.sim.drivers import makers
from tests.sim.faulty_store import at_once
from tests.sim.world import World

PG: Mapping[str, Value] = {"host": "anyang", "port": 5432, "name": "dc-anyang"}


class Stage:
    """A world with one store and one service, and a controller in ansan that reaches it."""

    def __init__(self) -> None:
        self.loop = VirtualLoop(7)
        self.world = World(self.loop)
        self.world.add_store("messages", "postgres", "pangyo", "anyang")
        self.world.add_store("presence", "redis", "pangyo", fenced=False)
        self.world.add_service("web", ("pangyo",))
        self.process = Process(self.loop, "ansan-1", "ansan")
        lease = None
        while lease is None or lease.token < 7:
            if lease is not None:
                at_once(self.world.cluster.release(lease))
            lease = at_once(self.world.cluster.acquire(LEADER, "ansan-1", 10_000_000))
        self.order: Order = order(token=lease.token)

    def member(self, site: str, store: str = "messages") -> Any:
        return self.world.databases[store].of(site)


Told = tuple[Action, Callable[[Stage], object], Callable[[Stage], bool], str, bool, Callable[[Stage], None]]


def _database(stage: Stage, store: str) -> object:
    return [
        (m.site, m.role, m.upstream, m.sync, m.read_only, m.powered, m.path, m.fence, m.token, m.epoch)
        for m in stage.world.databases[store].members.values()
    ]


def _nothing(stage: Stage) -> None:
    """The world is ready as it is."""


def _fenced(stage: Stage) -> None:
    stage.member("anyang").upstream, stage.member("anyang").fence = "", 3
    stage.member("pangyo").path = False


def _moved(stage: Stage) -> None:
    stage.world.databases["messages"].promote("ansan", ())


STANDING: Mapping[str, Value] = {
    "proof": "sync",
    "old": "pangyo",
    "candidate": "anyang",
    "standing": "dc-anyang",
    "standing_age_ms": 10,
}
SCALE: Mapping[str, Value] = {"replicas": 2, "from_replicas": 0}
SHIFT: Mapping[str, Value] = {"to": "anyang", "away": "pangyo", "share": 1_000}


def _cases() -> dict[str, Told]:
    def pg(verb: Any, site: str = "anyang", **parameters: Value) -> Action:
        return Action(verb, "messages", "postgres", site, {**PG, "host": site}, parameters)

    def store(stage: Stage) -> object:
        return _database(stage, "messages")

    def cache(stage: Stage) -> object:
        return _database(stage, "presence")

    return {
        "postgres fence": (
            pg("fence", **STANDING),
            store,
            lambda s: s.member("anyang").cut_off,
            "done",
            True,
            _nothing,
        ),
        "postgres promote": (
            pg("promote", candidate="anyang", synchronous=("dc-ansan",)),
            store,
            lambda s: s.member("anyang").writable,
            "refused",
            True,
            _fenced,
        ),
        "postgres demote": (
            pg("demote", "pangyo"),
            store,
            lambda s: s.member("pangyo").read_only,
            "refused",
            True,
            _nothing,
        ),
        "postgres protect": (
            pg("protect", "pangyo", synchronous=("dc-ansan",)),
            store,
            lambda s: s.member("pangyo").sync == ("dc-ansan",),
            "refused",
            True,
            _nothing,
        ),
        "postgres rejoin": (
            pg("rejoin", primary_host="ansan"),
            store,
            lambda s: s.member("anyang").upstream == "ansan",
            "refused",
            True,
            _moved,
        ),
        "redis promote": (
            Action("promote", "presence", "redis", "anyang", {"host": "anyang"}, {"candidate": "anyang"}),
            cache,
            lambda s: s.member("anyang", "presence").writable,
            "refused",
            True,
            _nothing,
        ),
        "haproxy shift": (
            Action("shift", "web", "haproxy", "anyang", {"host": "anyang"}, SHIFT),
            lambda s: sorted(s.world.proxies["web", "anyang"].to),
            lambda s: s.world.proxies["web", "anyang"].to == {"anyang"},
            "done",
            False,
            _nothing,
        ),
        "dns shift": (
            Action("shift", "web", "dns", "anyang", {"server": "anyang"}, SHIFT),
            lambda s: sorted(s.world.names["web", "anyang"].to),
            lambda s: s.world.names["web", "anyang"].to == {"anyang"},
            "done",
            True,
            _nothing,
        ),
        "process scale": (
            Action("scale", "web", "process", "anyang", {"agent": "anyang"}, SCALE),
            lambda s: (s.world.units["web", "anyang"].count, s.world.units["web", "anyang"].token),
            lambda s: s.world.units["web", "anyang"].count == 2,
            "done",
            True,
            _nothing,
        ),
        "http run": (
            Action("run", "page", "http", "anyang", {"url": "anyang"}),
            lambda s: sorted(s.world.done_by_key),
            lambda s: bool(s.world.done_by_key),
            "done",
            False,
            _nothing,
        ),
        "command fence": (
            Action("fence", "messages", "command", "ansan", {}, {"proof": "power", "old": "pangyo"}),
            lambda s: s.member("pangyo").powered,
            lambda s: not s.member("pangyo").powered,
            "refused",
            False,
            _nothing,
        ),
    }


CASES = _cases()


@pytest.mark.parametrize("name", CASES)
def test_the_contract_is_kept(name: str) -> None:
    action, state, is_done, undo, tokens, prepare = CASES[name]
    stage = Stage()
    world = stage.world

    async def silence() -> None:
        for site in ("pangyo", "anyang"):
            world.cut_link("ansan", site)

    async def prepared() -> None:
        prepare(stage)

    case = Case(
        makers(world, stage.process)[action.driver](),
        action,
        _later(state, stage),
        _later(is_done, stage),
        prepare=prepared,
        silence=None if action.driver == "command" else silence,
        tokens=False,
        undo="done" if undo == "done" else "refused",
        order=stage.order,
    )
    run(stage.loop, keep_contract(case))
    if tokens:
        _refuses_an_older_leader(name)


def _later(ask: Callable[[Stage], Any], stage: Stage) -> Any:
    async def answer() -> Any:
        return ask(stage)

    return answer


def _refuses_an_older_leader(name: str) -> None:
    """In a world of its own: there the referee watches the lease, so the server is asked past it."""
    action, state, _, _, _, prepare = CASES[name]
    stage = Stage()
    stage.loop.close()
    prepare(stage)
    driver: Any = makers(stage.world, stage.process)[action.driver]()
    newer = replace(stage.order, token=token_in(1, stage.order.token))
    driver.do(action, newer)
    before = state(stage)
    for token, code in ((newer.token - 1, "stale-token"), (token_in(1, 0) - 1, "superseded")):
        with pytest.raises(Permanent, match=r"older leader|has seen") as refused:
            driver.refuse_stale(action, replace(newer, token=token))
        assert refused.value.code == code
    assert state(stage) == before


def test_every_simulated_driver_has_the_name_and_the_verbs_of_a_real_one() -> None:
    stage = Stage()
    stage.loop.close()
    made = makers(stage.world, stage.process)
    assert set(made) == {
        *("postgres", "redis", "haproxy", "dns", "process", "http", "command", "redfish", "manual", "noop")
    }
    for name, maker in made.items():
        real, simulated = registry.create(name), maker()
        assert simulated.name == real.name
        assert simulated.verbs <= real.verbs
        asyncio.run(real.close())
