"""Stories of fires: three sites with real controllers over a simulated world, through chaos to its end.

The controllers, conductors, runs and guards are those of production; only clock, store, drivers and probes
are simulated. After the chaos everything is healed: then each run must end, or ask a person, who answers.
The referee and the world break the story off as soon as a rule is broken.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

import orjson

from evac.drivers.registry import Drivers
from evac.engine.lead.controller import Controller, Parts
from evac.engine.lead.leadership import LEADER
from evac.engine.lead.policies import Policies
from evac.engine.lead.watch_journal import Notice
from evac.engine.plans.library import Drawer
from evac.engine.runs.binding import Bound
from evac.engine.runs.desk import ActionsOf, Desk
from evac.engine.runs.live_actions import PREFIX, Standing, decode_standing, keep_standing
from evac.engine.runs.open_runs import OPEN
from evac.engine.stores.datasets import DataSets, Epoch, decode, key_of
from evac.engine.stores.guards import Guards
from evac.engine.stores.stalled_commits import Roles, bound_of, is_protection
from evac.net.internal_errors import INTERNAL
from evac.run.values import ENDED, RunSpec
from evac.run.view import RunView
from evac.store.anchors import Anchor, verify_chain
from evac.store.port import Lease, Put
from evac.watch.verdict import EvidenceKind, Seen, Verdict
from evac.watch.verdict import Standing as Belief
from evac.watch.witness import Probe
from evac_lab.virtual_loop import VirtualProcess
from tests.sim import plans
from tests.sim.databases import Engine
from tests.sim.drivers import makers
from tests.sim.faulty_store import SiteStore, Weather, at_once
from tests.sim.fire_options import FireOptions, draw
from tests.sim.people import Person
from tests.sim.plans import Shape
from tests.sim.referee import Referee
from tests.sim.story import Act, Outcome, Story
from tests.sim.world import Broken, Faults

KINDS: Final[tuple[EvidenceKind, ...]] = ("agent", "member", "user")
OBSERVED: Final = "observed"
LOOK_S: Final = 0.5
STANDING_S: Final = 1.0
ASK_S: Final = 60.0
END_S: Final = 240.0
"""How long, after everything is healed, a run may take until it asks a person, and until it has ended."""


class Struck(BaseException):
    """The process ends at this very place."""


@dataclass(slots=True, eq=False)
class _Node:
    """The controller of one site, as it runs now."""

    process: VirtualProcess
    controller: Controller
    store: SiteStore


class FireStory(Story):
    """Sites whose stores and services are evacuated by controllers, and a person."""

    def __init__(self, options: FireOptions, tracing: bool = False) -> None:
        super().__init__(options, Weather(**options.weather), Faults(**options.faults), tracing)
        self.policy = options.policy()
        self.nodes: dict[str, _Node] = {}
        self.anchors: list[Anchor] = []
        self.reached = 0
        self.strike = options.strike
        self._bound: dict[tuple[str, str], Bound] = {}
        self._starts = self.fires = 0
        self._observed: tuple[bytes, plans.Roles] = b"", {}
        self.healed = False
        engines: dict[str, str] = {name: engine for name, engine, _, _ in options.databases}
        self.shape = Shape(options.sites, engines, options.services, options.seed)
        for name, engine, primary, sync in options.databases:
            self.world.add_store(name, cast(Engine, engine), primary, sync, engine == "postgres")
            for site in options.lying_disks:
                self.world.databases[name].of(site).lies = True
        for service in options.services:
            self.world.add_service(service, options.sites)
            self.world.add_service(f"{service}-batch", options.sites)
        self.referee = Referee(self.world, self.policy, self.spec_of, self.kinds)
        self.person = Person(self)

    # What controllers are made of.

    def start(self, site: str) -> None:
        """A controller in a site: a new process, which knows nothing but what the store says."""
        old = self.nodes.get(site)
        if site in self.world.burnt or (old is not None and old.process.alive):
            return
        number = self.options.sites.index(site)
        self._starts += 1
        process = VirtualProcess(self.loop, f"{site}-{self._starts}", site, self.options.drift_ppm[number])
        process.offset_ms = 1_700_000_000_000 + self.options.wall_offset_ms[number]
        store = SiteStore(self.world.cluster, self.loop, process, partial(self.world.connected, site))
        controller = Controller(self._parts(process, store))
        self.nodes[site] = _Node(process, controller, store)
        self.world.say(f"{process.name} starts")
        work = controller.run() if self.options.whole else controller._compete()
        process.spawn(work)
        if not self.options.whole:
            self._believe(site)

    def _parts(self, process: VirtualProcess, store: SiteStore) -> Parts:
        options, world, policy, owner = self.options, self.world, self.policy, process.name
        pooled = dict.fromkeys(options.services, options.sites)
        guards = Guards(store, process, options.sites, pooled)
        desk = Desk(
            store,
            process,
            Policies(policy),
            owner,
            guards,
            DataSets(store, owner, process),
            _as_given,
            self.bind,
            Drivers(makers(world, process)).get,
            self._hear,
            standing=self._standing,
            drift_period_ms=1_000,
            drift_ms=20_000,
            effects=self._left_behind,
            boundary=lambda number: self._boundary(process),
        )
        drawer = Drawer(store, process, options.sites if options.whole else (), self._plan, self._estate)
        targets: Mapping[str, Sequence[Probe]] = {}
        if options.whole:
            targets = {site: self._probes(process, site) for site in options.sites if site != process.site}

        async def keep(anchor: Anchor) -> None:
            self.anchors.append(anchor)

        chores = [
            lambda lease: self._look(store, process, lease),
            lambda lease: self._check(store, process, lease),
        ]
        return Parts(
            process.site,
            options.sites,
            desk,
            drawer,
            targets,
            protections=self._protections,
            anchors=[keep],
            chores=chores,
            leader_ttl_ms=options.ttl_ms,
        )

    def _probes(self, process: VirtualProcess, target: str) -> list[Probe]:
        def probe(kind: EvidenceKind) -> Probe:
            async def ask() -> Seen:
                if not self.world.reach(process.site, target):
                    await asyncio.sleep(3_600)
                return Seen(kind, "up", 1)

            return Probe(kind, kind, ask)

        return [probe(kind) for kind in KINDS]

    async def bind(self, data: bytes, name: str, incident: str, digest: str) -> Bound:
        """Whoever takes over binds the same bytes again: that is done once."""
        known = self._bound.get((name, digest))
        if known is None or known.spec.incident != incident:
            bind = bound_of if is_protection(data) else plans.bind
            known = bind(data, self.policy, run=name, incident=incident, digest=digest)
            self._bound[name, digest] = known
        return known

    async def _left_behind(self, view: RunView, actions_of: ActionsOf) -> bytes | None:
        """What a run moved, for stories whose plans go by that."""
        return None

    def spec_of(self, name: str, digest: str) -> RunSpec:
        """What the referee replays with; the approvals are of the run, not of the plan."""
        spec = self._bound[name, digest].spec
        entry = self.world.cluster.value(OPEN + name)
        if entry is None:
            return spec
        return replace(spec, approvals=int(orjson.loads(entry)["approvals"]))

    def roles(self) -> plans.Roles:
        """As the leader last wrote them."""
        value = self.world.cluster.value(OBSERVED)
        if not value:
            return {}
        if value is not self._observed[0]:
            self._observed = value, orjson.loads(value)
        return self._observed[1]

    def _estate(self) -> str:
        return hashlib.sha256(self.world.cluster.value(OBSERVED) or b"").hexdigest()

    async def _plan(self, lost: tuple[str, ...]) -> bytes:
        return plans.loss_plan(self.shape, self.policy, self.roles(), lost)

    async def _protections(
        self, lost: Sequence[str], roles: Mapping[str, Roles], left: Collection[str]
    ) -> Mapping[str, bytes]:
        """As `engine.protecting.plans_for` does: stores whose primary lives, and whose commits hang."""
        found = {}
        seen = self.roles()
        for store, engine in self.shape.engines.items():
            at = seen.get(store, {})
            now = roles.get(store)
            holder = now.holder if now is not None and now.holder else _first(at, "primary")
            sync = (
                [name.removeprefix("dc-") for name in now.synchronous]
                if now is not None
                else _all(at, "sync")
            )
            if engine != "postgres" or not holder or holder in lost or not sync or not set(sync) <= set(lost):
                continue
            others = [site for site in self.options.sites if site not in {*lost, *left, holder}]
            names = [f"dc-{others[0]}"] if others and self.options.on_sync_loss != "async" else []
            found[store] = plans.protection(store, holder, names)
        return found

    def _standing(self, store: str) -> Standing | None:
        value = self.world.cluster.value(PREFIX + store)
        return None if value is None else decode_standing(store, value)

    async def _look(self, store: SiteStore, process: VirtualProcess, lease: Lease) -> None:
        """A leader's chore: what roles there are, where that is certain."""
        await asyncio.sleep(LOOK_S)
        before = self.roles()
        now: dict[str, Mapping[str, str]] = {}
        for name, database in self.world.databases.items():
            seen = {
                site: role if self.world.reach(process.site, site) else "none"
                for site, role in database.roles().items()
            }
            certain = self._is_certain(name, seen, process.site)
            if not certain and name in before:
                seen = dict(before[name])
            elif certain and name in before:
                seen = {
                    s: before[name][s] if r == "none" and before[name].get(s) != "primary" else r
                    for s, r in seen.items()
                }
            now[name] = seen
        if now != before:
            value = orjson.dumps(now, option=orjson.OPT_SORT_KEYS)
            await store.transact((), (Put(OBSERVED, value),), lease)

    def _is_certain(self, name: str, seen: Mapping[str, str], at: str) -> bool:
        """As `app.seen` does: one primary, and where that is not the holder of the epoch, the holder's copy
        answers and is none.
        """
        primaries = [site for site, role in seen.items() if role == "primary"]
        if len(primaries) != 1:
            return False
        value = self.world.cluster.value(key_of(name))
        holder = orjson.loads(value)["holder"] if value is not None else ""
        if holder in ("", primaries[0]):
            return True
        database = self.world.databases[name]
        return self.world.reach(at, holder) and database.alive(database.of(holder))

    async def _check(self, store: SiteStore, process: VirtualProcess, lease: Lease) -> None:
        """A leader's chore: which replica confirms every commit, checked while all is well. Looking at all of
        them takes its time, and what is written was seen before.
        """
        names = [name for name in self.world.databases if "sync" in self.policy.store(name).proofs]
        epochs = {name: decode(name, await store.get(key_of(name))) for name in names}
        facts = [fact for name in names for fact in self._confirming(epochs[name], process)]
        await asyncio.sleep(self.loop.random.random() * STANDING_S / 3)
        for fact in facts:
            await keep_standing(store, fact, epochs[fact.store], lease)
        await asyncio.sleep(STANDING_S)

    def _confirming(self, epoch: Epoch, process: VirtualProcess) -> list[Standing]:
        """The replica without which the primary confirms nothing, where a process can see that."""
        name, database, found = epoch.store, self.world.databases[epoch.store], []
        for primary in database.members.values():
            confirmed = primary.writable and database.acknowledges(primary) and len(primary.sync) == 1
            if confirmed and self.world.reach(process.site, primary.site):
                (member,) = primary.sync
                at, now_ms = member.removeprefix("dc-"), process.now_ms()
                found.append(Standing(name, member, at, primary.site, now_ms, epoch.changes))
        return found

    def _hear(self, notice: Notice) -> None:
        """A mistake of evac ends no controller, and yet its story is broken."""
        if notice.data.get("code") == INTERNAL:
            self.loop.fail(Broken(notice.words))

    # What happens.

    def report(self, outcome: Outcome) -> None:
        outcome.fires = self.fires
        outcome.ends = {name: books.view.phase for name, books in self.referee.books.items()}

    async def tell(self) -> None:
        value = {name: database.roles() for name, database in self.world.databases.items()}
        first = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        at_once(self.world.cluster.transact((), (Put(OBSERVED, first),)))
        for site in self.options.sites:
            self.start(site)
        self._write_on()
        self.befall(self.options.acts)
        if self.options.person_every_ms:
            self.person.begin(self.options.person_every_ms)
        await self._wait_for_chaos()
        self._heal()
        await self.until(self._all_ask_or_end, ASK_S, "neither ended nor asks anybody")
        self.person.begin(300, helpful=True)
        calm_s = self.loop.time()
        while self.open_runs() or self.loop.time() - calm_s < self.options.calm_ms / 1_000:
            if self.open_runs():
                await self.until(self._all_ended, END_S, "does not end, whatever people answer")
                calm_s = self.loop.time()
            await asyncio.sleep(0.25)
        self._close()

    async def _wait_for_chaos(self) -> None:
        last_ms = max(round(1_000 * act.at_s) for act in self.options.acts)
        end_s = (last_ms + self.options.chaos_ms) / 1_000
        if not self.options.brief:
            await asyncio.sleep(end_s)
            return
        while self.loop.time() < end_s and (not self.referee.books or self._all_ask_or_end()):
            await asyncio.sleep(0.25)

    def _write_on(self) -> None:
        self.world.clients_write()
        self._compare()
        self.loop.in_world(0.15 + 0.3 * self.loop.random.random(), self._write_on)

    def _compare(self) -> None:
        holder = self.world.cluster.token_of(LEADER)
        for node in self.nodes.values():
            term = node.controller._term
            if term is None or not node.process.alive or term.leadership.token != holder:
                continue  # whoever was replaced may have gone ahead of a journal that is not theirs any more
            if term.conductor.asks_names:  # with witnesses there is a verdict each period
                node.controller._judged.set()
            for one in term.conductor._runs.values():
                if one.execution is not None:
                    self.referee.compare(one.execution.view)

    def _boundary(self, process: VirtualProcess) -> None:
        """Between a record and an effect: whoever is dead goes no further, and the one to be struck is."""
        if not process.alive:
            raise Struck
        self.reached += 1
        _, what, for_ms = self.strike
        if not self.is_struck(process.site):
            return
        site = process.site
        if what == "kill":
            self.kill(site)
            self.loop.in_world(for_ms / 1_000, self.start, site)
            raise Struck
        if what == "store":
            self.world.say("no member of the store answers")
            self.world.cluster.elect(for_ms)
            return
        self.stop(site)
        process.ahead_ms = for_ms
        self.loop.in_world(for_ms / 1_000, self.go_on, site, process)

    def is_struck(self, site: str) -> bool:
        """Whether the controller there, which reached a boundary, is struck now."""
        return self.reached == self.strike[0]

    def act(self, act: Act) -> None:
        """What is asked of a leader strikes whoever leads."""
        if self.healed:
            return
        what, site = act.what, act.name
        if what.endswith(" leader"):
            what = what.removesuffix(" leader")
            site = self.leader or site
        back_s = 0.2 + act.for_s
        match what:
            case "burn":
                self.burn(site)
            case "restore":
                self.restore(site)
            case "cut" | "cut one way":
                self.fires += 1
                self.world.cut(site, one_way=what == "cut one way")
                self._detect(site)
            case "cut link":
                others = [other for other in self.options.sites if other != site]
                self.world.cut_link(site, others[round(act.for_s * 1_000) % 2])
                self.loop.in_world(back_s * 2, self._mend)
            case "flap":
                self.world.cut(site)
                self.loop.in_world(0.05 + back_s / 10, self._mend)
            case "mend":
                self._mend()
            case "kill":
                self.kill(site)
                self.loop.in_world(back_s, self.start, site)
            case "stop":
                self.stop(site)
                self.loop.in_world(back_s, self.go_on, site, self.nodes[site].process)
            case "clock":
                self.nodes[site].process.offset_ms += (round(act.for_s * 1_000) - 2_500) * 1_000
            case "drift":
                self._drift()
            case "evacuate" | "replan" | "hold" | "restore run":
                self.person.does(what, site)

    @property
    def leader(self) -> str:
        return next(
            (site for site, node in self.nodes.items() if node.process.alive and node.controller.leads), ""
        )

    def kill(self, site: str) -> None:
        node = self.nodes[site]
        if node.process.alive:
            self.world.say(f"{node.process.name} is killed" + (" (it led)" if node.controller.leads else ""))
            node.process.kill()

    def stop(self, site: str) -> None:
        process = self.nodes[site].process
        if process.alive:
            self.world.say(f"{process.name} is stopped")
            process.stop()

    def go_on(self, site: str, process: VirtualProcess) -> None:
        if process.stopped:
            self.world.say(f"{process.name} goes on")
            process.resume()

    def burn(self, site: str) -> None:
        if site not in self.world.burnt:
            self.fires += 1
            self.world.burn(site)
            self.nodes[site].process.kill()
            self._detect(site)

    def restore(self, site: str) -> None:
        if site in self.world.burnt:
            self.world.restore(site)
            self.loop.in_world(0.3, self.start, site)
            self._tell_all()

    def _mend(self) -> None:
        self.world.mend()
        self._tell_all()

    def _drift(self) -> None:
        """Somebody's configuration run pools what it always pooled."""
        for traffic in (*self.world.proxies.values(), *self.world.names.values()):
            if self.loop.random.random() < 0.3:
                traffic.to |= set(self.options.sites)

    def _detect(self, site: str) -> None:
        if not self.options.whole:
            delay_s = self.options.detect_ms / 1_000 * (0.7 + 0.6 * self.loop.random.random())
            self.loop.in_world(delay_s, self._tell_all)

    def _tell_all(self) -> None:
        for site in self.nodes:
            self._believe(site)

    def _believe(self, site: str) -> None:
        """Without witnesses: a controller believes what is true of the sites that it does not reach."""
        node, now_ms = self.nodes[site], self.loop.now_ms()
        if self.options.whole or not node.process.alive or not self.world.connected(site):
            return
        found = {}
        for other in self.options.sites:
            since_ms = self.world.gone_since_ms.get(other)
            lost = since_ms is not None and now_ms - since_ms >= self.options.detect_ms * 0.6
            state: Any = "lost" if lost else "healthy"
            by = tuple(one for one in self.options.sites if one != other)
            verdict = Verdict(other, state, now_ms, by, KINDS, "it is simulated")
            found[other] = Belief(
                verdict, "down" if lost else "up", now_ms, 0, now_ms, None, since_ms if lost else None
            )
        node.controller.standings = found
        node.controller._judged.set()

    def _heal(self) -> None:
        """No more trouble: then everything must come to an end by itself, or ask."""
        self.healed = True
        self.world.say("everything is healed")
        self.world.faults.clear()
        self.world.weather.clear()
        self.world.mend()
        for node in self.nodes.values():
            node.process.resume()
        for site in self.options.sites:
            self.world.restore(site)
            self.start(site)
        self.person.release()
        self._tell_all()

    def open_runs(self) -> list[str]:
        return [entry.key.removeprefix(OPEN) for entry in self.world.cluster.entries(OPEN)]

    def _all_ask_or_end(self) -> str:
        return next((name for name in self.open_runs() if not self.person.is_asked(name)), "")

    def _all_ended(self) -> str:
        return next(iter(self.open_runs()), "")

    def _close(self) -> None:
        """At the end: every run is over, every chain is whole, and every prefix leads there too."""
        for name, books in self.referee.books.items():
            if books.view.phase not in ENDED:
                raise Broken(f"{name} is {books.view.phase}, and not open any more")
        self.referee.replay_prefixes(self.loop.random)
        for stream in [*self.referee.books, "watch"]:
            heads = [anchor for anchor in self.anchors if anchor.stream == stream]
            problems = at_once(verify_chain(self.world.cluster, stream, heads))
            if problems:
                raise Broken(f"the journal {stream}: {problems[0]}")


async def _as_given(data: bytes) -> None:
    """The plans of a story are documents of its own, and its referee judges what they do."""


def _first(roles: Mapping[str, str], role: str) -> str:
    return next((site for site, one in sorted(roles.items()) if one == role), "")


def _all(roles: Mapping[str, str], role: str) -> list[str]:
    return [site for site, one in sorted(roles.items()) if one == role]


def play(seed: int, *, tracing: bool = False, whole: bool | None = None) -> Outcome:
    """The story of a seed."""
    return FireStory(draw(seed, whole), tracing).play()
