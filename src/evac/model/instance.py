"""The planning instance: an estate and a scenario in the integers of the formal model.

Planner, bound and checker read the same instance and nothing else. Quantities are integers:
ticks, base units of `units.RESOURCES`, watts, people. Rows are surviving servers that evac may
place on, and one row for each self-scheduling pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from evac.model.fleet import BoolColumn, IndexColumn, IntColumn, np
from evac.model.reason import OffReason

WHOLE: Final = -1
"""Hold of a use that lasts as long as the step itself."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `capacity` units held at any tick. `window`: a rate, its length in ticks; else None."""

    id: str
    capacity: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """One unit action holds `units` of a limit during [start + offset, start + offset + hold)."""

    limit: int
    units: int
    offset: int = 0
    hold: int = WHOLE


@dataclass(frozen=True, slots=True)
class BootKind:
    """Boots that are alike: class, feeds and boot server, with their duration and uses.

    ready: tick before which none begins, as the power steps stand (the rack has power, its switches and BMCs
    answer); ready_least: the same, whatever the order of power steps. by_itself: these servers come on with
    their power, at `ready`: nobody boots them, somebody looks. by_hand: they have no management controller,
    so a person presses the button, whatever tools there are; duration and uses are those of people then.
    """

    id: str
    duration: int
    uses: tuple[Use, ...]
    ready: int = 0
    ready_least: int = 0
    by_itself: bool = False
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class PowerBudget:
    """Steady watts of a feed, hall, rack or site: what it may carry (of power and of cooling, less the
    margin), and what is on without any boot: from the beginning, or by itself when its power comes back."""

    id: str
    watts: int
    on_watts: int


@dataclass(frozen=True, slots=True)
class PowerStep:
    """A feed is energised, or the outlets of a rack are switched on, at a tick that the estate gives.

    after: numbers of the power steps that must be over; manual: a person does it.
    """

    target: str
    start: int
    end: int
    uses: tuple[Use, ...]
    manual: bool
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOff:
    """Servers of a dark domain that stay off, and why; names sorted."""

    domain: str
    why: OffReason
    servers: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why, in words."""
        return self.why.words


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """Rows that are alike for starts: a site x class of bare servers, or a self-scheduling pool."""

    id: str
    site: int
    start_uses: tuple[Use, ...]
    shed_uses: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Where a lost store can become primary: by promotion of a copy or by restoring a backup.

    loss_ms: what would be lost (None unknown); allowed: within rpo, or waived by name.
    """

    id: str
    site: str
    kind: Literal["elect", "promote", "force-quorum", "restore", "unprotect"]
    duration: int
    uses: tuple[Use, ...]
    loss_ms: int | None
    allowed: bool
    waived: bool = False
    by_itself: bool = False
    """Whether the store stays its own: evac does not act, and nothing is fenced."""
    from_loss: int = -1
    """Ticks from the loss on of what waits for nobody; `duration` is what is left of them when a plan begins.
    -1 where somebody acts.
    """
    forced: bool = False
    """Whether people force a new cluster from a minority."""
    confirms: bool = False
    """Whether it has every commit: each needed it, or the old primary still writes. Preferred to a copy that
    is only said to be 0 s behind.
    """
    untimed: bool = False
    """Whether nothing says how far it is behind, and so how long it writes down what it received."""


@dataclass(frozen=True, slots=True)
class LostStore:
    """A store that takes no writes: its primary or quorum is lost, or its commits wait for copies that are.
    Without an allowed candidate it never returns.
    """

    id: str
    fence: int
    fence_rung: str
    fence_uses: tuple[Use, ...]
    candidates: tuple[Candidate, ...]
    backup: int | None = None
    """Ticks of the fresh backup that precedes its fence; None where none does."""
    has_majority: bool = True
    """Whether more than half of its votes are left, where it writes only with a majority."""

    @property
    def elects(self) -> bool:
        """Whether its members elect a primary by themselves, or it keeps its primary: evac does not act, and
        nothing is fenced.
        """
        return any(candidate.by_itself for candidate in self.candidates)

    @property
    def allowed(self) -> tuple[Candidate, ...]:
        return tuple(c for c in self.candidates if c.allowed)

    @property
    def soonest(self) -> int | None:
        """Ticks before which no plan has its primary back; None where nothing brings it back."""
        ways = [candidate.duration for candidate in self.allowed]
        return min(ways) + (0 if self.elects else self.fence) if ways else None


