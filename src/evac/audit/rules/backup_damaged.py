"""EV138: a check found damage, or a restore test was too slow, too old or answered wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.audit.context import Context, Rule, data_paths, day_of
from evac.audit.findings import Finding


def check(context: Context) -> Iterator[Finding]:
    """Error for damage, warning for every other failed restore test."""
    for verdict in context.data:
        for number, copy in enumerate(verdict.copies):
            if copy.failed is None or verdict.state == "waived":
                continue
            what = {
                "damaged": "is damaged",
                "too-slow": "takes too long to restore",
                "too-old": "restores data that is too old",
                "answer-differs": "was restored, but its application answered wrongly",
            }[copy.failed.outcome]
            detail = f": {copy.failed.detail}" if copy.failed.detail else ""
            seen = f", seen on {day_of(copy.failed)}{detail}"
            yield RULE.finding(
                context,
                "error" if copy.damaged else "warning",
                f"{verdict.data_set} at {copy.at}",
                f"the backup of {verdict.data_set} at {copy.at} {what}{seen}",
                _NEXT[copy.failed.outcome],
                paths=data_paths(verdict, number),
            )


_RESTORE: Final = "Restore faster or back up more often, then run the restore test again."
_NEXT: Final = {
    "damaged": "Take a new backup now, and keep the damaged one until you know what happened.",
    "too-slow": _RESTORE,
    "too-old": _RESTORE,
    "answer-differs": "Check the application, and the answer in the estate, then run the restore test again.",
}

RULE = Rule("backup-damaged", "EV138", "A backup is damaged or unusable", check, per_loss=False)
