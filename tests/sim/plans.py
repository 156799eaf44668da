"""Plans of simulated stories: small documents and the runs that they are bound to, and runs that boot a site.

A plan says which stores move where by which proof, which services start where, and how wide the work is. Its
shape is drawn from a seed that stands in it, so that whoever binds it gets the same steps. The actions are
those that `engine.step_actions` makes: the same verbs, settings and parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import orjson

from evac.drivers.port import Action, Value, Verb
from evac.engine.runs.binding import Bound
from evac.model.digest import canonical_json
from evac.model.run_policy import Envelope, Patience, RunPolicy
from evac.run.values import KEPT, RunLimit, RunSpec, RunStep
from tests.sim.wave_options import WaveOptions

LIMITS: Final = (RunLimit("boots", "slots", 2), RunLimit("inrush", "rate", 2, 3_000))
DURATION_MS: Final = 300
HERE: Final = "here"
"""The dark site of a wave."""
Roles = Mapping[str, Mapping[str, str]]
"""Store -> site -> primary, sync, async or none."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a story's plans are made of. engines: store -> postgres or redis. services: names. seed: of the
    details of each plan.
    """

    sites: tuple[str, ...]
    engines: Mapping[str, str]
    services: tuple[str, ...]
    seed: int


def loss_plan(
    shape: Shape, policy: RunPolicy, roles: Roles, lost: Sequence[str], healthy: bool = False
) -> bytes:
    """What to do when sites are lost (or, healthy, are left in order)."""
    moves = []
    for store, engine in sorted(shape.engines.items()):
        found = roles.get(store, {})
        old = next((site for site, role in sorted(found.items()) if role == "primary"), "")
        if old in lost:
            moves.append(_move(shape, policy, store, engine, found, old, lost, healthy))
    kept = [site for site in shape.sites if site not in lost]
    return canonical_json(
        {
            "kind": "evacuate" if healthy else "loss",
            "lost": sorted(lost),
            "kept": kept,
            "moves": [move for move in moves if move["new"]],
            "services": list(shape.services),
            "seed": shape.seed,
        }
    )


def _move(
    shape: Shape,
    policy: RunPolicy,
    store: str,
    engine: str,
    roles: Mapping[str, str],
    old: str,
    lost: Sequence[str],
    healthy: bool,
) -> dict[str, Any]:
    ranked = sorted(
        (role != "sync", site)
        for site, role in roles.items()
        if role in ("sync", "async") and site not in lost
    )
    new = ranked[0][1] if ranked else ""
    was_sync = bool(ranked) and not ranked[0][0]
    others = [site for _, site in ranked[1:]]
    wanted = policy.store(store)
    proof = next((one for one in wanted.proofs if one != "sync" or was_sync), "attest")
    follows = engine == "postgres" and was_sync and wanted.on_sync_loss == "next"
    return {
        "store": store,
        "engine": engine,
        "old": old,
        "new": new,
        "proof": "demote" if healthy else proof,
        "synchronous": [f"dc-{site}" for site in others[:1]] if follows else [],
        "others": others,
        "gate": engine == "postgres" and not was_sync and not healthy,
    }


def failback_plan(shape: Shape, away: Mapping[str, str], site: str) -> bytes:
    """Services go home. away: service -> where it runs now."""
    return canonical_json(
        {
            "kind": "failback",
            "lost": [],
            "away": sorted(set(away.values())),
            "kept": list(shape.sites),
            "to": site,
            "moves": [],
            "services": sorted(away),
            "seed": shape.seed,
        }
    )


def restore_plan(shape: Shape, roles: Roles, site: str) -> bytes:
    """A site that is back: its copies follow again."""
    rows = []
    for store, engine in sorted(shape.engines.items()):
        primary = next((at for at, role in sorted(roles.get(store, {}).items()) if role == "primary"), "")
        if primary and primary != site:
            rows.append({"store": store, "engine": engine, "primary": primary})
    return canonical_json({"kind": "restore", "site": site, "rejoins": rows})


def bind(data: bytes, policy: RunPolicy, *, run: str, incident: str, digest: str) -> Bound:
    """The run of a plan."""
    told: dict[str, Any] = orjson.loads(data)
    made = _Making(told)
    if told["kind"] == "restore":
        made.restore()
    else:
        made.move()
    needs = Envelope(
        tuple(told.get("lost", ())),
        tuple(move["store"] for move in told.get("moves", ())),
        max((5_000 for move in told.get("moves", ()) if move["gate"]), default=0),
    )
    spec = RunSpec(
        run,
        incident,
        digest,
        tuple(made.steps),
        LIMITS,
        needs,
        policy.patience,
        policy.pace,
        policy.approvals,
    )
    return Bound(spec, made.actions)


class _Making:
    """Steps and actions of one plan."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told, self.random = told, Random(told.get("seed", 0))
        self.steps: list[RunStep] = []
        self.actions: dict[str, tuple[Action, ...]] = {}

    def step(self, id: str, kind: str, target: str, actions: Sequence[Action], **more: Any) -> str:
        start_ms = len(self.steps) * 10
        self.steps.append(RunStep(id, kind, target, start_ms, DURATION_MS, site=actions[0].at, **more))
        self.actions[id] = tuple(actions)
        return id

    def restore(self) -> None:
        site = self.told["site"]
        for row in self.told["rejoins"]:
            parameters: dict[str, Value] = {"primary_host": row["primary"]}
            action = _database("rejoin", row["store"], row["engine"], site, parameters)
            self.step(f"rejoin:{row['store']}", "rejoin", row["store"], [action])
        if not self.steps:
            note = Action("verify", "site", "noop", site)
            self.step("verify:site", "verify", "site", [note])

    def move(self) -> None:
        promoted = [self._store(move) for move in self.told["moves"]]
        kept, lost = self.told["kept"], self.told.get("away", self.told["lost"])
        to = self.told["moves"][0]["new"] if self.told["moves"] else self.told.get("to", kept[0])
        for number, service in enumerate(self.told["services"]):
            self._service(number, service, to, promoted, kept, lost)
        if self.random.random() < 0.15:
            words: dict[str, Value] = {"instructions": "call the power company"}
            action = Action("attest", "power", "manual", kept[0], {}, words)
            self.step("attest:power", "attest", "power", [action], manual=True)
        if self.random.random() < 0.4:
            hook = Action("run", "page", "http", kept[0], {"url": kept[0]})
            self.step("verify:page", "verify", "page", [hook], after=tuple(promoted[:1]))
        if not self.steps:
            self.step("verify:site", "verify", "site", [Action("verify", "site", "noop", kept[0])])

    def _store(self, move: dict[str, Any]) -> str:
        store, engine, old, new = move["store"], move["engine"], move["old"], move["new"]
        ends: dict[str, Value] = {"old": old, "candidate": new}
        proof = move["proof"]
        fence = self.step(
            f"fence:{store}",
            "fence",
            store,
            [self._fence(store, engine, proof, ends)],
            data_set=store,
            manual=proof == "attest",
        )
        parameters: dict[str, Value] = {
            "candidate": new,
            "old_host": old,
            "synchronous": tuple(move["synchronous"]),
            **({"copies": tuple(move["others"])} if engine == "postgres" and move["others"] else {}),
        }
        action = _database("promote", store, engine, new, parameters)
        gate = f"promoting {store} may lose writes" if move["gate"] else ""
        promote = self.step(
            f"promote:{store}", "promote", store, [action], after=(fence,), data_set=store, gate=gate
        )
        for site in move["others"]:
            follow: dict[str, Value] = {"how": "follow", "primary_host": new}
            action = _database("rejoin", store, engine, site, follow)
            self.step(f"rejoin:{store}:{site}", "rejoin", store, [action], after=(promote,))
        return promote

    def _fence(self, store: str, engine: str, proof: str, ends: Mapping[str, Value]) -> Action:
        old, new = str(ends["old"]), str(ends["candidate"])
        parameters: dict[str, Value] = {"proof": proof, **ends}
        match proof:
            case "demote":
                return _database("demote", store, engine, old, parameters)
            case "sync":
                return _database("fence", store, engine, new, parameters)
            case "network":
                return Action("fence", store, "http", new, {"url": new}, parameters)
            case "power":
                return Action("fence", store, "command", new, {}, parameters)
            case "none":
                return Action("fence", store, "noop", new, {}, parameters)
        return Action("attest", store, "manual", new, {}, {**parameters, "instructions": "look"})

    def _service(
        self,
        number: int,
        service: str,
        to: str,
        promoted: Sequence[str],
        kept: Sequence[str],
        lost: Sequence[str],
    ) -> None:
        before: tuple[str, ...] = ()
        if number % 3 == 2:
            room = Action("stop", f"{service}-batch", "process", to, _agent(to), {"from_replicas": 1})
            shed = self.step(f"shed:{service}", "shed", f"{service}-batch", [room], safe_undo=True)
            before = (shed,)
        scale = Action("scale", service, "process", to, _agent(to), {"replicas": 2, "from_replicas": 1})
        uses = tuple((limit.id, 1, 0) for limit in LIMITS)
        start = self.step(
            f"start:{service}", "start", service, [scale], after=before, uses=uses, safe_undo=True
        )
        check = Action("verify", service, "process", to, _agent(to), {"replicas": 1})
        verify = self.step(f"verify:{service}", "verify", service, [check], after=(start, *promoted[:1]))
        where: dict[str, Value] = {"to": to, "away": ",".join(lost), "share": 1_000}
        shifts = [Action("shift", service, "haproxy", at, {"host": at}, where) for at in kept]
        shifts += [Action("shift", service, "dns", at, {"server": at}, where) for at in kept]
        self.step(f"shift:{service}", "shift", service, shifts, after=(verify,), safe_undo=True)


