"""How many of the facts that a verdict needs are known, and which are most worth adding.

Each fact has a weight: how much an answer depends on it, times the importance of its service. Facts of one
kind are one group, so that the advice names ten things to do and not ten thousand. The group on which most
verdicts depend comes first, and of those on which equally many do, the one of the largest weight. A verdict
depends on how long something takes only once it is known where things are and whether they fit. Reads the
Estate only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from evac.derive.domains import topology
from evac.derive.objectives import rpos
from evac.derive.stores import commits_wait
from evac.estate.worth import Missing, Reach, crossed_pairs, worth_of
from evac.model.coverage import Coverage, MissingFact
from evac.model.estate import Estate, Service, Store
from evac.model.fleet import BMC_NO, BMC_UNKNOWN, np
from evac.model.objectives import rpo_for, rto_for
from evac.model.records import dataclass
from evac.model.step_id import DARK_ROLES, HUMAN_ROLES, TOOL_ROLES

LISTED_MAX: Final = 10
"""Groups that are named as most worth adding."""
NAMED_MAX: Final = 3
"""Names of each group that are given as those to begin with."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Weight of one fact of the group, its name, what cannot be answered without it, and which verdicts
    depend on it.
    """

    weight: int
    what: str
    why: str
    reach: Reach


def _group(weight: int, what: str, why: str, reach: Reach = "none") -> _Group:
    return _Group(weight, what, why, reach)


_GROUPS: Final[Mapping[str, _Group]] = MappingProxyType(
    {
        "services/*/replicas": _group(
            10,
            "where a service runs, and how many replicas it has",
            "without it, the effect of a loss is unknown",
            "service",
        ),
        "services/*/people": _group(
            6, "how many people notice that a service is down", "outages are weighted by people"
        ),
        "services/*/degraded_people": _group(
            2,
            "how many people notice that a service is degraded",
            "it decides whether its missing replicas or lower tiers get scarce capacity",
            "users",
        ),
        "services/*/rto": _group(
            5, "the longest acceptable outage", "recovery times are measured against it", "users"
        ),
        "services/*/tier": _group(
            4,
            "how much a service matters",
            "tiers decide what is restored first and what is shed first",
            "users",
        ),
        "services/*/demand": _group(
            5,
            "CPU and memory of one replica",
            "without them, it is unknown whether the service fits elsewhere",
            "service",
        ),
        "services/*/start": _group(
            3, "how long a replica takes to start", "predicted recovery times include it", "service"
        ),
        "services/*/share": _group(
            3,
            "the smallest share of its replicas that still serves",
            "until it is stated, a service is down as soon as one replica is",
            "service",
        ),
        "services/*/rpo": _group(
            2, "the acceptable data loss", "replication lag is measured against it", "users"
        ),
        "services/*/sheddable": _group(
            2, "whether a service may be stopped", "shedding frees capacity for other services", "users"
        ),
        "services/*/traffic": _group(
            3, "how users reach a service", "moving traffic can take longer than anything else", "service"
        ),
        "services/*/owner": _group(1, "who is responsible for a service", "someone must act on a finding"),
        "stores/*/members": _group(
            10,
            "where the copies of a store are",
            "without them, it is unknown what data would be lost",
            "store",
        ),
        "stores/*/rebuild": _group(
            3, "how long a rebuild takes", "services that use the store wait for it", "store"
        ),
        "stores/*/lag": _group(4, "how far a replica lags", "data loss depends on it", "store"),
        "stores/*/rpo": _group(
            4, "the acceptable data loss of a store", "it decides whether a promotion is allowed", "store"
        ),
        "stores/*/promote": _group(
            3, "how long a promotion takes", "predicted recovery times include it", "store"
        ),
        "stores/*/automatic": _group(
            2,
            "whether a replica is promoted automatically",
            "waiting for a person would take longer",
            "store",
        ),
        "stores/*/sync_timeout": _group(
            3,
            "how long commits wait for a lost replica",
            "services that need the store are down that long",
            "store",
        ),
        "stores/*/backups": _group(
            3, "size, age and restore rate of a backup", "a restore cannot be predicted without them", "store"
        ),
        "sites/*/capacity": _group(
            20,
            "servers of a site, or the totals of its pools",
            "without capacity, nothing can be moved there",
            "site",
        ),
        "sites/*/ingress": _group(
            4,
            "user traffic that a site can take",
            "the site may be too small for the users moved to it",
            "site",
        ),
        "pools/*/capacity": _group(
            12, "total CPU and memory of a pool", "without them, it is unknown what fits", "pool"
        ),
        "links": _group(4, "bandwidth between two sites", "the link may be too slow after a loss", "links"),
        "servers/capacity": _group(
            2, "CPU and memory of servers, or their class", "unknown capacity is not counted", "servers"
        ),
        "servers/rack": _group(1, "which rack a server is in", "losses smaller than a site cannot be judged"),
        "servers/bmc": _group(1, "which servers can be powered on remotely", "all others need on-site staff"),
        "servers/bmc_address": _group(
            1, "BMC addresses of servers", "without one, a server cannot be powered on remotely"
        ),
        "servers/serial": _group(
            1, "serial numbers of servers", "without them, a BMC may turn out to belong to another server"
        ),
        "halls/*/cooling": _group(2, "cooling capacity of a hall", "power is not the only limit"),
        "classes/*/power_on": _group(
            2,
            "what servers of a class do when power returns",
            "servers that power on by themselves may trip their feed",
        ),
        "racks/*/feeds": _group(2, "which feeds power a rack", "the loss of a feed cannot be judged"),
        "classes/*/watts": _group(
            4, "power draw of a server class", "without it, power budgets cannot be checked"
        ),
        "classes/*/boot": _group(
            4, "how long a server takes to boot", "powered-off spares do not count without it"
        ),
        "classes/*/boot_odds": _group(
            2, "share of cold spares that boot successfully", "spares are counted in proportion"
        ),
        "feeds/*/power_budget": _group(3, "power budget of a feed", "starting servers may trip the feed"),
        "tools/*": _group(
            8,
            "which service fills the role of a recovery tool",
            "a tool lost with the services it must recover is the worst case",
        ),
        "limits/*": _group(
            4,
            "how many steps of one kind can run at once",
            "without a limit, recovery looks faster than it is",
        ),
        "rehearsals": _group(6, "when a loss was last rehearsed", "an unrehearsed plan is a guess"),
    }
)

_STEPS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "services/*/replicas": 0,
        "stores/*/members": 0,
        "services/*/demand": 1,
        "services/*/share": 1,
        "sites/*/capacity": 1,
        "pools/*/capacity": 1,
        "servers/capacity": 1,
    }
)
"""What a verdict needs first: where things are, then whether they fit. How long it takes comes last."""
_LAST_STEP: Final = 2
_TIER_WEIGHT: Final = (4, 3, 2, 1)
_UNTIERED: Final = 2
_LIMITS: Final = (
    "promotions_at_once",
    "traffic_changes_at_once",
    "starts",
    "fences_at_once",
)
_ROLES: Final = tuple(role for role in TOOL_ROLES if role not in (*HUMAN_ROLES, *DARK_ROLES, "boot", "time"))


class _Tally:
    """Weights known and missing, by group."""

    def __init__(self) -> None:
        self.known = 0
        self._missing: dict[str, int] = {}
        self._paths: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._of: dict[str, int] = {}
        self._names: dict[str, list[tuple[int, str]]] = {}

    def note(self, group: str, is_known: bool, path: str, importance: int = 1, name: str = "") -> None:
        """name: the id of what the fact is about, if it is one of several of its kind."""
        self.note_many(group, int(is_known), int(not is_known), path, importance)
        if name and not is_known:
            self._names.setdefault(group, []).append((-importance, name))

    def note_many(self, group: str, known: int, missing: int, path: str, importance: int = 1) -> None:
        weight = _GROUPS[group].weight * importance
        self.known += weight * known
        if missing:
            self._missing[group] = self._missing.get(group, 0) + weight * missing
            self._counts[group] = self._counts.get(group, 0) + missing
            self._paths.setdefault(group, []).append(path)

    def count(self, group: str, missing: int, of: int) -> None:
        """Sets how many facts of a group are missing if they were weighed in hundreds."""
        if missing:
            self._counts[group], self._of[group] = missing, of

    def result(self, estate: Estate) -> Coverage:
        verdicts, counting = worth_of(
            estate,
            {
                group: Missing(
                    _GROUPS[group].reach,
                    frozenset(name for _, name in self._names.get(group, ())),
                    self._counts[group],
                    self._of.get(group, 0),
                    _STEPS.get(group, _LAST_STEP),
                )
                for group in self._missing
            },
        )
        total = self.known + sum(self._missing.values())

        def rank(group: str) -> tuple[bool, int, int, int, str]:
            step = _STEPS.get(group, _LAST_STEP)
            return (not verdicts[group], step, -verdicts[group], -self._missing[group], group)

        order = sorted(self._missing, key=rank)
        missing = tuple(
            self._fact(group, verdicts[group], counting[group], estate) for group in order[:LISTED_MAX]
        )
        known = 1_000 * self.known // total if total else 0
        return Coverage(known, missing, max(0, len(order) - LISTED_MAX))

    def _fact(self, group: str, verdicts: int, counting: frozenset[str], estate: Estate) -> MissingFact:
        names = tuple(dict.fromkeys(name for _, name in sorted(self._names.get(group, ()))))
        names = tuple(name for name in names if name in counting) if verdicts else names
        count, about = self._counts[group], _GROUPS[group]
        if group == "links" and verdicts:
            names = tuple("-".join(pair) for pair in crossed_pairs(estate))
            count = len(names)
        path = self._paths[group][0] if count == 1 and group != "links" else group
        return MissingFact(path, about.what, about.why, count, verdicts, names[:NAMED_MAX])


def coverage(estate: Estate) -> Coverage:
    """The weighted share of facts that are known, and the ten groups on which most verdicts depend."""
    tally = _Tally()
    bound = np.bincount(estate.replicas.service, minlength=len(estate.services)) > 0
    lowest = max((service.tier or 0 for service in estate.services), default=0)
    for service, is_bound in zip(estate.services, bound.tolist(), strict=True):
        if not service.external:
            _service(estate, service, is_bound, lowest, tally)
    for store, rpo in zip(estate.stores, rpos(topology(estate), "site"), strict=True):
        _store(store, not rpo.is_open, tally)
    _ground(estate, tally)
    _servers(estate, tally)
    for role in _ROLES:
        tally.note("tools/*", role in estate.tools, f"tools/{role}", name=role)
    for key in _LIMITS:
        tally.note("limits/*", getattr(estate.limits, key) is not None, f"limits/{key}", name=key)
    full = sum(site.role == "full" for site in estate.sites)
    rehearsed = len({rehearsal.domain for rehearsal in estate.rehearsals})
    tally.note_many("rehearsals", min(full, rehearsed), max(0, full - rehearsed), "rehearsals")
    return tally.result(estate)


def _service(estate: Estate, service: Service, is_bound: bool, lowest: int, tally: _Tally) -> None:
    """lowest: the last tier that any service states, which competes for capacity with those above it."""
    tier = service.tier
    importance = _UNTIERED if tier is None else _TIER_WEIGHT[min(tier, len(_TIER_WEIGHT) - 1)]
    facts = {
        "replicas": is_bound or bool(service.sites and service.replicas),
        "people": service.people is not None,
        "rto": rto_for(service, "site") is not None,
        "tier": tier is not None,
        "demand": service.demand[0] is not None and service.demand[1] is not None,
        "start": service.start_ms is not None,
        "sheddable": service.sheddable is not None or tier == 0,
        "traffic": service.traffic.kind is not None,
        "owner": service.owner is not None,
    }
    if service.replicas is None or service.replicas > 1:
        facts["share"] = service.share != 1 or f"services/{service.id}/share" in estate.places
        if service.share != 1 and service.people and tier is not None and tier < lowest:
            facts["degraded_people"] = service.degraded_people is not None
    if any(need.kind == "store" for need in service.needs):
        facts["rpo"] = rpo_for(service, "site") is not None
    for key, is_known in facts.items():
        tally.note(f"services/*/{key}", is_known, f"services/{service.id}/{key}", importance, service.id)


def _store(store: Store, states_rpo: bool, tally: _Tally) -> None:
    importance = 3
    facts = {
        "members": bool(store.members),
        "rpo": states_rpo,
        "automatic": store.automatic is not None,
        "promote": store.promote_ms is not None or all(m.mode == "primary" for m in store.members),
    }
    if commits_wait(store, tuple(member.mode == "sync" for member in store.members)):
        facts["sync_timeout"] = store.sync_timeout_ms is not None
    if store.rebuilt_from is not None:
        facts["rebuild"] = store.rebuild_ms is not None
    for member in store.members:
        if member.mode == "async":
            path = f"stores/{store.id}/members"
            tally.note("stores/*/lag", member.lag_ms is not None, path, importance, store.id)
    for row, backup in enumerate(store.backups):
        is_known = None not in (backup.size_gib, backup.age_ms, backup.restore_mbps)
        tally.note("stores/*/backups", is_known, f"stores/{store.id}/backups/{row}", importance, store.id)
    for key, known in facts.items():
        tally.note(f"stores/*/{key}", known, f"stores/{store.id}/{key}", importance, store.id)


def _ground(estate: Estate, tally: _Tally) -> None:
    """Sites, links, pools, racks, feeds and classes."""
    full = [site for site in estate.sites if site.role == "full"]
    with_servers = set(np.unique(estate.fleet.site).tolist())
    with_pool = {pool.site for pool in estate.pools}
    for row, site in enumerate(estate.sites):
        if site.role == "full":
            has_room = row in with_servers or site.id in with_pool
            tally.note("sites/*/capacity", has_room, f"sites/{site.id}", 3, site.id)
            tally.note(
                "sites/*/ingress", site.ingress_mbps is not None, f"sites/{site.id}/ingress", 2, site.id
            )
    pairs = len(full) * (len(full) - 1) // 2
    known = sum(link.bandwidth_mbps is not None for link in estate.links)
    tally.note_many("links", min(pairs, known), max(0, pairs - known), "links")
    for pool in estate.pools:
        is_known = pool.capacity[0] is not None and pool.capacity[1] is not None
        tally.note("pools/*/capacity", is_known, f"pools/{pool.id}", 2, pool.id)
    for feed in estate.feeds:
        tally.note(
            "feeds/*/power_budget",
            feed.power_budget_watts is not None,
            f"feeds/{feed.id}/power_budget",
            name=feed.id,
        )
    for hall in estate.halls:
        path = f"halls/{hall.id}/cooling"
        tally.note("halls/*/cooling", hall.cooling_watts is not None, path, name=hall.id)
    for rack in estate.racks:
        tally.note("racks/*/feeds", bool(rack.feeds), f"racks/{rack.id}/feeds", name=rack.id)
    for server_class in estate.classes:
        for key, known in (
            ("watts", server_class.watts is not None),
            ("power_on", server_class.power_on is not None),
            ("boot", server_class.boot_ms is not None),
            ("boot_odds", server_class.boot_odds_permille is not None),
        ):
            path = f"classes/{server_class.id}/{key}"
            tally.note(f"classes/*/{key}", known, path, 2, server_class.id)


def _servers(estate: Estate, tally: _Tally) -> None:
    """Servers count as a hundredth each, so that a large fleet does not drown the rest."""
    fleet = estate.fleet
    if not len(fleet):
        return
    for group, known in (
        ("servers/capacity", fleet.capacity_known[:, 0] & fleet.capacity_known[:, 1]),
        ("servers/rack", fleet.rack >= 0),
        ("servers/bmc", fleet.bmc != BMC_UNKNOWN),
        ("servers/bmc_address", (fleet.bmc_address != b"") | (fleet.bmc == BMC_NO)),
        ("servers/serial", (fleet.serial != b"") | (fleet.bmc == BMC_NO)),
    ):
        unknown = len(fleet) - int(known.sum())
        per_hundred = -(-len(fleet) // 100)
        share = -(-unknown // 100)
        tally.note_many(group, per_hundred - share, share, group)
        tally.count(group, unknown, len(fleet))
