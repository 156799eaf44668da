"""Defines a kind of step: its words, its tools, what it waits for, uses and changes.

A kind is one module of this package and one line of the registry. Everything that differs between kinds is a
field or a method here; planner, checker, engine, views and audit use these and never test for a kind by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import ClassVar, Literal, NamedTuple

from evac.model.estate import Store
from evac.model.instance import Cut, Instance, Use
from evac.model.plan import Step
from evac.model.records import dataclass
from evac.model.situation import Draft

Target = Literal["service", "store", "copy", "server", "supply", "site", "plan"]
"""store: one that lost its primary; copy: a member of any store; supply: a feed or a rack."""
Colour = Literal["fence", "shed", "start", "promote", "boot", "verify", "shift", "other"]
"""In charts; the style sheets of pages and reports have a rule for each."""


class Capability(Enum):
    """What a driver must be able to do for a step, by its name in `evac.drivers.capabilities`."""

    FENCES = "Fences"
    PROMOTES = "Promotes"
    FOLLOWS = "Follows"
    PROTECTS = "Protects"
    RUNS_UNITS = "RunsUnits"
    VERIFIES = "Verifies"
    ROUTES_TRAFFIC = "RoutesTraffic"
    BOOTS_SERVERS = "BootsServers"
    SWITCHES_POWER = "SwitchesPower"
    RESTORES_DATA = "RestoresData"


class Need(Enum):
    """What a step may wait for."""

    DEPENDENCIES = "what its service needs to serve"
    START_DEPENDENCIES = "what its service needs to start"
    TOOLS = "the tools that its kind needs, unless people do it"
    POWER = "power for its server, or for the supply that feeds it"
    RELEASE = "a person who releases its service"
    BOOTS = "the servers its replicas start on"
    SHEDS = "stopping the replicas whose capacity it needs"
    STARTS = "the replicas of its milestone"
    VERIFY = "the check of its service in the new location"
    SERVING = "the replacement that takes its traffic in the new location"
    FENCE = "the fence of its store"
    PRIMARY = "the new primary of its store"


class Condition(Enum):
    """When the base of a service needs a step of a kind, in the order of checking."""

    ALWAYS = "whatever was lost"
    STARTS = "replicas must start"
    SHIFTS = "traffic must move"
    STORES = "a store it needs lost its primary"


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How a simulation draws steps of a kind."""

    spread: float = 0.25
    """Sigma of the lognormal factor of one step; the median is 1."""
    common: float = 0.10
    """Sigma of the factor that all steps of the kind share in one trial."""
    fail: float = 0.005
    """Odds that one attempt fails."""
    slow: float = 1.0
    """Fixed factor."""


class PeopleTimes(NamedTuple):
    """What an estate states about how long people take."""

    manual_ms: Mapping[str, int]
    """Kind of step -> duration without tools."""
    approval_ms: int | None
    """Of a plan; None if it is not stated, or if no person approves."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get a primary back: where, how long after a fence, and the data loss."""

    kind: str
    at: str
    duration_ms: int | None
    """None if not stated."""
    loss_ms: int | None
    """None if unknown, which exceeds any stated RPO."""
    by_itself: bool = False
    """Whether the store recovers without evac, and nothing is fenced."""
    from_loss: bool = False
    """Whether it begins with the loss, without waiting for detection or approval."""
    only_waived: bool = False
    """Whether it is used only if someone waives the data by name, whatever the RPO."""
    confirms: bool = False
    """Whether every commit needed it: a copy reported to be 0 s behind is not the same."""
    untimed: bool = False
    """Whether its lag, and so its time to replay, is not stated."""
    waived: bool = False
    cut: Cut | None = None
    """What decides `loss_ms`, together with when the old primary stops taking writes."""


class Unstated(NamedTuple):
    """A way that no plan can use, because the estate does not state a fact."""

    fact: str
    """Its path."""


class Left(NamedTuple):
    """What a loss leaves of a store."""

    store: Store
    backups_gone: tuple[bool, ...]
    people: PeopleTimes


class Entry(NamedTuple):
    """Timeline entry of a completed step."""

    kind: str
    words: str
    """With `{target}`, and `{where}` if the site is worth naming."""
    weight: Literal["main", "detail"]


class Place(NamedTuple):
    """A step, and the rows of its instance that it acts on; -1 if it acts on none."""

    step: Step
    service: int = -1
    store: int = -1
    row: int = -1
    pool: int = -1
    power: int = -1


