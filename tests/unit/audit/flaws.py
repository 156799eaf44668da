"""One flaw each: what to change in the sound estate, and which finding that must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from types import MappingProxyType

from evac.model.backup_policy import BackupPolicy
from evac.model.estate import (
    Automation,
    Backup,
    Dependency,
    Estate,
    Expiring,
    RecoveryGroup,
    SharedFate,
    Store,
    StoreMember,
    Traffic,
)
from tests.unit.audit.estates import HOUR, change, service, with_service, with_store


@dataclass(frozen=True)
class Flaw:
    name: str
    add: Callable[[Estate], Estate]
    rule: str
    subject: str
    severity: str


def _store(name: str, *members: StoreMember, **facts: object) -> Store:
    plain: dict[str, object] = {
        "automatic": True,
        "rpo_ms": 0,
        "fence_ms": 0,
        "promote_ms": 10_000,
        "backup_policy": NOT_NEEDED,
    } | facts
    return Store(name, name, "postgresql", members, **plain)  # type: ignore[arg-type]


def _user(estate: Estate, name: str, family: str, **facts: object) -> Estate:
    """A service at all sites that needs a store family."""
    added = service(name, needs=(Dependency(family, "store"),), **facts)
    return with_service(estate, added, [(s.id, 2) for s in estate.sites if s.role == "full"])


def _quorum(*sites: str) -> tuple[StoreMember, ...]:
    return tuple(StoreMember(s, "primary" if i == 0 else "sync", 0) for i, s in enumerate(sites))


def single_site(estate: Estate) -> Estate:
    return with_service(estate, service("island", eligible_sites=("west",)), [("west", 3)])


def single_site_that_comes_back(estate: Estate) -> Estate:
    return with_service(estate, service("movable"), [("west", 3)])


def hidden(estate: Estate) -> Estate:
    low = with_service(estate, service("low", eligible_sites=("south",)), [("south", 2)])
    middle = service("middle", needs=(Dependency("low", "service"),))
    high = service("high", needs=(Dependency("middle", "service"),))
    everywhere = [(s.id, 2) for s in estate.sites if s.role == "full"]
    return with_service(with_service(low, middle, everywhere), high, everywhere)


def tool_inside(estate: Estate) -> Estate:
    more = with_service(estate, service("deployer", people=0), [("north", 2)])
    return replace(more, tools=MappingProxyType({**more.tools, "deploy": ("deployer",)}))


def role_open(estate: Estate) -> Estate:
    return replace(estate, tools=MappingProxyType({r: n for r, n in estate.tools.items() if r != "paging"}))


def lagging(estate: Estate) -> Estate:
    store = _store(
        "slow", StoreMember("north", "primary"), StoreMember("west", "async", 90_000), rpo_ms=30_000
    )
    return _user(with_store(estate, store), "slow-user", "slow")


def no_copy(estate: Estate) -> Estate:
    store = _store("alone", StoreMember("south", "primary"), rpo_ms=None)
    return _user(with_store(estate, store), "alone-user", "alone")


def by_hand(estate: Estate) -> Estate:
    store = _store("handmade", *_quorum("west", "north"), automatic=False)
    return _user(with_store(estate, store), "handmade-user", "handmade")


def majority(estate: Estate) -> Estate:
    store = _store(
        "votes", StoreMember("north", "primary", 0, 2), StoreMember("west", "sync", 0), quorum=True
    )
    return _user(with_store(estate, store), "votes-user", "votes")


def tie(estate: Estate) -> Estate:
    store = _store("even", *_quorum("north", "south"), quorum=True)
    return _user(with_store(estate, store), "even-user", "even")


def too_large(estate: Estate) -> Estate:
    added = service("giant", demand=(900_000, 1_024, 1, 0), share=1, replicas=3)
    return with_service(estate, added, [(s.id, 1) for s in estate.sites if s.role == "full"])


def slow_start(estate: Estate) -> Estate:
    return with_service(estate, service("sleepy", start_ms=2 * HOUR, share=1), [("north", 1), ("south", 1)])


def long_ttl(estate: Estate) -> Estate:
    added = service("cached", traffic=Traffic("dns", ttl_ms=2 * HOUR))
    return with_service(estate, added, [(s.id, 2) for s in estate.sites if s.role == "full"])


def start_cycle(estate: Estate) -> Estate:
    one = service("hen", needs=(Dependency("egg", "service", True, "start"),))
    two = service("egg", needs=(Dependency("hen", "service", True, "start"),))
    everywhere = [(s.id, 2) for s in estate.sites if s.role == "full"]
    first = with_service(estate, replace(two, needs=()), everywhere)
    return change(with_service(first, one, everywhere), "egg", needs=two.needs)


def inversion(estate: Estate) -> Estate:
    low = with_service(
        estate, service("humble", tier=3), [(s.id, 2) for s in estate.sites if s.role == "full"]
    )
    added = service("proud", needs=(Dependency("humble", "service"),))
    return with_service(low, added, [(s.id, 2) for s in estate.sites if s.role == "full"])


def shared_fate(estate: Estate) -> Estate:
    return replace(estate, groups=(SharedFate("campus", "campus", ("north", "south")),))


def contradiction(estate: Estate) -> Estate:
    slow = with_service(estate, service("patient", rto_ms=5 * HOUR), [(s.id, 2) for s in estate.sites])
    added = service("hasty", needs=(Dependency("patient", "service"),))
    return with_service(slow, added, [(s.id, 2) for s in estate.sites])


def ended(estate: Estate) -> Estate:
    return replace(estate, expiring=(Expiring("cert", "certificate", date(2026, 11, 1), "south", ("shop",)),))


def narrow(estate: Estate) -> Estate:
    sites = tuple(replace(s, ingress_mbps=10) for s in estate.sites)
    return with_service(
        replace(estate, sites=sites),
        service("crowd", traffic=Traffic("anycast", mbps=1_000)),
        [(s.id, 2) for s in estate.sites],
    )


def busy(estate: Estate) -> Estate:
    sites = tuple(replace(s, ingress_connections=10 if s.id == "south" else 100_000) for s in estate.sites)
    return with_service(
        replace(estate, sites=sites),
        service("busy", traffic=Traffic("anycast", connections=900)),
        [(s.id, 2) for s in estate.sites],
    )


def rival(estate: Estate) -> Estate:
    added = with_service(estate, service("watched"), [("north", 2), ("south", 1)])
    return replace(added, automations=(Automation("desired", "gitops", ("start",), ("watched",), False),))


def unrehearsed(estate: Estate) -> Estate:
    return replace(estate, rehearsals=tuple(r for r in estate.rehearsals if r.domain != "south"))


def untested(estate: Estate) -> Estate:
    backups = (Backup("west", 10, HOUR, 1_000),)
    return with_backups(estate, backups, None)


NOT_NEEDED = BackupPolicy(waived="the tests of backups have their own")


def with_backups(estate: Estate, backups: tuple[Backup, ...], policy: BackupPolicy | None) -> Estate:
    stores = tuple(
        replace(d, backups=backups, backup_policy=policy) if d.id == "orders" else d for d in estate.stores
    )
    return replace(estate, stores=stores)


def apart(estate: Estate) -> Estate:
    store = _store(
        "late", StoreMember("north", "primary"), StoreMember("south", "async", 5_000), rpo_ms=10_000
    )
    more = _user(with_store(estate, store), "late-user", "late")
    return replace(more, recovery_groups=(RecoveryGroup("both", ("late", "orders"), 0),))


def unknown_members(estate: Estate) -> Estate:
    return with_store(estate, _store("nowhere"))


FLAWS = (
    Flaw("a service at one site", single_site, "single-site-service", "island", "error"),
    Flaw("one that can move", single_site_that_comes_back, "single-site-service", "movable", "warning"),
    Flaw("a service at one site far below", hidden, "hidden-single-site", "high", "error"),
    Flaw("a tool in the building", tool_inside, "recovery-tool-lost", "deployer", "error"),
    Flaw("a role nobody fills", role_open, "tool-role-unfilled", "tools", "warning"),
    Flaw("a copy that lags", lagging, "data-loss-above-rpo", "slow", "error"),
    Flaw("a store with one copy", no_copy, "no-copy-outside", "alone", "error"),
    Flaw("a store promoted by hand", by_hand, "no-reachable-primary", "handmade", "warning"),
    Flaw("a majority in one site", majority, "quorum-in-one-domain", "votes", "error"),
    Flaw("an even quorum", tie, "quorum-lost", "even", "error"),
    Flaw("a quorum without witness", tie, "quorum-without-witness", "even", "warning"),
    Flaw("no room", too_large, "capacity-short", "pools: cpu", "error"),
    Flaw("a slow start", slow_start, "recovery-above-rto", "sleepy", "error"),
    Flaw("a long TTL", long_ttl, "traffic-cannot-move", "cached", "error"),
    Flaw("a start cycle", start_cycle, "cold-start-cycle", "egg", "warning"),
    Flaw("a tier above what it needs", inversion, "tier-inversion", "proud", "warning"),
    Flaw("two sites on one campus", shared_fate, "sites-share-fate", "campus", "error"),
    Flaw("an rto that cannot be kept", contradiction, "contradicting-objectives", "hasty", "warning"),
    Flaw("an ended certificate", ended, "expires-where-we-go", "cert", "error"),
    Flaw("a narrow ingress", narrow, "links-too-small", "south: bandwidth", "error"),
    Flaw("an ingress too small today", busy, "too-small-today", "south: connections", "error"),
    Flaw("a rival", rival, "rival-automation", "desired", "error"),
    Flaw("a loss never rehearsed", unrehearsed, "never-rehearsed", "south", "warning"),
    Flaw("a backup never tested", untested, "backup-never-verified", "orders at west", "warning"),
    Flaw("a group that comes back apart", apart, "recovery-group-apart", "both", "warning"),
    Flaw("a store nobody knows where", unknown_members, "unknown-facts", "stores/*/members", "warning"),
)
