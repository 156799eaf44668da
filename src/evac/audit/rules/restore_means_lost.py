"""EV141: the keys of the backups, or a service that a restore needs, are lost together with the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from evac.audit.context import Context, Rule, data_paths, listed
from evac.audit.findings import Finding
from evac.audit.impacts.all_losses import LOST
from evac.derive.domains import is_lost, loss
from evac.model.backup import DataVerdict


def check(context: Context) -> Iterator[Finding]:
    """Error: the backup survives, but it cannot be restored."""
    verdicts = [verdict for verdict in context.data if verdict.state != "waived"]
    keys_lost = _keys_lost(context, verdicts)
    for verdict in verdicts:
        index = context.impacts.losses.index
        numbers = context.worst_first(index[name] for name in verdict.taken_by if name in index)
        found = {n: words for n in numbers if (words := _missing(context, verdict, n, keys_lost))}
        if found:
            worst = next(iter(found.values()))
            lost = listed(context.names(list(found)))
            yield RULE.finding(
                context,
                "error",
                verdict.data_set,
                f"{verdict.data_set} cannot be restored after the loss of {lost}: {worst}",
                "Keep the keys, the catalogue and the restore tools where the backup is.",
                losses=list(found),
                paths=data_paths(verdict, part="backup_policy"),
            )


def _keys_lost(context: Context, verdicts: Sequence[DataVerdict]) -> Callable[[int], frozenset[str]]:
    """Loss -> the places of keys that are lost with it."""
    top, ids = context.impacts.top, context.impacts.losses.ids
    places = sorted({at for verdict in verdicts for at in verdict.policy.keys_at})

    @cache
    def lost_in(number: int) -> frozenset[str]:
        lost = loss(top, (ids[number],))
        return frozenset(at for at in places if is_lost(top, lost, at))

    return lost_in


def _missing(
    context: Context, verdict: DataVerdict, number: int, keys_lost: Callable[[int], frozenset[str]]
) -> str:
    """What a restore lacks under a loss; empty if nothing is known to be missing."""
    impacts, policy = context.impacts, verdict.policy
    if policy.keys_at and keys_lost(number).issuperset(policy.keys_at):
        return f"its keys are only at {listed(policy.keys_at)}"
    for needed in policy.restore_needs:
        service = impacts.graph.index[needed]
        if not impacts.down[number, service]:
            continue
        if impacts.fate[number, service] == LOST:
            return f"a restore needs {needed}, which never comes back"
        if verdict.data_set in context.data_needed_by(service):
            return f"a restore needs {needed}, which needs {verdict.data_set} itself"
    return ""


RULE = Rule(
    "restore-means-lost",
    "EV141",
    "A restore needs something that is lost with the data",
    check,
    per_loss=False,
)
