"""What the example company runs: product families, features, named platform services.

Only names and roles; sizes, places and dependencies are drawn elsewhere.
"""

from __future__ import annotations

from typing import Final, Literal

from evac.model.records import dataclass

Machine = Literal["web", "general", "memory", "storage", "gpu"]
Component = Literal[
    "infra",
    "tool",
    "platform",
    "login",
    "gateway",
    "members",
    "data",
    "cache",
    "core",
    "worker",
    "model",
    "api",
    "front",
    "batch",
    "analytics",
    "training",
]

FULL_SERVICE_COUNT: Final = 1_200
SMALLEST_SERVICE_COUNT: Final = 150
SERVERS_PER_SERVICE: Final = 6
"""Below about 7,200 servers the company has fewer services, so that the distribution of replicas keeps its
shape.
"""

SHEDDABLE: Final = frozenset({"batch", "analytics", "training"})


@dataclass(frozen=True, slots=True)
class Family:
    """A product family: its users at peak, the best tier of its features, and the features by rank."""

    id: str
    users: int
    tier: int
    paid: bool
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A service before it has a size.

    `level` is its depth: hard dependencies of the example always point to a lower one, 0 to 5;
    `rank` is the place of its feature in its family (0 is the most popular) and -1 outside features.
    """

    id: str
    family: str
    feature: str
    component: Component
    level: int
    tier: int
    machine: Machine
    rank: int = -1
    engine: str | None = None
    role: str | None = None
    users: int = 0


def _family(name: str, users: int, tier: int, paid: bool, features: str) -> Family:
    return Family(name, users, tier, paid, tuple(features.split()))


FAMILIES: Final = (
    _family(
        "advertising",
        400_000,
        2,
        True,
        "serving bidding targeting campaign billing reporting creative review audience attribution "
        "budget experiment catalogue insight",
    ),
    _family(
        "bank",
        18_000_000,
        0,
        True,
        "deposit transfer card ledger limits loan exchange savings mortgage notice certificate "
        "open-banking consultation statement campaign",
    ),
    _family(
        "games",
        6_000_000,
        2,
        True,
        "matchmaking lobby inventory shop ranking guild chat patch replay event coupon mail season telemetry",
    ),
    _family(
        "identity",
        47_000_000,
        0,
        False,
        "sign-in profile verification devices sign-up consent certificate history",
    ),
    _family(
        "mail",
        8_000_000,
        1,
        False,
        "inbox receive send attachments contacts spam-filter folders search import",
    ),
    _family(
        "maps",
        14_000_000,
        1,
        False,
        "route tiles places navigation geocode traffic transit street-view indoor bookmarks review editor",
    ),
    _family(
        "messenger",
        47_000_000,
        0,
        False,
        "chat push group-chat friends media presence open-chat profile read-marks voice-call sync "
        "video-call stickers channel gift reactions calendar polls live archive",
    ),
    _family(
        "music",
        5_000_000,
        2,
        True,
        "stream library playlist search chart recommendation lyrics download licence radio artist concert",
    ),
    _family(
        "pay",
        24_000_000,
        0,
        True,
        "payment authorisation wallet transfer ledger fraud card settlement refund merchant bills points "
        "coupon membership statement",
    ),
    _family(
        "platform",
        6_000,
        1,
        False,
        "build data-lake code-review ticket wiki api-portal experiment mobile-release tracing-ui cost",
    ),
    _family(
        "ride-hailing",
        12_000_000,
        1,
        True,
        "dispatch ride fare driver rider taxi reservation receipt parking bike designated-driver fleet "
        "settlement",
    ),
    _family(
        "search",
        20_000_000,
        1,
        False,
        "query ranking index suggest image news video spelling knowledge blog shopping trends "
        "safe-search crawl",
    ),
)
"""Users at peak: the messenger's 47 million are published in the example's description; the others are
assumed.
"""


def _named(
    name: str,
    level: int,
    tier: int,
    machine: Machine,
    component: Component,
    engine: str | None = None,
    role: str | None = None,
    users: int = 0,
) -> Blueprint:
    family = "identity" if component == "login" else "platform"
    return Blueprint(name, family, "", component, level, tier, machine, -1, engine, role, users)


INFRASTRUCTURE: Final = (
    _named("cache-proxy", 0, 0, "general", "infra"),
    _named("config", 0, 0, "general", "infra", "etcd"),
    _named("discovery", 0, 0, "general", "infra", "etcd"),
    _named("dns-resolver", 0, 0, "general", "infra"),
    _named("id-generator", 0, 0, "general", "infra"),
    _named("key-management", 0, 0, "general", "infra"),
    _named("message-bus", 0, 0, "storage", "infra", "kafka"),
    _named("object-storage", 0, 0, "storage", "infra", "ceph"),
    _named("sql-proxy", 0, 0, "general", "infra"),
    _named("time", 0, 0, "general", "tool", role="time"),
)
TOOLS: Final = (
    _named("bastion", 1, 0, "general", "tool", role="vpn"),
    _named("boot-control", 1, 0, "general", "tool", role="boot"),
    _named("dns-control", 1, 0, "general", "tool", "mysql", "dns-control"),
    _named("evac", 1, 0, "general", "tool", "etcd", "evac"),
    _named("image-registry", 1, 0, "storage", "tool", "ceph", "registry"),
    _named("inventory", 1, 0, "general", "tool", "postgresql", "inventory"),
    _named("monitoring", 1, 0, "storage", "tool", "prometheus", "monitoring"),
    _named("paging", 1, 0, "general", "tool", role="paging"),
    _named("redistribution", 1, 0, "general", "tool", "postgresql", "deploy"),
    _named("registrar-console", 1, 0, "general", "tool", role="registrar"),
    _named("secrets", 1, 0, "general", "tool", "etcd", "secrets"),
    _named("vpn-gateway", 1, 0, "general", "tool", role="vpn"),
    _named("work-chat", 1, 0, "general", "tool", "postgresql", "chat"),
    _named("workforce-login", 1, 0, "general", "tool", "postgresql", "identity"),
)
SHARED_PLATFORM: Final = (
    _named("abuse-filter", 1, 1, "general", "platform"),
    _named("audit-log", 1, 0, "storage", "platform", "cassandra"),
    _named("content-origin", 1, 1, "web", "platform"),
    _named("feature-flags", 1, 0, "general", "platform", "mysql"),
    _named("geo-ip", 1, 1, "memory", "platform"),
    _named("identity-accounts", 1, 0, "general", "login", "mysql"),
    _named("identity-consent", 1, 0, "general", "login", "mysql"),
    _named("identity-login", 1, 0, "web", "login", "mysql", users=12_000_000),
    _named("identity-session", 1, 0, "memory", "login", "redis"),
    _named("identity-tokens", 1, 0, "general", "login"),
    _named("job-scheduler", 1, 1, "general", "platform", "postgresql"),
    _named("log-pipeline", 1, 2, "storage", "platform"),
    _named("notification-hub", 1, 0, "general", "platform"),
    _named("rate-limiter", 1, 0, "memory", "platform"),
    _named("sms-sender", 1, 0, "general", "platform", users=800_000),
    _named("thumbnailer", 1, 1, "general", "platform"),
    _named("trace-pipeline", 1, 2, "storage", "platform"),
    _named("workflow-engine", 1, 1, "general", "platform", "mysql"),
)

_STACK: Final[tuple[tuple[Component, int, Machine], ...]] = (
    ("data", 2, "storage"),
    ("cache", 2, "memory"),
    ("core", 3, "general"),
    ("worker", 3, "general"),
    ("api", 4, "web"),
    ("front", 5, "web"),
)
_DATA_ENGINES: Final = ("mysql", "hbase", "mysql", "cassandra", "mongodb", "mysql", "postgresql")


def service_target(servers: int) -> int:
    """Approximate number of services of a company with this many servers."""
    return min(FULL_SERVICE_COUNT, max(SMALLEST_SERVICE_COUNT, servers // SERVERS_PER_SERVICE))


def catalogue(target: int) -> tuple[Blueprint, ...]:
    """About `target` blueprints, sorted by id; the same for the flawed and the mended company."""
    found = [*INFRASTRUCTURE, *TOOLS, *SHARED_PLATFORM]
    for family in FAMILIES:
        if family.id != "platform":
            found.append(_shared(family, "gateway", "web", None))
            found.append(_shared(family, "members", "general", "mysql"))
    share = max(0.0, (target - len(found)) / (FULL_SERVICE_COUNT - len(found)))
    for family in FAMILIES:
        wanted = max(1, round(share * len(family.features)))
        for rank, feature in enumerate(family.features[:wanted]):
            found.extend(_feature(family, feature, rank))
    return tuple(sorted(found, key=lambda blueprint: blueprint.id))


def _shared(family: Family, component: Component, machine: Machine, engine: str | None) -> Blueprint:
    return Blueprint(
        f"{family.id}-{component}", family.id, "", component, 2, family.tier, machine, engine=engine
    )


def _feature(family: Family, feature: str, rank: int) -> list[Blueprint]:
    position = rank / len(family.features)
    tier = min(2, family.tier + (position >= 0.35) + (position >= 0.8))
    engine = _DATA_ENGINES[(rank + len(family.id)) % len(_DATA_ENGINES)]
    # Users of the feature of this rank: Zipf over ranks with exponent 1, two digits kept.
    users = family.users // (rank + 1)
    digits = str(users)
    users = int(digits[:2].ljust(len(digits), "0"))
    parts = [
        _part(family, feature, rank, component, level, tier, machine, engine, users)
        for component, level, machine in _STACK
    ]
    if rank % 3 != 2:
        parts.append(_part(family, feature, rank, "batch", 4, 3, "general", engine, users))
    if rank % 3 == 1:
        parts.append(_part(family, feature, rank, "analytics", 4, 3, "storage", engine, users))
    if rank % 5 == 0:
        parts.append(_part(family, feature, rank, "training", 4, 3, "gpu", engine, users))
        parts.append(_part(family, feature, rank, "model", 3, tier, "gpu", engine, users))
    return parts


def _part(
    family: Family,
    feature: str,
    rank: int,
    component: Component,
    level: int,
    tier: int,
    machine: Machine,
    engine: str,
    users: int,
) -> Blueprint:
    stored = component in ("data", "analytics")
    notice = {"front": 1_000, "api": 100, "worker": 30, "model": 20}.get(component, 0)
    people = users * notice // 1_000 if notice else (40 + 7 * rank if component in SHEDDABLE else 0)
    return Blueprint(
        f"{family.id}-{feature}-{component}",
        family.id,
        feature,
        component,
        level,
        tier,
        machine,
        rank,
        ("hadoop" if component == "analytics" else engine) if stored else None,
        None,
        people,
    )
