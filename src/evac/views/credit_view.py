"""Credit cases as sheets and as JSON: everything that is shown is in the one document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from evac.credit.explain import Explanation, length_words
from evac.credit.formulas import decimal_text, money_words
from evac.credit.ledger import WORDS, Tranche
from evac.credit.rules import MONEY
from evac.incident.regulator import DAMAGES_DAYS
from evac.model.diagnostic import Diagnostic
from evac.model.records import dataclass
from evac.views.sheet import Sheet, SheetPart, local_and_utc
from evac.views.words import plural

Document = Mapping[str, Any]


def document_json(document: Document) -> str:
    """Indented, with sorted keys."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def case_sheet(case: Document) -> Sheet:
    """Windows, totals, approvals and tranches of a case."""
    ledger = case["ledger"]
    parts = [_windows(case["windows"])]
    if ledger is not None:
        parts += [_totals(ledger), _by_rule(ledger), _largest(ledger)]
        parts += [] if case["claims"] is None else list(_claims(case["claims"]))
        parts += [_approvals(case), _tranches(case)]
    return Sheet(f"Credits: {case['case']}", summary_of(case), tuple(parts), f"next: {case['next']}")


def summary_of(case: Document) -> str:
    """What is owed, to how many accounts, and the progress of the case, in one sentence."""
    ledger = case["ledger"]
    if ledger is None:
        return "No ledger has been computed yet."
    owed = ", ".join(sums_of(ledger["envelope"])) or "nothing"
    accounts = ledger["accounts"]
    have, needed = len(case["approvals"]), case["approvals_needed"]
    lines = f"{ledger['lines']:,} lines from {accounts['rows']:,} rows"
    words = (
        f"{owed} for {accounts['credited']:,} accounts ({lines}); {have} of {needed} people have approved."
    )
    return words + (" Windows or claims have changed since: compute again." if case["stale"] else "")


def sums_of(rows: Sequence[Document]) -> Iterator[str]:
    """Money by currency, then grants in kind."""
    money: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for row in rows:
        if row["kind"] in MONEY:
            money[row["currency"]] = money.get(row["currency"], 0) + paid(row)
        else:
            kinds[row["kind"]] = kinds.get(row["kind"], 0) + row["quantity"]
    yield from (money_words(amount, currency) for currency, amount in sorted(money.items()))
    yield from (in_kind(kind, count) for kind, count in sorted(kinds.items()))


def paid(row: Document) -> int:
    """The cost of a row of totals in minor units: its amount, and the tax in addition."""
    return int(row["amount"]) + int(row.get("tax_on_top", 0))


def in_kind(kind: str, count: int) -> str:
    """`1 day`, `3 vouchers`, `6 goods`."""
    return f"{count:,} goods" if kind == "goods" else plural(count, kind.removesuffix("s"))


def to_type(case: Document) -> str:
    """What a person types to approve: the total if there is one currency, otherwise the ID of the ledger."""
    rows = [row for row in case["ledger"]["envelope"] if row["kind"] in MONEY]
    currencies = {row["currency"] for row in rows}
    if len(currencies) != 1:
        return str(case["ledger"]["ledger"])
    return decimal_text(sum(map(paid, rows)), currencies.pop())


@dataclass(frozen=True, slots=True)
class TrancheRow:
    """One tranche of the totals that people approve."""

    tranche: Tranche
    who: str
    lines: int
    worth: str
    state: str
    """For people; `look` is its style."""
    look: Literal["ok", "warn", "muted"]


def tranche_rows(case: Document) -> list[TrancheRow]:
    """The tranches in which anything is owed, the paying one first."""
    approved = len(case["approvals"]) >= case["approvals_needed"]
    found: list[TrancheRow] = []
    for row in case["tranches"]:
        name = row["tranche"]
        owed = [one for one in case["ledger"]["envelope"] if one["tranche"] == name]
        if not owed:
            continue
        state: tuple[str, Literal["ok", "warn", "muted"]]
        if row["closed"]:
            state = "closed", "ok"
        elif any(made["ledger"] == case["ledger"]["ledger"] for made in row["deliveries"]):
            state = "released", "ok"
        elif not approved:
            state = "needs approval", "warn"
        elif found and found[0].state != "closed":
            state = "after paying is closed", "muted"
        else:
            state = "can be released", "warn"
        who = "Accounts with a fee" if name == "paying" else "Accounts without a fee"
        lines = sum(one["lines"] for one in owed)
        found.append(TrancheRow(name, who, lines, ", ".join(sums_of(owed)) or "nothing yet", *state))
    return found


