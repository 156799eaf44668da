"""The optimal plan of the worked example, written down by hand: objective 2,146,000 person-seconds."""

from __future__ import annotations

from dataclasses import replace

from evac.model.instance import Instance
from evac.model.plan import Certificate, Outcome, Plan, Step, StoreOutcome
from evac.model.scenario import lose
from evac.steps.places import Places
from evac.steps.registry import kind_of

POOL = {"a1": "anyang", "a2": "anyang", "b1": "ansan", "b2": "ansan"}


def _pool(instance: Instance, row: str) -> str:
    return instance.pools[int(instance.rows.pool[instance.row_names.index(row)])].id


def _start(
    instance: Instance,
    service: str,
    milestone: str,
    at: int,
    seconds: int,
    *rows: str,
    after: tuple[str, ...] = (),
) -> list[Step]:
    """One step a pool, as steps of the plan are."""
    pools: dict[str, list[str]] = {}
    for row in rows:
        pools.setdefault(_pool(instance, row), []).append(row)
    steps = []
    for pool, names in sorted(pools.items()):
        servers = tuple((name, names.count(name)) for name in sorted(set(names)))
        boots = tuple(f"boot:{name}" for name in sorted(set(names)) if name in ("a2", "b2"))
        steps.append(
            Step(
                f"start:{service}:{milestone}:{pool}:{at}",
                "start",
                service,
                at * 1000,
                (at + seconds) * 1000,
                count=len(names),
                milestone=milestone,
                pool=pool,
                servers=servers,
                after=after + boots,
            )
        )
    return steps


def _verify(service: str, milestone: str, at: int, starts: list[Step], gate: tuple[str, ...] = ()) -> Step:
    after = tuple(s.id for s in starts) + gate
    return Step(
        f"verify:{service}:{milestone}",
        "verify",
        service,
        at * 1000,
        (at + 10) * 1000,
        milestone=milestone,
        after=after,
    )


def _shift(service: str, at: int) -> Step:
    return Step(
        f"shift:{service}",
        "shift",
        service,
        at * 1000,
        (at + 60) * 1000,
        milestone="base",
        after=(f"verify:{service}:base",),
    )


def _shed(instance: Instance, at: int, row: str, helped: str) -> Step:
    return Step(
        f"shed:ads:{row}",
        "shed",
        "ads",
        at * 1000,
        (at + 10) * 1000,
        pool=_pool(instance, row),
        servers=((row, 1),),
        for_services=(helped,),
    )


OUTAGES = {
    "identity": (150, 280),
    "pay": (290, 290),
    "messenger": (250, 250),
    "search": (130, 130),
    "ads": (3400, 3560),
}
"""Ticks without base, and without top."""


def worked_plan(instance: Instance) -> Plan:
    """Steps, outcomes and objective as the worked example prints them; the certificate is empty."""
    primary = ("promote:accounts",)
    search = _start(instance, "search", "base", 0, 60, "a1", "b1")
    identity = _start(instance, "identity", "base", 50, 30, "a1", after=(*primary, "shed:ads:a1"))
    served = ("shift:identity",)
    messenger = _start(instance, "messenger", "base", 150, 30, "a1", "a2", after=(*served, "shed:ads:a1"))
    pay = _start(instance, "pay", "base", 180, 40, "a2", after=(*served, *primary))
    messenger_top = _start(instance, "messenger", "top", 210, 30, "b1", "b1", after=(*served, "shed:ads:b1"))
    identity_top = _start(instance, "identity", "top", 240, 30, "b2", after=primary)
    pay_top = _start(instance, "pay", "top", 240, 40, "b2", after=(*served, *primary))
    steps = [
        Step("fence:accounts", "fence", "accounts", 0, 20_000, rung="isolate"),
        Step(
            "promote:accounts",
            "promote",
            "accounts",
            20_000,
            50_000,
            candidate=instance.stores[0].candidates[-1].id,
            after=("fence:accounts",),
        ),
        Step("boot:a2", "boot", "a2", 0, 120_000, servers=(("a2", 1),)),
        Step("boot:b2", "boot", "b2", 120_000, 240_000, servers=(("b2", 1),)),
        _shed(instance, 40, "a1", "identity"),
        _shed(instance, 200, "b1", "messenger"),
        *search,
        *identity,
        *messenger,
        *pay,
        *messenger_top,
        *identity_top,
        *pay_top,
        _verify("search", "base", 60, search),
        _verify("identity", "base", 80, identity, primary),
        _verify("messenger", "base", 180, messenger, served),
        _verify("pay", "base", 220, pay, (*served, *primary)),
        _verify("messenger", "top", 240, messenger_top, served),
        _verify("identity", "top", 270, identity_top, primary),
        _verify("pay", "top", 280, pay_top, (*served, *primary)),
        _shift("search", 70),
        _shift("identity", 90),
        _shift("messenger", 190),
        _shift("pay", 230),
    ]
    outcomes = tuple(_outcome(instance, name, *OUTAGES[name]) for name in sorted(OUTAGES))
    return Plan(
        name="worked",
        scenario=lose("pangyo"),
        estate_digest="",
        planner_version="by hand",
        seed=0,
        work=0,
        tick_ms=1000,
        horizon_ms=3_600_000,
        grace_ms=0,
        tier_weights=instance.tier_weights,
        steps=_with_uses(instance, steps),
        outcomes=outcomes,
        stores=(StoreOutcome("accounts", "ansan", 50_000, 0),),
        objective=2_146_000,
        unweighted=584_500,
        heads=1_848_000,
        bound=1_848_000,
        certificate=Certificate(),
    )


def _with_uses(instance: Instance, steps: list[Step]) -> tuple[Step, ...]:
    places, found = Places(instance), []
    for step in steps:
        held = sorted((instance.limits[u.limit].id, u.units * step.count) for u in places.uses(step))
        length = step.end_ms - step.start_ms
        tools = kind_of(step.kind).tools
        found.append(replace(step, uses=tuple(held), tools=tools, deadline_ms=2 * length))
    return tuple(found)


def _outcome(instance: Instance, name: str, base: int, top: int) -> Outcome:
    row = instance.services.id.index(name)
    shed = name == "ads"
    return Outcome(
        service=name,
        state="shed" if shed else "restored",
        base_ms=0 if shed else base * 1000,
        top_ms=0 if shed else top * 1000,
        base_outage_ms=base_ms(instance, shed, base),
        top_outage_ms=base_ms(instance, shed, top),
        recovery_ms=None if shed else base * 1000,
        rto_ms=None,
        people=int(instance.services.people[row]),
        tier=int(instance.services.tier[row]),
    )


def base_ms(instance: Instance, shed: bool, seconds: int) -> int:
    """Outage in milliseconds: the worked example prints it in seconds for shed services too."""
    return seconds * 1000
