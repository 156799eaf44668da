"""Small random instances of one kind each: what there is to decide is starts, traffic, promotions, boots or
sheds, or (mixed) all of it. Of 3 to 6 services, so that their optimum can be proved; there is capacity for
everything once all servers are on and everything that may make way has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from evac.model.instance import BootKind, Instance, Limit, Use
from tests.unit.planning.instances import Draft, ServerDraft, ServiceDraft, StoreDraft, build

KINDS = ("starts", "traffic", "promotions", "boots", "sheds", "mixed")
_SITES = ("east", "west")
_BOOTS, _STARTS, _SHIFTS, _FENCES, _PROMOTIONS, _SHEDS = range(6)
_GIB = 1_024
_Random = np.random.Generator


def small_instance(kind: str, seed: int) -> Instance:
    """A random instance of a kind; the same seed gives the same one."""
    return build(small_draft(kind, seed))


def small_draft(kind: str, seed: int) -> Draft:
    """The same as a draft."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    return _DRAFTS[kind](rng)


def _plain(rng: _Random, services: tuple[ServiceDraft, ...], servers: tuple[ServerDraft, ...]) -> Draft:
    """Nothing is scarce; every kind then makes its own supply scarce."""
    window = int(rng.choice([10, 20, 40]))
    return Draft(
        horizon=900,
        services=services,
        servers=servers,
        limits=(
            Limit("boots", 1),
            Limit("starts", 100, window=window),
            Limit("shifts", 100),
            Limit("fences", 100),
            Limit("promotions", 100),
            Limit("sheds", 100),
        ),
        boots=(BootKind("server", int(rng.choice([60, 120, 200])), (Use(_BOOTS, 1),)),),
        start_uses=(Use(_STARTS, 1, 0, window),),
        shed_uses=(Use(_SHEDS, 1),),
        shift_limit=_SHIFTS,
        fence_uses=(Use(_FENCES, 1),),
        promote_uses=(Use(_PROMOTIONS, 1),),
    )


def _scarce(draft: Draft, **capacities: int) -> Draft:
    """Some limits with less than plenty."""
    limits = (replace(one, capacity=capacities.get(one.id, one.capacity)) for one in draft.limits)
    return replace(draft, limits=tuple(limits))


def _services(rng: _Random, *, most_replicas: int = 3, tiers: int = 4) -> tuple[ServiceDraft, ...]:
    """Lost services that may need earlier ones, to start or to serve."""
    names = [f"s{k}" for k in range(int(rng.integers(3, 7)))]
    found = []
    for k, name in enumerate(names):
        hard = [n for n in names[:k] if rng.random() < 0.3]
        serve = [n for n in hard if rng.random() < 0.5]
        soft = [n for n in names[:k] if n not in hard and rng.random() < 0.1]
        found.append(
            ServiceDraft(
                name,
                int(rng.integers(0, tiers)),
                int(rng.choice([10, 100, 500, 2_000])),
                int(rng.integers(1, most_replicas + 1)),
                (1, 2) if rng.random() < 0.5 else (1, 1),
                int(rng.integers(1, 4)) * 1_000,
                int(rng.integers(1, 5)) * _GIB,
                start=int(rng.choice([20, 40, 60])),
                verify=int(rng.choice([0, 10])),
                change=int(rng.choice([10, 20])),
                settle=int(rng.choice([0, 30])),
                shed=int(rng.choice([0, 10, 20])),
                per_server=3,
                shift=bool(rng.random() < 0.5),
                hard=tuple(hard),
                serve=tuple(serve),
                soft=tuple(soft),
            )
        )
    return tuple(found)


def _large_servers() -> tuple[ServerDraft, ...]:
    return tuple(ServerDraft(f"v{k}", site, 64_000, 256 * _GIB) for k, site in enumerate(_SITES))


def _starts(rng: _Random) -> Draft:
    draft = _plain(rng, _services(rng, most_replicas=4), _large_servers())
    return _scarce(draft, starts=int(rng.integers(1, 4)))


def _traffic(rng: _Random) -> Draft:
    services = tuple(
        replace(s, replicas=1, shift=True, change=int(rng.choice([20, 40, 60]))) for s in _services(rng)
    )
    return _scarce(_plain(rng, services, _large_servers()), shifts=int(rng.integers(1, 3)))


def _with_stores(rng: _Random, draft: Draft) -> Draft:
    """Two to five lost stores, with one or two copies that can be promoted."""
    stores = tuple(
        StoreDraft(
            f"d{k}",
            int(rng.choice([5, 20, 40])),
            tuple((site, int(rng.choice([20, 40, 90, 150]))) for site in _SITES[: int(rng.integers(1, 3))]),
        )
        for k in range(int(rng.integers(2, 6)))
    )
    found = []
    for service in draft.services:
        needed = [d.id for d in stores if rng.random() < 0.45]
        serve = [d for d in needed if rng.random() < 0.6]
        found.append(replace(service, stores=tuple(needed), serve_stores=tuple(serve)))
    return replace(draft, services=tuple(found), stores=stores)


