"""A case as one document, windows from an incident, and the explanation of one account."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
import yaml

from evac.app.credit.case import Case
from evac.credit.explain import TEMPLATES, Explanation, Language, Templates, checked, in_words
from evac.credit.ledger import APPROVALS, judged
from evac.credit.rules import RuleSet
from evac.credit.windows import DAY_MS, Window, Windows
from evac.incident.regulator import DAMAGES_DAYS
from evac.model.errors import InvalidInput

SCHEMA_VERSION: Final = 1
QUEUE_MOST: Final = 100
"""Maximum number of claims listed at once."""
_MILLISECONDS: Final = 1_000


def case_document(case: Case) -> dict[str, Any]:
    """Windows, the last ledger, its approvals, all tranches and claims. `stale`: windows or claims changed
    since the ledger was computed; `next`: the command to type next.
    """
    windows = case.windows()
    found: dict[str, Any] = {
        "kind": "evac-credit-case",
        "schema_version": SCHEMA_VERSION,
        "case": case.name,
        "windows": {
            "version": windows.version,
            "digest": windows.digest,
            "list": [window.to_data() for window in windows.now],
            "corrections": [change.to_data() for change in windows.corrections],
        },
        "ledger": None,
        "approvals": [],
        "approvals_needed": APPROVALS,
        "tranches": [],
        "claims": None,
        "stale": False,
    }
    kinds = [entry.kind for entry in case.entries()]
    if "computed" in kinds:
        from evac.app.credit import deliveries

        found["ledger"] = case.ledger()
        found["approvals"] = deliveries.approvals(case, found["ledger"])
        found["tranches"] = list(deliveries.states(case))
        found["claims"] = _claims(case, found["ledger"], windows)
        since = kinds[len(kinds) - kinds[::-1].index("computed") :]
        changed = found["ledger"]["windows"]["digest"] != windows.digest
        found["stale"] = changed or "claims" in since or "claim-decided" in since
    return found | {"next": _next(found, case)}


def next_command(case: Case) -> str:
    """The command to type next."""
    return str(case_document(case)["next"])


def statement_document(case: Case) -> dict[str, Any]:
    """Statement for a regulator: who is eligible, on which basis, by which procedure, and when users must be
    informed.

    `facts` holds the same in three texts for the report of an incident. Raises InvalidInput before the first
    ledger.
    """
    found = case_document(case)
    ledger = found["ledger"]
    if ledger is None:
        raise InvalidInput("ledger-missing", f"case {case.name} has no ledger", found["next"])
    counted = [row for row in ledger["windows"]["list"] if row["kind"] == "outage"]
    last_ms = max((row["to_ms"] for row in counted), default=None)
    rules = rules_in_words(case, ledger)
    return {
        "kind": "evac-credit-statement",
        "schema_version": SCHEMA_VERSION,
        "case": case.name,
        "windows": {**found["windows"], "list": ledger["windows"]["list"]},
        "notice_due_ms": None if last_ms is None else last_ms + DAMAGES_DAYS * DAY_MS,
        "rules": rules,
        "ledger": ledger["ledger"],
        "credited": ledger["accounts"]["credited"],
        "envelope": ledger["envelope"],
        "by_rule": ledger["by_rule"],
        "without_window": ledger["without_window"],
        "without_line": ledger.get("without_line", []),
        "claims": found["claims"],
        "approvals": found["approvals"],
        "approvals_needed": APPROVALS,
        "tranches": found["tranches"],
        "facts": {
            f"damages_{name}": " ".join(f"{row['rule']}: {row[name]}" for row in rules)
            for name in ("claimants", "basis", "procedure")
        },
        "stale": found["stale"],
        "next": found["next"] if found["stale"] else "",
    }


def rules_in_words(case: Case, ledger: Mapping[str, Any]) -> list[dict[str, str]]:
    """For each rule of a ledger: who gets it, on which basis and by which procedure, with source and note."""
    return [
        {"rule": rule.id, "source": rule.source, "note": rule.note, **asdict(in_words(rule))}
        for rule in ledger_rules(case, ledger).rules
    ]


def _claims(case: Case, ledger: Mapping[str, Any], windows: Windows) -> dict[str, Any] | None:
    """Outcome of the claims under the rules of a ledger, and those that wait for a person, oldest first."""
    from evac.app.credit import intake

    claims = case.claims()
    if not claims:
        return None
    found = judged(ledger_rules(case, ledger), windows.now, claims, case.decisions())
    states: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found:
        key = one.state, one.claim.currency
        row = states.setdefault(
            key, {"state": key[0], "currency": key[1], "claims": 0, "reported": 0, "pays": 0}
        )
        row["claims"] += 1
        row["reported"] += one.claim.loss
        row["pays"] += one.pays
    waiting = [one.claim.to_data() for one in found if one.state == "review"]
    unknown = intake.unknown_claims(case, ledger["accounts"]["digest"])
    currencies = {claim.id: claim.currency for claim in claims}
    return {
        "count": len(claims),
        "states": [states[key] for key in sorted(states)],
        "waiting": len(waiting),
        "queue": waiting[:QUEUE_MOST],
        "unknown_accounts": len(unknown),
        "unknown": unknown[:QUEUE_MOST],
        "decisions": [one.to_data() | {"currency": currencies[one.claim]} for one in case.decisions()],
    }


def _next(found: Mapping[str, Any], case: Case) -> str:
    ledger, folder = found["ledger"], shlex.quote(str(case.folder))
    if ledger is None or found["stale"]:
        return case.compute_command()
    if len(found["approvals"]) < APPROVALS:
        return f"evac credit approve {folder} --reason WHY"
    wanted = {row["tranche"] for row in ledger["envelope"]}
    for row in found["tranches"]:
        if row["tranche"] in wanted and not row["closed"]:
            if any(made["ledger"] == ledger["ledger"] for made in row["deliveries"]):
                name = row["deliveries"][-1]["name"]
                return f"evac credit export {folder} {name} --to csv -o DIR"
            return f"evac credit tranche {folder} {row['tranche']} --reason WHY"
    return f"evac credit explain {folder} ACCOUNT"


def windows_of_incident(summary: Mapping[str, Any]) -> tuple[Window, ...]:
    """When each service of an incident was down. summary: as `evac incident show --output json` prints it.

    Raises InvalidInput while a service is down, because its window has no end yet.
    """
    incident = str(summary["incident"])
    found = [
        window for row in summary["services"] for window in _of_service(incident, row, summary["ended_at"])
    ]
    if not found:
        raise InvalidInput("incident-without-outage", f"no service was down in {incident}", "import windows")
    return tuple(found)


def _of_service(incident: str, row: Mapping[str, Any], ended_at: str | None) -> Iterator[Window]:
    begin, number = None, 0
    for change in [*row["changes"], {"at": ended_at, "level": "ended"}]:
        if change["level"] == "down" and begin is None:
            begin = _moment(change["at"])
        elif change["level"] != "down" and begin is not None:
            if change["at"] is None:
                hint = f"resolve it first: evac incident resolve {incident} --reason WHY"
                raise InvalidInput("window-open", f"{row['service']} is still down in {incident}", hint)
            number += 1
            end = _moment(change["at"])
            if end > begin:
                id = f"{incident}-{row['service']}-{number}"
                yield Window(id, row["service"], begin, end, source=f"incident {incident}")
            begin = None


def _moment(text: str) -> int:
    return round(datetime.fromisoformat(text.replace(" UTC", "+00:00")).timestamp() * _MILLISECONDS)


def templates_of(path: Path | None) -> Templates:
    """The shipped templates and those of a YAML file (language -> name -> text). Raises InvalidInput."""
    if path is None:
        return TEMPLATES
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        words = str(error).splitlines()[0][:120]
        raise InvalidInput(
            "template-unreadable", f"{path} cannot be read: {words}", "check the file"
        ) from error
    fits = isinstance(given, dict) and all(
        isinstance(rows, dict) and all(isinstance(text, str) for text in rows.values())
        for rows in given.values()
    )
    if not fits:
        hint = "write en: {days: '{count} more days'}"
        raise InvalidInput("template-invalid", f"{path} must map languages to templates", hint)
    return checked(given)


def ledger_rules(case: Case, document: Mapping[str, Any]) -> RuleSet:
    """The rules as they were when the ledger was computed."""
    from evac.estate.codecs.credit_rules import rules_of_data

    digest = document["rules"]["digest"].removeprefix("sha256:")
    return rules_of_data(orjson.loads((case.folder / "rules" / f"{digest}.json").read_bytes()))


def rules_of(case: Case, delivery: str) -> RuleSet:
    """The rules of the ledger behind a delivery; of the last ledger for an unknown delivery."""
    from evac.app.credit.deliveries import deliveries

    made = [one.ledger for one in deliveries(case) if one.name == delivery]
    return ledger_rules(case, case.ledger(made[0] if made else ""))


def explain(
    case: Case, account: str, language: Language, templates: Templates
) -> tuple[dict[str, Any], list[Explanation]]:
    """(document of the ledger, its rows) of one account. Raises InvalidInput for an unknown account."""
    from evac.app.credit import intake
    from evac.credit.explain import account_of, explained

    document = case.ledger()
    accounts = document["accounts"]["digest"]
    number = intake.partition_of(account, document["partitions"])
    rows = intake.rows_of(intake.partition(case, accounts, number), account)
    if not rows:
        hint = "check the account ID; it must match the accounts file"
        raise InvalidInput("account-unknown", f"this case has no rows for account {account[:80]}", hint)
    rules = ledger_rules(case, document)
    windows = Windows(tuple(Window(**row) for row in document["windows"]["list"])).now
    found = [explained(rules, windows, account_of(row), language, templates) for row in rows]
    return document, found
