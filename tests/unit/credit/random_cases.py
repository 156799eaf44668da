"""Random rule sets, windows and accounts: every formula, limit and overlap, near their thresholds."""

from __future__ import annotations

import random
from types import MappingProxyType
from typing import Any

from evac.credit import formulas
from evac.credit import rules as r
from evac.credit.exact import Account
from evac.credit.windows import DAY_MINUTES, DAY_MS, Hours, Window, Zone, cycle_of

HOUR = 3_600_000
SERVICES = ("talk", "map", "o'pay")
SITES = ("", "pangyo", "anyang")
PLANS = ("basic", "plus")
CHANNELS = ("", "app-store", "card")
CYCLES = ("2022-10", "2024-02", "2024-03")
ZONES = (Zone(), Zone(540), Zone(-300), Zone(name="Europe/Berlin"), Zone(name="Australia/Lord_Howe"))
"""In some of the cycles clocks change, by an hour and by half of one."""
LENGTHS = (1, 999, HOUR, 2 * HOUR - 1, 2 * HOUR, 6 * HOUR, DAY_MS, 3 * DAY_MS + 1, 20 * DAY_MS)


def windows(rng: random.Random) -> list[Window]:
    found = []
    for i in range(rng.randint(6, 14)):
        cycle = cycle_of(rng.choice(CYCLES), Zone(rng.choice((0, 540))))
        begin = rng.choice((cycle.from_ms, cycle.to_ms - HOUR, rng.randrange(cycle.from_ms, cycle.to_ms)))
        kind = rng.choice(("outage", "outage", "outage", "maintenance", "force_majeure"))
        found.append(
            Window(f"w{i}", rng.choice(SERVICES), begin, begin + rng.choice(LENGTHS), rng.choice(SITES), kind)
        )
    return found


def _money(rng: random.Random, most: int = 100_000) -> formulas.Money:
    return formulas.Money(rng.randint(1, most), "KRW")


def _formula(rng: random.Random) -> formulas.Formula:
    match rng.randrange(8):
        case 0:
            tiers = []
            for _ in range(rng.randint(1, 4)):
                uptime = rng.choice((999_900, 999_000, 990_000, 950_000, 1, 1_000_000))
                length = rng.choice(LENGTHS)
                either = rng.random() < 0.5
                tiers.append(
                    formulas.Tier(rng.randint(1, 1_500_000), *((uptime, None) if either else (None, length)))
                )
            return formulas.Tiers(tuple(tiers))
        case 1 | 2:
            return formulas.ProRata(
                rng.choice((1_000, 10_000, 1_500, 1)), rng.choice((1, 60_000, HOUR, DAY_MS, 7))
            )
        case 3:
            return formulas.Fixed(_money(rng))
        case 4:
            starts = sorted(rng.sample(range(1_660_000_000_000, 1_710_000_000_000, 86_400_000), 3))
            rates = tuple(formulas.Rate(start, _money(rng)) for start in starts)
            return formulas.PerDay(rates, rng.choice((0, DAY_MS, 2 * DAY_MS)))
        case 5:
            return formulas.Days(rng.randint(1, 30))
        case 6:
            worth = _money(rng) if rng.random() < 0.5 else None
            return formulas.Voucher("gift", rng.randint(1, 3), worth, worth is None)
        case _:
            steps = sorted(rng.sample(range(1, 500_000), 3))
            return formulas.Bands(
                tuple(formulas.Band(formulas.Money(step, "KRW"), _money(rng)) for step in steps)
            )


def _hours(rng: random.Random) -> Hours:
    begin = rng.choice((0, 120, 150, 540, rng.randrange(DAY_MINUTES)))
    end = rng.choice((180, 1_080, DAY_MINUTES, rng.randrange(1, DAY_MINUTES)))
    return Hours(begin, end, tuple(sorted(rng.sample(range(7), rng.choice((0, 0, 1, 5))))))


def _rule(rng: random.Random, number: int) -> r.Rule:
    formula = _formula(rng)

    def some(names: tuple[str, ...]) -> tuple[str, ...]:
        return () if rng.random() < 0.85 else tuple(rng.sample(names, rng.randint(1, len(names) - 1)))

    def maybe(value: Any, share: float = 0.2) -> Any:
        return value if rng.random() < share else None

    hourly = isinstance(formula, formulas.ProRata) and rng.random() < 0.3
    return r.Rule(
        f"r{number}",
        formula,
        some(SERVICES),
        r.When(
            maybe(rng.choice(LENGTHS)), maybe(rng.choice(LENGTHS)), maybe(rng.choice((999_900, 950_000, 1)))
        ),
        "hourly_fee" if hourly else "fee",
        rng.choice(("refund", "balance")),
        some(PLANS),
        some(("kr", "jp")),
        some(CHANNELS),
        rng.choice((None, None, None, True, False)),
        rng.random() < 0.2,
        tuple(rng.sample(("maintenance", "force_majeure"), rng.randint(0, 2))),
        rng.choice(r.ROUNDINGS),
        maybe(rng.choice((1, 500_000, 1_000_000))) if not hourly else None,
        maybe(_money(rng)),
        maybe(_money(rng, 500)),
        fallback=MappingProxyType(
            {"app-store": _money(rng)}
            if isinstance(formula, formulas.Days | formulas.Voucher) and rng.random() < 0.7
            else {}
        ),
        hours=maybe(_hours(rng), 0.12),
    )


def rule_set(rng: random.Random) -> r.RuleSet:
    rules = tuple(_rule(rng, number) for number in range(rng.randint(2, 5)))
    return r.RuleSet("random", rules, rng.choice(ZONES), rng.choice(("max", "sum")))


def accounts(rng: random.Random, count: int) -> list[Account]:
    return [
        Account(
            f"a{i}",
            rng.choice(SERVICES),
            rng.choice(PLANS),
            rng.choice((0, 1, 3, 10_900, 50_000, rng.randrange(10**6), rng.randrange(10**15))),
            rng.choice(("KRW", "KRW", "KRW", "KRW", "USD")),
            rng.choice(CYCLES),
            rng.choice(SITES),
            rng.choice(("kr", "jp")),
            rng.choice(CHANNELS),
            rng.random() < 0.8,
            rng.choice((0, 1_000, 2_000, 333)),
            rng.random() < 0.5,
            rng.choice((0, 0, 1, rng.randrange(600_000))),
            granted=rng.choice((0, 0, 0, rng.randrange(1, 300_000))),
        )
        for i in range(count)
    ]
