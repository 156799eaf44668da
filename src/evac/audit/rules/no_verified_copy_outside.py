"""EV139: no verified backup survives the loss of the domain that holds the original."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, data_paths, listed
from evac.audit.findings import Finding
from evac.model.backup import DataVerdict


def check(context: Context) -> Iterator[Finding]:
    """Error if a loss leaves no live copy either, else a warning: replication also copies mistakes."""
    bare = {
        store.id: [n for n, found in context.outcomes(row) if not found.data_members_left]
        for row, store in enumerate(context.estate.stores)
    }
    for verdict in context.data:
        safe = any(one.usable and one.outside and one.proven == "met" for one in verdict.copies)
        if safe or not verdict.digits:
            continue
        losses = context.worst_first(bare.get(verdict.data_set, []) or _taking(context, verdict))
        alone = verdict.kind != "store" or bool(bare.get(verdict.data_set))
        where = f" outside {listed(context.names(losses))}" if alone and losses else ""
        yield RULE.finding(
            context,
            "error" if alone and losses else "warning",
            verdict.data_set,
            f"{verdict.data_set} has no verified backup{where}",
            "Keep a backup at another site that shares no fate group with the original, and test a restore.",
            losses=losses if alone else (),
            paths=data_paths(verdict),
        )


def _taking(context: Context, verdict: DataVerdict) -> list[int]:
    """The losses that take the original of data that is not a store."""
    index = context.impacts.losses.index
    return [] if verdict.kind == "store" else [index[name] for name in verdict.taken_by if name in index]


RULE = Rule(
    "no-verified-copy-outside", "EV139", "No verified backup outside the domain", check, per_loss=False
)
