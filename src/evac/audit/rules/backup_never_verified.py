"""EV126: backups of which nobody knows that they can be restored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from evac.audit.context import Context, Rule
from evac.audit.findings import Finding

OLD: Final = timedelta(days=180)


def check(context: Context) -> Iterator[Finding]:
    """Warning: no restore on record, the last one half a year old, or size and rate not known."""
    for store in context.estate.stores:
        for number, backup in enumerate(store.backups):
            if backup.verified is None:
                words = "was never restored for a test"
            elif context.as_of is not None and backup.verified < context.as_of - OLD:
                words = f"was last restored for a test on {backup.verified}"
            elif backup.size_gib is None or not backup.restore_mbps:
                words = "has no known size or restore rate, so it does not count"
            else:
                continue
            yield RULE.finding(
                context,
                "warning",
                f"{store.id} at {backup.at}",
                f"the backup of {store.id} at {backup.at} {words}",
                "Restore it, check it, and write down the day and the rate.",
                paths=(
                    f"stores/{store.id}/backups/{number}",
                    f"stores/{store.id}/backups",
                    f"stores/{store.id}",
                ),
            )


RULE = Rule(
    "backup-never-verified",
    "EV126",
    "A backup was never verified",
    check,
    per_loss=False,
)
