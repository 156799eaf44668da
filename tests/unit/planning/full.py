"""Random small instances in which survivors hold nearly or exactly all that there is, so that whatever comes
back takes the place of something else.
"""

from __future__ import annotations

import numpy as np

from evac.model.instance import BootKind, Limit, Use
from tests.unit.planning.instances import Draft, ServerDraft, ServiceDraft

_GIB = 1_024
_Random = np.random.Generator


def full_draft(seed: int) -> Draft:
    """A random draft; the same seed gives the same one."""
    rng = np.random.default_rng(seed)
    sites = ("east", "west")[: int(rng.integers(1, 3))]
    pools = bool(rng.random() < 0.4)
    names = [f"v{k}" for k in range(int(rng.integers(1, 6)))]
    dark = {name for name in names[1:] if rng.random() < 0.15 and not pools}
    services = _services(rng, [name for name in names if name not in dark])
    servers = tuple(
        _server(rng, name, str(rng.choice(sites)), services, name in dark, pools) for name in names
    )
    window = int(rng.choice([10, 40]))
    return Draft(
        horizon=int(rng.choice([200, 900, 3_600])),
        services=services,
        servers=servers,
        limits=(
            Limit("boots", 1),
            Limit("starts", _few_or_many(rng, 4), window=window),
            Limit("shifts", _few_or_many(rng, 3)),
            Limit("sheds", _few_or_many(rng, 4)),
        ),
        boots=(BootKind("server", int(rng.choice([60, 200])), (Use(0, 1),)),),
        start_uses=(Use(1, 1, 0, window),),
        shed_uses=(Use(3, 1),),
        shift_limit=2,
    )


def _few_or_many(rng: _Random, few: int) -> int:
    return int(rng.integers(1, few)) if rng.random() < 0.4 else 100


def _services(rng: _Random, on: list[str]) -> tuple[ServiceDraft, ...]:
    """Some run as before, some with fewer replicas, some not at all."""
    names = [f"x{k}" for k in range(int(rng.integers(3, 10)))]
    found = []
    for k, name in enumerate(names):
        replicas, kind = int(rng.integers(1, 5)), rng.random()
        left = replicas if kind < 0.45 else int(rng.integers(0, replicas + 1)) if kind < 0.6 else 0
        hard = tuple(other for other in names[:k] if rng.random() < 0.12)
        found.append(
            ServiceDraft(
                name,
                int(rng.integers(0, 4)),
                int(rng.choice([10, 100, 1_000])),
                replicas,
                (1, 2) if rng.random() < 0.6 else (1, 1),
                int(rng.integers(1, 5)) * 1_000,
                int(rng.integers(1, 5)) * _GIB,
                start=int(rng.choice([20, 60])),
                verify=int(rng.choice([0, 10])),
                change=int(rng.choice([0, 20])),
                settle=int(rng.choice([0, 30])),
                shed=int(rng.choice([0, 10, 60])),
                per_server=int(rng.integers(1, 5)) if rng.random() < 0.3 else 9,
                running=tuple(str(rng.choice(on)) for _ in range(left)),
                sheddable=bool(rng.random() < 0.8),
                shift=bool(rng.random() < 0.5),
                hard=hard,
                serve=tuple(other for other in hard if rng.random() < 0.6),
                soft=tuple(other for other in names[:k] if other not in hard and rng.random() < 0.08),
            )
        )
    return tuple(found)


def _server(
    rng: _Random, name: str, site: str, services: tuple[ServiceDraft, ...], dark: bool, pool: bool
) -> ServerDraft:
    """As much as runs there, and often no more."""
    cpu = sum(s.cpu * s.running.count(name) for s in services) + int(rng.choice([0, 0, 0, 1, 2])) * 1_000
    memory = sum(s.memory * s.running.count(name) for s in services) + int(
        rng.choice([0, 0, 1, 4, 64]) * _GIB
    )
    if dark:
        cpu, memory = 4_000, 8 * _GIB
    return ServerDraft(name, site, cpu, memory, dark=dark, is_pool=pool)
