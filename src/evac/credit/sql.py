"""Evaluation of a rule set as SQL: the engine that recomputes the ledger, starting from the windows.

It merges windows, measures outages and rounds amounts with its own expressions, independent of the engine
that it checks. It reads two tables:

accounts    the columns of `columns.ROWS`
windows     service, site, kind, from_ms, to_ms

Integers only, 128 bits wide for a product that is divided, or 64 if the database rejects overflows; `//` is
integer division.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from evac.credit import formulas
from evac.credit.rules import HOUR_MS, MONEY, PPM, Rule, RuleSet
from evac.credit.windows import DAY_MS, MINUTE_MS, Cycle, Window, Zone

COMPARED: Final = (
    "account",
    "service",
    "cycle",
    "rule",
    "kind",
    "amount",
    "currency",
    "quantity",
    "tax",
    "state",
    "tranche",
)
"""Columns of the result."""
Integer = Literal["HUGEINT", "BIGINT"]
"""Type of products."""
_IS_MONEY: Final = "kind IN ({})".format(", ".join(f"'{kind}'" for kind in MONEY))


def statement(
    rules: RuleSet, calendar: Sequence[Cycle] = (), windows: Sequence[Window] = (), wide: bool = True
) -> str:
    """One SELECT with a row for each line of the ledger. calendar, windows: literal values, for a database
    without a table of windows; else cycles are computed from their names. wide False: products in 64 bits,
    three times as fast; for a database that rejects overflows, as DuckDB does.
    """
    integer: Integer = "HUGEINT" if wide else "BIGINT"
    each = list(enumerate(rules.rules))
    parts = ", ".join(f"lines{number} AS ({_lines(rule, number, integer)})" for number, rule in each)
    given = windows if calendar else None
    spans = ", ".join(_measures(rule, number, integer, rules.zone, given) for number, rule in each)
    union = " UNION ALL ".join(f"SELECT * FROM lines{number}" for number in range(len(rules.rules)))
    columns = ", ".join(COMPARED)
    rows = "spots AS MATERIALIZED (SELECT DISTINCT service, site, cycle FROM accounts)"
    whole = f"WITH {_constants(calendar, windows)}{rows}, {spans}, {parts}, everything AS ({union})"
    if rules.overlap == "sum" or not _compete(rules.rules):
        found = f"{whole} SELECT {columns} FROM everything"
    else:
        found = (
            f"{whole} SELECT {columns} FROM (SELECT *, row_number() OVER (PARTITION BY account, service, "
            f"cycle, {_IS_MONEY} ORDER BY amount DESC, number) AS place FROM everything) AS ranked "
            f"WHERE place = 1 OR NOT {_IS_MONEY}"
        )
    return found


def _compete(rules: Sequence[Rule]) -> bool:
    """Whether two rules may apply to one service, so that one of several lines must be chosen."""
    named = [service for rule in rules for service in set(rule.services)]
    return len(rules) > 1 and (not all(rule.services for rule in rules) or len(named) > len(set(named)))


def _constants(calendar: Sequence[Cycle], windows: Sequence[Window]) -> str:
    if not calendar:
        return ""
    cycles = " UNION ALL ".join(
        f"SELECT {_text(c.name)} AS cycle, {c.from_ms} AS cycle_from, {c.to_ms} AS cycle_to" for c in calendar
    )
    rows = " UNION ALL ".join(
        f"SELECT {_text(w.service)} AS service, {_text(w.site)} AS site, {_text(w.kind)} AS kind, "
        f"{w.from_ms} AS from_ms, {w.to_ms} AS to_ms"
        for w in windows
    )
    return f"calendar AS ({cycles}), windows AS ({rows}), "


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _listed(values: Iterable[str]) -> str:
    return "(" + ", ".join(_text(value) for value in values) + ")"


def _moment(local: str, zone: Zone) -> str:
    """Milliseconds of a local time, using the database's own time zones."""
    if zone.name:
        return f"epoch_ms({local} AT TIME ZONE {_text(zone.name)})"
    return f"epoch_ms({local}) - {zone.minutes * MINUTE_MS}"


def _open(rule: Rule, number: int, zone: Zone, windows: Sequence[Window] | None) -> str:
    """Start and end of a rule's hours. windows: their times are literals, for a database that cannot generate
    a series of days; None: it generates one, from two days before the first window.
    """
    hours, n = rule.hours, number
    if hours is None:
        return ""
    if windows is not None:
        times = {time for w in windows for time in hours.between(zone, w.from_ms, w.to_ms)}
        rows = " UNION ALL ".join(f"SELECT {a} AS opens, {b} AS shuts" for a, b in sorted(times))
        none = "SELECT 0 AS opens, 0 AS shuts"
        return f"open{n} AS ({rows or none}),"
    on = f"WHERE isodow(day) IN ({', '.join(str(day + 1) for day in hours.days)})" if hours.days else ""
    return f"""
days{n} AS (SELECT unnest(generate_series(
    CAST(make_timestamp(min(from_ms) * 1000) AS DATE) - INTERVAL 2 DAY,
    make_timestamp(max(to_ms) * 1000) + INTERVAL 2 DAY, INTERVAL 1 DAY)) AS day FROM windows),
open{n} AS (SELECT {_moment(f"(day + INTERVAL {hours.from_minute} MINUTE)", zone)} AS opens,
    {_moment(f"(day + INTERVAL {hours.end_minute} MINUTE)", zone)} AS shuts FROM days{n} {on}),"""


