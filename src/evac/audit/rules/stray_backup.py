"""EV146: backups of something that is not in the estate."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, counted
from evac.audit.findings import Finding


def check(context: Context) -> Iterator[Finding]:
    """Note: either the estate lacks a data set, or a repository holds data that no one needs or should
    have.
    """
    for stray in context.backups.strays:
        yield RULE.finding(
            context,
            "note",
            f"{stray.source} at {stray.endpoint}",
            f"{stray.endpoint} holds {counted(stray.count, 'backup')} of {stray.source}, "
            "which belongs to no data set of the estate",
            "Add it under stores: or data_sets:, or find out who backs it up and why.",
            paths=(f"endpoints/{stray.endpoint}",),
        )


RULE = Rule("stray-backup", "EV146", "A backup of an unknown source", check, per_loss=False)
