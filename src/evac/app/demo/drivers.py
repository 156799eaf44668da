"""A simulated company for the demonstration: hands that take their time, databases with roles, sites that
answer until they burn.

Only what stands behind the endpoints is simulated; whoever asks is the real thing. A hand takes as long as
its endpoint says under `takes`, more or less, by the seed and the order: the same demonstration twice takes
the same times. What a site does ends with it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, get_args

from evac.drivers.capabilities import Promotes, ProvesSync, ReportsRole, RoleReport
from evac.drivers.port import NO_EVIDENCE, Action, Checked, Evidence, Observed, Order, Verb
from evac.drivers.registry import DRIVERS, Maker
from evac.model.errors import Retryable
from evac.model.estate import Estate
from evac.watch.verdict import EvidenceKind, Seen
from evac.watch.witness import Probe

KINDS: Final[tuple[EvidenceKind, ...]] = ("user", "data", "agent")
TAKES_S: Final = 4.0
QUICK: Final = 0.7
SLOW: Final = 1.5
"""A hand takes between so many times as long as usual."""
SLOW_SERVICE: Final = 2.6
NEVER_S: Final = 3_600.0
GROWS: Final = 4_096
"""Bytes of log that a primary writes between two looks."""


@dataclass(slots=True)
class Copies:
    """One store: site -> name of its copy, and which of them takes writes."""

    names: Mapping[str, str]
    primary: str
    synchronous: bool
    timeline: int = 1
    lsn: int = 1_000_000


@dataclass(slots=True)
class Company:
    """What is true of the simulated company now. slow: a service whose starts take too long. speed: 2 lets
    all hands be twice as quick.
    """

    seed: int
    stores: dict[str, Copies]
    slow: str = ""
    speed: float = 1.0
    burnt: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)

    def takes_s(self, action: Action, order: Order) -> float:
        told = action.settings.get("takes", TAKES_S)
        usual = float(str(told)) / self.speed
        if action.target == self.slow and action.verb == "scale":
            return usual * SLOW_SERVICE
        return usual * random.Random(f"{self.seed} {order.step}").uniform(QUICK, SLOW)

    def check(self, site: str) -> None:
        """Raises Retryable where the site burns."""
        if site in self.burnt:
            raise Retryable("unreachable", f"{site} does not answer", after_ms=1_000)

    def targets(self, sites: tuple[str, ...], own: str) -> dict[str, tuple[Probe, ...]]:
        """Probes of the other sites."""
        return {site: tuple(self._probe(kind, site, own) for kind in KINDS) for site in sites if site != own}

    def _probe(self, kind: EvidenceKind, site: str, own: str) -> Probe:
        async def ask() -> Seen:
            await asyncio.sleep(NEVER_S if {site, own} & self.burnt else 0.002)
            return Seen(kind, "up", 2)

        return Probe(kind, f"{kind}-{site}", ask)

    def hands(self) -> dict[str, Maker]:
        """Drivers by name, as endpoints name them."""
        every = frozenset(get_args(Verb))
        return {
            name: partial(StoreHands if spec.can(Promotes) else Hands, self, name, every)
            for name, spec in DRIVERS.items()
            if spec.acts
        }


def company_of(estate: Estate, seed: int, slow: str = "", speed: float = 1.0) -> Company:
    names = {(e.subject, e.at): str(e.settings["name"]) for e in estate.endpoints if "name" in e.settings}
    stores = {
        store.id: Copies(
            {member.at: names[store.id, member.at] for member in store.members},
            next(member.at for member in store.members if member.mode == "primary"),
            any(member.mode == "sync" for member in store.members),
        )
        for store in estate.stores
    }
    return Company(seed, stores, slow, speed)


class Hands:
    """A simulated driver: what it was told to do is done after a while, if its site lives that long."""

    def __init__(self, company: Company, name: str, verbs: frozenset[Verb]) -> None:
        self.company, self.name, self.verbs = company, name, verbs

    async def check(self, action: Action, order: Order) -> Checked:
        if action.at in self.company.burnt:
            return Checked((f"{action.at} does not answer",))
        return Checked()

    async def execute(self, action: Action, order: Order) -> Evidence:
        self.company.check(action.at)
        if order.dry_run:
            return {"dry_run": f"would {action.verb} {action.target}"}
        await asyncio.sleep(min(self.company.takes_s(action, order), order.timeout_s * 0.9))
        self.company.check(action.at)
        self.apply(action)
        self.company.done.add(self._what(action, order))
        return {"simulated": True}

    async def observe(self, action: Action, order: Order) -> Observed:
        if action.at in self.company.burnt:
            return Observed("unclear", {"why": f"{action.at} does not answer"})
        return Observed("done" if self._what(action, order) in self.company.done else "absent")

    async def undo(self, action: Action, order: Order) -> Evidence:
        self.company.check(action.at)
        if not order.dry_run:
            self.company.done.discard(self._what(action, order))
        return NO_EVIDENCE

    async def close(self) -> None:
        """Nothing is open."""

    def apply(self, action: Action) -> None:
        """Most of what is done changes nothing that anybody looks at."""

    def _what(self, action: Action, order: Order) -> str:
        return f"{order.run} {order.step} {action.verb} {action.target} {action.at}"


class StoreHands(Hands, ReportsRole, ProvesSync):
    """Simulated databases: members with roles, which a promotion changes."""

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        """What one copy says of itself. Raises Retryable where its site burns."""
        self.company.check(action.at)
        store, burnt = self.company.stores[action.target], self.company.burnt
        history = f"demo-{action.target}/{store.timeline}"
        if action.at != store.primary:
            streams = store.primary not in burnt
            if not streams:
                return RoleReport("detached", position=store.lsn, history=history)
            return RoleReport("replica", 0, position=store.lsn, history=history)
        store.lsn += GROWS
        alive = {site: name for site, name in store.names.items() if site not in {store.primary, *burnt}}
        confirms = tuple(alive.values()) if store.synchronous else ()
        others = tuple(name for site, name in store.names.items() if site != store.primary)
        waits_for = others if store.synchronous and not alive else ()
        return RoleReport("primary", 0, confirms, waits_for, store.lsn, history)

    async def precheck_sync(
        self, action: Action, timeout_s: float, member: str, names: Mapping[str, str], at: str
    ) -> Checked:
        """Whether every commit needs the synchronous copy."""
        store = self.company.stores[action.target]
        whole = store.synchronous and store.primary not in self.company.burnt
        return Checked() if whole else Checked((f"no copy of {action.target} is synchronous",))

    def apply(self, action: Action) -> None:
        if action.verb == "promote":
            store = self.company.stores[action.target]
            store.primary, store.synchronous = action.at, False
            store.timeline += 1
