"""The audit: impacts of every loss, computed once, and one file per rule that reads them."""

from __future__ import annotations

from evac.audit.auditing import AuditReport, audit, audit_together
from evac.audit.baseline import Baseline, Compared, baseline_of, compare
from evac.audit.findings import Finding, at_least
from evac.audit.headline import Headline, headline, summary
from evac.audit.rows import LossRow, ServiceFate
from evac.audit.rules import RULES
from evac.audit.suppression import Suppressed, Suppression, apply_suppressions

__all__ = [
    "RULES",
    "AuditReport",
    "Baseline",
    "Compared",
    "Finding",
    "Headline",
    "LossRow",
    "ServiceFate",
    "Suppressed",
    "Suppression",
    "apply_suppressions",
    "at_least",
    "audit",
    "audit_together",
    "baseline_of",
    "compare",
    "headline",
    "summary",
]
