"""EV107: a store whose primary is unnamed, can only be replaced by hand, or cannot be replaced."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.audit.impacts.stores import NEVER
from evac.model.estate import Store
from evac.steps.kind import Condition
from evac.steps.registry import kinds_for


def check(context: Context) -> Iterator[Finding]:
    """Error if nothing can promote a surviving copy; warning if only people can."""
    no_way = _no_way_to_promote(context)
    ever = any(no_way)
    for row, store in enumerate(context.estate.stores):
        if not store.members:
            continue
        if store.primary is None and not store.quorum:
            yield _finding(
                context, store, "has no primary, so the effect of a loss on it is unknown", [], False
            )
            continue
        lost = [
            n for n, found in context.outcomes(row) if found.data_members_left and not found.keeps_primary
        ]
        stuck = context.worst_first(n for n in lost if no_way[n]) if ever else []
        if stuck:
            where = listed(context.names(stuck))
            yield _finding(
                context,
                store,
                f"cannot be promoted after the loss of {where}: the tools are lost too",
                stuck,
                True,
            )
        elif lost and not store.automatic and not store.quorum:
            losses = context.worst_first(lost)
            after = f"after the loss of {listed(context.names(losses))}"
            known = store.automatic is False
            has, unstated = ("has", "") if known else ("may have", " (`automatic` is not stated)")
            words = (
                f"{has} no copy that becomes primary by itself {after}{unstated}:"
                " evac or a person must promote one"
            )
            yield _finding(context, store, words, losses, False)


def _no_way_to_promote(context: Context) -> list[bool]:
    """(L,) losses after which nothing can fence or promote, not even people."""
    chains, manual = context.impacts.chains, context.impacts.times.manual
    found = np.zeros(len(context.impacts.losses), np.bool_)
    for kind in kinds_for(Condition.STORES):
        if kind.name not in manual:
            found |= chains.tool_ready[kind.name] >= NEVER
    stuck: list[bool] = found.tolist()
    return stuck


def _finding(context: Context, store: Store, words: str, losses: list[int], error: bool) -> Finding:
    return RULE.finding(
        context,
        "error" if error else "warning",
        store.id,
        f"{store.id} {words}",
        "Add its primary and its copies, let a quorum promote it, and set `automatic: true`.",
        losses=losses,
        paths=(f"stores/{store.id}/automatic", f"stores/{store.id}"),
    )


RULE = Rule(
    "no-reachable-primary",
    "EV107",
    "A store without an automatic or reachable primary",
    check,
)
