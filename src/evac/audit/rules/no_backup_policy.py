"""EV145: data without a decision about its backups."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding


def check(context: Context) -> Iterator[Finding]:
    """One note for all data without a policy."""
    names = [verdict.data_set for verdict in context.data if verdict.state == "undecided"]
    if names:
        bare = sum(verdict.state == "undecided" and not verdict.copies for verdict in context.data)
        without = f", {bare:,} of them without any backup" if bare else ""
        yield RULE.finding(
            context,
            "note",
            "backup policies",
            f"{counted(len(names), 'data set')} without a backup policy{without}: {listed(names)}",
            "Add backup_policy: to each; where no backup is needed, use waived: with the reason.",
            paths=(f"stores/{names[0]}", f"data_sets/{names[0]}"),
        )


RULE = Rule("no-backup-policy", "EV145", "Data without a backup policy", check, per_loss=False)
