"""EV151: no backup is newer than the last change of the credentials of its repository."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from evac.audit.context import Context, Rule, data_paths
from evac.audit.findings import Finding


def check(context: Context) -> Iterator[Finding]:
    """Warning: anyone who had the old credentials may have changed every backup. Note if that is unknown."""
    for verdict in context.data:
        for number, copy in enumerate(verdict.copies):
            known = copy.renewed not in (None, "met") and copy.credentials_ms is not None and not copy.lost
            if not known or verdict.state == "waived":
                continue
            day = datetime.fromtimestamp((copy.credentials_ms or 0) / 1_000, UTC).date().isoformat()
            missed = copy.renewed == "missed"
            words = (
                f"no backup of {verdict.data_set} at {copy.at} is newer than the change of its credentials"
            )
            if not missed:
                words = (
                    f"it is unknown whether a backup of {verdict.data_set} at {copy.at} is newer than the "
                    "change of its credentials"
                )
            yield RULE.finding(
                context,
                "warning" if missed else "note",
                f"{verdict.data_set} at {copy.at}",
                f"{words} on {day}",
                "Take a backup with the new credentials, and restore it as a test. Keep the older ones.",
                paths=data_paths(verdict, number),
            )


RULE = Rule(
    "backup-before-credentials",
    "EV151",
    "No backup since the credentials were changed",
    check,
    per_loss=False,
    alerts=True,
)