def _promotions(rng: _Random) -> Draft:
    services = tuple(
        # What survives only waits for its store.
        replace(s, running=("v0",) * s.replicas if rng.random() < 0.4 else ())
        for s in _services(rng)
    )
    draft = _with_stores(rng, _plain(rng, services, _large_servers()))
    return _scarce(draft, promotions=int(rng.integers(1, 3)), fences=int(rng.choice([1, 2, 100])))


def _tight_servers(
    rng: _Random, services: tuple[ServiceDraft, ...], powered: float
) -> tuple[ServerDraft, ...]:
    """Servers that hold every lost replica, of which `powered` percent of the cores are on."""
    cores = sum(s.cpu * (s.replicas - len(s.running)) for s in services) // 1_000
    found, have, on = [], 0, 0
    while have < 1.25 * cores or len(found) < 3:
        size = int(rng.integers(4, 9))
        dark = on >= powered * cores and bool(found)
        found.append(
            ServerDraft(f"v{len(found)}", str(rng.choice(_SITES)), size * 1_000, 64 * _GIB, dark=dark)
        )
        have, on = have + size, on + (0 if dark else size)
    return tuple(found)


def _boots(rng: _Random) -> Draft:
    services = _services(rng)
    draft = _plain(rng, services, _tight_servers(rng, services, float(rng.choice([0.3, 0.5, 0.7]))))
    return _scarce(draft, boots=int(rng.integers(1, 3)), starts=int(rng.choice([2, 4, 100])))


def _with_victims(rng: _Random, draft: Draft, powered: float) -> Draft:
    """Running services of the lowest tier that make way on servers that are on, as far as needed."""
    services = tuple(replace(s, tier=min(s.tier, 2)) for s in draft.services[: int(rng.integers(2, 5))])
    kept = {s.id for s in services}
    services = tuple(
        replace(
            s,
            hard=tuple(n for n in s.hard if n in kept),
            serve=tuple(n for n in s.serve if n in kept),
            soft=tuple(n for n in s.soft if n in kept),
            people=max(100, s.people),
        )
        for s in services
    )
    servers = _tight_servers(rng, services, powered)
    on = [v.id for v in servers if not v.dark]
    room = {v.id: v.cpu for v in servers}
    victims = []
    for k in range(int(rng.integers(1, 3))):
        cpu = int(rng.integers(1, 4)) * 1_000
        running = [v for v in on for _ in range(int(rng.integers(0, 3))) if room[v] >= cpu]
        placed = []
        for v in running[:3]:
            if room[v] >= cpu:
                room[v] -= cpu
                placed.append(v)
        if placed:
            victims.append(
                ServiceDraft(
                    f"w{k}",
                    3,
                    int(rng.choice([10, 100])),
                    len(placed),
                    (1, 2) if rng.random() < 0.5 else (1, 1),
                    cpu,
                    _GIB,
                    start=int(rng.choice([20, 40])),
                    verify=0,
                    shed=int(rng.choice([0, 10, 30])),
                    per_server=3,
                    running=tuple(placed),
                    sheddable=True,
                    shift=False,
                )
            )
    return replace(draft, services=(*services, *victims), servers=servers)


def _sheds(rng: _Random) -> Draft:
    draft = _with_victims(rng, _plain(rng, _services(rng), ()), float(rng.choice([1.0, 1.0, 1.3])))
    # A site where nothing is dark: capacity comes from what makes way, and elsewhere is where there is room.
    return replace(draft, servers=tuple(replace(v, dark=False) for v in draft.servers))


def _mixed(rng: _Random) -> Draft:
    draft = _with_victims(rng, _plain(rng, _services(rng), ()), float(rng.choice([0.5, 0.8])))
    draft = _with_stores(rng, draft)
    draft = replace(draft, stores=draft.stores[:2])
    names = {d.id for d in draft.stores}
    services = tuple(
        replace(
            s,
            stores=tuple(d for d in s.stores if d in names and not s.running),
            serve_stores=tuple(d for d in s.serve_stores if d in names and not s.running),
        )
        for s in draft.services
    )
    return _scarce(
        replace(draft, services=services),
        boots=1,
        starts=int(rng.integers(1, 4)),
        shifts=int(rng.integers(1, 3)),
        promotions=1,
    )


_DRAFTS: dict[str, Callable[[_Random], Draft]] = {
    "starts": _starts,
    "traffic": _traffic,
    "promotions": _promotions,
    "boots": _boots,
    "sheds": _sheds,
    "mixed": _mixed,
}
