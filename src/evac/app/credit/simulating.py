"""What credits would be under other rules or with longer outages, for cases that have a ledger.

Nothing is recorded. One engine is enough here: a decision needs a ledger, and on that two engines must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from evac.app.credit import intake
from evac.app.credit.case import Case
from evac.app.credit.computing import read_rows
from evac.app.credit.showing import ledger_rules
from evac.credit import columns
from evac.credit.ledger import ENVELOPE_SUMS
from evac.credit.rules import RuleSet
from evac.credit.windows import Window

SCHEMA_VERSION: Final = 1
_BY: Final = ("tranche", "kind", "currency")
_SUMS: Final = ENVELOPE_SUMS


def simulate(
    cases: Sequence[Case], rules: RuleSet | None, earlier_ms: int = 0, later_ms: int = 0
) -> dict[str, Any]:
    """For each case, what its ledger owes and what it would owe. rules: None for those of the ledger.

    earlier_ms, later_ms: each outage begins so much earlier, or ends so much later. Raises InvalidInput for a
    case without a ledger.
    """
    found = []
    for case in cases:
        ledger = case.ledger()
        used = rules or ledger_rules(case, ledger)
        windows = [_longer(window, earlier_ms, later_ms) for window in case.windows().now]
        then: dict[tuple[str, ...], list[int]] = {}
        for number in range(ledger["partitions"]):
            files = intake.partition(case, ledger["accounts"]["digest"], number)
            lines = columns.ledger(used, windows, read_rows(used, windows, files)[1])
            sums = lines.group_by(_BY).agg(
                pl.len().alias("lines"), pl.col("amount", "quantity").sum(), columns.tax_on_top().sum()
            )
            for row in sums.select(*_BY, *_SUMS).iter_rows():
                whole = then.setdefault(row[:3], [0, 0, 0, 0])
                for i, value in enumerate(row[3:]):
                    whole[i] += value
        now = {
            tuple(row[name] for name in _BY): [row.get(name, 0) for name in _SUMS]
            for row in ledger["envelope"]
        }
        found.append(
            {
                "case": case.name,
                "ledger": ledger["ledger"],
                "rules": used.id,
                "totals": [
                    dict(zip(_BY, key, strict=True))
                    | {"now": dict(zip(_SUMS, now.get(key, [0, 0, 0, 0]), strict=True))}
                    | {"then": dict(zip(_SUMS, then.get(key, [0, 0, 0, 0]), strict=True))}
                    for key in sorted(now.keys() | then.keys())
                ],
            }
        )
    return {
        "kind": "evac-credit-simulation",
        "schema_version": SCHEMA_VERSION,
        "earlier_ms": earlier_ms,
        "later_ms": later_ms,
        "cases": found,
    }


def _longer(window: Window, earlier_ms: int, later_ms: int) -> Window:
    if window.kind != "outage":
        return window
    return replace(window, from_ms=window.from_ms - earlier_ms, to_ms=window.to_ms + later_ms)