class StepKind:
    """One kind of step. A subclass states what differs from the defaults; there is one object of each."""

    name: ClassVar[str]
    """As in plan files and journals."""
    planned_as: ClassVar[str] = ""
    """The kind whose tools, manual way and planner code it shares; empty: its own."""
    is_planned: ClassVar[bool] = True
    """Whether a plan may contain it; the others are added when a plan is run."""
    target: ClassVar[Target]

    title: ClassVar[str]
    """What one step does, as an instruction."""
    work: ClassVar[str]
    """All steps of the kind, in a chart."""
    sentence: ClassVar[str]
    """One step in a chain: `{target}` and, if the kind has them, `{where}`, `{many}` and `{rung}`."""
    phase: ClassVar[str] = ""
    """For kinds that restore a service: the phase of the service while the step runs."""
    entry: ClassVar[Entry]

    tools: ClassVar[tuple[str, ...]] = ()
    """Roles that it requires, unless people have a manual way."""
    precheck: ClassVar[str] = ""
    gate: ClassVar[str] = ""
    """What must hold once it is done."""
    undo: ClassVar[str] = ""
    is_undone_safely: ClassVar[bool] = False
    """Whether evac may undo it automatically during a rollback."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    condition: ClassVar[Condition | None] = None
    """When the base of a service needs it; None: no base needs it as such."""
    is_gate: ClassVar[bool] = False
    """Whether others wait for its end through any chain of steps."""
    opens_wave: ClassVar[bool] = False
    """Whether steps that wait for it belong to the next wave."""
    joins_wave: ClassVar[bool] = False
    """Whether it belongs to the wave of what it waits for, even if that opens the next one."""
    planner_code: ClassVar[int] = -1
    """Its code in the planner's compiled kernels; -1: not used there."""
    bound_code: ClassVar[int] = -1
    """Its code in the bound's compiled kernels; -1: not used there."""
    is_audited: ClassVar[bool] = False
    """Whether the audit's chains wait for its tools."""
    takes_people: ClassVar[bool] = False
    """Whether an estate states how long people take for it, even if it shares another kind's tools."""
    is_timed: ClassVar[bool] = False
    """Whether the instance gives its duration and uses."""
    uncertainty: ClassVar[Uncertainty | None] = None

    is_awaited: ClassVar[bool] = False
    """Whether it happens by itself: no one performs it, and a run only waits for the result."""
    awaits_commits: ClassVar[bool] = False
    """Whether it is done only once commits of its store are seen to go on."""
    performed_by: ClassVar[Capability | None] = None
    """What performs it in a run; None: a person does."""

    replicas: ClassVar[int] = 0
    """Sign of the replicas that it changes: 1 starts them, -1 stops them."""
    frees_capacity: ClassVar[bool] = False
    """Whether others start in the capacity that it frees."""
    boots: ClassVar[bool] = False
    gives_power: ClassVar[bool] = False
    fences: ClassVar[bool] = False
    makes_primary: ClassVar[bool] = False
    restores: ClassVar[bool] = False
    """Whether the data comes from a backup."""
    follows: ClassVar[bool] = False
    """Whether a copy follows the primary afterwards."""
    protects: ClassVar[bool] = False
    """Whether it changes which copies confirm commits."""
    claims_epoch: ClassVar[bool] = False
    """Whether it runs under an epoch of its store that it, or its fence, claims."""
    joins_epoch: ClassVar[bool] = False
    """Whether it runs under the store's present epoch."""
    checks: ClassVar[bool] = False
    moves_traffic: ClassVar[bool] = False
    releases: ClassVar[bool] = False
    """Whether it is how a person frees a service to start."""

    @property
    def colour(self) -> Colour:
        """Its colour in charts, by what it does."""
        by_effect: tuple[tuple[object, Colour], ...] = (
            (self.fences, "fence"),
            (self.replicas < 0, "shed"),
            (self.replicas > 0, "start"),
            (self.makes_primary, "promote"),
            (self.powers, "boot"),
            (self.checks or self.releases, "verify"),
            (self.performed_by is Capability.ROUTES_TRAFFIC, "shift"),
        )
        return next((colour for applies, colour in by_effect if applies), "other")

    @property
    def powers(self) -> bool:
        """Whether it switches something on, so that power budgets apply."""
        return self.boots or self.gives_power

    @property
    def like(self) -> str:
        """The name under which instance, estate and planner know this kind."""
        return self.planned_as or self.name

    @property
    def is_bounded(self) -> bool:
        """Whether a proof of the bound may count on its tools. If it is planned as another kind, a step may
        not need them.
        """
        return self.bound_code >= 0 and self.like == self.name

    def ways(self, left: Left) -> Iterator[Way | Unstated]:
        """The ways of this kind to restore a store, next to those by its surviving members."""
        yield from ()

    def way_ms(self, store: Store, people: PeopleTimes) -> int | None:
        """How long a way of this kind takes, apart from what depends on its place; None if not stated."""
        return people.manual_ms.get(self.name)

    def way_fact(self, store: Store) -> str:
        """Path of the fact that states `way_ms`."""
        return f"limits/manual/{self.name}"

    def first(self, step: Step) -> str:
        """What the step does first, in words; empty if nothing."""
        made = ", ".join(f"{store} from {source}" for store, source in step.rebuilds)
        return f"rebuild {made}" if made else ""

    def approval(self, target: str, loss: str | None) -> str:
        """What a person must approve first if writes may be lost; empty if nothing.

        loss: the maximum, in words; empty if it is shown elsewhere; None if unknown.
        """
        return ""

    def ticks(self, instance: Instance, at: Place) -> int | None:
        """Its duration with tools; None if unknown."""
        return None

    def uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        """What one unit action holds, including people."""
        return self.own_uses(instance, at) + self.hands(instance, at.step)

    def own_uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        """What one unit action holds, whoever does it."""
        return ()

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        """Changes the present state to the state after the step. to: sites that it sends users to."""
        if self.replicas:
            now.add(step.target, step.servers, self.replicas)

    def hands(self, instance: Instance, step: Step) -> tuple[Use, ...]:
        """What people hold during a manual step."""
        need = instance.tools.get(self.like) if step.manual else None
        return () if need is None else need.manual_uses
