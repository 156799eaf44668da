"""Explain a ledger line or a rule in words. Pure.

For a line: the outages, the rule, and the calculation with its numbers, in English and Korean. Templates are
texts with names in braces. A company may replace any of them; a template with an unknown name is refused.

For a rule, for a regulator and terms of service: who is eligible, on which basis, and what they have to do,
without the numbers of an account.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final, Literal, get_args

from evac.credit import exact, formulas
from evac.credit.formulas import money_words
from evac.credit.rules import HOUR_MS, MONEY, PPM, Rule, RuleSet
from evac.credit.windows import WEEKDAYS, Window, clock, cycle_of
from evac.model.errors import InvalidInput
from evac.model.records import dataclass

Language = Literal["en", "ko"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
Templates = Mapping[str, Mapping[str, str]]

TEMPLATES: Final[Templates] = {
    "en": {
        "line": "{service} was unavailable {outages}. You receive {what}. {why}",
        "outage": "from {begin} to {end} ({length})",
        "and": ", and ",
        "days": "{count} more days",
        "days_one": "{count} more day",
        "voucher": "{count} x {name}",
        "review": "a decision after we have reviewed your documents",
        "tiers": "{share} % of your fee of {fee}, because uptime was {uptime} % in {cycle}.",
        "pro_rata": (
            "Your fee of {fee} x {hours} h / {base_hours} h. The {hours} h are "
            "{factor} times the length of the outage."
        ),
        "pro_rata_once": "Your fee of {fee} x {hours} h / {base_hours} h, the length of the outage.",
        "rounded_up": "The time is rounded up to whole units of {unit}.",
        "fixed": "This amount is the same for every customer of the plan.",
        "per_day": "{days} days beyond the first {after}.",
        "per_day_one": "{days} day beyond the first {after}.",
        "extended": "Your subscription is extended; the next billing day moves.",
        "instead": "Your store cannot move a billing day, so you receive this amount instead.",
        "instead_of_it": "It is not available through the store where you subscribed, so you "
        "receive this amount instead.",
        "given": "It does not renew automatically and is never charged.",
        "bands": "You reported a loss of {claimed}.",
        "granted": "You reported a loss of {claimed}, and we have reviewed it.",
        "hours": "Outages count from {begin} to {end}.",
        "hours_on": "Outages count from {begin} to {end} on {days}.",
        "mon": "Mondays",
        "tue": "Tuesdays",
        "wed": "Wednesdays",
        "thu": "Thursdays",
        "fri": "Fridays",
        "sat": "Saturdays",
        "sun": "Sundays",
        "at_least": "This is the minimum that we pay.",
        "at_most": "This is the maximum that we pay.",
        "nothing": "{service} in {cycle}: no credit. {why}",
        "no_rule": "No rule covers this service, plan and account.",
        "no_outage": "No outage was recorded for this service in this cycle.",
        "too_short": "The outage of {length} is shorter than rule {rule} requires.",
        "tax_on_top": "Tax of {tax} is added.",
        "d": "{count} d",
        "h": "{count} h",
        "min": "{count} min",
        "s": "{count} s",
    },
    "ko": {
        "line": "{service} 서비스를 {outages} 이용하실 수 없었습니다. {what} 드립니다. {why}",
        "outage": "{begin}부터 {end}까지({length})",
        "and": ", ",
        "days": "이용 기간 {count}일 연장을",
        "days_one": "이용 기간 {count}일 연장을",
        "voucher": "{name} {count}개를",
        "review": "제출하신 서류를 검토한 뒤 결과를 알려",
        "tiers": "{cycle} 가동률이 {uptime} %였으므로 요금 {fee}의 {share} %입니다.",
        "pro_rata": "요금 {fee} x {hours}시간 / {base_hours}시간이며, 장애 시간의 {factor}배입니다.",
        "pro_rata_once": "요금 {fee} x {hours}시간 / {base_hours}시간(장애 시간)입니다.",
        "rounded_up": "시간은 {unit} 단위로 올림합니다.",
        "fixed": "같은 요금제의 모든 고객에게 동일한 금액입니다.",
        "per_day": "처음 {after}을 제외한 {days}일분입니다.",
        "per_day_one": "처음 {after}을 제외한 {days}일분입니다.",
        "extended": "이용권이 연장되고 다음 결제일이 미뤄집니다.",
        "instead": "이용하시는 스토어에서는 결제일을 바꿀 수 없어 이 금액으로 대신합니다.",
        "instead_of_it": "가입하신 경로에서는 제공할 수 없어 이 금액으로 대신합니다.",
        "given": "자동으로 갱신되거나 결제되지 않습니다.",
        "bands": "신고하신 손실은 {claimed}입니다.",
        "granted": "신고하신 손실 {claimed}을(를) 검토한 결과입니다.",
        "hours": "{begin}부터 {end}까지의 장애만 계산합니다.",
        "hours_on": "{days} {begin}부터 {end}까지의 장애만 계산합니다.",
        "mon": "월요일",
        "tue": "화요일",
        "wed": "수요일",
        "thu": "목요일",
        "fri": "금요일",
        "sat": "토요일",
        "sun": "일요일",
        "at_least": "최소 지급액입니다.",
        "at_most": "최대 지급액입니다.",
        "nothing": "{cycle} {service}: 해당 금액이 없습니다. {why}",
        "no_rule": "이 서비스, 요금제, 계정에 적용되는 규칙이 없습니다.",
        "no_outage": "이 기간에 기록된 장애가 없습니다.",
        "too_short": "장애 시간 {length}이(가) 규칙 {rule}의 기준보다 짧습니다.",
        "tax_on_top": "여기에 세금 {tax}이(가) 더해집니다.",
        "d": "{count}일",
        "h": "{count}시간",
        "min": "{count}분",
        "s": "{count}초",
    },
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """The lines of one row in words; if there are none, one sentence that says why."""

    service: str
    cycle: str
    sentences: tuple[str, ...]


def checked(templates: Templates) -> Templates:
    """The shipped templates with those of a company, whose text for several is also used for one unless it
    gives both. Raises InvalidInput for an unknown name.
    """
    made: dict[str, dict[str, str]] = {language: dict(TEMPLATES[language]) for language in LANGUAGES}
    for language, rows in templates.items():
        if language not in made:
            hint = f"languages: {', '.join(LANGUAGES)}"
            raise InvalidInput("template-unknown", f"no templates for '{language[:20]}'", hint)
        for name, text in rows.items():
            if name not in TEMPLATES["en"]:
                hint = f"templates: {', '.join(TEMPLATES['en'])}"
                raise InvalidInput("template-unknown", f"no such template: '{name[:40]}'", hint)
            parsed = string.Formatter().parse(TEMPLATES["en"][name])
            known = {field for _, field, _, _ in parsed if field}
            try:
                used = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
            except ValueError as error:
                hint = "to write a brace, double it"
                raise InvalidInput("template-invalid", f"template {name}: {error}", hint) from error
            if used - known:
                hint = f"it may use: {', '.join(sorted(known)) or 'nothing'}"
                words = f"template {name} uses {', '.join(sorted(used - known))}"
                raise InvalidInput("template-invalid", words, hint)
            made[language][name] = text
            for one in (_of(name, 1), f"{name}_once"):
                if one in made[language] and one not in rows:
                    made[language][one] = text
    return made


def _of(name: str, count: int) -> str:
    """The template for a count, with a separate form for one."""
    return f"{name}_one" if count == 1 else name


def explained(
    rules: RuleSet,
    windows: Sequence[Window],
    row: exact.Account,
    language: Language,
    templates: Templates = TEMPLATES,
) -> Explanation:
    """Why a row gets what it gets, recomputed with fractions, so that it cannot contradict the ledger."""
    words = templates[language]
    by_id = {rule.id: rule for rule in rules.rules}
    sentences = []
    for line in exact.lines_of(rules, windows, row):
        rule = by_id[line.rule]
        seen = exact.measured(
            rule, rules.zone, windows, row.service, row.site, cycle_of(row.cycle, rules.zone)
        )
        outages = words["and"].join(
            words["outage"].format(
                begin=_moment(a, rules), end=_moment(b, rules), length=length_words(b - a, words)
            )
            for a, b in seen.spans
        )
        what = money_words(line.amount, line.currency)
        if line.state == "review":
            what = words["review"]
        elif line.kind not in MONEY:
            name = rule.formula.name if isinstance(rule.formula, formulas.Voucher) else ""
            which = _of("days", line.quantity) if line.kind == "days" else "voucher"
            what = words[which].format(count=line.quantity, name=name)
        more = (*_when(rule, words), *_bounds(rule, line, row, words), *_tax(line, row, words))
        why = " ".join([_why(rule, seen, row, words), *more])
        sentences.append(words["line"].format(service=row.service, outages=outages, what=what, why=why))
    if not sentences:
        why = _why_not(rules, windows, row, words)
        sentences.append(words["nothing"].format(service=row.service, cycle=row.cycle, why=why))
    return Explanation(row.service, row.cycle, tuple(sentences))


def _why(rule: Rule, seen: exact.Measured, row: exact.Account, words: Mapping[str, str]) -> str:
    fee = money_words(row.fee, row.currency)
    match rule.formula:
        case formulas.Tiers(tiers):
            uptime = 1 - Fraction(seen.total_ms, seen.cycle.length_ms)
            share = max(
                tier.share_ppm
                for tier in tiers
                if (tier.uptime_below_ppm is not None and uptime * PPM < tier.uptime_below_ppm)
                or (tier.lasting_ms is not None and seen.total_ms >= tier.lasting_ms)
            )
            values = {"share": _number(Fraction(share, 10_000)), "uptime": _number(uptime * 100)}
            return words["tiers"].format(fee=fee, cycle=row.cycle, **values)
        case formulas.ProRata() as formula:
            base = HOUR_MS if rule.base == "hourly_fee" else seen.cycle.length_ms
            credited_ms = exact.credited_ms(formula, seen)
            factor = Fraction(formula.times_permille, 1_000)
            text = words["pro_rata_once" if factor == 1 else "pro_rata"].format(
                fee=fee,
                factor=_number(factor),
                hours=_number(Fraction(credited_ms, HOUR_MS)),
                base_hours=_number(Fraction(base, HOUR_MS)),
            )
            if credited_ms == seen.total_ms * factor or formula.unit_ms == 1:
                return text
            return f"{text} {words['rounded_up'].format(unit=length_words(formula.unit_ms, words))}"
        case formulas.PerDay() as formula:
            days = sum(count for count, _ in exact.days_of(formula, seen))
            return words[_of("per_day", days)].format(days=days, after=length_words(formula.after_ms, words))
        case formulas.Days():
            return words["instead" if row.channel in rule.fallback else "extended"]
        case formulas.Voucher():
            return words["instead_of_it" if row.channel in rule.fallback else "given"]
        case formulas.Bands():
            return words["granted" if row.granted else "bands"].format(
                claimed=money_words(row.claimed, row.currency)
            )
        case formulas.Fixed():
            return words["fixed"]


def _when(rule: Rule, words: Mapping[str, str]) -> Iterator[str]:
    """Says that only some hours count."""
    if rule.hours is not None:
        days = ", ".join(words[WEEKDAYS[day]] for day in rule.hours.days)
        begin, end = clock(rule.hours.from_minute), clock(rule.hours.to_minute)
        yield words["hours_on" if days else "hours"].format(begin=begin, end=end, days=days)


def _bounds(rule: Rule, line: exact.Line, row: exact.Account, words: Mapping[str, str]) -> Iterator[str]:
    """Says that an amount is the floor, or one of the caps."""
    if line.kind not in MONEY or line.state == "review" or rule.in_kind:
        return
    caps = [cap.minor for cap in (rule.cap,) if cap is not None]
    if rule.cap_ppm is not None:
        caps.append(row.fee * rule.cap_ppm // PPM)
    if caps and line.amount == min(caps):
        yield words["at_most"]
    elif rule.floor is not None and line.amount == rule.floor.minor:
        yield words["at_least"]


def _tax(line: exact.Line, row: exact.Account, words: Mapping[str, str]) -> Iterator[str]:
    """Says that tax is paid in addition."""
    if line.tax and line.state != "review" and not row.tax_included:
        yield words["tax_on_top"].format(tax=money_words(line.tax, line.currency))


def _why_not(rules: RuleSet, windows: Sequence[Window], row: exact.Account, words: Mapping[str, str]) -> str:
    about = [rule for rule in rules.rules if exact.entitled(rule, row)]
    if not about:
        return words["no_rule"]
    cycle = cycle_of(row.cycle, rules.zone)
    seen = [(rule, exact.measured(rule, rules.zone, windows, row.service, row.site, cycle)) for rule in about]
    short = [(rule, one) for rule, one in seen if one.total_ms > 0 and not exact.reached(rule, one)]
    if not short:
        return words["no_outage"]
    return words["too_short"].format(length=length_words(short[0][1].total_ms, words), rule=short[0][0].id)


def length_words(length_ms: int, words: Mapping[str, str] = TEMPLATES["en"]) -> str:
    """`5 d 7 h 27 min`; seconds only below an hour. words: the templates of a language."""
    minutes, rest = divmod(length_ms, 60_000)
    parts = [(minutes // 1_440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min")]
    shown = [words[unit].format(count=count) for count, unit in parts if count]
    if minutes < 60 and (rest or not shown):
        shown.append(words["s"].format(count=_number(Fraction(rest, 1_000))))
    return " ".join(shown)


def _number(value: Fraction) -> str:
    """Up to four decimals, truncated, so that 99.99 % is never shown as more."""
    scaled = value.numerator * 10_000 // value.denominator
    whole, rest = divmod(scaled, 10_000)
    return f"{whole:,}.{rest:04}".rstrip("0").rstrip(".")


def _moment(at_ms: int, rules: RuleSet) -> str:
    """A moment, with seconds only if not zero."""
    at = rules.zone.local(at_ms)
    return at.strftime("%Y-%m-%d %H:%M:%S" if at.second else "%Y-%m-%d %H:%M")


def account_of(values: Mapping[str, Any]) -> exact.Account:
    """A row of the accounts as a value."""
    return exact.Account(**{name: values[name] for name in exact.Account.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class RuleWords:
    claimants: str
    basis: str
    procedure: str


def in_words(rule: Rule) -> RuleWords:
    """One or two sentences for each of the three."""
    return RuleWords(_claimants(rule), " ".join(_basis(rule)), " ".join(_procedure(rule)))


def _claimants(rule: Rule) -> str:
    about = [f"Accounts of {_listed(rule.services)}" if rule.services else "Accounts of all services"]
    if rule.paid is not None:
        about[0] += " with a fee" if rule.paid else " without a fee"
    for names, word in ((rule.plans, "plan"), (rule.regions, "region"), (rule.channels, "channel")):
        if names:
            about.append(f"{word} {_listed(names, 'or')}")
    if rule.used:
        about.append("if they used the service during the outage")
    return f"{', '.join(about)}."


def _basis(rule: Rule) -> Iterator[str]:
    yield f"{_formula(rule)}{_when_words(rule)}."
    if rule.hours is not None:
        days = [WEEKDAYS[day].capitalize() for day in rule.hours.days]
        begin, end = clock(rule.hours.from_minute), clock(rule.hours.to_minute)
        yield f"Outages count from {begin} to {end}{f' on {_listed(days)}' if days else ''}."
    if rule.excludes:
        kinds = _listed([kind.replace("_", " ") for kind in rule.excludes])
        yield f"Not counted: {kinds}."
    if rule.floor is not None:
        yield f"At least {_money(rule.floor)}."
    if rule.cap is not None:
        yield f"At most {_money(rule.cap)}."
    if rule.cap_ppm is not None:
        yield f"At most {_percent(rule.cap_ppm)} of the fee."
    for channel, money in rule.fallback.items():
        yield f"{_money(money)} instead for the channel {channel}, which cannot take it."


def _formula(rule: Rule) -> str:
    match rule.formula:
        case formulas.Tiers(tiers):
            return "A share of the fee: " + ", ".join(
                f"{_percent(tier.share_ppm)} "
                + (
                    f"where uptime was below {_percent(tier.uptime_below_ppm)}"
                    if tier.uptime_below_ppm is not None
                    else f"from {length_words(tier.lasting_ms or 0)} on"
                )
                for tier in tiers
            )
        case formulas.ProRata(times, unit):
            fee = "hourly fee" if rule.base == "hourly_fee" else "fee of the cycle"
            factor = "" if times == 1_000 else f"{_number(Fraction(times, 1_000))} times "
            whole = f", in whole units of {length_words(unit)}" if unit > 1 else ""
            return f"{factor}the {fee} for the time of the outage{whole}".capitalize()
        case formulas.Fixed(money):
            return f"{_money(money)} per account and cycle"
        case formulas.PerDay(rates, after):
            later = f" beyond the first {length_words(after)}" if after else ""
            return f"{_money(rates[-1].money)} per day{later}"
        case formulas.Days(days):
            return f"The subscription is extended by {_days(days)}"
        case formulas.Voucher(name, count, worth):
            value = f" worth {_money(worth)} each" if worth is not None else ""
            return f"{count} x {name}{value}"
        case formulas.Bands(bands):
            steps = ", ".join(f"{_money(band.pays)} up to {_money(band.up_to)}" for band in bands)
            return f"By reported loss: {steps}; above that, a person reviews the documents and decides"


def _when_words(rule: Rule) -> str:
    when = rule.when
    asked = [
        words
        for value, words in (
            (when.continuous_ms, f"one outage lasted {length_words(when.continuous_ms or 0)} or longer"),
            (when.total_ms, f"all outages of a cycle lasted {length_words(when.total_ms or 0)} or longer"),
            (when.uptime_below_ppm, f"uptime of a cycle was below {_percent(when.uptime_below_ppm or 0)}"),
        )
        if value is not None
    ]
    return f", if {' or '.join(asked)}" if asked else ""


def _procedure(rule: Rule) -> Iterator[str]:
    if rule.needs_claim:
        yield f"On a claim{f' by {rule.claim_by}' if rule.claim_by else ''}."
        if rule.first is not None:
            yield f"The first {rule.first:,} claims count."
        if rule.pool is not None:
            yield f"{_money(rule.pool)} for all claims, in order of receipt."
    else:
        yield "No claim is needed."
    ways = {"refund": "It is refunded.", "balance": "It is credited to the account balance."}
    yield ways.get(rule.kind, "It is added to the account and does not renew automatically.")
    if rule.expires_days:
        yield f"It can be used for {_days(rule.expires_days)}."


def _listed(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"


def _money(money: formulas.Money) -> str:
    return money_words(money.minor, money.currency)


def _percent(ppm: int) -> str:
    return f"{_number(Fraction(ppm, 10_000))} %"
