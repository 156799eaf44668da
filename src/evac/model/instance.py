"""The planning instance: an estate and a scenario in the integers of the formal model.

Planner, bound and checker read the same instance and nothing else. Quantities are integers:
ticks, base units of `units.RESOURCES`, watts, people. Rows are surviving servers that evac may
place on, and one row for each self-scheduling pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from types import MappingProxyType
from typing import Final, Literal

from evac.model.fleet import BoolColumn, IndexColumn, IntColumn, np
from evac.model.objectives import accepts
from evac.model.reason import OffReason
from evac.model.records import dataclass

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
    """Boots with the same class, feeds and boot server, with their duration and uses. ready: tick before
    which none begins, given the power steps (the rack has power, its switches and BMCs answer);
    ready_least: the same, whatever the order of power steps. by_itself: these servers power on with their
    feed, at `ready`: no one boots them, they are only observed. by_hand: they have no management
    controller, so a person presses the button, whatever tools there are; duration and uses are then those
    of people.
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
    """Steady watts of a feed, hall, rack or site: what it can carry (of power and of cooling, less the
    margin), and what is on without any boot, either from the beginning or automatically when its power
    returns.
    """

    id: str
    watts: int
    on_watts: int


@dataclass(frozen=True, slots=True)
class PowerStep:
    """A feed is energised, or the outlets of a rack are switched on, at a tick that follows from the
    estate. after: numbers of the power steps that must have ended; manual: a person does it.
    """

    target: str
    start: int
    end: int
    uses: tuple[Use, ...]
    manual: bool
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOff:
    """Servers of a dark domain that stay off, and why; names are sorted."""

    domain: str
    why: OffReason
    servers: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why, in words."""
        return self.why.words


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """Rows that are equivalent for starts: a site and class of bare servers, or a self-scheduling pool."""

    id: str
    site: int
    start_uses: tuple[Use, ...]
    shed_uses: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """A copy is `lag_ms` behind a primary whose site goes dark `dark_ms` after the plan begins."""

    lag_ms: int
    dark_ms: int

    @property
    def sent_ms(self) -> int:
        """The copy receives what is written until then; before 0 if its lag is longer than the site runs."""
        return self.dark_ms - self.lag_ms

    def loss_ms(self, until_ms: int) -> int:
        """What the copy lacks if the primary takes writes until a moment, or until its site is dark."""
        return max(0, min(self.lag_ms, until_ms - self.sent_ms))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to get a primary for a lost store: promoting a copy or restoring a backup. loss_ms: the data
    loss (None unknown); allowed: within the rpo of the store and of what needs it, or waived by name. Where
    both depend on when writes stop (cut), they are what they are at best: see `LostStore.at`.
    """

    id: str
    site: str
    kind: str
    """The kind of step that does it."""
    duration: int
    uses: tuple[Use, ...]
    loss_ms: int | None
    allowed: bool
    waived: bool = False
    by_itself: bool = False
    """Whether the store recovers by itself: evac does not act, and nothing is fenced."""
    from_loss: int = -1
    """Ticks from the loss for whatever needs no one; `duration` is the part left when a plan begins. -1
    if someone acts.
    """
    forced: bool = False
    """Whether people force a new cluster from a minority."""
    confirms: bool = False
    """Whether it has every commit: each one needed it, or the old primary still writes. Preferred to a copy
    only declared to be 0 s behind.
    """
    untimed: bool = False
    """Whether its lag is unknown, and so how long it takes to apply what it received."""
    cut: Cut | None = None
    """What decides its loss, together with when the old primary stops taking writes; None if its loss does
    not depend on the plan.
    """


