"""Findings as values: what a rule found, how grave it is, what to change, and a name that lasts.

A finding speaks of one subject and lists every loss it holds for, the worst first, so that
thousands of fault domains give a report that a person can read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from evac.model.diagnostic import SEVERITIES, Place, Severity

FINGERPRINT_DIGITS: Final = 16
_NOWHERE: Final = Place("")

DOMAIN_CLASSES: Final = ("site", "group", "hall", "feed", "rack", "server", "pair", "estate")
"""What kind of loss a finding is about, the gravest first; `estate` is about no loss at all."""

_SEVERITY_RANK: Final = {severity: rank for rank, severity in enumerate(SEVERITIES)}
_CLASS_RANK: Final = {name: rank for rank, name in enumerate(DOMAIN_CLASSES)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule broken by one subject."""

    rule: str
    """Stable slug; its page in the documentation has the same name."""
    code: str
    """Its stable number."""
    severity: Severity
    subject: str
    """A service, store, tool or domain."""
    message: str
    fix: str
    domains: tuple[str, ...] = ()
    """The losses that it holds for, worst first; empty where it holds without any loss."""
    domain_class: str = "estate"
    """The most severe kind among them."""
    chain: tuple[str, ...] = ()
    """How the subject comes to depend on what is lost."""
    path: str = ""
    """The fact path to change, the first of `paths`."""
    paths: tuple[str, ...] = ()
    place: Place = _NOWHERE
    """Where the first of these facts that is known is written."""

    @property
    def scenario(self) -> str:
        """The worst loss it holds for; empty where it holds without any."""
        return self.domains[0] if self.domains else ""

    @property
    def fingerprint(self) -> str:
        """Stable over edits elsewhere: rule, subject and kind of domain, never a line number."""
        text = "\0".join((self.rule, self.subject, self.domain_class))
        return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_DIGITS]

    @property
    def sort_key(self) -> tuple[int, str, int, str, tuple[str, ...], str]:
        return (
            _SEVERITY_RANK[self.severity],
            self.code,
            _CLASS_RANK[self.domain_class],
            self.subject,
            self.domains,
            self.message,
        )


def at_least(severity: Severity, level: Severity) -> bool:
    """Whether a severity is as grave as a level, or graver."""
    return _SEVERITY_RANK[severity] <= _SEVERITY_RANK[level]


def gravest(severities: Iterable[Severity]) -> Severity | None:
    """The gravest of some severities; None of none."""
    return min(severities, key=lambda s: _SEVERITY_RANK[s], default=None)


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings of one rule and subject become one that lists all domains; sorted, gravest first."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.rule, finding.subject), []).append(finding)
    return tuple(sorted((_joined(group) for group in groups.values()), key=lambda f: f.sort_key))


def _joined(group: list[Finding]) -> Finding:
    if len(group) == 1:
        return group[0]
    ordered = sorted(group, key=lambda f: f.sort_key)
    domains = dict.fromkeys(domain for finding in ordered for domain in finding.domains)
    gravest_class = min((f.domain_class for f in ordered), key=lambda name: _CLASS_RANK[name])
    return replace(ordered[0], domains=tuple(domains), domain_class=gravest_class)
