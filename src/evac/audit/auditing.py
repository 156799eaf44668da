"""The audit: every loss, every rule, one report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date

from evac.audit.context import Context
from evac.audit.findings import Finding, merged
from evac.audit.impacts import Impacts, impacts
from evac.audit.losses import losses, together
from evac.audit.losses import pairs as losses_of_pairs
from evac.audit.rows import LossRow, loss_rows
from evac.audit.rules import RULES
from evac.model.collector import collector_at_rest
from evac.model.domain import topology
from evac.model.estate import Estate


@dataclass(frozen=True, slots=True, eq=False)
class AuditReport:
    """What an audit found. services: ids by the index that rows use; rows: one a loss, sites first;
    findings: gravest first; impacts: of the single losses, for reports that draw more.
    """

    estate: str
    as_of: date | None
    digest: str | None
    services: tuple[str, ...]
    rows: tuple[LossRow, ...]
    findings: tuple[Finding, ...]
    impacts: Impacts


@collector_at_rest()
def audit(
    estate: Estate,
    *,
    domains: tuple[str, ...] | None = None,
    pairs: bool = False,
    as_of: date | None = None,
    digest: str | None = None,
) -> AuditReport:
    """Try every loss and apply every rule. Pure and deterministic.

    domains: only these losses, each by itself; None is every fault domain above a server. pairs:
    pairs of domains above racks too. as_of: the date of the audit, the estate's own if None.
    digest: of the estate, to tell whether a rehearsal was done on it. Raises UnknownDomain.
    """
    top = topology(estate)
    today = as_of or estate.as_of
    context = Context(estate, impacts(top, losses(top, domains)), today, digest)
    findings = merged(finding for rule in RULES for finding in rule.check(context))
    rows = loss_rows(context.impacts)
    if pairs:
        paired = Context(estate, impacts(top, losses_of_pairs(top)), today, digest)
        findings = merged((*findings, *_of_pairs(paired, findings)))
        rows = (*rows, *loss_rows(paired.impacts))
    return AuditReport(
        estate=estate.name,
        as_of=today,
        digest=digest,
        services=tuple(s.id for s in estate.services),
        rows=rows,
        findings=findings,
        impacts=context.impacts,
    )


@collector_at_rest()
def audit_together(report: AuditReport, wanted: tuple[str, ...]) -> AuditReport:
    """One row: what the loss of all these domains at once does to the estate of a report. No findings.

    Raises UnknownDomain.
    """
    found = impacts(report.impacts.top, together(report.impacts.top, wanted))
    return replace(report, rows=loss_rows(found), findings=(), impacts=found)


def _of_pairs(paired: Context, single: tuple[Finding, ...]) -> list[Finding]:
    """What only two losses at once do: at most a warning, as no single loss does it."""
    known = {(f.rule, f.subject) for f in single}
    every = (finding for rule in RULES if rule.per_loss for finding in rule.check(paired))
    found = [f for f in every if (f.rule, f.subject) not in known]
    return [replace(f, severity="warning") if f.severity == "error" else f for f in found]
