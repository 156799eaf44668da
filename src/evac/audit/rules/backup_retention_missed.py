"""EV150: fewer or younger backups than the policy requires."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, data_paths
from evac.audit.findings import Finding
from evac.audit.reasons import span
from evac.derive.backups import LISTING_MS
from evac.model.backup import CopyState
from evac.model.backup_policy import BackupPolicy


def check(context: Context) -> Iterator[Finding]:
    """Warning if no repository keeps enough, note if that is unknown."""
    for verdict in context.data:
        if verdict.retention in (None, "met"):
            continue
        policy = verdict.policy
        asked = " and ".join(
            words
            for words, is_asked in (
                (f"at least {policy.keep_count} backups", policy.keep_count is not None),
                (f"one that is at least {span(policy.keep_ms or 0)} old", policy.keep_ms is not None),
            )
            if is_asked
        )
        counted = [one for one in verdict.copies if not (policy.outside and one.outside is False)]
        found = "; ".join(f"{copy.name}: {_kept(copy)}" for copy in counted) or "it has none"
        outside = " outside the domain" if policy.outside else ""
        missed = verdict.retention == "missed"
        yield RULE.finding(
            context,
            "warning" if missed else "note",
            verdict.data_set,
            f"no repository{outside} keeps what the policy of {verdict.data_set} requires, {asked}: {found}"
            if missed
            else f"it is unknown whether a repository{outside} keeps what the policy of {verdict.data_set} "
            f"requires, {asked}: {found}",
            _fix(policy)
            if missed
            else "List them: evac backup list. A backup without an endpoint cannot be listed.",
            paths=data_paths(verdict),
        )


def _kept(copy: CopyState) -> str:
    if copy.count is None:
        return "not listed"
    if not copy.count:
        return "no backup"
    reach = "of unknown age" if copy.reach_ms is None else f"{span(copy.reach_ms)} old"
    is_old = copy.listed_age_ms is not None and copy.listed_age_ms > LISTING_MS
    when = f" when it was listed {span(copy.listed_age_ms or 0)} ago" if is_old else ""
    damaged = " (damaged)" if copy.damaged else ""
    return f"{copy.count:,}, the oldest {reach}{when}{damaged}"


def _fix(policy: BackupPolicy) -> str:
    older = ", or wait until the oldest one is old enough" if policy.keep_ms is not None else ""
    return f"Check the pruning rules of the backup tool{older}. evac itself never deletes a backup."


RULE = Rule(
    "backup-retention-missed",
    "EV150",
    "Fewer or younger backups than the policy keeps",
    check,
    per_loss=False,
    alerts=True,
)