def _measures(rule: Rule, number: int, integer: Integer, zone: Zone, windows: Sequence[Window] | None) -> str:
    """For each service, site and cycle: the longest outage, the total, the cycle, and the value of days.
    windows: cycles and hours are literals; None: the database computes them.

    Gaps and islands: a window starts an island if no earlier one reaches it; the running count of such starts
    numbers the islands. Hours cut windows before that.
    """
    kinds = f"AND w.kind NOT IN {_listed(rule.excludes)}" if rule.excludes else ""
    services = f"WHERE service IN {_listed(rule.services)}" if rule.services else ""
    n = number
    inside = "a < cycle_to AND b > cycle_from" if rule.shares_fee else "a >= cycle_from AND a < cycle_to"
    length = "least(b, cycle_to) - greatest(a, cycle_from)" if rule.shares_fee else "b - a"
    bounds = f"""
    {_moment("CAST(cycle || '-01' AS TIMESTAMP)", zone)} AS cycle_from,
    {_moment("(CAST(cycle || '-01' AS TIMESTAMP) + INTERVAL 1 MONTH)", zone)} AS cycle_to FROM spots"""
    if windows is not None:
        bounds = "cycle_from, cycle_to FROM spots JOIN calendar USING (cycle)"
    begin, end, cut = "w.from_ms", "w.to_ms", ""
    if rule.hours is not None:
        begin, end = "greatest(w.from_ms, o.opens)", "least(w.to_ms, o.shuts)"
        cut = f"JOIN open{n} o ON o.opens < o.shuts AND o.opens < w.to_ms AND o.shuts > w.from_ms"
    return f"""
places{n} AS (SELECT DISTINCT service, site FROM spots {services}),
cycles{n} AS (SELECT service, site, cycle, {bounds} {services}),
{_open(rule, n, zone, windows)}
hits{n} AS (SELECT p.service, p.site, {begin} AS a, {end} AS b FROM places{n} p
    JOIN windows w ON w.service = p.service AND (w.site = '' OR w.site = p.site) {kinds} {cut}),
begins{n} AS (SELECT *, CASE WHEN a <= max(b) OVER (PARTITION BY service, site ORDER BY a, b
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) THEN 0 ELSE 1 END AS fresh FROM hits{n}),
numbered{n} AS (SELECT *, sum(fresh) OVER (PARTITION BY service, site ORDER BY a, b
    ROWS UNBOUNDED PRECEDING) AS island FROM begins{n}),
islands{n} AS (SELECT service, site, min(a) AS a, max(b) AS b FROM numbered{n}
    GROUP BY service, site, island),
measures{n} AS (SELECT c.service, c.site, c.cycle, c.cycle_to - c.cycle_from AS cycle_ms,
    CAST(max(b - a) AS {integer}) AS longest, CAST(sum({length}) AS {integer}) AS total,
    CAST(sum({_daily(rule)}) AS {integer}) AS daily
    FROM cycles{n} c JOIN islands{n} i ON i.service = c.service AND i.site = c.site AND {inside}
    GROUP BY c.service, c.site, c.cycle, c.cycle_to - c.cycle_from)"""


def _daily(rule: Rule) -> str:
    if not isinstance(rule.formula, formulas.PerDay):
        return "0"
    rates = " ".join(
        f"WHEN a >= {rate.from_ms} THEN {rate.money.minor}" for rate in reversed(rule.formula.rates)
    )
    days = f"(greatest(0, b - a - {rule.formula.after_ms}) + {DAY_MS - 1}) // {DAY_MS}"
    return f"({days}) * CASE {rates} ELSE 0 END"


def _uptime_below(ppm: int) -> str:
    return f"(cycle_ms - total) * {PPM} < CAST({ppm} AS BIGINT) * cycle_ms"


def _reached(rule: Rule) -> str:
    when = rule.when
    asked = [
        text
        for value, text in (
            (when.continuous_ms, f"longest >= {when.continuous_ms}"),
            (when.total_ms, f"total >= {when.total_ms}"),
            (when.uptime_below_ppm, _uptime_below(when.uptime_below_ppm or 0)),
        )
        if value is not None
    ]
    return "total > 0" + (f" AND ({' OR '.join(asked)})" if asked else "")


