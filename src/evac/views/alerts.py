"""Diagnostics of files and findings of the audit in one shape, for every format that lists problems."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evac.model.diagnostic import SEVERITIES, Diagnostic, Place, Severity

if TYPE_CHECKING:  # files are checked without the audit
    from evac.audit.findings import Finding


@dataclass(frozen=True, slots=True)
class Alert:
    """One problem: rule (a slug with a documentation page), words, what to do, where, a lasting name."""

    rule: str
    severity: Severity
    subject: str
    message: str
    fix: str
    place: Place
    fingerprint: str
    domains: tuple[str, ...] = ()


def of_diagnostics(diagnostics: Iterable[Diagnostic]) -> tuple[Alert, ...]:
    """Problems of an estate's files, in the order of files and lines."""
    return tuple(
        Alert(
            d.code,
            d.severity,
            d.place.file,
            d.message,
            d.hint,
            d.place,
            _name(d.code, d.place.file, d.message),
        )
        for d in sorted(diagnostics, key=lambda d: d.sort_key)
    )


def of_findings(findings: Iterable[Finding]) -> tuple[Alert, ...]:
    """Findings of an audit, in their order (gravest first)."""
    return tuple(alert_of(finding) for finding in findings)


def alert_of(f: Finding) -> Alert:
    """One finding in the shape of every list of problems."""
    return Alert(f.rule, f.severity, f.subject, f.message, f.fix, f.place, f.fingerprint, f.domains)


def _name(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def counts(alerts: Iterable[Alert]) -> dict[Severity, int]:
    """How many of each severity, all three named."""
    found: dict[Severity, int] = dict.fromkeys(SEVERITIES, 0)
    for alert in alerts:
        found[alert.severity] += 1
    return found
