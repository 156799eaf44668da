"""EV140: the newest backup is older than the policy allows."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, data_paths
from evac.audit.findings import Finding
from evac.audit.reasons import span


def check(context: Context) -> Iterator[Finding]:
    """Warning: what changed since the newest backup would be lost with the original."""
    for verdict in context.data:
        if verdict.rpo != "missed":
            continue
        limit = span(verdict.policy.rpo_ms or 0)
        kind = "backup outside" if verdict.policy.outside else "backup"
        words = "does not exist" if verdict.age_ms is None else f"is {span(verdict.age_ms)} old"
        yield RULE.finding(
            context,
            "warning",
            verdict.data_set,
            f"the newest {kind} of {verdict.data_set} {words}; its policy allows {limit}",
            "Take a backup now, then find out why the schedule was missed.",
            paths=data_paths(verdict),
        )


RULE = Rule("backup-rpo-missed", "EV140", "The newest backup is too old", check, per_loss=False, alerts=True)
