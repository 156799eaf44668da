"""EV105: the best surviving copy of a store is further behind than its RPO allows."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.audit.impacts.stores import UNKNOWN_MS
from evac.audit.reasons import duration
from evac.derive.objectives import Rpo
from evac.model.diagnostic import Severity
from evac.model.estate import Store
from evac.model.objectives import LOSS_CLASSES


def check(context: Context) -> Iterator[Finding]:
    """Error beyond the objective; warning if another instance is left, or the lag is unknown."""
    for row, broken in context.above_rpo.items():
        store, limits = context.estate.stores[row], {n: context.rpo_for(row, n) for n, _ in broken}
        known = [(n, o) for n, o in broken if o.loss_ms != UNKNOWN_MS]
        errors = [n for n, _ in known if context.family_gone(row, n)]
        severity: Severity = "error" if errors else "warning"
        losses = context.worst_first(errors or [n for n, _ in broken])
        worst = max((o.loss_ms for n, o in known), default=UNKNOWN_MS)
        first = min(losses, key=lambda n: (limits[n].limit_ms or 0, limits[n].whose))
        limit = limits[first]
        amount = duration(worst) if worst >= 0 else "an unknown amount"
        yield RULE.finding(
            context,
            severity,
            store.id,
            f"{store.id} loses {amount} of data with {listed(context.names(losses))};"
            f" {_allows(context, store, limit, first)}",
            "Keep a synchronous or less-lagging copy outside the domain, or state the loss you accept.",
            losses=losses,
            paths=(_path(store, limit), f"stores/{store.id}"),
        )


def _allows(context: Context, store: Store, limit: Rpo, number: int) -> str:
    """Whose limit it is, for which class of loss if not for all, and how much it allows."""
    owner = context.estate.services[context.impacts.graph.index[limit.whose]] if limit.whose else store
    of_class = LOSS_CLASSES[context.impacts.losses.classes[number]]
    which = "" if limit.limit_ms == owner.rpo_ms else f" for the loss of a {of_class}"
    return f"{limit.words}{which} allows {duration(limit.limit_ms) if limit.limit_ms else 'no loss'}"


def _path(store: Store, limit: Rpo) -> str:
    """Where the limit is stated."""
    return f"services/{limit.whose}/rpo" if limit.whose else f"stores/{store.id}/rpo"


RULE = Rule("data-loss-above-rpo", "EV105", "Data loss above the RPO", check)
