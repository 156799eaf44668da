"""Findings as values: what a rule found, its severity, what to change, and a stable name.

A finding is about one subject and lists every loss it holds for, worst first, so that the report stays
readable with thousands of fault domains.

Accepted findings: a baseline, and suppressions with a reason and an expiry.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from typing import Final

from evac.model.diagnostic import NOWHERE, SEVERITIES, Place, Severity
from evac.model.records import dataclass

FINGERPRINT_DIGITS: Final = 16

DOMAIN_CLASSES: Final = ("site", "group", "provider", "hall", "feed", "rack", "server", "pair", "estate")
"""Kind of loss that a finding is about, most severe first; `estate` means no loss."""

_SEVERITY_RANK: Final = {severity: rank for rank, severity in enumerate(SEVERITIES)}
_CLASS_RANK: Final = {name: rank for rank, name in enumerate(DOMAIN_CLASSES)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One subject that breaks one rule."""

    rule: str
    """Stable slug, also the name of its documentation page."""
    code: str
    """Its stable number."""
    severity: Severity
    subject: str
    """A service, store, tool or domain."""
    message: str
    fix: str
    domains: tuple[str, ...] = ()
    """The losses that it holds for, worst first; empty if it holds without any loss."""
    domain_class: str = "estate"
    """The most severe kind among them."""
    chain: tuple[str, ...] = ()
    """How the subject depends on what is lost."""
    path: str = ""
    """The fact path to change, the first of `paths`."""
    paths: tuple[str, ...] = ()
    place: Place = NOWHERE
    """Where the first known one of these facts is written."""
    root: str = ""
    """Path of the service, store or other thing to change. Findings with the same root are grouped."""
    key: str = ""
    """The fact path to change there."""
    key_place: Place = NOWHERE
    """Where that is written."""

    @property
    def scenario(self) -> str:
        """The worst loss it holds for; empty if it holds without any."""
        return self.domains[0] if self.domains else ""

    @property
    def fingerprint(self) -> str:
        """Stable when other parts of the estate change: rule, subject and kind of domain, never a line
        number.
        """
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
    """Whether a severity is at least a level."""
    return _SEVERITY_RANK[severity] <= _SEVERITY_RANK[level]


def gravest(severities: Iterable[Severity]) -> Severity | None:
    """The most severe of some severities; None if there are none."""
    return min(severities, key=lambda s: _SEVERITY_RANK[s], default=None)


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Merge findings of one rule and subject into one that lists all domains; sorted, most severe first."""
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


INVALID_RULE: Final = ("suppression-invalid", "EV190")
ENDED_RULE: Final = ("suppression-ended", "EV191")
UNUSED_RULE: Final = ("suppression-unused", "EV192")

_NOT_IN_A_FILE: Final = Place("")


@dataclass(frozen=True, slots=True)
class Suppression:
    """`rule`: slug or code; `subject`: name or shell pattern; `domain`: a pattern for the losses."""

    rule: str
    subject: str = "*"
    domain: str = "*"
    reason: str = ""
    until: date | None = None
    place: Place = _NOT_IN_A_FILE

    def covers(self, finding: Finding) -> bool:
        """Whether it applies to this finding; every domain of the finding must match."""
        return (
            self.rule in (finding.rule, finding.code)
            and fnmatch.fnmatchcase(finding.subject, self.subject)
            and all(fnmatch.fnmatchcase(d, self.domain) for d in finding.domains or ("",))
        )


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A finding that is not reported as open, and what suppressed it."""

    finding: Finding
    by: Suppression


def apply_suppressions(
    findings: Iterable[Finding], suppressions: Iterable[Suppression], as_of: date | None
) -> tuple[tuple[Finding, ...], tuple[Suppressed, ...]]:
    """Split into open findings (including those about suppressions) and suppressed ones.

    Without a date no suppression can be shown to be in force, so nothing is suppressed.
    """
    given = tuple(suppressions)
    active = tuple(s for s in given if not _complaint(s, as_of))
    found_open: list[Finding] = [found for s in given if (found := _complaint(s, as_of))]
    put_aside: list[Suppressed] = []
    used: set[int] = set()
    for finding in findings:
        index = next((i for i, s in enumerate(active) if s.covers(finding)), None)
        if index is None:
            found_open.append(finding)
        else:
            used.add(index)
            put_aside.append(Suppressed(finding, active[index]))
    found_open += [
        _finding(s, UNUSED_RULE, "note", "matches no finding", "Remove it.")
        for i, s in enumerate(active)
        if i not in used
    ]
    return tuple(sorted(found_open, key=lambda f: f.sort_key)), tuple(put_aside)


def _complaint(suppression: Suppression, as_of: date | None) -> Finding | None:
    if not suppression.reason.strip() or suppression.until is None:
        missing = "a reason" if not suppression.reason.strip() else "an end date"
        return _finding(
            suppression,
            INVALID_RULE,
            "error",
            f"has no {missing[2:].strip()} and has no effect",
            "Write `reason:` and `until:`.",
        )
    if as_of is None:
        return _finding(
            suppression,
            INVALID_RULE,
            "error",
            "has no effect: the audit date is unknown",
            "Write `as_of:` in the estate or pass --as-of.",
        )
    if suppression.until < as_of:
        return _finding(
            suppression,
            ENDED_RULE,
            "warning",
            f"ended on {suppression.until}",
            "Fix what it suppresses, or renew it with a new end date.",
        )
    return None


def _finding(
    suppression: Suppression, rule: tuple[str, str], severity: Severity, words: str, fix: str
) -> Finding:
    return Finding(
        rule=rule[0],
        code=rule[1],
        severity=severity,
        subject=f"{suppression.rule} {suppression.subject}",
        message=f"the suppression of {suppression.rule} for {suppression.subject} {words}",
        fix=fix,
        place=suppression.place,
    )


@dataclass(frozen=True, slots=True)
class Baseline:
    """Fingerprints of known findings, with the severity of each."""

    known: tuple[tuple[str, Severity], ...] = ()

    @property
    def fingerprints(self) -> frozenset[str]:
        return frozenset(fingerprint for fingerprint, _ in self.known)


@dataclass(frozen=True, slots=True)
class Compared:
    """new: not in the baseline, or more severe than there; known: unchanged; mended: gone since."""

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
    """Compare with a baseline. A finding that became more severe is new."""
    before = dict(baseline.known)
    new: list[Finding] = []
    known: list[Finding] = []
    seen: set[str] = set()
    for finding in findings:
        seen.add(finding.fingerprint)
        level = before.get(finding.fingerprint)
        (known if level is not None and at_least(level, finding.severity) else new).append(finding)
    return Compared(tuple(new), tuple(known), tuple(sorted(baseline.fingerprints - seen)))
