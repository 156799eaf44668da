"""What a page and a JSON document show of an audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from evac.audit import AuditReport, Finding, LossRow, headline
from evac.model.diagnostic import SEVERITIES
from evac.report.alerts import alert_of
from evac.report.audit_text import important
from evac.report.json_out import alert_rows, document
from evac.report.words import duration, listed, number, people, plural

LOSSES_OPEN: Final = 12
FINDINGS_OPEN: Final = 40


def audit_context(report: AuditReport, findings: Sequence[Finding]) -> dict[str, Any]:
    """The audit's part of a report page."""
    first = important(report.rows, LOSSES_OPEN)
    chosen = {id(row) for row in first}
    rest = [row for row in important(report.rows, len(report.rows)) if id(row) not in chosen]
    quiet = len(report.rows) - len(first) - len(rest)
    tried = plural(len(report.rows), "loss", "losses")
    parts = [("Sites, shared fates, and what loses most", [_row(report, r) for r in first], True)]
    if rest:
        parts.append(
            (f"{number(len(rest))} more that take something", [_row(report, r) for r in rest], False)
        )
    return {
        "audit": report,
        "audit_summary": f"{tried} tried; {number(quiet)} of them touch no service.",
        "loss_parts": parts,
        "finding_parts": _findings(findings),
    }


def _row(report: AuditReport, row: LossRow) -> dict[str, str]:
    return {
        "domain": row.domain,
        "verdict": row.verdict,
        "down": number(row.down),
        "degraded": number(row.degraded),
        "people": people(row.people_down),
        "back": duration(row.worst_ready_ms) if row.recovered else "-",
        "words": headline(report, row).text.partition(": ")[2],
    }


def _findings(findings: Sequence[Finding]) -> list[tuple[str, list[dict[str, str]], bool]]:
    parts = []
    for severity in SEVERITIES:
        mine = [f for f in findings if f.severity == severity]
        if not mine:
            continue
        shown = mine[:FINDINGS_OPEN]
        parts.append((plural(len(mine), severity), [_finding(f) for f in shown], severity == "error"))
        if len(mine) > len(shown):
            words = f"{number(len(mine) - len(shown))} more of level {severity}"
            parts.append((words, [_finding(f) for f in mine[len(shown) :]], False))
    return parts


def _finding(finding: Finding) -> dict[str, str]:
    return {
        "severity": finding.severity,
        "subject": finding.subject,
        "message": finding.message,
        "fix": finding.fix,
        "rule": f"{finding.code} {finding.rule}",
        "domains": listed(list(finding.domains), 4),
        "place": str(finding.place) if finding.place.file else "",
    }


def audit_json(report: AuditReport, findings: Sequence[Finding]) -> str:
    """Everything: rows with the services that are not unaffected, findings with their fixes."""
    listing = [
        row | {"code": f.code, "chain": list(f.chain), "path": f.path}
        for row, f in zip(alert_rows([alert_of(f) for f in findings]), findings, strict=True)
    ]
    body = {"estate": report.estate, "as_of": report.as_of, "estate_digest": report.digest}
    losses = [_loss_json(report, row) for row in report.rows]
    return document("evac-audit", body | {"losses": losses, "findings": listing})


_AS_THEY_ARE: Final = (
    "domain", "kind", "members", "method", "verdict", "down", "recovered", "degraded", "lost", "unknown",
    "late", "people_down", "data_loss_ms", "stores_lost", "stores_gone", "to_place", "placed", "sheds", "short",
)  # fmt: skip


def _loss_json(report: AuditReport, row: LossRow) -> dict[str, Any]:
    fates = row.fates(report.services)
    services = [{"service": f.service, "fate": f.fate, "recovery_ms": f.recovery_ms} for f in fates]
    plain = {name: getattr(row, name) for name in _AS_THEY_ARE}
    return plain | {"worst_recovery_ms": row.worst_ready_ms, "services": services}