def _worth(row: Document) -> str:
    return (
        money_words(paid(row), row["currency"])
        if row["kind"] in MONEY
        else in_kind(row["kind"], row["quantity"])
    )


def _windows(windows: Document) -> SheetPart:
    rows = [
        (
            row["id"],
            row["service"],
            row["site"] or "all",
            _edge(row["from_ms"]),
            _edge(row["to_ms"]),
            length_words(row["to_ms"] - row["from_ms"]),
            row["kind"].replace("_", " "),
        )
        for row in windows["list"]
    ]
    words = f"Version {windows['version']}."
    if windows["corrections"]:
        last = windows["corrections"][-1]
        words += f" Last correction by {last['who']}: {last['reason']}"
    head = ("window", "service", "site", "from", "to", "length", "kind")
    return SheetPart("Outage windows", words, head=head, rows=rows)


def _totals(ledger: Document) -> SheetPart:
    rows = [
        (row["tranche"], row["service"], row["plan"], row["state"], f"{row['lines']:,}", _worth(row))
        for row in ledger["totals"]
    ]
    words = f"Ledger {ledger['ledger']}, computed by two engines that agree on every line."
    on_top: dict[str, int] = {}
    for row in ledger["totals"]:
        on_top[row["currency"]] = on_top.get(row["currency"], 0) + row.get("tax_on_top", 0)
    taxes = [money_words(tax, currency) for currency, tax in sorted(on_top.items()) if tax]
    words += f" Amounts contain {', '.join(taxes)} of tax that comes on top of the fees." if taxes else ""
    if unplaced := ledger["accounts"].get("unplaced", 0):
        words += (
            f" {plural(unplaced, 'row')} without a site: an outage of a single site does not count for them."
        )
    return SheetPart(
        "Totals", words, head=("tranche", "service", "plan", "state", "lines", "worth"), rows=rows
    )


def _by_rule(ledger: Document) -> SheetPart:
    rows = [(row["rule"], f"{row['lines']:,}", _worth(row)) for row in ledger["by_rule"]]
    without = ", ".join(ledger["without_window"])
    words = f"No outage window covers: {without}." if without else ""
    if none := ", ".join(ledger.get("without_line", [])):
        words = f"{words} No account gets anything under: {none}.".lstrip()
    return SheetPart("By rule", words, head=("rule", "lines", "worth"), rows=rows)


def _largest(ledger: Document) -> SheetPart:
    rows = [
        (
            row["account"],
            row["service"],
            row["cycle"],
            row["rule"],
            money_words(row["fee"], row["currency"]),
            money_words(row["amount"], row["currency"]),
        )
        for row in ledger["largest"]
    ]
    head = ("account", "service", "cycle", "rule", "fee", "credit")
    return SheetPart("Largest lines", head=head, rows=rows)


def _claims(claims: Document) -> Iterator[SheetPart]:
    rows = [
        (
            WORDS[row["state"]],
            f"{row['claims']:,}",
            money_words(row["reported"], row["currency"]),
            money_words(row["pays"], row["currency"]),
        )
        for row in claims["states"]
    ]
    words = f"{plural(claims['count'], 'claim')}; decisions count from the next ledger on."
    if claims["unknown_accounts"]:
        unknown = plural(claims["unknown_accounts"], "claim names", "claims name")
        words += f" {unknown} an account that has no row."
    yield SheetPart("Claims", words, head=("state", "claims", "reported", "pays"), rows=rows)
    if claims["waiting"]:
        yield queue_part(claims)