@dataclass(frozen=True, slots=True)
class Reprotect:
    """A copy of a store that is behind the primary, fenced until it follows. lost: number of the lost store
    that is promoted first, -1 where the primary is elsewhere already; ticks: what it takes a person."""

    store: str
    member: str
    lost: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why the steps of a service can never begin: it waits for itself."""

    kind: Literal["tool-cycle", "start-cycle"]
    """tool-cycle: a tool of its steps waits for it; start-cycle: what it needs to start does."""
    services: tuple[str, ...]
    """All that wait for each other, itself included, sorted."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """Replicas of a service that stop elsewhere once all of it serves at home: (server or pool, replicas)."""

    service: int
    places: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ToolNeed:
    """Affected services a step of a kind must wait for, and what it costs people without them.

    services: indices of affected tool services (those that survive are no constraint).
    manual: least ticks of a step done by people (its duration is max(regular, manual)); None
    where people have no way. manual_uses: hands on the floor.
    """

    kind: str
    services: tuple[int, ...]
    manual: int | None
    manual_uses: tuple[Use, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """S services sorted by id. n: replicas for full service; m: smallest count that serves;
    surviving: replicas left; demand (S, R) of one replica; start, verify, change, settle, shed:
    ticks; caps of spread count survivors too (UNBOUNDED: none); conflict: group id or -1;
    base_lost, top_lost: milestones that do not hold at t = 0; shift: traffic must be moved;
    blocked: hard-depends on a store that never returns; component: of hard edges, numbered so that
    what is needed has the lower number; base_weight, top_weight: tier weight x people without service.
    """

    id: tuple[str, ...]
    tier: IntColumn
    people: IntColumn
    n: IntColumn
    m: IntColumn
    surviving: IntColumn
    demand: IntColumn
    start: IntColumn
    verify: IntColumn
    change: IntColumn
    settle: IntColumn
    shed: IntColumn
    per_server: IntColumn
    rack_cap: IntColumn
    feed_cap: IntColumn
    site_cap: IntColumn
    conflict: IndexColumn
    sheddable: BoolColumn
    base_lost: BoolColumn
    top_lost: BoolColumn
    shift: BoolColumn
    blocked: BoolColumn
    component: IndexColumn
    base_weight: IntColumn
    top_weight: IntColumn
    hard: tuple[tuple[int, ...], ...]
    """Services without which one does not serve."""
    hard_start: tuple[tuple[int, ...], ...]
    """Those of them without which it does not even start."""
    soft: tuple[tuple[int, ...], ...]
    lost_stores: tuple[tuple[int, ...], ...]
    """Lost stores that one waits for."""
    start_stores: tuple[tuple[int, ...], ...]
    """Those of them that it needs to start."""
    shift_uses: tuple[tuple[Use, ...], ...]
    own_return: frozenset[int] = frozenset()
    """Lost stores that come back without a fence and a promotion."""
    alone: frozenset[int] = frozenset()
    """Services that come back without anybody's help: see `derive.untimed.returns_alone`."""

    def __len__(self) -> int:
        return len(self.id)

    def base_starts(self, service: int) -> int:
        """Starts the base milestone still needs."""
        return max(0, int(self.m[service] - self.surviving[service]))

    def top_starts(self, service: int) -> int:
        """Further starts the top milestone needs."""
        return max(0, int(self.n[service] - max(self.surviving[service], self.m[service])))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """V rows to place on, sorted: bare servers by name, then pools by id.

    fleet_row: row in the Fleet, or -1 for a pool; name index through `names`; site, rack,
    feed_group, pool: indices (-1 unknown); is_pool: schedules itself (no spread below a site
    applies); dark: off, usable after a boot; capacity, used: (V, R); watts: what a boot adds;
    boot_kind: index or -1; power: (V, C) indices of PowerBudget, -1 filler.
    """

    fleet_row: IndexColumn
    site: IndexColumn
    rack: IndexColumn
    feed_group: IndexColumn
    pool: IndexColumn
    is_pool: BoolColumn
    dark: BoolColumn
    capacity: IntColumn
    used: IntColumn
    watts: IntColumn
    boot_kind: IndexColumn
    power: IndexColumn

    def __len__(self) -> int:
        return len(self.fleet_row)


