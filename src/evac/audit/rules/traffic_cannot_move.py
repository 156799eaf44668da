"""EV114: traffic that cannot be moved in time: a TTL beyond the rto, or no control over DNS."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, by_service, listed
from evac.audit.findings import Finding
from evac.audit.impacts.stores import NEVER
from evac.audit.reasons import duration
from evac.model.diagnostic import Severity
from evac.model.estate import Service


def check(context: Context) -> Iterator[Finding]:
    """Error beyond the RTO; warning if the TTL is unknown, or people can move it by hand in time."""
    yield from _slow(context)
    yield from _without_control(context)


def _slow(context: Context) -> Iterator[Finding]:
    damage = context.impacts.damage
    for number, losses in by_service(damage.pairs.only(damage.shift)):
        service = context.estate.services[number]
        rto_ms = {n: int(context.impacts.rto_at(n, number)) for n in losses}
        strictest = min(rto_ms.values())
        if strictest >= NEVER:
            continue
        unknown = service.traffic.kind == "dns" and service.traffic.ttl_ms is None
        least = _least(context, service)
        if not unknown and least <= strictest:
            continue
        ordered = context.worst_first(
            [n for n in losses if rto_ms[n] < NEVER and (unknown or least > rto_ms[n])]
        )
        grave = least > strictest and not service.sheddable
        severity: Severity = "error" if grave else "warning"
        traffic, lead_ms = service.traffic, context.estate.lead.ms
        how = f" with a TTL of {duration(traffic.ttl_ms)}" if traffic.ttl_ms else ""
        how = " with an unknown TTL" if unknown else how
        slow = "Lower the TTL well below the RTO, or use anycast or a load balancer in front."
        if least - lead_ms <= strictest < least:
            slow = "Detect a loss or approve its plan sooner, or state an RTO that can be met."
        yield RULE.finding(
            context,
            severity,
            service.id,
            f"the traffic of {service.id} takes at least {duration(least)} to move{how},"
            f" {duration(lead_ms)} of it until a plan is approved;"
            f" its RTO is {duration(strictest)} (loss of {listed(context.names(ordered))})",
            slow,
            losses=ordered,
            paths=(f"services/{service.id}/traffic/ttl", f"services/{service.id}/traffic"),
        )


def _least(context: Context, service: Service) -> int:
    """Minimum time: detection, approval, the change itself, and until the last client has noticed."""
    traffic = service.traffic
    settle = max(traffic.settle_ms, traffic.ttl_ms or 0)
    return context.estate.lead.ms + traffic.change_ms + settle


def _without_control(context: Context) -> Iterator[Finding]:
    impacts = context.impacts
    for group in context.estate.tool_groups(("dns-control",)):
        tools, either = [impacts.graph.index[name] for name in group], " or ".join(group)
        hit = np.flatnonzero(impacts.down[:, tools].all(axis=1) & impacts.moved.any(axis=1)).tolist()
        if not hit:
            continue
        losses = context.worst_first(hit)
        late = [n for n in losses if all(_too_late(context, tool, n) for tool in tools)]
        severity: Severity = "error" if late else "warning"
        shown = late or losses
        yield RULE.finding(
            context,
            severity,
            group[0],
            f"{either} (dns-control) is lost with {listed(context.names(shown))}, and then traffic must move",
            f"Run {either} at two sites, or keep a second way to change the zones.",
            losses=shown,
            paths=("tools/dns-control", f"services/{group[0]}"),
        )


def _too_late(context: Context, tool: int, number: int) -> bool:
    """Whether the control is back, or people have moved the traffic by hand, only after some RTO."""
    impacts = context.impacts
    ready = int(impacts.ready_ms[number, tool])
    manual = impacts.times.manual.get("shift")
    if manual is not None:
        ready = min(ready, int(impacts.chains.released[number]) + manual)
    strictest = int(impacts.rto_at(number, impacts.moved[number] & context.firm).min(initial=NEVER))
    return ready >= NEVER or ready > strictest


RULE = Rule(
    "traffic-cannot-move",
    "EV114",
    "Traffic cannot move in time",
    check,
)
