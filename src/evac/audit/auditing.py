"""The audit: every loss, every rule, one report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from functools import partial

from evac.audit.context import Context, Rule
from evac.audit.findings import Finding, in_order, merged, runs_of
from evac.audit.impacts import Impacts, impacts
from evac.audit.losses import Losses, losses, pairs, together
from evac.audit.rows import LossRow, loss_rows
from evac.audit.rules import RULES
from evac.model.collector import collector_at_rest
from evac.model.domain import Topology, topology
from evac.model.estate import Estate


@dataclass(frozen=True, slots=True, eq=False)
class AuditReport:
    """What an audit found. services: ids by the index that rows use; rows: one a loss, sites first;
    findings: gravest first; impacts: of the single losses, for reports that draw more. by_rule:
    findings of each of RULES before they are merged; wanted, paired: what was asked for.
    """

    estate: str
    as_of: date | None
    digest: str | None
    services: tuple[str, ...]
    rows: tuple[LossRow, ...]
    findings: tuple[Finding, ...]
    impacts: Impacts
    by_rule: tuple[tuple[Finding, ...], ...] = ()
    wanted: tuple[str, ...] | None = None
    paired: bool = False


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
    by_rule = tuple(findings_of(rule, context) for rule in RULES)
    paired = _pairs_of(top, context) if pairs else None
    return report_from(context, by_rule, domains, loss_rows(context.impacts), paired)


@collector_at_rest()
def audit_together(report: AuditReport, wanted: tuple[str, ...]) -> AuditReport:
    """One row: what the loss of all these domains at once does to the estate of a report. No findings.

    Raises UnknownDomain.
    """
    found = impacts(report.impacts.top, together(report.impacts.top, wanted))
    return replace(
        report, rows=loss_rows(found), findings=(), by_rule=(), impacts=found, wanted=wanted, paired=False
    )


def findings_of(rule: Rule, context: Context) -> tuple[Finding, ...]:
    """What one rule finds."""
    return tuple(rule.check(context))


def report_from(
    context: Context,
    by_rule: tuple[tuple[Finding, ...], ...],
    wanted: tuple[str, ...] | None,
    rows: tuple[LossRow, ...],
    paired: Context | None = None,
) -> AuditReport:
    """Merged findings of what is worked out already."""
    kept = context.impacts.kept
    runs = (kept.of(("runs", str(n)), (found,), partial(runs_of, found)) for n, found in enumerate(by_rule))
    findings = in_order(run for several in runs for run in several)
    if paired is not None:
        findings = merged((*findings, *_of_pairs(paired, findings)))
        rows = (*rows, *loss_rows(paired.impacts))
    return AuditReport(
        estate=context.estate.name,
        as_of=context.as_of,
        digest=context.digest,
        services=tuple(s.id for s in context.estate.services),
        rows=rows,
        findings=findings,
        impacts=context.impacts,
        by_rule=by_rule,
        wanted=wanted,
        paired=paired is not None,
    )


def _pairs_of(top: Topology, context: Context) -> Context:
    found: Losses = pairs(top)
    return Context(context.estate, impacts(top, found), context.as_of, context.digest)


def _of_pairs(paired: Context, single: tuple[Finding, ...]) -> list[Finding]:
    """What only two losses at once do: at most a warning, as no single loss does it."""
    known = {(f.rule, f.subject) for f in single}
    asked: list[Rule] = [rule for rule in RULES if rule.per_loss]
    found = [f for rule in asked for f in rule.check(paired) if (f.rule, f.subject) not in known]
    return [replace(f, severity="warning") if f.severity == "error" else f for f in found]
