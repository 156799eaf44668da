"""Evaluation of a rule set on integer columns: the engine that makes the ledger.

How long a service was down does not depend on the account, so it is computed once for each service, site and
cycle. For each account only one integer multiplication and one division remain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import polars as pl

from evac.credit import formulas
from evac.credit.rules import HOUR_MS, MONEY, PPM, Rule, RuleSet
from evac.credit.windows import DAY_MS, Cycle, Window, Zone, cycle_of, spans_of

ROWS: Final = pl.Schema(
    {
        "account": pl.String(),
        "service": pl.String(),
        "plan": pl.String(),
        "fee": pl.Int64(),
        "currency": pl.String(),
        "cycle": pl.String(),
        "site": pl.String(),
        "region": pl.String(),
        "channel": pl.String(),
        "used": pl.Boolean(),
        "tax_bp": pl.Int64(),
        "tax_included": pl.Boolean(),
        "claimed": pl.Int64(),
        "invoice": pl.String(),
        "invoice_line": pl.String(),
        "granted": pl.Int64(),
    }
)
"""Columns of the accounts, as in `exact.Account`; none is null."""

LINES: Final = pl.Schema(
    {
        "account": pl.String(),
        "service": pl.String(),
        "cycle": pl.String(),
        "rule": pl.String(),
        "kind": pl.String(),
        "amount": pl.Int64(),
        "currency": pl.String(),
        "quantity": pl.Int64(),
        "tax": pl.Int64(),
        "state": pl.String(),
        "tranche": pl.String(),
        "plan": pl.String(),
        "site": pl.String(),
        "channel": pl.String(),
        "fee": pl.Int64(),
        "tax_included": pl.Boolean(),
        "invoice": pl.String(),
        "invoice_line": pl.String(),
    }
)
"""Columns of the ledger: those of a line, and those needed for its explanation and delivery."""

KEY: Final = ("account", "service", "cycle")
_ROW: Final = "row"
_PLACE: Final = ("service", "site", "cycle")
_INT64_MOST: Final = 2**63 - 1


def concerned(rules: RuleSet, windows: Sequence[Window], services: Iterable[str]) -> list[str]:
    """Services, of these, that any rule can pay for; rows of the others need not be read."""
    counted = {
        service
        for rule in rules.rules
        for service in {window.service for window in windows if window.kind not in rule.excludes}
        if not rule.services or service in rule.services
    }
    return sorted(counted.intersection(services))


def ledger(rules: RuleSet, windows: Sequence[Window], rows: pl.DataFrame) -> pl.DataFrame:
    """All lines of some rows, in the order of the rules and then of the rows. Raises InvalidInput for an
    invalid cycle, and polars' OverflowError for an amount beyond 64 bits.
    """
    rows = rows.with_row_index(_ROW)
    places = rows.select(_PLACE).unique().rows()
    cycles = {name: cycle_of(name, rules.zone) for name in {place[2] for place in places}}
    parts = []
    paid_for: list[set[str]] = []
    for number, rule in enumerate(rules.rules):
        facts = list(_facts(rule, rules.zone, windows, places, cycles))
        if facts:
            hit = _hit(rule, rows, places, facts)
            parts.append(_lines(rule, hit).with_columns(pl.lit(number).alias("number")))
            paid_for.append({fact[0] for fact in facts})
    if not parts:
        return pl.DataFrame(schema=LINES)
    found = pl.concat(parts)
    compete = sum(map(len, paid_for)) > len(set[str]().union(*paid_for))
    if rules.overlap == "max" and compete:
        money = pl.col("kind").is_in(list(MONEY))
        found = found.filter(~money | (pl.col("amount") == pl.col("amount").max().over(_ROW, money)))
        found = found.filter(~money | (pl.col("number") == pl.col("number").min().over(_ROW, money)))
    return found.drop("number", _ROW)


_FACTS: Final = pl.Schema(
    {
        "service": pl.String(),
        "site": pl.String(),
        "cycle": pl.String(),
        "num": pl.Int64(),
        "den": pl.Int64(),
        "fixed": pl.Int64(),
    }
)
"""Facts of a rule for a service, site and cycle: the amount is fee * num / den, or fixed."""


def _facts(
    rule: Rule,
    zone: Zone,
    windows: Sequence[Window],
    places: Iterable[tuple[str, str, str]],
    cycles: dict[str, Cycle],
) -> Iterator[tuple[Any, ...]]:
    """Facts where the outage is long enough."""
    for service, site, name in places:
        if rule.services and service not in rule.services:
            continue
        cycle, spans = cycles[name], spans_of(windows, service, site, rule.excludes, rule.hours, zone)
        if rule.shares_fee:
            spans = [span for span in spans if span[0] < cycle.to_ms and span[1] > cycle.from_ms]
            down = sum(min(end, cycle.to_ms) - max(begin, cycle.from_ms) for begin, end in spans)
        else:
            spans = [span for span in spans if cycle.from_ms <= span[0] < cycle.to_ms]
            down = sum(end - begin for begin, end in spans)
        if down > 0 and _reached(rule, spans, down, cycle):
            yield service, site, name, *_factor(rule, spans, down, cycle)


def _below(down: int, cycle: Cycle, ppm: int) -> bool:
    return (cycle.length_ms - down) * PPM < ppm * cycle.length_ms


def _reached(rule: Rule, spans: Sequence[tuple[int, int]], down: int, cycle: Cycle) -> bool:
    when = rule.when
    if when.continuous_ms is when.total_ms is when.uptime_below_ppm is None:
        return True
    return (
        (when.continuous_ms is not None and any(end - begin >= when.continuous_ms for begin, end in spans))
        or (when.total_ms is not None and down >= when.total_ms)
        or (when.uptime_below_ppm is not None and _below(down, cycle, when.uptime_below_ppm))
    )


def _factor(rule: Rule, spans: Sequence[tuple[int, int]], down: int, cycle: Cycle) -> tuple[int, int, int]:
    """(num, den, fixed)"""
    match rule.formula:
        case formulas.Tiers(tiers):
            share = 0
            for tier in tiers:
                low = tier.uptime_below_ppm is not None and _below(down, cycle, tier.uptime_below_ppm)
                if low or (tier.lasting_ms is not None and down >= tier.lasting_ms):
                    share = max(share, tier.share_ppm)
            return share, PPM, 0
        case formulas.ProRata(times, unit):
            paid = -(-down * times // (1_000 * unit)) * unit
            return paid, HOUR_MS if rule.base == "hourly_fee" else cycle.length_ms, 0
        case formulas.PerDay(rates, after):
            total = 0
            for begin, end in spans:
                rate = 0
                for one in rates:
                    rate = one.money.minor if one.from_ms <= begin else rate
                total += max(0, -(-(end - begin - after) // DAY_MS)) * rate
            return 0, 1, total
        case formulas.Fixed(money):
            return 0, 1, money.minor
        case formulas.Voucher(count=count, worth=worth):
            return 0, 1, 0 if worth is None else worth.minor * count
        case _:
            return 0, 1, 0


def _hit(
    rule: Rule,
    rows: pl.DataFrame,
    places: Sequence[tuple[str, str, str]],
    facts: Sequence[tuple[Any, ...]],
) -> pl.DataFrame:
    """Rows that the rule pays for, with num, den and fixed. These are usually equal for all sites and cycles
    of some services; then nothing is joined.
    """
    services = {fact[0] for fact in facts}
    factors = {fact[3:] for fact in facts}
    everywhere = sum(place[0] in services for place in places) == len(facts)
    if everywhere and len(factors) == 1:
        found = rows.filter(_entitled(rule) & pl.col("service").is_in(sorted(services)))
        names = _FACTS.names()[3:]
        values = zip(names, next(iter(factors)), strict=True)
        return found.with_columns(*(pl.lit(value, pl.Int64).alias(name) for name, value in values))
    table = pl.DataFrame(list(facts), _FACTS, orient="row")
    return rows.filter(_entitled(rule)).join(table, on=_PLACE, how="inner", maintain_order="left")


def _lines(rule: Rule, hit: pl.DataFrame) -> pl.DataFrame:
    kind, quantity = pl.lit(rule.kind), pl.lit(0, pl.Int64)
    amount, review = _raw_amount(rule, hit), pl.lit(False)
    match rule.formula:
        case formulas.Days(days):
            quantity, amount = pl.lit(days, pl.Int64), pl.lit(0, pl.Int64)
        case formulas.Voucher(count=count):
            quantity = pl.lit(count, pl.Int64)
        case formulas.Bands(bands):
            amount = pl.lit(0, pl.Int64)
            for band in reversed(bands):
                fits = pl.col("claimed") <= band.up_to.minor
                amount = pl.when(fits).then(band.pays.minor).otherwise(amount)
            granted = pl.col("granted")
            amount = pl.when(granted > 0).then(granted).otherwise(amount)
            review = (pl.col("claimed") > bands[-1].up_to.minor) & (granted == 0)
    if rule.fallback:
        moved = pl.col("channel").is_in(sorted(rule.fallback))
        kind = pl.when(moved).then(pl.lit("balance")).otherwise(kind)
        quantity = pl.when(moved).then(0).otherwise(quantity)
        for channel, other in rule.fallback.items():
            amount = pl.when(pl.col("channel") == channel).then(other.minor).otherwise(amount)
    found = hit.with_columns(
        kind.alias("kind"), quantity.cast(pl.Int64).alias("quantity"), amount.cast(pl.Int64).alias("amount")
    )
    is_money = pl.col("kind").is_in(list(MONEY))
    limited = _limited(rule, pl.col("amount"), found)
    found = found.with_columns(
        pl.when(is_money).then(limited).otherwise(pl.col("amount")).cast(pl.Int64).alias("amount"),
        pl.when(review).then(pl.lit("review")).otherwise(pl.lit("due")).alias("state"),
        pl.when(pl.col("fee") > 0).then(pl.lit("paying")).otherwise(pl.lit("free")).alias("tranche"),
        pl.lit(rule.id).alias("rule"),
    )
    kept = (pl.col("amount") != 0) | (pl.col("quantity") != 0) | (pl.col("state") == "review")
    found = found.filter(kept)
    tax = pl.when(pl.col("kind").is_in(list(MONEY))).then(_tax(found)).otherwise(0)
    return found.with_columns(tax.cast(pl.Int64).alias("tax")).select(*LINES.names(), _ROW)


def _entitled(rule: Rule) -> pl.Expr:
    asked = [pl.lit(True)]
    for column, names in (
        ("service", rule.services),
        ("plan", rule.plans),
        ("region", rule.regions),
        ("channel", rule.channels),
        ("currency", (rule.currency,) if rule.currency else ()),
    ):
        if len(names) == 1:
            asked.append(pl.col(column) == names[0])
        elif names:
            asked.append(pl.col(column).is_in(list(names)))
    if rule.paid is not None:
        asked.append((pl.col("fee") > 0) == rule.paid)
    if rule.used:
        asked.append(pl.col("used"))
    if rule.needs_claim:
        asked.append(pl.col("claimed") > 0)
    return pl.all_horizontal(asked)


def _raw_amount(rule: Rule, hit: pl.DataFrame) -> pl.Expr:
    """The rounded amount, in 64 bits if the largest product fits, else in 128."""
    if not rule.shares_fee or not len(hit):
        return pl.col("fixed")
    most = 2 * _most(hit, "fee") * _most(hit, "num") + 2 * _most(hit, "den")
    fee, num, den = (_wide(pl.col(name), most) for name in ("fee", "num", "den"))
    if rule.rounding == "half_up":
        return (2 * fee * num + den) // (2 * den)
    return (fee * num + den - 1) // den if rule.rounding == "up" else fee * num // den


def _limited(rule: Rule, amount: pl.Expr, found: pl.DataFrame) -> pl.Expr:
    if rule.floor is not None:
        amount = (
            pl.when(amount > 0).then(pl.max_horizontal(amount, pl.lit(rule.floor.minor))).otherwise(amount)
        )
    if rule.cap_ppm is not None:
        share = _wide(pl.col("fee"), _most(found, "fee") * rule.cap_ppm) * rule.cap_ppm // PPM
        amount = pl.min_horizontal(amount, share.cast(pl.Int64))
    return amount if rule.cap is None else pl.min_horizontal(amount, pl.lit(rule.cap.minor))


def tax_on_top() -> pl.Expr:
    """Tax of lines that is paid in addition to their amount."""
    return pl.when("tax_included").then(0).otherwise(pl.col("tax")).alias("tax_on_top")


def _tax(found: pl.DataFrame) -> pl.Expr:
    """Tax on money, rounded half up: part of the amount if the fee includes tax, else added to it."""
    rate = _most(found, "tax_bp")
    if rate == 0:
        return pl.lit(0)
    most = 2 * _most(found, "amount") * rate + 2 * (10_000 + rate)
    amount, share = _wide(pl.col("amount"), most), pl.col("tax_bp")
    whole = pl.when(pl.col("tax_included")).then(10_000 + share).otherwise(10_000)
    return (2 * amount * share + whole) // (2 * whole)


def _most(frame: pl.DataFrame, column: str) -> int:
    largest = frame.get_column(column).max()
    return largest if isinstance(largest, int) else 0


def _wide(column: pl.Expr, most: int) -> pl.Expr:
    return column if most <= _INT64_MOST else column.cast(pl.Int128)
