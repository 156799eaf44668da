"""The estate: what a company runs, where, on what, and what depends on what. Frozen, in the field's terms.

`None` means unknown, everywhere. Durations are integer milliseconds, capacities base units
(`units.RESOURCES`), bandwidths Mbit/s, power watts. Ids of fault domains are paths: `pangyo`,
`pangyo/hall-2`, `pangyo/hall-2/feed-a`, `pangyo/hall-2/r017`; the id of a provider is `provider:stripe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from datetime import date
from fractions import Fraction
from types import MappingProxyType
from typing import Final, Literal

from evac.model.backup_policy import BackupPolicy
from evac.model.diagnostic import Place
from evac.model.fleet import Fleet, Replicas, empty_fleet, empty_replicas
from evac.model.objectives import Objectives
from evac.model.records import dataclass

SiteRole = Literal["full", "witness", "edge"]
TrafficKind = Literal["dns", "anycast", "load_balancer", "none"]
ReplicationMode = Literal["primary", "sync", "async", "none"]
NeededTo = Literal["start", "serve"]
PowerOnPolicy = Literal["on", "dark", "last"]
Vector = tuple[int | None, int | None, int | None, int | None]
"""One amount per resource of `units.RESOURCES`; None is unknown."""

Setting = str | int | bool | tuple[str, ...]  # of an endpoint
Names = tuple[str | tuple[str, ...], ...]  # of tools
NOTHING_KNOWN: Vector = (None, None, None, None)
NO_TIMEOUT_MS: Final = 2**53 - 1  # only a person ends the wait


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` starts in any window of `window_ms`."""

    count: int
    window_ms: int


@dataclass(frozen=True, slots=True)
class Site:
    """A building. A witness site votes and runs nothing; an edge site only serves traffic. `region`: the
    country or area that `data_in` may name; not a fault domain.
    """

    id: str
    role: SiteRole = "full"
    people: str | None = None
    ingress_mbps: int | None = None
    ingress_connections: int | None = None
    power_budget_watts: int | None = None
    region: str | None = None
    phone: str | None = None


@dataclass(frozen=True, slots=True)
class Hall:
    """`cooling_watts`: heat that its cooling can remove; `network_up_ms`: time from power until its switches
    and BMCs answer; `bmc_requests_at_once`: load limit of its management network.
    """

    id: str
    site: str
    power_budget_watts: int | None = None
    cooling_watts: int | None = None
    bmc_requests_at_once: int | None = None
    network_up_ms: int = 0


@dataclass(frozen=True, slots=True)
class Feed:
    """A power feed: a shared-fate group of racks, with a power budget and a limit on simultaneous boots.
    `close_ms`: time to close its breaker remotely.
    """

    id: str
    site: str
    power_budget_watts: int | None = None
    inrush_budget_watts: int | None = None
    boots_at_once: int | None = None
    close_ms: int = 0


@dataclass(frozen=True, slots=True)
class Rack:
    """Lost if its hall is lost or all of its feeds are; a surviving feed carries the load."""

    id: str
    site: str
    hall: str | None = None
    feeds: tuple[str, ...] = ()
    power_budget_watts: int | None = None


@dataclass(frozen=True, slots=True)
class SharedFate:
    """Domains that fail together: a campus, a utility line, a cooling loop, a network spine."""

    id: str
    kind: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BootServer:
    """What booting needs: slots, image bandwidth, addresses (`boots`: the rate at which it hands them out).
    `site` None serves every site.
    """

    id: str
    site: str | None = None
    boots_at_once: int | None = None
    image_mbps: int | None = None
    boots: Rate | None = None


