"""Small estates built in code, for tests of the model."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from evac.model.estate import (
    BootServer,
    Dependency,
    Estate,
    Feed,
    Hall,
    Limits,
    Rack,
    Rate,
    ServerClass,
    Service,
    SharedFate,
    Site,
    Store,
    StoreMember,
    Traffic,
)
from evac.model.fleet import BMC_YES, DARK, ON_SERVER, SERVING, Fleet, Replicas, no_names

WEB = ServerClass("web", (8000, 32768, 100, 0), watts=300, boot_ms=120_000, boot_odds_permille=1000)


def fleet(rows: list[tuple[str, int, int, int]]) -> Fleet:
    """Rows of (name, site, rack, state), all of the one class."""
    count = len(rows)
    return Fleet(
        name=np.array([r[0].encode() for r in rows]),
        site=np.array([r[1] for r in rows], np.int32),
        rack=np.array([r[2] for r in rows], np.int32),
        server_class=np.zeros(count, np.int32),
        pool=np.full(count, -1, np.int32),
        boot_server=np.zeros(count, np.int32),
        state=np.array([r[3] for r in rows], np.uint8),
        capacity=np.tile(np.array(WEB.capacity, np.int64), (count, 1)),
        capacity_known=np.ones((count, 4), np.bool_),
        watts=np.full(count, 300, np.int64),
        watts_known=np.ones(count, np.bool_),
        bmc=np.full(count, BMC_YES, np.uint8),
        bmc_address=no_names(count),
        serial=no_names(count),
        position=no_names(count),
    )


def two_sites() -> Estate:
    """Site a runs pay and its store; b holds the replica, one serving and one dark server."""
    replicas = [(1, 0, 1), (1, 1, 1), (1, 2, 1), (0, 2, 1)]
    replicas.sort()
    return Estate(
        name="two",
        sites=(Site("a"), Site("b"), Site("w", "witness")),
        halls=(Hall("a/h1", "a"), Hall("b/h1", "b")),
        feeds=(
            Feed("a/f1", "a"),
            Feed("a/f2", "a"),
            Feed("b/f1", "b", power_budget_watts=1000, boots_at_once=2),
        ),
        racks=(
            Rack("a/h1/r1", "a", "a/h1", ("a/f1", "a/f2")),
            Rack("a/h1/r2", "a", "a/h1", ("a/f1",)),
            Rack("b/h1/r1", "b", "b/h1", ("b/f1",)),
        ),
        groups=(SharedFate("campus", "campus", ("a", "b")), SharedFate("loop", "cooling", ("a/h1/r1",))),
        classes=(WEB,),
        boot_servers=(BootServer("boot-b", "b", boots_at_once=1),),
        services=(
            Service("identity", tier=0, people=100, demand=(1000, 1024, 1, 0), start_ms=10_000),
            Service(
                "pay",
                tier=0,
                people=1000,
                share=Fraction(2, 3),
                demand=(2000, 2048, 1, 0),
                start_ms=20_500,
                verify_ms=1,
                needs=(Dependency("identity", "service"), Dependency("accounts", "store")),
                traffic=Traffic("dns", ttl_ms=60_000, change_ms=5_000),
            ),
        ),
        stores=(
            Store(
                "accounts",
                "accounts",
                "postgresql",
                (StoreMember("a/h1/r1", "primary"), StoreMember("b", "async", lag_ms=500)),
                rpo_ms=1000,
                fence_ms=20_000,
                promote_ms=30_000,
            ),
        ),
        limits=Limits(starts=Rate(10, 60_000), promotions_at_once=1, traffic_changes_at_once=1),
        fleet=fleet(
            [("a1", 0, 0, SERVING), ("a2", 0, 1, SERVING), ("b1", 1, 2, SERVING), ("b2", 1, 2, DARK)]
        ),
        replicas=Replicas(
            service=np.array([r[0] for r in replicas], np.int32),
            kind=np.full(len(replicas), ON_SERVER, np.uint8),
            target=np.array([r[1] for r in replicas], np.int32),
            count=np.array([r[2] for r in replicas], np.int64),
        ),
    )
