"""A baseline: the findings a company had when it began, so that only new ones fail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evac.audit.findings import Finding, at_least
from evac.model.diagnostic import Severity


@dataclass(frozen=True, slots=True)
class Baseline:
    """Fingerprints of known findings, with the severity each had."""

    known: tuple[tuple[str, Severity], ...] = ()

    @property
    def fingerprints(self) -> frozenset[str]:
        return frozenset(fingerprint for fingerprint, _ in self.known)


@dataclass(frozen=True, slots=True)
class Compared:
    """new: not in the baseline, or graver than it was there; known: as before; mended: gone since."""

    new: tuple[Finding, ...]
    known: tuple[Finding, ...]
    mended: tuple[str, ...]


def baseline_of(findings: Iterable[Finding]) -> Baseline:
    """The baseline that accepts exactly these findings."""
    gravest: dict[str, Severity] = {}
    for finding in findings:
        before = gravest.get(finding.fingerprint)
        if before is None or at_least(finding.severity, before):
            gravest[finding.fingerprint] = finding.severity
    return Baseline(tuple(sorted(gravest.items())))


def compare(findings: Iterable[Finding], baseline: Baseline) -> Compared:
    """What is new against a baseline. A finding that has become graver is new."""
    before = dict(baseline.known)
    new: list[Finding] = []
    known: list[Finding] = []
    seen: set[str] = set()
    for finding in findings:
        seen.add(finding.fingerprint)
        level = before.get(finding.fingerprint)
        (known if level is not None and at_least(level, finding.severity) else new).append(finding)
    return Compared(tuple(new), tuple(known), tuple(sorted(baseline.fingerprints - seen)))