@dataclass(frozen=True, slots=True)
class ServerClass:
    """A kind of server. `boot_odds_permille`: how many of a thousand cold spares come up. `power_on`: what it
    does when power returns: turn on, stay off, or return to its last state.
    """

    id: str
    capacity: Vector = NOTHING_KNOWN
    watts: int | None = None
    boot_ms: int | None = None
    boot_odds_permille: int | None = None
    inrush_watts: int | None = None
    inrush_ms: int = 0
    image_mbps: int | None = None
    image_offset_ms: int = 0
    image_hold_ms: int = 0
    power_on: PowerOnPolicy | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Self-scheduling capacity (Kubernetes, a VM cloud): totals per site, and the share evac may fill."""

    id: str
    site: str
    capacity: Vector = NOTHING_KNOWN
    quota_permille: int = 1_000
    starts: Rate | None = None

    @property
    def usable(self) -> Vector:
        """What evac may use of each stated amount."""
        cpu, memory, disk, accelerators = (
            None if one is None else one * self.quota_permille // 1_000 for one in self.capacity
        )
        return cpu, memory, disk, accelerators


@dataclass(frozen=True, slots=True)
class Link:
    """Bandwidth between two sites."""

    ends: tuple[str, str]
    bandwidth_mbps: int | None = None
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceProvider:
    """Another company that provides external services: lost as a whole, and only it can restore itself."""

    id: str
    contact: str | None = None
    status_page: str | None = None


PROVIDER_PREFIX: Final = "provider:"
"""Prefix of provider ids among fault domains, so that they never clash with sites or groups."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """What a service needs: another service, one of several (`target` is the first), or one reachable
    instance of a store family.
    """

    target: str
    kind: Literal["service", "store"]
    hard: bool = True
    needed_to: NeededTo = "serve"
    any_of: tuple[str, ...] = ()
    """The alternatives, preferred one first; any one is enough. Empty for a need of one service."""

    @property
    def targets(self) -> tuple[str, ...]:
        """All services named."""
        return self.any_of or (self.target,)


@dataclass(frozen=True, slots=True)
class Spread:
    """The most replicas of one service in one place: a count per server, shares per rack, feed and site."""

    per_server: int = 1
    per_rack: Fraction | None = None
    per_feed: Fraction | None = None
    per_site: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """How users reach a service. `change_ms`: how long a change occupies its control; `settle_ms` includes
    the TTL. `mbps` and `connections`: peak of the whole service, for links and ingress.
    """

    kind: TrafficKind | None = None
    ttl_ms: int | None = None
    change_ms: int = 0
    settle_ms: int = 0
    mbps: int | None = None
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """One service. `replicas`: over all sites; `share`: the smallest that can serve. `sites`: where it runs
    unless a replica table says more. `single_run`: a note for people. `movable`: what runs may move at its
    site. `purges`: it deletes old data by itself, so after a restore it waits for a person. `public_name`: on
    the status page; services with the same one are shown as one."""

    id: str
    family: str = ""
    owner: str | None = None
    tier: int | None = None
    people: int | None = None
    degraded_people: int | None = None
    paid: bool | None = None
    rto_ms: int | None = None
    rpo_ms: int | None = None
    demand: Vector = NOTHING_KNOWN
    replicas: int | None = None
    share: Fraction = Fraction(1)
    sites: tuple[str, ...] = ()
    spread: Spread = Spread()
    conflict_group: str | None = None
    eligible_classes: tuple[str, ...] | None = None
    eligible_sites: tuple[str, ...] | None = None
    sheddable: bool | None = None
    movable: bool = False
    shed_rehearsed: date | None = None
    single_run: bool = False
    needs: tuple[Dependency, ...] = ()
    start_ms: int | None = None
    warm_ms: int = 0
    verify_ms: int = 0
    shed_ms: int = 0
    traffic: Traffic = Traffic()
    purges: bool = False
    public_name: str | None = None
    external: bool = False
    """Whether another company runs it: it has no site, replicas or demand here."""
    provider: str | None = None
    """The provider of an external service; None if it is its own provider."""
    data_in: tuple[str, ...] | None = None
    """Sites, regions and groups where its data may be; None for all."""
    objectives: Objectives | None = None
    """Objectives by class of loss, if they differ from the plain rto and rpo."""
    owner_phone: str | None = None

    @property
    def provided_by(self) -> str:
        """The provider that it is lost with; empty for an internal service."""
        return (self.provider or self.id) if self.external else ""


@dataclass(frozen=True, slots=True)
class StoreMember:
    """A copy of a store; `at` is a fault domain path or a server name. `detached`: observed to follow no
    primary now; it has the data last received, and can follow another primary. `left`: the files say that it
    has data, but its mode is now `none`: an old primary, or a copy that follows no member.
    """

    at: str
    mode: ReplicationMode
    lag_ms: int | None = None
    votes: int = 1
    detached: bool = False
    left: bool = False


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that must be restored before it can serve. `restore_mbps`: megabits per second."""

    at: str
    size_gib: int | None = None
    age_ms: int | None = None
    restore_mbps: int | None = None
    verified: date | None = None
    proven: int | None = None
    """Proof level (`model.backup`) reached on the date of verification; None means 3, restored."""
    endpoint: str | None = None
    """The endpoint whose driver has it; None if only the files mention it."""
    system: str | None = None
    """What it is stored on, such as `object storage` or `tape`: two copies on one system share its faults."""
    deletable: bool | None = None
    """Whether the credentials of the source can delete it."""
    schedule: str | None = None  # when it is taken; overrides the schedule of the policy
    copied_from: str | None = None
    """The endpoint of the copy that it is made from; None if it is taken from the source."""
    restore_ms: int | None = None
    """Duration of its last restore test; None if there was none. Never stated in files."""
    repository: str = ""  # its id, as listed and proven; never stated in files
    credentials_changed: date | None = None
    """When the credentials of its repository were last changed."""
    unusable: bool = False
    """Whether its tool lists no backup to restore, or a check found damage; never stated in files."""

    @property
    def name(self) -> str:
        """Distinguishes the copies of one data set."""
        return self.endpoint or self.at


