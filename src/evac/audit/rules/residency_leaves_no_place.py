"""EV148: a loss takes every site where the data of a service or a store is allowed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.derive.domains import may_run_at, sites_of
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Error if that loses a service that counts; else a warning."""
    impacts, estate = context.impacts, context.estate
    for row, service in enumerate(estate.services):
        allowed = may_run_at(estate, service) if service.data_in is not None else None
        if allowed is None:
            continue
        taken = context.takes_all(allowed) & impacts.down[:, row]
        losses = context.worst_first(np.flatnonzero(taken).tolist())
        if losses:
            grave = any(context.grave[number, row] for number in losses)
            yield _finding(context, "services", service.id, allowed, losses, "error" if grave else "warning")
    for number, store in enumerate(estate.stores):
        if store.data_in is None:
            continue
        allowed = sites_of(estate, store.data_in)
        lost = {loss for loss, _ in context.outcomes(number)}
        every = np.flatnonzero(context.takes_all(allowed)).tolist()
        losses = context.worst_first(loss for loss in every if loss in lost)
        if losses:
            users = context.users_of.get(store.family, ())
            grave = any(context.grave[loss, user] for loss in losses for user in users)
            yield _finding(context, "stores", store.id, allowed, losses, "error" if grave else "warning")


def _finding(
    context: Context, section: str, name: str, allowed: tuple[str, ...], losses: list[int], severity: Severity
) -> Finding:
    where = listed(list(allowed)) or "no site"
    return RULE.finding(
        context,
        severity,
        name,
        f"the data of {name} must stay at {where}, and the loss of {listed(context.names(losses))} leaves "
        "it nowhere to run",
        "Allow a second site that fails independently, or accept that it stays down until they are back.",
        losses=losses,
        paths=(f"{section}/{name}/data_in", f"{section}/{name}"),
    )


RULE = Rule("residency-leaves-no-place", "EV148", "No permitted site is left for the data", check)
