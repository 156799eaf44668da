"""EV128: services that would be shed to free capacity, though shedding them was never tried."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, counted, listed
from evac.audit.findings import Finding


def check(context: Context) -> Iterator[Finding]:
    """Warning: a loss needs capacity that only shedding frees, and some of that was never rehearsed."""
    short = context.impacts.capacity.short
    losses = context.worst_first(n for n, found in short.items() if found.sheds)
    untried = [s.id for s in context.estate.services if s.sheddable and s.shed_rehearsed is None]
    if losses and untried:
        yield RULE.finding(
            context,
            "warning",
            "shedding",
            f"after the loss of {listed(context.names(losses))} services must be shed;"
            f" {counted(len(untried), 'service')} that may be shed never have been: {listed(untried)}",
            "Stop each of them once on purpose and record the date.",
            losses=losses,
            paths=(f"services/{untried[0]}/shed_rehearsed", f"services/{untried[0]}"),
        )


RULE = Rule(
    "shed-never-rehearsed",
    "EV128",
    "Shedding was never rehearsed",
    check,
    per_loss=False,
)