def _entitled(rule: Rule) -> str:
    asked = []
    for column, names in (
        ("service", rule.services),
        ("plan", rule.plans),
        ("region", rule.regions),
        ("channel", rule.channels),
    ):
        if names:
            asked.append(f"x.{column} IN {_listed(names)}")
    if rule.paid is not None:
        asked.append("fee > 0" if rule.paid else "fee <= 0")
    if rule.used:
        asked.append("used")
    if rule.currency:
        asked.append(f"currency = {_text(rule.currency)}")
    if rule.needs_claim:
        asked.append("claimed > 0")
    return " AND ".join([_reached(rule), *asked])


def _quotient(rule: Rule, product: str, divisor: str) -> str:
    """A wide product divided by a divisor, as an integer."""
    if rule.rounding == "half_up":
        return f"(2 * {product} + {divisor}) // (2 * {divisor})"
    return f"({product} + {divisor} - 1) // {divisor}" if rule.rounding == "up" else f"{product} // {divisor}"


def _raw(rule: Rule, integer: Integer) -> str:
    fee = f"CAST(fee AS {integer})"
    match rule.formula:
        case formulas.Tiers(tiers):
            shares = ["0"]
            for tier in tiers:
                if tier.uptime_below_ppm is not None:
                    met = _uptime_below(tier.uptime_below_ppm)
                else:
                    met = f"total >= {tier.lasting_ms}"
                shares.append(f"CASE WHEN {met} THEN {tier.share_ppm} ELSE 0 END")
            return _quotient(rule, f"({fee} * greatest({', '.join(shares)}))", f"{PPM}")
        case formulas.ProRata(times, unit):
            paid = f"((total * {times} + {1_000 * unit - 1}) // {1_000 * unit} * {unit})"
            base = str(HOUR_MS) if rule.base == "hourly_fee" else "cycle_ms"
            return _quotient(rule, f"({fee} * {paid})", base)
        case formulas.Fixed(money):
            return str(money.minor)
        case formulas.PerDay():
            return "daily"
        case formulas.Voucher(count=count, worth=worth):
            return _instead(rule, worth.minor * count if worth is not None else 0)
        case formulas.Days():
            return _instead(rule, 0)
        case formulas.Bands(bands):
            cases = " ".join(f"WHEN claimed <= {band.up_to.minor} THEN {band.pays.minor}" for band in bands)
            return f"CASE WHEN granted > 0 THEN granted {cases} ELSE 0 END"


def _instead(rule: Rule, value: int) -> str:
    """The value of a grant in kind, or the amount for channels that cannot grant it."""
    cases = " ".join(
        f"WHEN channel = {_text(channel)} THEN {money.minor}" for channel, money in rule.fallback.items()
    )
    return f"CASE {cases} ELSE {value} END" if cases else str(value)


def _limited(rule: Rule, integer: Integer) -> str:
    amount = "raw"
    if rule.floor is not None:
        amount = f"CASE WHEN raw > 0 THEN greatest(raw, {rule.floor.minor}) ELSE raw END"
    if rule.cap_ppm is not None:
        amount = f"least({amount}, CAST(fee AS {integer}) * {rule.cap_ppm} // {PPM})"
    return amount if rule.cap is None else f"least({amount}, {rule.cap.minor})"


def _lines(rule: Rule, number: int, integer: Integer) -> str:
    kind, quantity, state = _text(rule.kind), "0", "'due'"
    match rule.formula:
        case formulas.Days(days):
            quantity = str(days)
        case formulas.Voucher(count=count):
            quantity = str(count)
        case formulas.Bands(bands):
            waits = f"claimed > {bands[-1].up_to.minor} AND granted = 0"
            state = f"CASE WHEN {waits} THEN 'review' ELSE 'due' END"
    if rule.fallback:
        moved = f"channel IN {_listed(rule.fallback)}"
        kind = f"CASE WHEN {moved} THEN 'balance' ELSE {kind} END"
        quantity = f"CASE WHEN {moved} THEN 0 ELSE {quantity} END"
    whole = "(CASE WHEN tax_included THEN 10000 + tax_bp ELSE 10000 END)"
    tax = f"(2 * amount * tax_bp + {whole}) // (2 * {whole})"
    return f"""
SELECT account, service, cycle, {_text(rule.id)} AS rule, kind, CAST(amount AS BIGINT) AS amount, currency,
    CAST(quantity AS BIGINT) AS quantity,
    CAST(CASE WHEN {_IS_MONEY} THEN {tax} ELSE 0 END AS BIGINT) AS tax, state,
    CASE WHEN fee > 0 THEN 'paying' ELSE 'free' END AS tranche, {number} AS number
FROM (SELECT *, CAST(CASE WHEN {_IS_MONEY} THEN {_limited(rule, integer)} ELSE raw END AS {integer}) AS amount
    FROM (SELECT x.*, {kind} AS kind, {quantity} AS quantity, {state} AS state, {_raw(rule, integer)} AS raw
        FROM accounts x JOIN measures{number} m ON m.service = x.service AND m.site = x.site
            AND m.cycle = x.cycle
        WHERE {_entitled(rule)}) AS entitled) AS counted
WHERE amount <> 0 OR quantity <> 0 OR state = 'review'"""
