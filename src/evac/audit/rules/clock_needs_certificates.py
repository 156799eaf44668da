"""EV133: the time service waits for something whose certificates cannot be checked before the time is
known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding

_CHECKED: Final = ("identity", "registry", "secrets", "vpn")
"""Roles whose services authenticate with certificates."""


def check(context: Context) -> Iterator[Finding]:
    """Warning for each service of the role `time` that needs one of these roles, directly or not."""
    graph, estate = context.impacts.graph, context.estate
    guarded = {graph.index[name] for group in estate.tool_groups(_CHECKED) for name in group}
    for name in sorted({name for group in estate.tool_groups(("time",)) for name in group}):
        before = {graph.index[name]: -1}
        queue = [graph.index[name]]
        for service in queue:
            for other in graph.hard[service]:
                if other not in before:
                    before[other] = service
                    queue.append(other)
        met = [service for service in queue[1:] if service in guarded]
        if met:
            chain = _chain(context, before, met[0])
            names = listed([context.estate.services[service].id for service in met])
            yield RULE.finding(
                context,
                "warning",
                name,
                f"{name} (time) needs {names}, whose certificates cannot be checked without a clock",
                "Let clocks start without them: use a local time source or a wider tolerance.",
                chain=chain,
                paths=(f"services/{name}/needs/0", f"services/{name}", "tools/time"),
            )


def _chain(context: Context, before: dict[int, int], last: int) -> tuple[str, ...]:
    names = []
    while last >= 0:
        names.append(context.estate.services[last].id)
        last = before[last]
    return tuple(reversed(names))


RULE = Rule(
    "clock-needs-certificates",
    "EV133",
    "A clock needs certificates that need a clock",
    check,
    per_loss=False,
)
