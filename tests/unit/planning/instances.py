"""Small planning instances for tests: the worked example of the planning model, and variants of it.

A `Draft` says an instance in the words of the model; `build` turns it into the columns that planner,
bound and checker read. Amounts are base units, times ticks of one second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evac.derive.affected import components, reachable
from evac.derive.circles import without_circles
from evac.model.fleet import BoolColumn, IndexColumn, IntColumn
from evac.model.instance import (
    BootKind,
    Candidate,
    Instance,
    Limit,
    LostStore,
    PoolInfo,
    PowerBudget,
    Present,
    Rows,
    Services,
    ToolNeed,
    Use,
)
from evac.model.units import RESOURCE_COUNT, UNBOUNDED, ceil_share


@dataclass(frozen=True, slots=True)
class ServiceDraft:
    """One service; `running` names the rows its surviving replicas stand on, one entry a replica."""

    id: str
    tier: int
    people: int
    replicas: int
    share: tuple[int, int]
    cpu: int
    memory: int
    start: int = 30
    verify: int = 10
    change: int = 20
    settle: int = 40
    shed: int = 0
    per_server: int = 1
    rack_cap: int = UNBOUNDED
    feed_cap: int = UNBOUNDED
    site_cap: int = UNBOUNDED
    conflict: int = -1
    running: tuple[str, ...] = ()
    sheddable: bool = False
    movable: bool = False
    shift: bool = True
    hard: tuple[str, ...] = ()
    """Needed to start, but for those that `serve` names too."""
    serve: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    serve_stores: tuple[str, ...] = ()
    sites: tuple[str, ...] | None = None
    degraded: int | None = None


@dataclass(frozen=True, slots=True)
class ServerDraft:
    """One row; a dark one boots as `boot_kind`. `power` numbers of budgets of the draft."""

    id: str
    site: str
    cpu: int
    memory: int
    dark: bool = False
    is_pool: bool = False
    rack: int = -1
    feed: int = -1
    watts: int = 0
    boot_kind: int = 0
    power: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreDraft:
    """One lost store: fence ticks, and (site, ticks) of each candidate."""

    id: str
    fence: int
    candidates: tuple[tuple[str, int], ...]
    allowed: bool = True


@dataclass(frozen=True, slots=True)
class Draft:
    """An instance in few words. Uses name limits by their row."""

    horizon: int
    services: tuple[ServiceDraft, ...]
    servers: tuple[ServerDraft, ...]
    stores: tuple[StoreDraft, ...] = ()
    limits: tuple[Limit, ...] = ()
    boots: tuple[BootKind, ...] = ()
    start_uses: tuple[Use, ...] = ()
    shed_uses: tuple[Use, ...] = ()
    shift_limit: int | None = None
    fence_uses: tuple[Use, ...] = ()
    promote_uses: tuple[Use, ...] = ()
    power: tuple[PowerBudget, ...] = ()
    tools: Mapping[str, tuple[tuple[str, ...], int | None, tuple[Use, ...]]] = field(default_factory=dict)
    tier_weights: tuple[int, ...] = (8, 4, 2, 1)
    grace: int = 0


def build(draft: Draft) -> Instance:
    """The instance of a draft: services sorted by id, servers by name with pools last."""
    draft = replace(
        draft,
        services=tuple(sorted(draft.services, key=lambda s: s.id)),
        servers=tuple(sorted(draft.servers, key=lambda v: (v.is_pool, v.id))),
    )
    sites = tuple(sorted({v.site for v in draft.servers}))
    pools, pool_of = _pools(draft, sites)
    rows = _rows(draft, sites, pool_of)
    services = _services(draft)
    present = _present(draft)
    np.add.at(rows.used, present.row, services.demand[present.service] * present.count[:, None])
    eligible = np.array(
        [[s.sites is None or sites[p.site] in s.sites for p in pools] for s in draft.services], np.bool_
    ).reshape(len(draft.services), len(pools))
    tools = _tools(draft)
    services, stuck, *_ = without_circles(services, tools, grace=draft.grace)
    return Instance(
        tick_ms=1_000,
        horizon=draft.horizon,
        grace=draft.grace,
        tier_weights=draft.tier_weights,
        site_names=sites,
        services=services,
        rows=rows,
        row_names=tuple(v.id for v in draft.servers),
        present=present,
        pools=pools,
        eligible=eligible,
        limits=draft.limits,
        boot_kinds=draft.boots,
        power=draft.power,
        stores=_stores(draft),
        tools=tools,
        unknown=(),
        notes=(),
        stuck=stuck,
    )


def _pools(draft: Draft, sites: tuple[str, ...]) -> tuple[tuple[PoolInfo, ...], dict[str, int]]:
    """One pool a site of bare servers, and one for each row that schedules itself."""
    bare = sorted({v.site for v in draft.servers if not v.is_pool})
    names = [(f"{site}:", site) for site in bare] + [(v.id, v.site) for v in draft.servers if v.is_pool]
    pools = tuple(PoolInfo(n, sites.index(site), draft.start_uses, draft.shed_uses) for n, site in names)
    index = {name: row for row, (name, _) in enumerate(names)}
    return pools, {v.id: index[v.id if v.is_pool else f"{v.site}:"] for v in draft.servers}


def _index(values: list[int]) -> IndexColumn:
    return np.array(values, np.int32)


def _rows(draft: Draft, sites: tuple[str, ...], pool_of: dict[str, int]) -> Rows:
    servers = draft.servers
    capacity = np.zeros((len(servers), RESOURCE_COUNT), np.int64)
    capacity[:, 0] = [v.cpu for v in servers]
    capacity[:, 1] = [v.memory for v in servers]
    power = np.full((len(servers), 4), -1, np.int32)
    for row, server in enumerate(servers):
        power[row, : len(server.power)] = server.power
    return Rows(
        fleet_row=_index([-1 if v.is_pool else row for row, v in enumerate(servers)]),
        site=_index([sites.index(v.site) for v in servers]),
        rack=_index([v.rack for v in servers]),
        feed_group=_index([v.feed for v in servers]),
        pool=_index([pool_of[v.id] for v in servers]),
        is_pool=np.array([v.is_pool for v in servers], np.bool_),
        dark=np.array([v.dark for v in servers], np.bool_),
        capacity=capacity,
        used=np.zeros_like(capacity),
        watts=np.array([v.watts if v.dark else 0 for v in servers], np.int64),
        boot_kind=_index([v.boot_kind if v.dark else -1 for v in servers]),
        power=power,
    )


def _present(draft: Draft) -> Present:
    row_of = {v.id: row for row, v in enumerate(draft.servers)}
    counts: dict[tuple[int, int], int] = {}
    for service, s in enumerate(draft.services):
        for name in s.running:
            key = (service, row_of[name])
            counts[key] = counts.get(key, 0) + 1
    keys = sorted(counts)
    return Present(
        _index([k[0] for k in keys]),
        _index([k[1] for k in keys]),
        np.array([counts[k] for k in keys], np.int64),
    )


def _stores(draft: Draft) -> tuple[LostStore, ...]:
    return tuple(
        LostStore(
            id=d.id,
            fence=d.fence,
            fence_rung="isolate",
            fence_uses=draft.fence_uses,
            candidates=tuple(
                Candidate(site, site, "promote", ticks, draft.promote_uses, 0, d.allowed)
                for site, ticks in d.candidates
            ),
        )
        for d in draft.stores
    )


def _tools(draft: Draft) -> dict[str, ToolNeed]:
    index = {s.id: row for row, s in enumerate(draft.services)}
    return {
        kind: ToolNeed(kind, tuple(sorted(index[n] for n in names)), manual, uses)
        for kind, (names, manual, uses) in sorted(draft.tools.items())
    }


def _services(draft: Draft) -> Services:
    drafts = draft.services
    index = {s.id: row for row, s in enumerate(drafts)}
    store_of = {d.id: row for row, d in enumerate(draft.stores)}
    hard = tuple(tuple(sorted(index[n] for n in s.hard)) for s in drafts)
    soft = tuple(tuple(sorted(index[n] for n in s.soft)) for s in drafts)
    stores = tuple(tuple(sorted(store_of[n] for n in s.stores)) for s in drafts)
    dead = [row for row, ds in enumerate(stores) if any(not _allowed(draft.stores[d]) for d in ds)]
    base_lost, top_lost, n, m = _lost(drafts, hard, soft, stores)
    people = _column([s.people for s in drafts])
    degraded = np.array(
        [
            s.people * (k - q) // k if s.degraded is None else s.degraded
            for s, k, q in zip(drafts, n.tolist(), m.tolist(), strict=True)
        ],
        np.int64,
    )
    weight = np.array(draft.tier_weights, np.int64)[[s.tier for s in drafts]]
    shift = np.array([s.shift for s in drafts], np.bool_) & base_lost
    demand = np.zeros((len(drafts), RESOURCE_COUNT), np.int64)
    demand[:, 0], demand[:, 1] = [s.cpu for s in drafts], [s.memory for s in drafts]
    return Services(
        id=tuple(s.id for s in drafts),
        tier=_column([s.tier for s in drafts]),
        people=people,
        n=n,
        m=m,
        surviving=_column([len(s.running) for s in drafts]),
        demand=demand,
        start=_column([s.start for s in drafts]),
        verify=_column([s.verify for s in drafts]),
        change=_column([s.change for s in drafts]),
        settle=_column([s.settle for s in drafts]),
        shed=_column([s.shed for s in drafts]),
        per_server=_column([s.per_server for s in drafts]),
        rack_cap=_column([s.rack_cap for s in drafts]),
        feed_cap=_column([s.feed_cap for s in drafts]),
        site_cap=_column([s.site_cap for s in drafts]),
        conflict=_index([s.conflict for s in drafts]),
        sheddable=np.array([s.sheddable for s in drafts], np.bool_),
        movable=np.array([s.movable and not s.sheddable for s in drafts], np.bool_) & ~top_lost,
        base_lost=base_lost,
        top_lost=top_lost,
        shift=shift,
        blocked=_hit(hard, dead),
        component=_index(components(hard)),
        base_weight=weight * (people - degraded),
        top_weight=weight * degraded,
        hard=hard,
        hard_start=_less(hard, _needed_to_serve(drafts, index, hard)),
        soft=soft,
        lost_stores=stores,
        start_stores=_less(stores, [{store_of[n] for n in s.serve_stores} for s in drafts]),
        shift_uses=tuple(_shift_uses(draft, s) for s in drafts),
    )


def _needed_to_serve(
    drafts: Sequence[ServiceDraft], index: Mapping[str, int], hard: tuple[tuple[int, ...], ...]
) -> list[set[int]]:
    """Of each service what it needs to serve only: within a cycle nobody needs anybody to start."""
    component = components(hard)
    return [
        {index[n] for n in s.serve} | {j for j in hard[row] if component[j] == component[row]}
        for row, s in enumerate(drafts)
    ]


def _less(lists: tuple[tuple[int, ...], ...], left_out: list[set[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(n for n in row if n not in out) for row, out in zip(lists, left_out, strict=True))


def _shift_uses(draft: Draft, service: ServiceDraft) -> tuple[Use, ...]:
    if draft.shift_limit is None or not service.change:
        return ()
    return (Use(draft.shift_limit, 1, 0, service.change),)


def _allowed(store: StoreDraft) -> bool:
    return store.allowed and bool(store.candidates)


def _column(values: list[int]) -> IntColumn:
    return np.array(values, np.int64)


def _hit(hard: tuple[tuple[int, ...], ...], down: list[int]) -> BoolColumn:
    """Services that are in `down` or hard-depend on one that is."""
    dependents: list[list[int]] = [[] for _ in hard]
    for service, needs in enumerate(hard):
        for other in needs:
            dependents[other].append(service)
    return np.array(reachable(dependents, down), np.bool_)


def _lost(
    drafts: tuple[ServiceDraft, ...],
    hard: tuple[tuple[int, ...], ...],
    soft: tuple[tuple[int, ...], ...],
    stores: tuple[tuple[int, ...], ...],
) -> tuple[BoolColumn, BoolColumn, IntColumn, IntColumn]:
    n = _column([s.replicas for s in drafts])
    m = _column([ceil_share(s.share[0], s.share[1], s.replicas) for s in drafts])
    surviving = _column([len(s.running) for s in drafts])
    down = [row for row in range(len(drafts)) if surviving[row] < m[row] or stores[row]]
    base_lost = _hit(hard, down)
    soft_hit = np.array([any(base_lost[j] for j in needs) for needs in soft], np.bool_)
    return base_lost, base_lost | (surviving < n) | soft_hit, n, m


def worked_draft() -> Draft:
    """The worked example: one site of four services lost, four servers left, two of them dark."""
    gib = 1_024
    return Draft(
        horizon=3_600,
        limits=(Limit("boots", 1), Limit("dns", 1), Limit("starts", 2, window=30)),
        boots=(BootKind("server", 120, (Use(0, 1),)),),
        start_uses=(Use(2, 1, 0, 30),),
        shift_limit=1,
        stores=(StoreDraft("accounts", 20, (("anyang", 50), ("ansan", 30))),),
        servers=(
            ServerDraft("a1", "anyang", 8_000, 32 * gib),
            ServerDraft("a2", "anyang", 6_000, 24 * gib, dark=True),
            ServerDraft("b1", "ansan", 8_000, 32 * gib),
            ServerDraft("b2", "ansan", 6_000, 24 * gib, dark=True),
        ),
        services=(
            ServiceDraft("identity", 0, 100, 2, (1, 2), 2_000, 4 * gib, stores=("accounts",)),
            ServiceDraft(
                "pay", 0, 300, 2, (1, 2), 4_000, 8 * gib, start=40, hard=("identity",), stores=("accounts",)
            ),
            ServiceDraft(
                "messenger",
                1,
                1_000,
                4,
                (1, 2),
                2_000,
                8 * gib,
                per_server=2,
                hard=("identity",),
                soft=("search",),
            ),
            ServiceDraft("search", 2, 400, 2, (1, 1), 4_000, 16 * gib, start=60),
            ServiceDraft(
                "ads", 3, 50, 2, (1, 2), 4_000, 8 * gib, shed=10, running=("a1", "b1"), sheddable=True
            ),
        ),
    )


WORKED_OPTIMUM = 2_146_000
"""Least weighted person-seconds of the worked example, proved by two independent solvers."""


def worked_example() -> Instance:
    """The worked example as an instance. Ticks are seconds."""
    return build(worked_draft())


def random_draft(seed: int) -> Draft:
    """A variant of the worked example: capacities, shares, people, tiers, windows and horizon drawn anew."""
    rng = np.random.default_rng(seed)
    draft = worked_draft()
    services = tuple(_vary_service(s, rng) for s in draft.services)
    servers = tuple(
        replace(v, cpu=int(rng.integers(4, 11)) * 1_000, memory=int(rng.integers(16, 41)) * 1_024)
        for v in draft.servers
    )
    window = int(rng.choice([10, 20, 30, 45, 60, 120]))
    limits = (
        Limit("boots", int(rng.integers(1, 3))),
        Limit("dns", int(rng.integers(1, 3))),
        Limit("starts", int(rng.integers(1, 4)), window=window),
    )
    boot = replace(draft.boots[0], duration=int(rng.choice([60, 120, 200])))
    return replace(
        draft,
        horizon=int(rng.integers(400, 3_601)),
        services=services,
        servers=tuple(_capacity_for(v, services) for v in servers),
        limits=limits,
        boots=(boot,),
        start_uses=(Use(2, 1, 0, window),),
    )


def _capacity_for(server: ServerDraft, services: tuple[ServiceDraft, ...]) -> ServerDraft:
    """A server never has less than what runs on it."""
    cpu = sum(s.cpu * s.running.count(server.id) for s in services)
    memory = sum(s.memory * s.running.count(server.id) for s in services)
    return replace(server, cpu=max(server.cpu, cpu), memory=max(server.memory, memory))


def _vary_service(service: ServiceDraft, rng: np.random.Generator) -> ServiceDraft:
    replicas = max(len(service.running), int(service.replicas + rng.integers(-1, 2)), 1)
    share = (1, 2) if rng.random() < 0.6 else ((1, 1) if rng.random() < 0.5 else (2, 3))
    return replace(
        service,
        replicas=replicas,
        share=share,
        people=int(rng.choice([10, 50, 100, 300, 400, 1_000, 2_500])),
        tier=int(rng.integers(0, 4)),
        cpu=int(rng.integers(1, 5)) * 1_000,
        start=int(rng.choice([20, 30, 40, 60])),
        sheddable=service.sheddable or bool(rng.random() < 0.1),
        shed=int(rng.choice([0, 10, 20])) if service.running else service.shed,
    )


def random_variant(seed: int) -> Instance:
    """A random variant of the worked example; the same seed gives the same instance."""
    return build(random_draft(seed))


def one_large_server(*, replicas: int = 1, elsewhere: int = 2_000, site: str = "east", **wiki: Any) -> Draft:
    """Only `large` can take the lost service, and `small` has capacity for what runs there now.

    wiki: how what runs there differs from its draft.
    """
    pay = ServiceDraft("pay", 0, 1_000, 1, (1, 1), 4_000, 1_024)
    stays = ServiceDraft(
        "wiki",
        3,
        100,
        replicas,
        (1, 1),
        2_000,
        1_024,
        start=30,
        verify=10,
        shed=20,
        per_server=2,
        running=("large",) * replicas,
    )
    servers = (
        ServerDraft("large", "east", max(4_000, 2_000 * replicas), 64 * 1_024),
        ServerDraft("small", site, elsewhere, 64 * 1_024),
    )
    return Draft(horizon=900, services=(pay, replace(stays, **wiki)), servers=servers)
