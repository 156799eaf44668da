"""EV105: the best surviving copy of a store is further behind than its RPO allows."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.audit.impacts.stores import NEVER, UNKNOWN_MS, Outcome
from evac.audit.reasons import duration
from evac.model.diagnostic import Severity
from evac.model.objectives import LOSS_CLASSES, LossClass, accepts, rpo_for


def check(context: Context) -> Iterator[Finding]:
    """Error beyond the objective; warning if another instance is left, or the lag is unknown."""
    for row, store in enumerate(context.estate.stores):
        if store.rebuilt_from is not None:
            continue  # a copy that is too old is not used: the data is rebuilt
        limits = [objective(context, row, of_class) for of_class in LOSS_CLASSES]
        least = min((limit for limit, _ in limits if limit is not None), default=None)
        if least is None:
            continue
        if not any(_beyond(outcome, least) for outcome in context.impacts.stores.parts[row].outcomes):
            continue
        classes = context.impacts.losses.classes
        broken = [(n, o) for n, o in context.outcomes(row) if _beyond(o, limits[classes[n]][0])]
        if not broken:
            continue
        known = [(n, o) for n, o in broken if o.loss_ms != UNKNOWN_MS]
        errors = [n for n, _ in known if context.family_gone(row, n)]
        severity: Severity = "error" if errors else "warning"
        losses = context.worst_first(errors or [n for n, _ in broken])
        worst = max((o.loss_ms for n, o in known), default=UNKNOWN_MS)
        shown = {limits[classes[n]] for n in losses}
        limit, whose = min(shown, key=lambda one: (NEVER if one[0] is None else one[0], one[1]))
        amount = duration(worst) if worst >= 0 else "an unknown amount"
        yield RULE.finding(
            context,
            severity,
            store.id,
            f"{store.id} loses {amount} of data with {listed(context.names(losses))};"
            f" {whose} allows {duration(limit or 0)}",
            "Keep a synchronous or less-lagging copy outside the domain, or state the loss you accept.",
            losses=losses,
            paths=(f"stores/{store.id}/rpo", f"stores/{store.id}"),
        )


def objective(context: Context, row: int, of_class: LossClass) -> tuple[int | None, str]:
    """The RPO of a store for a class of loss, and whose it is: its own, else the strictest of the services
    that need it.
    """
    store = context.estate.stores[row]
    own = rpo_for(store, of_class)
    if own is not None:
        return own, "its rpo" if own == store.rpo_ms else f"its RPO for the loss of a {of_class}"
    requested = [
        (rpo, context.estate.services[s].id)
        for s in context.users_of.get(store.family, ())
        if (rpo := rpo_for(context.estate.services[s], of_class)) is not None
    ]
    return min(requested) if requested else (None, "")


def _beyond(outcome: Outcome, limit: int | None) -> bool:
    """Whether a store is lost that way, and its best surviving copy is behind by more than a limit."""
    if not outcome.lost or outcome.loss_ms == NEVER:
        return False
    return not accepts(limit, None if outcome.loss_ms == UNKNOWN_MS else outcome.loss_ms)


RULE = Rule("data-loss-above-rpo", "EV105", "Data loss above the RPO", check)