def statement_sheet(found: Document) -> Sheet:
    """For a regulator: outages, rules in words, totals, claims, approvals and deliveries."""
    due = found["notice_due_ms"]
    owed = ", ".join(sums_of(found["envelope"])) or "Nothing"
    lead = f"{owed} for {plural(found['credited'], 'account')}."
    if due is not None:
        by = local_and_utc(due)
        lead += f" Inform users of basis and procedure by {by}, {DAMAGES_DAYS} days after the last outage."
    if found["stale"]:
        lead += " Windows or claims have changed since these totals were computed."
    parts = [_windows(found["windows"])]
    for row in found["rules"]:
        about = [("who", row["claimants"]), ("basis", row["basis"]), ("procedure", row["procedure"])]
        about += [(name, row[name]) for name in ("source", "note") if row[name]]
        parts.append(SheetPart(f"Rule {row['rule']}", facts=about))
    parts.append(_by_rule(found))
    parts += [] if found["claims"] is None else list(_claims(found["claims"]))
    parts += [_approvals(found), _tranches(found)]
    footer = f"next: {found['next']}" if found["next"] else ""
    return Sheet(f"Credits, for a regulator: {found['case']}", lead, tuple(parts), footer)


def queue_part(claims: Document) -> SheetPart:
    """Claims that a person must decide, the oldest first."""
    rows = [
        (
            row["id"],
            row["account"],
            row["service"],
            money_words(row["loss"], row["currency"]),
            local_and_utc(row["received_ms"]),
        )
        for row in claims["queue"]
    ]
    words = f"{plural(claims['waiting'], 'claim waits', 'claims wait')} for a person, oldest first."
    head = ("claim", "account", "service", "reported", "received")
    return SheetPart("Claims to decide", words, head=head, rows=rows)


def claims_sheet(case: Document) -> Sheet:
    """The claims of a case, the queue, and the decisions of people."""
    title = f"Claims: {case['case']}"
    if case["claims"] is None:
        words = (
            "Claims are assessed by the rules of a ledger: compute one first."
            if case["ledger"] is None
            else "No claim."
        )
        return Sheet(title, words, (), f"next: {case['next']}")
    claims = case["claims"]
    rows = [
        (
            row["claim"],
            money_words(row["granted"], row["currency"]) if row["granted"] else "refused",
            row["who"],
            local_and_utc(row["at_ms"]),
            row["reason"],
        )
        for row in claims["decisions"]
    ]
    parts = list(_claims(claims))
    if rows:
        head = ("claim", "granted", "person", "time", "reason")
        parts.append(SheetPart("Decisions", head=head, rows=rows))
    return Sheet(title, "", tuple(parts), f"next: {case['next']}")


def simulation_sheet(found: Document) -> Sheet:
    """What each case owes and would owe, by tranche."""
    rows = []
    for case in found["cases"]:
        for row in case["totals"]:
            now, then = ({**row, **row[name]} for name in ("now", "then"))
            change = {**row, **{name: row["then"][name] - row["now"][name] for name in row["now"]}}
            lines = f"{row['then']['lines'] - row['now']['lines']:+,}"
            rows.append((case["case"], row["tranche"], _worth(now), _worth(then), _worth(change), lines))
    longer = [
        f"{verb} {length_words(found[name])} {word}"
        for name, verb, word in (("earlier_ms", "begun", "earlier"), ("later_ms", "ended", "later"))
        if found[name]
    ]
    words = f"As if every outage had {' and '.join(longer)}." if longer else "Outages as recorded."
    head = ("case", "tranche", "now", "then", "difference", "lines")
    return Sheet("Simulation", words, (SheetPart("Totals", head=head, rows=rows),), "Nothing was recorded.")


def _approvals(case: Document) -> SheetPart:
    rows = [
        (row["who"], local_and_utc(row["at_ms"]), row["proven"], row["reason"]) for row in case["approvals"]
    ]
    words = f"{case['approvals_needed']} people must approve the totals."
    return SheetPart("Approvals", words, head=("person", "time", "proof", "reason"), rows=rows)