def _agent(site: str) -> dict[str, Value]:
    return {"agent": site, "unit": "unit"}


def _database(verb: Verb, store: str, engine: str, site: str, parameters: Mapping[str, Value]) -> Action:
    return Action(verb, store, engine, site, {"host": site, "name": f"dc-{site}"}, parameters)


def protection(store: str, site: str, synchronous: Sequence[str]) -> bytes:
    """The plan that makes another replica synchronous, as `engine.protecting` writes it."""
    return canonical_json(
        {
            "protect": {
                "store": store,
                "driver": "postgres",
                "at": site,
                "settings": {"host": site, "name": f"dc-{site}"},
                "synchronous": list(synchronous),
            }
        }
    )


def wave(options: WaveOptions, run: str) -> Bound:
    """The run that boots a site, as binding makes it: feeds, then boots behind them, the longest first."""
    halls, feeds = options.halls, sorted({feed for server in options.servers for feed in server.feeds})
    steps = [RunStep(f"power:{feed}", "power", feed, 0, 1_000, site=HERE) for feed in feeds]
    actions: dict[str, tuple[Action, ...]] = {
        f"power:{feed}": (Action("start", feed, "redfish", HERE, {}, {"circuit": feed}),) for feed in feeds
    }
    for server in options.servers:
        name, mine, boot_ms = server.name, server.feeds, int(server.boot_s * 1_000)
        domains, rush_ms = (*mine, halls[server.rack], server.rack), int(server.inrush_s * 1_000)
        uses = [(f"power:{domain}", server.watts, KEPT) for domain in domains]
        uses += [(f"inrush:{feed}", server.inrush_watts, rush_ms) for feed in mine]
        uses.append((f"boots:{server.boot_server}", 1, 0))
        after, start_ms = tuple(f"power:{feed}" for feed in mine), int(1_000 * (200 - server.boot_s))
        place: dict[str, Any] = {"site": HERE, "rack": server.rack, "feeds": mine, "cold": True}
        place["boot_server"] = server.boot_server
        boot = RunStep(f"boot:{name}", "boot", name, start_ms, boot_ms, after, tuple(uses), **place)
        steps.append(boot)
        actions[boot.id] = (Action("boot", name, "redfish", HERE),)
    limits = [RunLimit(f"power:{domain}", "slots", watts) for domain, watts in options.budgets.items()]
    limits += [RunLimit(f"inrush:{feed}", "slots", watts) for feed, watts in options.inrush.items()]
    boot_servers = sorted({"b0", "b1"} | {server.boot_server for server in options.servers})
    limits += [RunLimit(f"boots:{name}", "slots", options.at_once) for name in boot_servers]
    patience = Patience(attempts=4, deadline_factor=3, deadline_least_ms=20_000)
    spec = RunSpec(run, "dark", "plan-1", tuple(steps), tuple(limits), approvals=0, patience=patience)
    return Bound(spec, actions)