@dataclass(frozen=True, slots=True)
class LostStore:
    """A store that accepts no writes: its primary or quorum is lost, or its commits wait for copies that
    are. Without an allowed candidate it never recovers.
    """

    id: str
    fence: int
    fence_rung: str
    fence_uses: tuple[Use, ...]
    candidates: tuple[Candidate, ...]
    backup: int | None = None
    """Ticks of the fresh backup that precedes its fence; None if there is none."""
    has_majority: bool = True
    """Whether more than half of its votes are left, if it writes only with a majority."""
    needs: tuple[int, ...] = ()
    """Lost services that a restore of it waits for, by index."""
    rpo_is_open: bool = False
    """Whether it comes back with a loss of data, or maybe one, and the files do not limit it."""
    limited_by: str = ""
    """The service whose RPO is the strictest limit; empty if the store's own is, or there is none."""
    limit_ms: int | None = None
    """How much data it may lose without a waiver; None: any amount."""
    waivable: bool = False
    """Whether someone waives the data beyond that by name."""
    waives_rpo: bool = False
    """Whether its RPO would be open if no one did."""

    @property
    def is_fenced(self) -> bool:
        """Whether its old primary takes writes until a fence has ended; else until the promotion begins."""
        return self.fence_rung != "none"

    def at(self, way: Candidate, until_ms: int) -> Candidate:
        """A way as it is if the old primary takes writes until a moment of the plan."""
        if way.cut is None:
            return way
        loss_ms = way.cut.loss_ms(until_ms)
        within = accepts(self.limit_ms, loss_ms)
        return replace(
            way,
            loss_ms=loss_ms,
            confirms=loss_ms == 0,
            allowed=within or self.waivable,
            waived=self.waivable and not within,
        )

    def usable_until_ms(self, way: Candidate) -> int | None:
        """The last moment at which writes may stop for a way to be allowed; None if that does not matter."""
        if way.cut is None or self.waivable or accepts(self.limit_ms, way.cut.lag_ms):
            return None
        return way.cut.sent_ms + (self.limit_ms or 0)

    @property
    def elects(self) -> bool:
        """Whether its members elect a primary by themselves, or it keeps its primary: evac does not act, and
        nothing is fenced.
        """
        return any(candidate.by_itself for candidate in self.candidates)

    @property
    def needs_waiver(self) -> bool:
        """Whether nothing brings it back without one, or no one could judge it."""
        return self.waives_rpo or bool(self.allowed and all(way.waived for way in self.allowed))

    @property
    def allowed(self) -> tuple[Candidate, ...]:
        return tuple(c for c in self.candidates if c.allowed)

    @property
    def in_doubt(self) -> Candidate | None:
        """The first way that loses an unknown amount of data, if no way is allowed: the RPO may allow it, but
        no plan uses it unless someone waives the data by name. None if the store is restored, or certainly
        is not.
        """
        unknown = (c for c in self.candidates if c.loss_ms is None and not c.forced)
        return None if self.allowed else next(unknown, None)

    @property
    def soonest(self) -> int | None:
        """Ticks before which no plan has its primary back; None if nothing brings it back."""
        ways = [candidate.duration for candidate in self.allowed]
        return min(ways) + (0 if self.elects else self.fence) if ways else None