def _tranches(case: Document) -> SheetPart:
    rows = []
    for tranche in case["tranches"]:
        state = "closed" if tranche["closed"] else "open"
        for made in tranche["deliveries"]:
            amounts = ", ".join(money_words(value, name) for name, value in made["amounts"].items()) or "-"
            over = ", ".join(money_words(value, name) for name, value in made["overpaid"].items()) or "-"
            rows.append((tranche["tranche"], state, made["name"], f"{made['lines']:,}", amounts, over))
        if not tranche["deliveries"]:
            rows.append((tranche["tranche"], state, "-", "0", "-", "-"))
    head = ("tranche", "state", "delivery", "lines", "amount", "overpaid")
    return SheetPart("Tranches", "Paying customers first; nothing is reclaimed.", head=head, rows=rows)


def _edge(at_ms: int) -> str:
    """A time, with seconds only if there are any."""
    return local_and_utc(at_ms, at_ms // 1_000 % 60 != 0)


def _change_words(row: Document) -> str:
    """What a correction changed; None is an end that stayed the same."""
    if row["removed"]:
        return "removed"
    named = (("from", row["from_ms"]), ("to", row["to_ms"]))
    return ", ".join(f"{word} {_edge(at_ms)}" for word, at_ms in named if at_ms is not None)


def windows_sheet(case: Document) -> Sheet:
    """The windows of a case and their corrections."""
    windows = case["windows"]
    rows = [
        (
            row["window"],
            _change_words(row),
            row["who"],
            local_and_utc(row["at_ms"]),
            row["reason"],
        )
        for row in windows["corrections"]
    ]
    parts = [_windows(windows)]
    if rows:
        head = ("window", "change", "person", "time", "reason")
        parts.append(SheetPart("Corrections", head=head, rows=rows))
    return Sheet(f"Outage windows: {case['case']}", "", tuple(parts), f"next: {case['next']}")


def check_json(name: str, digest: str, rules: int, problems: Sequence[Diagnostic]) -> str:
    """The result of `evac credit check`."""
    rows = [
        {
            "code": one.code,
            "severity": one.severity,
            "message": one.message,
            "hint": one.hint,
            "file": one.place.file,
            "line": one.place.line,
            "column": one.place.column,
        }
        for one in problems
    ]
    return document_json(
        {
            "kind": "evac-credit-check",
            "schema_version": 1,
            "rule_set": name,
            "digest": digest,
            "rules": rules,
            "problems": rows,
        }
    )


def explanation_json(account: str, ledger: str, language: str, found: Sequence[Explanation]) -> str:
    """One account's explanation."""
    rows = [{"service": one.service, "cycle": one.cycle, "sentences": list(one.sentences)} for one in found]
    return document_json(
        {
            "kind": "evac-credit-explanation",
            "schema_version": 1,
            "account": account,
            "ledger": ledger,
            "language": language,
            "rows": rows,
        }
    )


def reconciled_text(found: Document, system: str) -> str:
    """How the billing system's bookings differ from what was requested, one line each, and the counts."""
    said = []
    for row in found["mismatches"]:
        asked, booked = (money_words(row[name], row["currency"]) for name in ("wanted", "booked"))
        words = f"{asked} requested, {booked} booked{' more than once' if row['code'] == 'twice' else ''}"
        if row["code"] == "missing":
            words = f"not booked: {asked} requested"
        elif row["code"] == "unknown":
            words = f"not requested: {booked} booked"
        said.append(f"{row['key']}: {words}")
    if found["different"] > len(said):
        said.append(f"and {found['different'] - len(said):,} more")
    said.append(f"{found['same']:,} lines agree; {found['different']:,} do not")
    if found["left_out"]:
        what = "grants in kind, not in money" if system == "csv" else f"{system} cannot accept them"
        said.append(f"{found['left_out']:,} not compared: {what}")
    return "\n".join(said) + "\n"


def explanation_text(found: Sequence[Explanation]) -> str:
    """One sentence per line."""
    return "\n".join(sentence for one in found for sentence in one.sentences) + "\n"
