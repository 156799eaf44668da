"""EV113: a service comes back later than its objective."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.audit.context import Context, Rule, back, by_service, listed, root_paths, why_by_plan, why_down
from evac.audit.findings import Finding
from evac.audit.impacts.all_losses import PLANNED, SHED
from evac.audit.reasons import duration
from evac.model.diagnostic import Severity
from evac.model.objectives import LOSS_CLASSES


def check(context: Context) -> Iterator[Finding]:
    """Error above the RTO, including detection and approval; warning for a service that may be shed or is."""
    impacts = context.impacts
    for service, found in by_service(context.late):
        over = {n: int(impacts.ready_ms[n, service]) - int(impacts.rto_at(n, service)) for n in found}
        worst = max(found, key=lambda n: (over[n], int(impacts.ready_ms[n, service]), -n))
        losses = [worst, *(n for n in context.worst_first(found) if n != worst)]
        severity: Severity = "error" if context.firm[service] else "warning"
        stated = context.estate.services[service]
        name, of_class = stated.id, LOSS_CLASSES[int(impacts.losses.classes[worst])]
        ready, rto = int(impacts.ready_ms[worst, service]), int(impacts.rto_at(worst, service))
        is_shed = impacts.fate[worst, service] == SHED
        chain = (why_by_plan if is_shed else why_down)(context, service, worst)
        own = "" if rto == stated.rto_ms else f" for the loss of a {of_class}"
        by = "(plan)" if impacts.methods[worst] == PLANNED else "at the earliest (estimate)"
        yield RULE.finding(
            context,
            severity,
            name,
            f"{name} {'is shed to free capacity' if is_shed else back(ready)} {by};"
            f" its RTO{own} is {duration(rto)} (loss of {listed(context.names(losses))})",
            _KEEP if is_shed else "Shorten the longest part of its chain, or state an RTO that can be met.",
            losses=losses,
            chain=chain.words,
            paths=(f"services/{name}/rto", f"services/{name}"),
            # Its servers are lost: more replicas elsewhere shorten the wait, as for a service at one site.
            roots=root_paths(context, name) if chain.services == (name,) else (),
        )


_KEEP: Final = "Add capacity that outlasts the loss, or state no RTO for what may be shed."


RULE = Rule(
    "recovery-above-rto",
    "EV113",
    "Predicted recovery above the RTO",
    check,
)