@dataclass(frozen=True, slots=True)
class DataSet:
    """Data that is not a store: a volume, a repository, a configuration, what a tool needs to work again."""

    id: str
    kind: str = "volume"
    at: str | None = None
    """Where the original is."""
    used_by: tuple[str, ...] = ()
    """Services that need it."""
    size_gib: int | None = None
    backups: tuple[Backup, ...] = ()
    backup_policy: BackupPolicy | None = None
    data_in: tuple[str, ...] | None = None
    """Sites, regions and groups where it may be; None for all."""


@dataclass(frozen=True, slots=True)
class Store:
    """Data: an engine, a primary, copies. Stores of one `family` are alternatives of each other.

    `quorum` True: a member writes only with a majority of votes (etcd, Kafka, Patroni's DCS). A member of
    mode `none` votes and has no data; one of 0 votes has data and does not count. `home`: for an observed
    store, where the files place its primary. `rebuilt_from`: the family that a search index or cache is
    rebuilt from if no copy is left, which takes `rebuild_ms`. `objectives`: its rpo by class of loss, where
    that differs. `backup_policy`: None if no one has decided it.
    """

    id: str
    family: str
    engine: str
    members: tuple[StoreMember, ...] = ()
    backups: tuple[Backup, ...] = ()
    quorum: bool = False
    automatic: bool | None = None
    rpo_ms: int | None = None
    fence_ms: int | None = None
    promote_ms: int | None = None
    fence_rung: str = "isolate"
    home: str = ""
    elect_ms: int | None = None
    """How long the surviving majority takes to elect a primary, if it does so by itself."""
    sync_timeout_ms: int | None = None
    """How long a primary blocks commits once every synchronous copy is gone."""
    backup_policy: BackupPolicy | None = None
    data_in: tuple[str, ...] | None = None  # as for a data set
    objectives: Objectives | None = None
    rebuilt_from: str | None = None
    rebuild_ms: int | None = None
    backup_before_move: bool = False
    backup_time_ms: int | None = None

    @property
    def primary(self) -> StoreMember | None:
        return next((m for m in self.members if m.mode == "primary"), None)


