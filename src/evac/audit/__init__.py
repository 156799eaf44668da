"""The audit: impacts of every loss, computed once, and one file for each rule that reads them."""

from __future__ import annotations

from evac.audit.auditing import (
    AuditReport,
    Headline,
    LossRow,
    ServiceFate,
    audit,
    audit_together,
    headline,
    summary,
)
from evac.audit.findings import (
    Baseline,
    Compared,
    Finding,
    Suppressed,
    Suppression,
    apply_suppressions,
    at_least,
    baseline_of,
    compare,
)
from evac.audit.rules import RULES

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
