"""Problems - diagnostics of files and findings of the audit - in one shape, and as SARIF 2.1.0, JUnit XML,
GitHub annotations and Markdown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape, quoteattr

from evac import __version__
from evac.model.diagnostic import SEVERITIES, Diagnostic, Place, Severity
from evac.views.words import listed, plural

if TYPE_CHECKING:
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


def alerts_markdown(title: str, alerts: Sequence[Alert]) -> str:
    """A heading, one line of counts, and a table; every cell is escaped."""
    found = counts(alerts)
    summary = ", ".join(plural(found[s], s) for s in found if found[s]) or "nothing found"
    lines = [f"# {_cell(title)}", "", f"{summary}.", ""]
    if alerts:
        lines += ["| severity | rule | subject | what | what to do | where |", "|---|---|---|---|---|---|"]
        lines += [_row(alert) for alert in alerts]
        lines.append("")
    return "\n".join(lines)


def _row(alert: Alert) -> str:
    where = str(alert.place) if alert.place.file else ""
    what = alert.message + (f" ({listed(list(alert.domains), 3)})" if alert.domains else "")
    cells = (alert.severity, alert.rule, alert.subject, what, alert.fix, where)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(words: str) -> str:
    for character in "\\`*_<>[]|#":
        words = words.replace(character, "\\" + character if character != "<" else "&lt;")
    return words.replace("\n", " ").replace("\r", " ")


SARIF_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
GITHUB_SHOWN: Final = 10
"""GitHub shows ten annotations of a step; the rest would be lost without a word."""

_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_GITHUB_LEVEL: Final = {"error": "error", "warning": "warning", "note": "notice"}


def sarif(alerts: Sequence[Alert], version: str) -> str:
    """One SARIF run (OASIS SARIF 2.1.0): rules sorted, results in the order of the alerts."""
    rules = sorted({alert.rule for alert in alerts})
    index = {rule: n for n, rule in enumerate(rules)}
    driver = {
        "name": "evac",
        "version": version,
        "rules": [
            {"id": rule, "name": rule, "shortDescription": {"text": rule.replace("-", " ")}} for rule in rules
        ],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(alert, index[alert.rule]) for alert in alerts],
    }
    return (
        json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)
        + "\n"
    )


def _result(alert: Alert, rule_index: int) -> dict[str, Any]:
    region = {"startLine": alert.place.line, "startColumn": max(1, alert.place.column)}
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(alert.place.file)}}}
    if alert.place.line:
        location["physicalLocation"]["region"] = region
    result: dict[str, Any] = {
        "ruleId": alert.rule,
        "ruleIndex": rule_index,
        "level": alert.severity,
        "message": {"text": f"{alert.message} {alert.fix}".strip()},
        "partialFingerprints": {"evac/v1": alert.fingerprint},
        "properties": {"subject": alert.subject, "domains": list(alert.domains)},
    }
    if alert.place.file:
        result["locations"] = [location]
    return result


def _uri(path: str) -> str:
    return "".join(
        c if c.isalnum() or c in "/._-~" else "".join(f"%{b:02X}" for b in c.encode()) for c in path
    )


def junit(alerts: Sequence[Alert], suite: str) -> str:
    """JUnit XML: errors are failures, warnings and notes are passed cases with their words in the output."""
    failures = sum(1 for alert in alerts if alert.severity == "error")
    cases = max(1, len(alerts))
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites tests="{cases}" failures="{failures}">',
        f'  <testsuite name={_attribute(suite)} tests="{cases}" failures="{failures}" errors="0">',
    ]
    for alert in alerts:
        lines += _case(alert)
    if not alerts:
        lines.append(f'    <testcase classname={_attribute(suite)} name="nothing found"/>')
    return "\n".join([*lines, "  </testsuite>", "</testsuites>", ""])


def _case(alert: Alert) -> list[str]:
    name = f"{alert.subject} [{alert.fingerprint}]"
    words = escape(_CONTROL.sub("?", f"{alert.place}: {alert.message} {alert.fix}".strip()))
    head = f"    <testcase classname={_attribute(alert.rule)} name={_attribute(name)}>"
    if alert.severity == "error":
        return [
            head,
            f"      <failure message={_attribute(alert.message)}>{words}</failure>",
            "    </testcase>",
        ]
    return [head, f"      <system-out>{alert.severity}: {words}</system-out>", "    </testcase>"]


def _attribute(words: str) -> str:
    return quoteattr(_CONTROL.sub("?", words))


def github(alerts: Sequence[Alert]) -> str:
    """Workflow commands for the ten gravest, then one line that says how many there are in all."""
    lines = [_annotation(alert) for alert in alerts[:GITHUB_SHOWN]]
    if len(alerts) > GITHUB_SHOWN:
        rest = plural(len(alerts) - GITHUB_SHOWN, "more problem")
        lines.append(f"::notice title=evac::{rest}; the whole list: evac audit --output markdown")
    return "\n".join(lines) + "\n" if lines else ""


def _annotation(alert: Alert) -> str:
    where = ""
    if alert.place.file:
        where = f"file={_property(alert.place.file)},"
        if alert.place.line:
            where += f"line={alert.place.line},col={max(1, alert.place.column)},"
    title = _property(f"{alert.rule}: {alert.subject}")
    words = _data(f"{alert.message} {alert.fix}".strip())
    return f"::{_GITHUB_LEVEL[alert.severity]} {where}title={title}::{words}"


def _data(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _data(words).replace(":", "%3A").replace(",", "%2C")


def in_format(output: str, alerts: tuple[Alert, ...], suite: str, title: str) -> str | None:
    """Problems in a format that programs read, or as Markdown; None for any other format."""
    match output:
        case "sarif":
            return sarif(alerts, __version__)
        case "junit":
            return junit(alerts, suite)
        case "github":
            return github(alerts)
        case "markdown":
            return alerts_markdown(title, alerts)
    return None
