"""What a kind of step is: its words, its tools, what it waits for, uses and changes.

A kind is one module of this package and one line of the registry. Everything that differs from kind to kind
is a field or a method here; planner, checker, engine, views and audit ask these and know no kind by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Literal, NamedTuple

from evac.model.instance import Instance, Use
from evac.model.plan import Step
from evac.model.situation import Draft

Target = Literal["service", "store", "copy", "server", "supply", "plan"]
"""store: one that lost its primary; copy: a member of any store; supply: a feed or a rack."""


class Capability(Enum):
    """What a driver must be able to do for a step, by the name that `evac.drivers.capabilities` has of it."""

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
    POWER = "power for its server, or for the supply before it"
    RELEASE = "a person who releases its service"
    BOOTS = "the servers its replicas start on"
    SHEDS = "stopping the replicas whose capacity it needs"
    STARTS = "the replicas of its milestone"
    VERIFY = "the check of its service in the new location"
    SERVING = "the replacement that takes its traffic in the new location"
    FENCE = "the fence of its store"
    PRIMARY = "the new primary of its store"


class Condition(Enum):
    """When the base of a service needs a step of a kind, in the order in which these are looked at."""

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


class Entry(NamedTuple):
    """What a timeline says of a step that is done."""

    kind: str
    words: str
    """With `{target}`, and `{where}` where a site is worth naming."""
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
    """The kind whose tools, way by hand and code in the planner it shares; empty: its own."""
    is_planned: ClassVar[bool] = True
    """Whether a plan may have it; the others are added when a plan is run."""
    target: ClassVar[Target]

    title: ClassVar[str]
    """What one step does, as an instruction."""
    work: ClassVar[str]
    """All steps of the kind, in a chart."""
    sentence: ClassVar[str]
    """One step in a chain: `{target}`, and as the kind has them `{where}`, `{many}` and `{rung}`."""
    phase: ClassVar[str] = ""
    """Of the kinds that bring a service back: the phase of the service while it runs."""
    entry: ClassVar[Entry]

    tools: ClassVar[tuple[str, ...]] = ()
    """Roles it cannot do without, unless people have a manual way."""
    precheck: ClassVar[str] = ""
    gate: ClassVar[str] = ""
    """What must hold once it is done."""
    undo: ClassVar[str] = ""
    is_undone_safely: ClassVar[bool] = False
    """Whether evac may undo it by itself when a run is rolled back."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    condition: ClassVar[Condition | None] = None
    """When the base of a service needs it; None: no base needs it as such."""
    is_gate: ClassVar[bool] = False
    """Whether others wait for its end through any chain of steps."""
    opens_wave: ClassVar[bool] = False
    """Whether what waits for it is of the next wave."""
    joins_wave: ClassVar[bool] = False
    """Whether it is of the wave of what it waits for, although that opens the next."""
    planner_code: ClassVar[int] = -1
    """Its code in the compiled kernels of the planner; -1: they do not know it."""
    bound_code: ClassVar[int] = -1
    """Its code in the compiled kernels of the bound; -1: they do not know it."""
    is_audited: ClassVar[bool] = False
    """Whether the audit's chains wait for its tools."""
    is_timed: ClassVar[bool] = False
    """Whether the instance says how long it takes and what it uses."""
    uncertainty: ClassVar[Uncertainty | None] = None

    is_awaited: ClassVar[bool] = False
    """Whether it happens by itself: nobody performs it, and a run only waits for what follows."""
    performed_by: ClassVar[Capability | None] = None
    """What performs it in a run; None: a person does."""

    replicas: ClassVar[int] = 0
    """Sign of the replicas that it changes: 1 starts them, -1 stops them."""
    frees_capacity: ClassVar[bool] = False
    """Whether others start in the capacity of the replicas that it stops."""
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
    """Whether it goes under an epoch of its store that it, or its fence, claims."""
    joins_epoch: ClassVar[bool] = False
    """Whether it goes under the epoch of its store as that is."""
    checks: ClassVar[bool] = False
    moves_traffic: ClassVar[bool] = False
    releases: ClassVar[bool] = False
    """Whether a person frees its service by it."""

    @property
    def powers(self) -> bool:
        """Whether something is on after it that was off: budgets of power hold for it."""
        return self.boots or self.gives_power

    @property
    def like(self) -> str:
        """The kind by whose name instance, estate and planner know it."""
        return self.planned_as or self.name

    def first(self, step: Step) -> str:
        """What is a part of the step and done first, in words; empty if nothing is."""
        made = ", ".join(f"{store} from {source}" for store, source in step.rebuilds)
        return f"rebuild {made}" if made else ""

    def approval(self, target: str, loss: str | None) -> str:
        """What a person approves first where writes may be lost; empty if nothing is asked.

        loss: how much at the most, in words; empty if that is shown beside it; None if no one knows.
        """
        return ""

    def ticks(self, instance: Instance, at: Place) -> int | None:
        """How long it takes with its tools; None if nothing says."""
        return None

    def uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        """What one unit action holds, people included."""
        return self.own_uses(instance, at) + self.hands(instance, at.step)

    def own_uses(self, instance: Instance, at: Place) -> tuple[Use, ...]:
        """What one unit action holds whoever does it."""
        return ()

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        """Changes what is now to what is once the step is done. to: sites that it sends users to."""
        if self.replicas:
            now.add(step.target, step.servers, self.replicas)

    def hands(self, instance: Instance, step: Step) -> tuple[Use, ...]:
        """What people hold of a step that they do."""
        need = instance.tools.get(self.like) if step.manual else None
        return () if need is None else need.manual_uses
