"""EV127: stores that must return to one point in time, but return to different ones."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.audit.impacts.stores import NEVER, UNKNOWN_MS
from evac.audit.reasons import duration
from evac.model.estate import RecoveryGroup


def check(context: Context) -> Iterator[Finding]:
    """Warning: after the loss, members of the group are further apart than it tolerates."""
    index = {store.id: row for row, store in enumerate(context.estate.stores)}
    for group in context.estate.recovery_groups:
        apart = _apart(context, group, [index[name] for name in group.stores if name in index])
        if apart:
            worst = max(apart, key=lambda n: (apart[n], -n))
            losses = [worst, *(n for n in context.worst_first(apart) if n != worst)]
            yield RULE.finding(
                context,
                "warning",
                group.id,
                f"the stores of {group.id} come back {duration(apart[worst])} apart after the loss of"
                f" {listed(context.names(losses))}; {duration(group.tolerance_ms)} is tolerated",
                "Replicate them together, or take backups of the whole group at one point in time.",
                losses=losses,
                paths=(f"recovery_groups/{group.id}",),
            )


def _apart(context: Context, group: RecoveryGroup, rows: list[int]) -> dict[int, int]:
    """Loss -> how far apart the members are; a member that is not lost is at the present."""
    lost: dict[int, list[int]] = {}
    for row in rows:
        for number, outcome in context.outcomes(row):
            if outcome.loss_ms not in (NEVER, UNKNOWN_MS):
                lost.setdefault(number, []).append(outcome.loss_ms)
    found = {}
    for number, values in lost.items():
        spread = max(values) - (min(values) if len(values) == len(rows) else 0)
        if spread > group.tolerance_ms:
            found[number] = spread
    return found


RULE = Rule(
    "recovery-group-apart",
    "EV127",
    "Stores of a recovery group come back at different points in time",
    check,
)