@dataclass(frozen=True, slots=True, eq=False)
class Present:
    """Surviving replicas that stand on rows: sorted by (service, row)."""

    service: IndexColumn
    row: IndexColumn
    count: IntColumn


@dataclass(frozen=True, slots=True)
class Vague:
    """Amounts that nobody knows. A plan takes such a capacity as unlimited and such a demand as nothing, and
    says of nothing that hangs on it that it comes back.
    """

    demand: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> path of what its replicas take, where that is not known."""
    rows: Mapping[int, tuple[tuple[int, str], ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Row -> (resource, path of the fact that is missing) where what is free is not known: the capacity, or
    what a replica takes that runs there."""

    def __bool__(self) -> bool:
        return bool(self.demand or self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """Everything a plan is made from and checked against.

    horizon: H in ticks; grace: ticks before an outage begins to count (an evacuation whose site
    still runs): O = max(0, C - grace). eligible: (S, P) service x pool. site_names by index.
    power_steps: what is energised before the first boot; powered_by: (V,) number of the step that gives a row
    its power, -1 where it has power already or nothing says; bring_up: (V,) rows of a dark domain, which boot
    though no service may need them; left_off: servers of it that are no rows. attests: service -> ticks it
    takes a person to free it before it starts; reprotects: copies that must follow their primary anew.
    row_names: names of rows as bytes. unknown: facts taken as unknown, sorted: the proof is
    partial if there are any. notes: what was assumed in reading the estate.
    """

    tick_ms: int
    horizon: int
    grace: int
    tier_weights: tuple[int, ...]
    site_names: tuple[str, ...]
    services: Services
    rows: Rows
    row_names: tuple[str, ...]
    present: Present
    pools: tuple[PoolInfo, ...]
    eligible: BoolColumn
    limits: tuple[Limit, ...]
    boot_kinds: tuple[BootKind, ...]
    power: tuple[PowerBudget, ...]
    stores: tuple[LostStore, ...]
    tools: Mapping[str, ToolNeed]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    power_steps: tuple[PowerStep, ...] = ()
    powered_by: IndexColumn = field(default_factory=lambda: np.zeros(0, np.int32))
    bring_up: BoolColumn = field(default_factory=lambda: np.zeros(0, np.bool_))
    left_off: tuple[LeftOff, ...] = ()
    attests: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    reprotects: tuple[Reprotect, ...] = ()
    unjudged: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> path of the fact without which nobody can say what becomes of it."""
    vague: Vague = field(default_factory=Vague)
    """What nobody knows of capacity and demand, so that what is started there may not fit."""
    untimed: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> path of the duration that is not known, of those that come back at a time nobody knows."""
    estimated: tuple[str, ...] = ()
    """Facts of which the plan takes the worse end and the bound the better one, sorted."""
    rebuilds: Mapping[int, tuple[tuple[str, str], ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> (store, what it is made from): stores without a copy that it makes again as a part of its
    check, once all that it needs is there."""
    stuck: Mapping[int, Stuck] = field(default_factory=lambda: MappingProxyType({}))
    """Services that wait for themselves; what waits for them is blocked with them."""
    leaving: tuple[Leaving, ...] = ()
    """Of a failback: what stops elsewhere, by service."""

    @property
    def to_boot(self) -> BoolColumn:
        """(V,) rows that are off until somebody boots them; those that come on by themselves are none."""
        by_itself = np.array([kind.by_itself for kind in self.boot_kinds] + [False], np.bool_)
        rows = self.rows
        return np.asarray(rows.dark & (rows.boot_kind >= 0) & ~by_itself[rows.boot_kind], np.bool_)

    @property
    def first_boot(self) -> int:
        """Tick before which no boot begins, whatever the order of power steps."""
        kinds = np.unique(self.rows.boot_kind[self.to_boot]).tolist()
        return min((self.boot_kinds[kind].ready_least for kind in kinds), default=0)

    @property
    def boots_by_hand(self) -> bool:
        """Whether some rows boot by hand, so that no tool is waited for."""
        return any(kind.by_hand for kind in self.boot_kinds)

    @property
    def brought_up(self) -> IndexColumn:
        """Rows that boot though no service may need it, ascending."""
        return np.flatnonzero(self.bring_up).astype(np.int32)
