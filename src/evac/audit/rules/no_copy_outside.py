"""EV106: a loss takes every copy and every backup of a store, or of another data set."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.audit.impacts.stores import NEVER
from evac.audit.reasons import duration
from evac.derive.domains import is_lost, loss
from evac.model.diagnostic import Severity
from evac.model.estate import Store


def check(context: Context) -> Iterator[Finding]:
    """Error: the data is gone. Warning if another instance of the same family is left; note if no loss takes
    it, because it is rebuilt from data that comes back.
    """
    yield from _data_sets(context)
    for row, store in enumerate(context.estate.stores):
        bare = [n for n, found in context.outcomes(row) if not found.copies and not found.data_members_left]
        rebuilt = [n for n in bare if context.impacts.families.rebuilt_ms(store, n) < NEVER]
        bare = sorted(set(bare).difference(rebuilt))
        if not bare:
            if rebuilt:
                yield _rebuilt(context, store, rebuilt)
            continue
        errors = [n for n in bare if context.family_gone(row, n)]
        losses = context.worst_first(errors) + context.worst_first(n for n in bare if n not in errors)
        severity: Severity = "error" if errors else "warning"
        yield RULE.finding(
            context,
            severity,
            store.id,
            f"{store.id} has no copy outside {listed(context.names(losses))}: its data is lost with it"
            + ("" if errors else ", though another instance of its family is left"),
            context.keep_a_copy(store.id, losses[0], "a member or a backup (with size and restore rate)")[0],
            losses=losses,
            paths=(f"stores/{store.id}/members/0", f"stores/{store.id}"),
        )


def _data_sets(context: Context) -> Iterator[Finding]:
    """Error for every data set without a backup that outlasts the loss of its site or group, unless people
    decided that it needs none.
    """
    top, index = context.impacts.top, context.impacts.losses.index
    verdicts = context.data[len(context.estate.stores) :]
    for data, verdict in zip(context.estate.data_sets, verdicts, strict=True):
        kept = [one.at for one in verdict.copies if one.usable is not False]
        taking = [] if verdict.state == "waived" else [name for name in verdict.taken_by if name in index]
        bare = [n for n in taking if all(is_lost(top, loss(top, (n,)), at) for at in kept)]
        if bare:
            losses = context.worst_first(index[name] for name in bare)
            fix, paths = context.keep_a_copy(data.id, losses[0], "a backup (with size and restore rate)")
            yield RULE.finding(
                context,
                "error",
                data.id,
                f"{data.id} has no copy outside {listed(context.names(losses))}: its data is lost with it",
                fix,
                losses=losses,
                paths=(*paths, f"data_sets/{data.id}"),
            )


def _rebuilt(context: Context, store: Store, losses: list[int]) -> Finding:
    """Not lost, because it is rebuilt."""
    takes = "an unknown time" if store.rebuild_ms is None else duration(store.rebuild_ms)
    losses = context.worst_first(losses)
    return RULE.finding(
        context,
        "note",
        store.id,
        f"{store.id} has no copy outside {listed(context.names(losses))}:"
        f" it is rebuilt from {store.rebuilt_from}, which takes {takes}",
        "If its users cannot wait that long, keep a copy at another site.",
        losses=losses,
        paths=(f"stores/{store.id}/rebuild", f"stores/{store.id}/rebuilt_from", f"stores/{store.id}"),
    )


RULE = Rule("no-copy-outside", "EV106", "No copy of data outside the domain", check)
