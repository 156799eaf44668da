"""EV126: backups that are not known to be restorable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.audit.context import Context, Rule, data_paths, day_of
from evac.audit.findings import Finding
from evac.model.backup import RESTORED, CopyState
from evac.model.estate import BackupPolicy

_DONE: Final = ("listed", "checked", "read", "restored as a test", "compared with a witness", "served from")


def check(context: Context) -> Iterator[Finding]:
    """Warning: never proven at the required level, not recently enough, or size and rate unknown."""
    for verdict in context.data:
        if verdict.state == "waived":
            continue
        for number, copy in enumerate(verdict.copies):
            words = _wrong(copy, verdict.policy)
            if not words:
                continue
            yield RULE.finding(
                context,
                "warning",
                f"{verdict.data_set} at {copy.at}",
                f"the backup of {verdict.data_set} at {copy.at} {words}",
                "Restore it, check it, and record the date and rate in the "
                "estate, or let evac test it on a schedule.",
                paths=data_paths(verdict, number),
            )


def _wrong(copy: CopyState, policy: BackupPolicy) -> str:
    """What is missing from the proof of a copy; empty if nothing is. Errors belong to EV138."""
    if copy.failed is not None:
        return ""
    # The age of the last proof is unknown here.
    unclear = copy.proven == "unknown" and copy.last is not None and copy.last.level >= policy.level
    if copy.proven == "met" or unclear:
        return (
            "" if copy.restore_ms is not None else "has no known size or restore rate, so it does not count"
        )
    level = max(policy.level, RESTORED) if copy.last is None else policy.level
    if copy.last is None:
        return f"was never {_DONE[level]}"
    if copy.proven == "missed":
        return f"was last {_DONE[level]} on {day_of(copy.last)}"
    return f"was never {_DONE[level]}; on {day_of(copy.last)} it was {_DONE[copy.last.level]}"


RULE = Rule(
    "backup-never-verified", "EV126", "A backup was never verified", check, per_loss=False, alerts=True
)
