"""EV126: backups that are not known to be restorable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.audit.context import Context, Rule, data_paths, day_of
from evac.audit.findings import Finding
from evac.audit.reasons import span
from evac.model.backup import RESTORED, CopyState, ProofDue
from evac.model.backup_policy import BackupPolicy

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
    """What is missing from the proofs of a copy; empty if nothing is. Errors belong to EV138."""
    if copy.failed is not None:
        return ""
    if copy.last is None:
        return f"was never {_DONE[max(policy.level, RESTORED)]}"
    found = [words for one in copy.due if (words := _late(one, policy))]
    never = [one for one in copy.due if one.last is None]
    if never:
        done = f"on {day_of(copy.last)} it was {_DONE[copy.last.level]}"
        found.append(f"was never {_DONE[never[-1].level]}; {done}")
    if found:
        return " and ".join(found)
    return "" if copy.restore_ms is not None else "has no known size or restore rate, so it does not count"


def _late(due: ProofDue, policy: BackupPolicy) -> str:
    """A level that was reached too long ago; empty if the age of its last proof is unknown here."""
    if due.state != "missed" or due.last is None:
        return ""
    words = f"was last {_DONE[due.level]} on {day_of(due.last)}"
    return words if len(policy.proofs_asked) == 1 else f"{words}, which must be every {span(due.age_ms)}"


RULE = Rule(
    "backup-never-verified", "EV126", "A backup was never verified", check, per_loss=False, alerts=True
)
