"""EV138: a check found a backup damaged, too slow to restore, or with data that is too old."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, data_paths, day_of
from evac.audit.findings import Finding


def check(context: Context) -> Iterator[Finding]:
    """Error for damage, warning for a restore that took too long or came back with data that is too old."""
    for verdict in context.data:
        for number, copy in enumerate(verdict.copies):
            if copy.failed is None or verdict.state == "waived":
                continue
            what = {
                "damaged": "is damaged",
                "too-slow": "takes too long to restore",
                "too-old": "restores data that is too old",
            }[copy.failed.outcome]
            detail = f": {copy.failed.detail}" if copy.failed.detail else ""
            seen = f", seen on {day_of(copy.failed)}{detail}"
            yield RULE.finding(
                context,
                "error" if copy.damaged else "warning",
                f"{verdict.data_set} at {copy.at}",
                f"the backup of {verdict.data_set} at {copy.at} {what}{seen}",
                "Take a new backup now, and keep the damaged one until you know what happened."
                if copy.damaged
                else "Restore faster or back up more often, then run the restore test again.",
                paths=data_paths(verdict, number),
            )


RULE = Rule("backup-damaged", "EV138", "A backup is damaged or unusable", check, per_loss=False)
