"""EV142: a restore takes longer than the RTO of the data's users."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, data_paths
from evac.audit.findings import Finding
from evac.audit.reasons import duration
from evac.model.backup import DataVerdict
from evac.model.objectives import rto_for


def check(context: Context) -> Iterator[Finding]:
    """Warning: compared with the strictest RTO among the services that need the data."""
    for verdict in context.data:
        times = [
            copy.restore_ms
            for copy in verdict.copies
            if copy.usable and copy.outside is not False and copy.restore_ms is not None
        ]
        promised = _strictest(context, verdict)
        if not verdict.digits or not times or promised is None or min(times) <= promised[0]:
            continue
        rto_ms, service = promised
        yield RULE.finding(
            context,
            "warning",
            verdict.data_set,
            f"a restore of {verdict.data_set} takes {duration(min(times))}; "
            f"the RTO of {service} is {duration(rto_ms)}",
            "Keep a replica outside the domain, restore in parallel, or split the data.",
            paths=data_paths(verdict),
        )


def _strictest(context: Context, verdict: DataVerdict) -> tuple[int, str] | None:
    services = context.estate.services
    promises = [
        (rto_ms, services[row].id)
        for row in context.users_of_data[verdict.data_set]
        if (rto_ms := rto_for(services[row], "site")) is not None
    ]
    return min(promises, default=None)


RULE = Rule("restore-too-slow", "EV142", "A restore takes longer than the RTO", check, per_loss=False)
