"""Small instances with everything a bound can get wrong: cycles, tools, hands, racks, pools, survivors.

Each is far too small to be realistic; that is what makes its optimum provable.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evac.model.instance import BootKind, Instance, Limit, PowerBudget, Use
from evac.model.units import UNBOUNDED
from tests.unit.planning.instances import Draft, ServerDraft, ServiceDraft, StoreDraft, build

_SITES = ("east", "west")


def wild_draft(seed: int) -> Draft:
    """A random draft; the same seed gives the same draft."""
    rng = np.random.default_rng(seed + 10_000)
    window = int(rng.choice([15, 30, 60]))
    limits = (
        Limit("boots", int(rng.integers(1, 3))),
        Limit("control", int(rng.integers(1, 3))),
        Limit("hands", 1),
        Limit("promotions", 1),
        Limit("shift", int(rng.integers(1, 3))),
        Limit("starts", int(rng.integers(1, 4)), window=window),
    )
    servers = _servers(rng)
    services = _services(rng, tuple(v.id for v in servers if not v.dark))
    return Draft(
        horizon=int(rng.integers(200, 1_500)),
        services=services,
        servers=_with_room(servers, services),
        stores=_stores(rng),
        limits=limits,
        boots=(
            BootKind("fast", int(rng.choice([30, 60])), (Use(0, 1),)),
            BootKind("slow", 90, (Use(0, 1, 10, 40),)),
        ),
        start_uses=(Use(5, 1, 0, window),) if rng.random() < 0.8 else (Use(5, 1, 5),),
        shift_limit=4,
        fence_uses=(Use(1, 1),),
        promote_uses=(Use(3, 1),),
        power=(PowerBudget("hall", 1_000, 400),),
        tools=_tools(rng, len(services)),
        grace=int(rng.choice([0, 0, 0, 60])),
    )


def wild_instance(seed: int) -> Instance:
    """A random instance; tools that are not affected are no constraint, so they are left out."""
    instance = build(wild_draft(seed))
    lost = instance.services.base_lost
    tools = {
        kind: replace(need, services=tuple(s for s in need.services if lost[s]))
        for kind, need in instance.tools.items()
    }
    return replace(instance, tools=tools)


def _servers(rng: np.random.Generator) -> tuple[ServerDraft, ...]:
    found = []
    for k in range(int(rng.integers(3, 6))):
        dark = bool(rng.random() < 0.4) and k > 0
        found.append(
            ServerDraft(
                f"v{k}",
                str(rng.choice(_SITES)),
                int(rng.integers(3, 10)) * 1_000,
                int(rng.integers(8, 33)) * 1_024,
                dark=dark,
                rack=int(rng.integers(-1, 2)),
                feed=int(rng.integers(-1, 2)),
                watts=300 if dark else 0,
                boot_kind=int(rng.integers(0, 2)),
                power=(0,),
            )
        )
    if rng.random() < 0.3:
        found.append(ServerDraft("zpool", "west", 6_000, 16_384, is_pool=True))
    return tuple(found)


def _services(rng: np.random.Generator, rows: tuple[str, ...]) -> tuple[ServiceDraft, ...]:
    names = [f"s{k}" for k in range(int(rng.integers(3, 6)))]
    found = []
    for k, name in enumerate(names):
        replicas = int(rng.integers(1, 4))
        survivors = int(rng.integers(0, replicas + 1)) if rng.random() < 0.5 else 0
        hard = {n for n in names[:k] if rng.random() < 0.35}
        if k + 1 < len(names) and rng.random() < 0.1:
            hard.add(names[k + 1])
        soft = {n for n in names[:k] if n not in hard and rng.random() < 0.2}
        found.append(
            ServiceDraft(
                name,
                int(rng.integers(0, 4)),
                int(rng.choice([10, 100, 500, 2_000])),
                replicas,
                (1, 2) if rng.random() < 0.6 else (1, 1),
                int(rng.integers(1, 5)) * 1_000,
                int(rng.integers(1, 9)) * 1_024,
                start=int(rng.choice([20, 40])),
                verify=int(rng.choice([0, 10])),
                change=int(rng.choice([0, 20])),
                settle=int(rng.choice([0, 30])),
                shed=int(rng.choice([0, 10])),
                per_server=int(rng.integers(1, 3)),
                rack_cap=UNBOUNDED if rng.random() < 0.7 else 1,
                feed_cap=UNBOUNDED if rng.random() < 0.8 else 1,
                site_cap=UNBOUNDED if rng.random() < 0.7 else int(rng.integers(1, 3)),
                running=tuple(str(rng.choice(rows)) for _ in range(survivors)),
                sheddable=bool(rng.random() < 0.5),
                shift=bool(rng.random() < 0.7),
                hard=tuple(sorted(hard)),
                soft=tuple(sorted(soft)),
                stores=("d0",) if rng.random() < 0.25 else (("d1",) if rng.random() < 0.1 else ()),
                sites=(str(rng.choice(_SITES)),) if rng.random() < 0.15 else None,
            )
        )
    return tuple(found)


def _with_room(
    servers: tuple[ServerDraft, ...], services: tuple[ServiceDraft, ...]
) -> tuple[ServerDraft, ...]:
    """A server never has less than what runs on it."""
    found = []
    for v in servers:
        cpu = sum(s.cpu * s.running.count(v.id) for s in services)
        memory = sum(s.memory * s.running.count(v.id) for s in services)
        found.append(replace(v, cpu=max(v.cpu, cpu), memory=max(v.memory, memory)))
    return tuple(found)


def _stores(rng: np.random.Generator) -> tuple[StoreDraft, ...]:
    sites = tuple((site, int(rng.choice([20, 60]))) for site in _SITES)
    return (
        StoreDraft("d0", int(rng.choice([0, 20])), sites),
        StoreDraft("d1", 20, (("east", 30),), allowed=bool(rng.random() < 0.5)),
    )


def _tools(
    rng: np.random.Generator, services: int
) -> dict[str, tuple[tuple[str, ...], int | None, tuple[Use, ...]]]:
    found: dict[str, tuple[tuple[str, ...], int | None, tuple[Use, ...]]] = {}
    kinds: tuple[str, ...] = ("fence", "promote", "boot", "start", "verify", "shift", "shed")
    for kind in kinds:
        if rng.random() < 0.25:
            manual = int(rng.choice([10, 60, 150])) if rng.random() < 0.7 else None
            found[kind] = ((f"s{int(rng.integers(0, services))}",), manual, (Use(2, 1),))
    return found
