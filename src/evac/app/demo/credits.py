"""Credits owed to the customers of the demonstration: a case with the windows of its incident, a few thousand
generated accounts, a ledger, and the first of two approvals. The visitor gives the second.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Final

import polars as pl

from evac.app.credit import computing, deliveries
from evac.app.credit.case import Case, load
from evac.app.credit.showing import windows_of_incident
from evac.views.incident_document import IncidentCourse
from evac.views.incident_view import summary_row

WHO: Final = "Demo finance"
FREE: Final = 4_000
"""Accounts without a fee: one for every ten thousand users of Talk."""
PLANS: Final = (("talk", "plus", 3_900, 400), ("maps", "drive", 4_900, 150), ("taxi", "pro", 12_900, 120))
"""(service, plan, monthly fee in won, accounts)"""
MAIL: Final = ("mail", "business", 8_800, 200)
STORE_EVERY: Final = 5
"""Every fifth account of Mail pays through an app store that cannot move a billing day."""
ZONE: Final = timedelta(hours=9)


def write_case(folder: Path, incident: IncidentCourse, now_ms: int) -> None:
    """Write the case. Raises EvacError, as `evac credit` does."""
    case, windows = Case(folder), windows_of_incident(summary_row(incident))
    case.add_windows(windows, now_ms, WHO)
    begin = datetime.fromtimestamp(min(window.from_ms for window in windows) / 1_000, UTC) + ZONE
    accounts = folder / "accounts.parquet"
    _accounts(f"{begin:%Y-%m}").write_parquet(accounts)
    rules = folder / "rules.yaml"
    text = resources.files("evac.app").joinpath("demo_company", "credit-rules.yaml").read_text("utf-8")
    rules.write_text(text, encoding="utf-8")
    computing.settle(case, load(str(rules)), [accounts], WHO, now_ms, rules_from=str(rules))
    with case.changing():
        deliveries.approve(case, WHO, "the totals match our estimate", None, None, now_ms)


def _accounts(cycle: str) -> pl.DataFrame:
    """Generate the accounts, always the same ones."""
    rows: list[tuple[Any, ...]] = [(f"c{n:05}", "talk", "free", 0, "") for n in range(FREE)]
    number = FREE
    for service, plan, fee, count in (*PLANS, MAIL):
        for _ in range(count):
            channel = "app-store" if service == MAIL[0] and number % STORE_EVERY == 0 else ""
            rows.append((f"c{number:05}", service, plan, fee, channel))
            number += 1
    names = ("account", "service", "plan", "fee", "channel")
    frame = pl.DataFrame(rows, names, orient="row")
    return frame.with_columns(pl.lit("KRW").alias("currency"), pl.lit(cycle).alias("cycle"))
