"""EV121: certificates, keys, licences and signatures at failover sites that have expired or soon will."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding
from evac.derive.domains import resolve
from evac.model.diagnostic import Severity
from evac.model.errors import UnknownDomain
from evac.model.estate import Expiring

SOON: Final = timedelta(days=30)


def check(context: Context) -> Iterator[Finding]:
    """Error if it has expired and something needs it; warning within 30 days, or if the date is unknown."""
    for item in context.estate.expiring:
        found = _state(item, context.as_of)
        if found is None:
            continue
        severity, words = found
        where = f" at {item.at}" if item.at else ""
        users = f"; used by {listed(item.used_by)}" if item.used_by else ""
        yield RULE.finding(
            context,
            severity,
            item.id,
            f"{item.kind} {item.id}{where} {words}{users}",
            "Renew it before it is needed, at every site that may have to take over.",
            losses=_elsewhere(context, item),
            paths=(f"expiring/{item.id}/expires", f"expiring/{item.id}"),
        )


def _state(item: Expiring, today: date | None) -> tuple[Severity, str] | None:
    if item.expires is None:
        return "warning", "expires on an unknown date"
    if today is None:
        return "note", f"expires on {item.expires}; the audit date is unknown"
    if item.expires <= today:
        return ("error" if item.used_by else "warning"), f"expired on {item.expires}"
    if item.expires <= today + SOON:
        return "warning", f"expires on {item.expires}, within {SOON.days} days"
    return None


def _elsewhere(context: Context, item: Expiring) -> list[int]:
    """The losses of the other sites, after which the site of the item is used."""
    if item.at is None:
        return []
    try:
        site = resolve(context.impacts.top, item.at).site
    except UnknownDomain:
        return []
    losses = context.impacts.losses
    return [n for n in losses.of_kind("site").tolist() if losses.ids[n] != site]


RULE = Rule(
    "expires-where-we-go",
    "EV121",
    "Something expires at a site that may have to take over",
    check,
    per_loss=False,
)