@dataclass(frozen=True, slots=True)
class RecoveryGroup:
    """Stores (and queues) that must be restored to one point in time."""

    id: str
    stores: tuple[str, ...]
    tolerance_ms: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the whole company; None is unknown and is not planned as a limit.

    `manual_ms`: step kind -> least duration when people do it without the tools; `hands_at_once`: manual
    steps at one time; `power_margin_permille`: what stays free in every budget of power, inrush and cooling;
    `backups_at_once`: backups, checks and restore tests that evac runs; `approvals_at_once`: a note.
    """

    approvals_at_once: int | None = None
    fences_at_once: int | None = None
    promotions_at_once: int | None = None
    sheds_at_once: int | None = None
    traffic_changes_at_once: int | None = None
    starts: Rate | None = None
    hands_at_once: int | None = None
    manual_ms: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    power_margin_permille: int = 0
    backups_at_once: int | None = None


@dataclass(frozen=True, slots=True)
class Expiring:
    """A certificate, key, licence or DNSSEC signature: what needs it, where, and when it expires."""

    id: str
    kind: str
    expires: date | None
    at: str | None = None
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Automation:
    """GitOps or configuration management that would undo a kind of step on what it manages."""

    id: str
    kind: str
    undoes: tuple[str, ...]
    manages: tuple[str, ...] = ()
    can_be_paused: bool | None = None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A drill: which domain, when, and the digest of the estate at the time."""

    domain: str
    done: date
    kind: str = "live"
    estate_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a real system: `driver` acts for `subject` (a service, a store, a site's BMCs, a feed's
    circuit). `settings`: addresses, names, secret references (`env:NAME`, `file:/path`), never secrets.
    `hall`: if known.
    """

    id: str
    subject: str
    at: str
    driver: str
    settings: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))
    hall: str | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """Provenance of one value: `path` names it, `expired` says that it is too old to be trusted."""

    path: str
    source: str | None = None
    observed: date | None = None
    good_for_days: int | None = None
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Interval:
    """A fact known only within bounds, inclusive; the estate itself holds `worse`.

    where: the attributes, ids and numbers that lead to it from the estate, such as
    (`services`, `pay`, `demand`, 0). Amounts are base units; rates have one window.
    """

    path: str
    where: tuple[str | int, ...]
    worse: int | Rate
    better: int | Rate


ASSUMED_DETECTION_MS: Final = 60_000  # where the estate does not state it: a time not stated is not 0 s
ASSUMED_APPROVAL_MS: Final = 300_000


@dataclass(frozen=True, slots=True)
class Lead:
    """Time between a loss and the first step of a plan. `assumed` names the values that the estate omits."""

    detection_ms: int = 0
    approval_ms: int = 0
    assumed: tuple[str, ...] = ()

    @property
    def ms(self) -> int:
        return self.detection_ms + self.approval_ms


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Estate:
    """Everything evac knows of a company. All tuples are sorted by id.

    `lost` and below: as it is now (`model.situation`). `tools`: role of `TOOL_ROLES` -> services that fill it
    (all are needed; one of a tuple, preferred one first). `places`: path of a fact -> where it was read; no
    part of the digest. `changed`: by someone. `intervals`: facts within bounds."""

    name: str
    as_of: date | None = None
    changed: date | None = None
    horizon_ms: int = 86_400_000
    detection_ms: int | None = None
    approval_ms: int | None = None  # as stated; code that adds up times uses `lead`
    waits_for_people: bool = False
    """Whether the policy lets no plan run before a person has approved it."""
    tier_weights: tuple[int, ...] = (8, 4, 2, 1)
    sites: tuple[Site, ...] = ()
    halls: tuple[Hall, ...] = ()
    feeds: tuple[Feed, ...] = ()
    racks: tuple[Rack, ...] = ()
    groups: tuple[SharedFate, ...] = ()
    classes: tuple[ServerClass, ...] = ()
    boot_servers: tuple[BootServer, ...] = ()
    pools: tuple[Pool, ...] = ()
    links: tuple[Link, ...] = ()
    providers: tuple[ServiceProvider, ...] = ()
    services: tuple[Service, ...] = ()
    stores: tuple[Store, ...] = ()
    data_sets: tuple[DataSet, ...] = ()
    recovery_groups: tuple[RecoveryGroup, ...] = ()
    tools: Mapping[str, Names] = field(default_factory=lambda: MappingProxyType({}))
    limits: Limits = Limits()
    expiring: tuple[Expiring, ...] = ()
    automations: tuple[Automation, ...] = ()
    rehearsals: tuple[Rehearsal, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    facts: tuple[Fact, ...] = ()
    intervals: tuple[Interval, ...] = ()
    fleet: Fleet = field(default_factory=empty_fleet)
    replicas: Replicas = field(default_factory=empty_replicas)
    places: Mapping[str, Place] = field(default_factory=lambda: MappingProxyType({}))
    lost: tuple[str, ...] = ()
    """Fault domains lost or evacuated now: they provide no capacity, and no future loss includes them."""
    home: Replicas | None = None
    """Where the files declare the replicas; None if `replicas` says the same."""
    traffic: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> sites that its users are sent to, if a run or a driver reports it."""
    surplus: tuple[str, ...] = ()  # services with more replicas than declared, by a run or where none are
    unsure: tuple[str, ...] = ()  # those of them whose home may not run: it is being evacuated, or silent
    sent_away: tuple[str, ...] = ()  # services whose users a run sent away from a part of home
    as_routed: tuple[str, ...] = ()  # services in `traffic` whose users no run sent anywhere

    @property
    def lead(self) -> Lead:
        """Uses assumed values for what is not stated: no one approves in zero time."""
        approval_ms = None if self.waits_for_people and self.approval_ms == 0 else self.approval_ms
        stated = {"detection": self.detection_ms, "approval": approval_ms}
        return Lead(
            ASSUMED_DETECTION_MS if self.detection_ms is None else self.detection_ms,
            ASSUMED_APPROVAL_MS if approval_ms is None else approval_ms,
            tuple(name for name, value in stated.items() if value is None),
        )

    def tool_groups(self, roles: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """Services that fill these roles: one service of each group is enough, preferred one first."""
        named = {one for role in roles for one in self.tools.get(role, ())}
        return tuple(sorted({(one,) if isinstance(one, str) else one for one in named}))

    def place(self, *paths: str) -> Place:
        """The place of the first known path, else that of the estate as a whole."""
        known = (self.places[path] for path in (*paths, "") if path in self.places)
        return next(known, Place(self.name))