@dataclass(frozen=True, slots=True)
class Reprotect:
    """A copy of a store that is behind the primary, and is fenced until it follows. lost: number of the
    lost store that is promoted first, -1 if the primary is already elsewhere; ticks: how long it takes a
    person.
    """

    store: str
    member: str
    lost: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why the steps of a service can never begin: it waits for itself."""

    kind: Literal["tool-cycle", "start-cycle"]
    """tool-cycle: a tool of its steps waits for it; start-cycle: something that it needs to start waits
    for it.
    """
    services: tuple[str, ...]
    """All services that wait for each other, itself included, sorted."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """Replicas of a service that stop elsewhere once all of it serves at home: (server or pool, replicas)."""

    service: int
    places: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ToolNeed:
    """Affected services that a step of a kind must wait for, and what the step takes if people do it
    without them. services: indices of affected tool services (surviving ones are no constraint). manual:
    minimum ticks of a step done by people (its duration is max(regular, manual)); None if people cannot
    do it. manual_uses: on-site staff. doubtful: tool services that are not affected as far as is known, but
    cannot be judged.
    """

    kind: str
    services: tuple[int, ...]
    manual: int | None
    manual_uses: tuple[Use, ...]
    doubtful: tuple[int, ...] = ()


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
    movable: BoolColumn
    """Services that may not be shed, but whose running replicas may move to other servers."""
    base_lost: BoolColumn
    top_lost: BoolColumn
    shift: BoolColumn
    blocked: BoolColumn
    component: IndexColumn
    base_weight: IntColumn
    top_weight: IntColumn
    hard: tuple[tuple[int, ...], ...]
    """Services without which a service does not serve."""
    hard_start: tuple[tuple[int, ...], ...]
    """Those of them without which it does not even start."""
    soft: tuple[tuple[int, ...], ...]
    lost_stores: tuple[tuple[int, ...], ...]
    """Lost stores that a service waits for."""
    start_stores: tuple[tuple[int, ...], ...]
    """Those of them that it needs to start."""
    shift_uses: tuple[tuple[Use, ...], ...]
    own_return: frozenset[int] = frozenset()
    """Lost stores that recover without a fence and a promotion."""
    alone: frozenset[int] = frozenset()
    """Services that recover without any action: see `derive.untimed.returns_alone`."""
    down_before: frozenset[int] = frozenset()
    """Services whose base does not hold even before the scenario begins: a grace does not help them."""
    short_before: frozenset[int] = frozenset()
    """The same for their top."""

    def __len__(self) -> int:
        return len(self.id)

    @property
    def loose(self) -> BoolColumn:
        """(S,) services whose running replicas may leave their servers."""
        return self.sheddable | self.movable

    def base_starts(self, service: int) -> int:
        """Starts that the base milestone still needs."""
        return max(0, int(self.m[service] - self.surviving[service]))

    def top_starts(self, service: int) -> int:
        """Further starts that the top milestone needs."""
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
    """Surviving replicas on rows, sorted by (service, row)."""

    service: IndexColumn
    row: IndexColumn
    count: IntColumn


@dataclass(frozen=True, slots=True)
class Vague:
    """Amounts that are unknown. A plan treats such a capacity as unlimited and such a demand as zero, and
    never reports anything that depends on them as restored.
    """

    demand: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> path of what its replicas demand, if that is unknown."""
    rows: Mapping[int, tuple[tuple[int, str], ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Row -> (resource, path of the missing fact) if its free amount is unknown: the capacity, or the
    demand of a replica that runs there.
    """

    def __bool__(self) -> bool:
        return bool(self.demand or self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """Everything a plan is made from and checked against.

    horizon: H in ticks; grace: ticks before an outage begins to count (an evacuation whose site
    still runs): O = max(0, C - grace), and O = C for what is down before. eligible: (S, P) service x
    pool. site_names by index.
    power_steps: what is energised before the first boot; powered_by: (V,) number of the step that gives a row
    its power, -1 if it has power already or nothing says; bring_up: (V,) rows of a dark domain, which boot
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
    """Service -> path of the fact without which no one can say what happens to it."""
    vague: Vague = field(default_factory=Vague)
    """Unknown capacities and demands: replicas that start there may not fit."""
    untimed: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> path of the unknown duration, for services that are restored at an unknown time."""
    estimated: tuple[str, ...] = ()
    """Facts for which the plan uses the worse end and the bound the better one, sorted."""
    rebuilds: Mapping[int, tuple[tuple[str, str], ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> (store, its source): stores without a copy that the service rebuilds as a part of its
    check, once everything that it needs is available.
    """
    stuck: Mapping[int, Stuck] = field(default_factory=lambda: MappingProxyType({}))
    """Services that wait for themselves; services that wait for them are blocked with them."""
    start_by: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> tick by which its base starts end: what it needs to start waits for it too, but still runs
    where it is until then.
    """
    leaving: tuple[Leaving, ...] = ()
    """For a failback: what stops elsewhere, by service."""
    evacuated: frozenset[int] = frozenset()
    """For an evacuation: services with replicas that run in what it leaves. They stop there."""

    @property
    def base_since(self) -> IntColumn:
        """(S,) ticks from which the outage of a base counts that is lost."""
        return self._since(self.services.down_before)

    @property
    def top_since(self) -> IntColumn:
        """(S,) the same for a top."""
        return self._since(self.services.short_before)

    def _since(self, before: frozenset[int]) -> IntColumn:
        found = np.full(len(self.services), self.grace, np.int64)
        found[sorted(before)] = 0
        return found

    @property
    def to_boot(self) -> BoolColumn:
        """(V,) rows that are off until someone boots them; those that power on automatically are not
        included.
        """
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
        """Whether some rows boot by hand, so that they wait for no tool."""
        return any(kind.by_hand for kind in self.boot_kinds)

    @property
    def brought_up(self) -> IndexColumn:
        """Rows that boot even if no service needs them, ascending."""
        return np.flatnonzero(self.bring_up).astype(np.int32)
