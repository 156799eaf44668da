"""EV124: servers that only on-site staff can boot."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, counted
from evac.audit.findings import Finding
from evac.audit.reasons import duration
from evac.model.diagnostic import Severity
from evac.model.fleet import BMC_NO, BMC_UNKNOWN, CONDEMNED
from evac.model.objectives import LOSS_CLASSES


def check(context: Context) -> Iterator[Finding]:
    """Error if people must boot most of a site and that takes longer than an RTO there; else a warning.

    Note if it is unknown whether there is remote control.
    """
    fleet, estate = context.estate.fleet, context.estate
    for number, site in enumerate(estate.sites):
        here = (fleet.site == number) & (fleet.state != CONDEMNED)
        by_hand = int((here & (fleet.bmc == BMC_NO)).sum())
        unknown = int((here & (fleet.bmc == BMC_UNKNOWN)).sum())
        losses = [n for n in (context.impacts.losses.index.get(site.id),) if n is not None]
        if by_hand:
            yield _by_hand(context, number, by_hand, int(here.sum()), losses)
        elif unknown:
            yield RULE.finding(
                context,
                "note",
                site.id,
                f"it is unknown whether {counted(unknown, 'server')} of {site.id} can be booted remotely",
                "State in the `bmc` column of the server table whether each server has remote control.",
                losses=losses,
                paths=(f"sites/{site.id}",),
            )


def _strictest(context: Context, site: int) -> int:
    """Shortest RTO of what runs at a site and must not be shed; the horizon if there is none."""
    here = (context.impacts.presence.per_site[site] > 0) & context.firm
    return int(
        context.impacts.rto_ms[LOSS_CLASSES.index("site"), here].min(initial=context.estate.horizon_ms)
    )


def _by_hand(context: Context, number: int, count: int, total: int, losses: list[int]) -> Finding:
    site = context.estate.sites[number].id
    limits = context.estate.limits
    each, hands = limits.manual_ms.get("boot"), limits.hands_at_once
    needed = None if each is None or not hands else -(-count // hands) * each
    grave = needed is not None and needed > _strictest(context, number) and count * 2 > total
    severity: Severity = "error" if grave else "warning"
    takes = f": {duration(needed)} with {hands} people" if needed is not None else ""
    return RULE.finding(
        context,
        severity,
        site,
        f"only on-site staff can boot {count:,} of {counted(total, 'server')} at {site}{takes}",
        "Fit them with remote control (a BMC), or plan for on-site staff.",
        losses=losses,
        paths=(f"sites/{site}",),
    )


RULE = Rule(
    "servers-by-hand",
    "EV124",
    "Servers that only on-site staff can boot",
    check,
    per_loss=False,
)
