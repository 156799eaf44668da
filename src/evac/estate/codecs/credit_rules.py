"""Credit rules as a YAML file, read like an estate: every problem at once, with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from evac.credit import formulas
from evac.credit import rules as r
from evac.credit.formulas import minor_digits, money_words
from evac.credit.rules import problems_of
from evac.credit.windows import KINDS, UTC_ZONE, WEEKDAYS, Hours, Zone, clock
from evac.estate.format import quantities as q
from evac.estate.format.document import Node, read_root
from evac.estate.format.kinds import (
    Field,
    Listed,
    Mapped,
    Record,
    Records,
    Scalar,
    choice,
    day,
    flag,
    measure,
    reference,
    small_count,
    text,
)
from evac.estate.format.problems import Problems
from evac.estate.format.quantities import QuantityError
from evac.estate.format.reading import FactBook, Reader
from evac.model.diagnostic import Diagnostic, Place
from evac.model.errors import EstateError
from evac.model.units import QUANTITY_LIMIT

VERSION: Final = 1
_MONEY: Final = re.compile(r"([0-9][0-9,]*(?:\.[0-9]+)?) ?([A-Z]{3})", re.ASCII)
_SHARE: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?%", re.ASCII)
_TIMES: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,3})?", re.ASCII)
_ZONE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z_]*(?:/[A-Za-z0-9_+-]+){0,2}", re.ASCII)
_CLOCK: Final = re.compile(r"([012][0-9]):([0-5][0-9])", re.ASCII)
_ZONE: Final = re.compile(r"([+-])([01][0-9]):([0-5][0-9])", re.ASCII)


def read_money(raw: str) -> formulas.Money:
    """`1,500 KRW`, `8.00 GBP`. Raises QuantityError."""
    found = _MONEY.fullmatch(raw)
    if found is None:
        raise QuantityError(
            "not-a-number", f"'{raw[:40]}' is not an amount", "use a value like 1500 KRW or 8.00 GBP"
        )
    number, currency = found.groups()
    try:
        minor = Decimal(number.replace(",", "")).scaleb(minor_digits(currency))
    except InvalidOperation as error:
        raise QuantityError("quantity-too-large", f"'{raw[:40]}' is too large", "check it") from error
    if minor != minor.to_integral_value():
        message = f"{raw} has more digits than {currency} has"
        raise QuantityError(
            "not-a-number", message, f"{currency} has {minor_digits(currency)} after the point"
        )
    if minor > QUANTITY_LIMIT:
        raise QuantityError("quantity-too-large", f"'{raw[:40]}' is more than 2^53 minor units", "check it")
    return formulas.Money(int(minor), currency)


def _read_share(raw: str) -> int:
    found = _SHARE.fullmatch(raw)
    value = Fraction(found[1]) * 10_000 if found else Fraction(1, 2)
    if value.denominator != 1:
        raise QuantityError("not-a-number", f"'{raw[:40]}' is not a percentage", "use a value like 99.99 %")
    if value > 100 * r.PPM:
        raise QuantityError("share-above-one", f"{raw} is more than 10,000 %", "check it")
    return int(value)


def _read_uptime(raw: str) -> int:
    value = _read_share(raw)
    if value > r.PPM:
        raise QuantityError("share-above-one", f"uptime must be at most 100 %, not {raw}", "check it")
    return value


def _read_times(raw: str) -> int:
    if not _TIMES.fullmatch(raw):
        raise QuantityError("not-a-number", f"'{raw[:40]}' is not a factor", "use a value like 10 or 1.5")
    return int(Fraction(raw) * 1_000)


def _read_zone(raw: str) -> Zone:
    found = _ZONE.fullmatch(raw)
    if found is not None:
        return Zone((int(found[2]) * 60 + int(found[3])) * (-1 if found[1] == "-" else 1))
    if _ZONE_NAME.fullmatch(raw):
        try:
            ZoneInfo(raw)
            return Zone(name=raw)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass  # a folder of the database, such as Europe, is an OSError
    hint = 'use a value like "+09:00" or Europe/Berlin'
    raise QuantityError("not-a-number", f"'{raw[:40]}' is neither a UTC offset nor a time zone", hint)


def _zone_words(zone: Zone) -> str:
    sign, minutes = "-" if zone.minutes < 0 else "+", abs(zone.minutes)
    return zone.name or f"{sign}{clock(minutes)}"


def _read_clock(raw: str) -> int:
    found = _CLOCK.fullmatch(raw)
    if found is None or (raw > "24:00"):
        raise QuantityError("not-a-number", f"'{raw[:40]}' is not a time of day", 'use a value like "09:00"')
    return int(found[1]) * 60 + int(found[2])


_TEXT: Final = {"type": "string"}
_MONEY_KIND: Final = Scalar(
    "amount, such as `1500 KRW`", read_money, lambda m: money_words(m.minor, m.currency), _TEXT
)
_SHARE_KIND: Final = Scalar("share, such as `10 %`", _read_share, lambda v: f"{Fraction(v, 10_000)} %", _TEXT)
_UPTIME: Final = Scalar(
    "uptime, such as `99.99 %`", _read_uptime, lambda v: f"{Fraction(v, 10_000)} %", _TEXT
)
_DURATION: Final = measure(q.DURATION)
_NAMES: Final = Listed(reference("name", "name"), ordered=True, one_allowed=True)
_TIMES_KIND: Final = Scalar("factor, such as `10`", _read_times, lambda v: str(Fraction(v, 1_000)), _TEXT)
_ZONE_KIND: Final = Scalar(
    'time zone, such as `"+09:00"` or `Europe/Berlin`', _read_zone, _zone_words, _TEXT, quoted=True
)
_CLOCK_KIND: Final = Scalar('time of day, such as `"09:00"`', _read_clock, clock, _TEXT, quoted=True)

_HOURS: Final = Record(
    (
        Field("from", "from_minute", _CLOCK_KIND, "start of the hours", required=True),
        Field(
            "to",
            "to_minute",
            _CLOCK_KIND,
            "end of the hours; if not after `from`, on the next day",
            required=True,
        ),
        Field(
            "days",
            "days",
            Listed(choice(WEEKDAYS)),
            "days on which the hours start; default: every day",
            default=(),
        ),
    ),
    lambda from_minute, to_minute, days=(): Hours(
        from_minute, to_minute, tuple(sorted({WEEKDAYS.index(day) for day in days}))
    ),
)

_WHEN: Final = Record(
    (
        Field("continuous", "continuous_ms", _DURATION, "at least one outage lasted this long"),
        Field("total", "total_ms", _DURATION, "all outages of the cycle together lasted at least this long"),
        Field("uptime_below", "uptime_below_ppm", _UPTIME, "uptime in the cycle was below this"),
    ),
    r.When,
)
_TIER: Final = Record(
    (
        Field("share", "share_ppm", _SHARE_KIND, "share of the fee", required=True),
        Field("uptime_below", "uptime_below_ppm", _UPTIME, "uptime in the cycle was below this"),
        Field(
            "lasting", "lasting_ms", _DURATION, "all outages of the cycle together lasted at least this long"
        ),
    ),
    formulas.Tier,
)
_PRO_RATA: Final = Record(
    (
        Field("times", "times_permille", _TIMES_KIND, "factor applied to the outage time", default=1_000),
        Field(
            "unit",
            "unit_ms",
            _DURATION,
            "the multiplied time is rounded up to whole units of this length",
            default=1,
        ),
    ),
    formulas.ProRata,
)
_RATE: Final = Record(
    (
        Field("from", "start", day(), "applies to outages that begin on or after this day", required=True),
        Field("amount", "money", _MONEY_KIND, "amount for each day", required=True),
    ),
    dict,
)
_PER_DAY: Final = Record(
    (
        Field("rates", "rates", Records(_RATE), "daily amounts, each with the day it starts", required=True),
        Field("after", "after_ms", _DURATION, "initial outage time that earns no credit", default=0),
    ),
    dict,
)
_GRANT: Final = (
    Field("name", "name", text(), "name of the item", required=True),
    Field("count", "count", small_count(1, 1_000), "how many", default=1),
)
_VOUCHER: Final = Record(
    (*_GRANT, Field("worth", "worth", _MONEY_KIND, "value of one item")),
    formulas.Voucher,
)
_GOODS: Final = Record(_GRANT, lambda **values: formulas.Voucher(**values, goods=True))
_BAND: Final = Record(
    (
        Field("up_to", "up_to", _MONEY_KIND, "reported loss, up to and including", required=True),
        Field("pays", "pays", _MONEY_KIND, "amount paid", required=True),
    ),
    formulas.Band,
)
FORMULAS: Final = ("tiers", "pro_rata", "fixed", "per_day", "days", "voucher", "goods", "bands")
_RULE: Final = Record(
    (
        Field("id", "id", reference("rule", "name"), "ID of the rule", required=True),
        Field("services", "services", _NAMES, "services it applies to; empty: all", required=True),
        Field("when", "when", _WHEN, "minimum outage lengths; any one is enough", default=r.When()),
        Field("hours", "hours", _HOURS, "hours of the day that count; default: all"),
        Field("base", "base", choice(("fee", "hourly_fee")), "period that a fee covers", default="fee"),
        Field("pay", "pay", choice(("refund", "balance")), "how the money is paid", default="balance"),
        Field("tiers", "tiers", Records(_TIER), "formula: a share of the fee, from the highest tier reached"),
        Field("pro_rata", "pro_rata", _PRO_RATA, "formula: the fee for the time of the outage, pro rata"),
        Field("fixed", "fixed", _MONEY_KIND, "formula: a fixed amount"),
        Field("per_day", "per_day", _PER_DAY, "formula: a daily amount"),
        Field("days", "days", small_count(1, 3_660), "formula: days by which a subscription is extended"),
        Field("voucher", "voucher", _VOUCHER, "formula: a voucher"),
        Field("goods", "goods", _GOODS, "formula: goods"),
        Field("bands", "bands", Records(_BAND), "formula: bands by reported loss"),
        Field("plans", "plans", _NAMES, "plans it applies to; default: all", default=()),
        Field("regions", "regions", _NAMES, "regions it applies to; default: all", default=()),
        Field("channels", "channels", _NAMES, "sales channels it applies to; default: all", default=()),
        Field("paid", "paid", flag(), "true: only accounts that pay a fee; false: only accounts that do not"),
        Field("used", "used", flag(), "true: only accounts that used the service during "
        "the outage", default=False),
        Field("excludes", "excludes", Listed(choice(KINDS)), "kinds of outage windows that do not count",
              default=("maintenance",)),
        Field("rounding", "rounding", choice(r.ROUNDINGS), "how to round to minor units", default="half_up"),
        Field("cap_share", "cap_ppm", _SHARE_KIND, "maximum, as a share of the fee"),
        Field("cap", "cap", _MONEY_KIND, "maximum amount"),
        Field("floor", "floor", _MONEY_KIND, "minimum amount, if anything is paid"),
        Field("claim_by", "claim_by", day(), "last day on which a claim can be made"),
        Field("first", "first", small_count(1, QUANTITY_LIMIT), "maximum number of claims, in order of "
        "receipt"),
        Field("pool", "pool", _MONEY_KIND, "maximum amount for all claims together, in order of receipt"),
        Field("expires", "expires_days", measure(q.DAYS), "how long the credit stays valid", default=0),
        Field("fallback", "fallback", Mapped(reference("channel", "name"), _MONEY_KIND),
              "amount to pay instead, for each channel that cannot take days, vouchers or goods", default={}),
        Field("renews", "renews", flag(), "must be false: grants never renew automatically", default=False),
        Field("source", "source", text(), "where the commitment is published", default=""),
        Field("note", "note", text(), "assumptions the rule makes", default=""),
    ),
    dict,
)  # fmt: skip
_TOP: Final = Record(
    (
        Field("credit_rules", "version", small_count(1, VERSION), "version of the format", required=True),
        Field("id", "id", reference("rule set", "name"), "ID of the rule set", required=True),
        Field("title", "title", text(), "for people", default=""),
        Field("zone", "zone", _ZONE_KIND, "time zone used for cycles, days and hours", default=UTC_ZONE),
        Field(
            "overlap",
            "overlap",
            choice(("max", "sum")),
            "which rule applies when several pay money",
            default="max",
        ),
        Field("rules", "rules", Records(_RULE), "the rules", required=True),
    ),
    dict,
)


def check_rules(path: Path) -> tuple[r.RuleSet | None, tuple[Diagnostic, ...]]:
    """The rule set of a file, and its problems; None if it cannot be used."""
    problems = Problems()
    root = read_root(path, problems)
    if root is None:
        return None, problems.all()
    values = Reader(problems, FactBook(None, problems)).arguments(_TOP, root, "rules")
    found: list[Diagnostic] = []
    made = None
    if isinstance(values, dict):
        made, found = _rule_set(values, root)
    diagnostics = tuple(sorted([*problems.all(), *found], key=lambda d: d.sort_key))
    broken = any(d.severity == "error" for d in diagnostics)
    return None if broken else made, diagnostics


def load_rules(path: Path) -> r.RuleSet:
    """Raises EstateError with every problem."""
    made, diagnostics = check_rules(path)
    if made is None:
        raise EstateError(diagnostics, "rules")
    return made


def _rule_set(values: dict[str, Any], root: Node) -> tuple[r.RuleSet | None, list[Diagnostic]]:
    node = root.fields["rules"][1]
    written: dict[str, list[Node]] = {}
    for item in node.items:
        name = item.fields.get("id")
        if name is not None:
            written.setdefault(name[1].text, []).append(item)
    found: list[Diagnostic] = []
    rules = []
    zone = values.get("zone", UTC_ZONE)
    for row in values["rules"]:
        queue = written.get(row["id"], [])
        item = queue.pop(0) if queue else node
        if any(name in item.fields and row.get(name) is None for name in FORMULAS):
            continue  # its formula cannot be read, which is a problem of its own
        rules += list(_rule(row, zone, item.place, found))
    if not values["rules"]:
        found.append(Diagnostic("value-missing", "the rule set has no rules", node.place, hint="add a rule"))
    made_set = r.RuleSet(
        values["id"], tuple(rules), zone, values.get("overlap", "max"), values.get("title", "")
    )
    return made_set, [*found, *problems_of(made_set)]


def _rule(row: dict[str, Any], zone: Zone, place: Place, found: list[Diagnostic]) -> Iterator[r.Rule]:
    """Yields the rule, unless its formula is missing or ambiguous."""
    given = [name for name in FORMULAS if row.get(name) is not None]
    name = f"rule {row['id']}"
    if row.pop("renews", False):
        message = f"{name}: a grant must not renew automatically, because it would charge the customer later"
        found.append(Diagnostic("grant-renews", message, place, hint="remove renews"))
    if len(given) != 1:
        code = "formula-several" if given else "formula-missing"
        message = f"{name} has {'the formulas ' + ', '.join(given) if given else 'no formula'}"
        found.append(Diagnostic(code, message, place, hint=f"keep one of {', '.join(FORMULAS)}"))
        return
    raw = row[given[0]]
    formula: formulas.Formula
    match given[0]:
        case "tiers":
            formula = formulas.Tiers(raw)
        case "fixed":
            formula = formulas.Fixed(raw)
        case "days":
            formula = formulas.Days(raw)
        case "bands":
            formula = formulas.Bands(raw)
        case "per_day":
            rates = tuple(formulas.Rate(zone.at_ms(one["start"]), one["money"]) for one in raw["rates"])
            formula = formulas.PerDay(rates, raw.get("after_ms", 0))
        case _:
            formula = raw
    rest = {key: value for key, value in row.items() if key not in FORMULAS and value is not None}
    if "claim_by" in rest:
        rest["claim_by"] = rest["claim_by"].isoformat()
    if "fallback" in rest:
        rest["fallback"] = MappingProxyType(dict(sorted(rest["fallback"].items())))
    yield replace(r.Rule(formula=formula, **rest), place=place)


def rules_of_data(data: Mapping[str, Any]) -> r.RuleSet:
    """The rule set that `RuleSet.to_data` wrote."""
    rules = []
    for row in data["rules"]:
        values: dict[str, Any] = {
            key: tuple(item) if isinstance(item, list) else item for key, item in row.items()
        }
        for name in ("cap", "floor", "pool"):
            values[name] = None if row.get(name) is None else formulas.Money(**row[name])
        values["when"] = r.When(**row["when"])
        hours = row.get("hours")
        values["hours"] = None if hours is None else Hours(**(hours | {"days": tuple(hours["days"])}))
        fallback = {channel: formulas.Money(**money) for channel, money in row["fallback"].items()}
        values["fallback"] = MappingProxyType(fallback)
        values["formula"] = _formula_of(dict(row["formula"]))
        rules.append(r.Rule(**values))
    zone = Zone(data["zone_minutes"], data.get("zone_name", ""))
    return r.RuleSet(data["id"], tuple(rules), zone, data["overlap"], data["title"])


def _formula_of(row: dict[str, Any]) -> formulas.Formula:
    def money(value: Mapping[str, Any]) -> formulas.Money:
        return formulas.Money(**value)

    match row.pop("formula_kind"):
        case "Tiers":
            return formulas.Tiers(tuple(formulas.Tier(**tier) for tier in row["tiers"]))
        case "ProRata":
            return formulas.ProRata(**row)
        case "Fixed":
            return formulas.Fixed(money(row["money"]))
        case "PerDay":
            rates = tuple(formulas.Rate(rate["from_ms"], money(rate["money"])) for rate in row["rates"])
            return formulas.PerDay(rates, row["after_ms"])
        case "Days":
            return formulas.Days(**row)
        case "Voucher":
            worth = None if row["worth"] is None else money(row["worth"])
            return formulas.Voucher(**(row | {"worth": worth}))
        case _:
            return formulas.Bands(
                tuple(formulas.Band(money(b["up_to"]), money(b["pays"])) for b in row["bands"])
            )
