"""JSON for scripts, and its JSON Schemas (2020-12). Every document states its kind and schema_version;
keys are sorted.

Members listed in a schema never disappear; new ones may be added within a schema_version, so readers
ignore what they do not know. Problems (diagnostics of files and findings of the audit) are also available
as SARIF 2.1.0, JUnit XML, GitHub annotations and Markdown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import date
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape, quoteattr

from evac import __version__
from evac.model.coverage import Coverage
from evac.model.diagnostic import SEVERITIES, Diagnostic, Place, Severity
from evac.model.foreign_text import one_line, without_controls
from evac.model.records import dataclass
from evac.planning.simulation.simulate import PERCENTILES, Simulation
from evac.views.words import listed, plural

if TYPE_CHECKING:
    from evac.audit.findings import Finding
    from evac.verify import Verdict

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Final = {"type": ["integer", "null"], "minimum": 0}
_NAMES: Final = {"type": "array", "items": _TEXT}


@dataclass(frozen=True, slots=True)
class Alert:
    """One problem: rule (a slug with a documentation page), message, what to do, place, permanent name."""

    rule: str
    severity: Severity
    subject: str
    message: str
    fix: str
    place: Place
    fingerprint: str
    domains: tuple[str, ...] = ()


def of_diagnostics(diagnostics: Iterable[Diagnostic]) -> tuple[Alert, ...]:
    """Problems of an estate's files, in the order of files and lines. Names of files can contain anything,
    also line breaks and what is not UTF-8; here each text is one line that can be printed.
    """
    return tuple(_alert_of(d) for d in sorted(diagnostics, key=lambda d: d.sort_key))


def _alert_of(d: Diagnostic) -> Alert:
    place, message = _printable(d.place), one_line(d.message)
    name = _name(d.code, place.file, message)
    return Alert(d.code, d.severity, place.file, message, one_line(d.hint), place, name)


def of_findings(findings: Iterable[Finding]) -> tuple[Alert, ...]:
    """Findings of an audit, in their order (most severe first)."""
    return tuple(alert_of(finding) for finding in findings)


def alert_of(f: Finding) -> Alert:
    """One finding in the common format of problem lists."""
    place = _printable(f.place)
    return Alert(f.rule, f.severity, f.subject, f.message, f.fix, place, f.fingerprint, f.domains)


def _printable(place: Place) -> Place:
    return replace(place, file=place.name)


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
"""GitHub shows ten annotations per step and silently drops the rest."""

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
    uri = "".join(
        c if c.isalnum() or c in "/._-~" else "".join(f"%{b:02X}" for b in c.encode())
        for c in alert.place.file
    )
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri}}}
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
    """Workflow commands for the ten most severe, then one line with the total."""
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
    return without_controls(words).replace("%", "%25").replace("\n", "%0A")


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


def _object(described: str, required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": described,
        "properties": required | optional,
        "required": sorted(required),
    }


def _rows(row: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": row}


_STEP: Final = _object(
    "One step. It begins at start_ms at the earliest and when every step named in after has ended.",
    {
        "id": _TEXT,
        "kind": _TEXT,
        "target": _TEXT,
        "after": _NAMES,
        "start_ms": _COUNT,
        "duration_ms": _COUNT,
        "uses": {"type": "object", "additionalProperties": _COUNT, "description": "limit -> units held"},
    },
    count=_COUNT,
    wave=_COUNT,
    milestone=_TEXT,
    pool=_TEXT,
    candidate=_TEXT,
    rung=_TEXT,
    manual={"type": "boolean"},
    tools=_NAMES,
    precheck=_TEXT,
    gate=_TEXT,
    undo=_TEXT,
    deadline_ms=_COUNT,
)

_SERVICE: Final = _object(
    "What happens to an affected service. restored_ms counts from the release of the plan, recovery_ms "
    "from the loss, detection and approval included; null: not within the horizon.",
    {
        "service": _TEXT,
        "restored_ms": _COUNT_OR_NULL,
        "recovery_ms": _COUNT_OR_NULL,
        "rto_ms": _COUNT_OR_NULL,
        "base_outage_ms": _COUNT,
        "top_outage_ms": _COUNT,
        "tier": _COUNT,
        "people": _COUNT,
        "state": {"enum": ["restored", "degraded", "shed", "unplaced", "unknown", "running"]},
    },
    reason=_TEXT,
    congested={"type": "boolean"},
    why=_object(
        "The reason as data: its kind, and the services, store and site that it is about.",
        {"kind": _TEXT},
        services=_NAMES,
        more=_COUNT,
        store=_TEXT,
        site=_TEXT,
        backup={"type": "boolean"},
        resource=_TEXT,
        missing=_COUNT,
    ),
)

PLAN_SCHEMA: Final[dict[str, Any]] = {
    "$schema": _DIALECT,
    "title": "evac plan",
    **_object(
        "A plan. Amounts of outage are integers in tier-weighted user-milliseconds, written in full. If "
        "proof is partial, they count what is unknown with its most favourable value: a service with "
        "the state unknown may add to them. `worst` says what they are with the least favourable one.",
        {
            "kind": {"const": "evac-plan"},
            "schema_version": {"const": 1},
            "estate_digest": _TEXT,
            "lost": _NAMES,
            "question": {"enum": ["lose", "evacuate", "restore", "failback"]},
            "placements": _rows(
                _object("Replicas started.", {"service": _TEXT, "server": _TEXT, "count": _COUNT})
            ),
            "steps": _rows(_STEP),
            "shed": _rows(_object("Replicas shed.", {"service": _TEXT, "replicas": _COUNT})),
            "unplaced": _rows(_object("Never back.", {"service": _TEXT, "reason": _TEXT})),
            "services": _rows(_SERVICE),
            "objective": _COUNT,
            "bound": _COUNT,
            "unweighted": _COUNT,
            "certificate": {"type": "object"},
            "proof": {"enum": ["full", "partial"]},
        },
        worst=_object(
            "The outage if all that is unknown turns out worst, in user-milliseconds; left out if it depends "
            "on nothing unknown.",
            {"objective": _COUNT, "unweighted": _COUNT, "unweighted_before": _COUNT},
        ),
        congestion=_rows(
            _object(
                "A link or ingress that carries too little for what a loss brings, or may.",
                {
                    "at": {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1},
                        "minItems": 1,
                        "maxItems": 2,
                    },
                    "measure": {"enum": ["bandwidth", "connections"]},
                    "arriving": _COUNT,
                    "limit": _COUNT_OR_NULL,
                    "services": _NAMES,
                },
                unstated=_COUNT,
                at_most={"type": "boolean"},
            )
        ),
    ),
}

_FATE: Final = _object(
    "A service that a loss affects or may affect.",
    {
        "service": _TEXT,
        "fate": {"enum": ["degraded", "recovers", "lost", "unknown", "shed", "not proved"]},
        "recovery_ms": _COUNT_OR_NULL,
        "method": _TEXT,
    },
)

_FINDING: Final = _object(
    "One finding; scenario is the worst loss it holds for, path the fact to change.",
    {
        "rule": _TEXT,
        "severity": {"enum": ["error", "warning", "note"]},
        "scenario": _TEXT,
        "subject": _TEXT,
        "message": _TEXT,
        "fix": _TEXT,
        "path": _TEXT,
        "fingerprint": _TEXT,
        "domains": _NAMES,
    },
)

AUDIT_SCHEMA: Final[dict[str, Any]] = {
    "$schema": _DIALECT,
    "title": "evac audit",
    **_object(
        "An audit: every loss with what it does, and every finding with its fix.",
        {
            "kind": {"const": "evac-audit"},
            "schema_version": {"const": 1},
            "scenarios": _rows(
                _object(
                    "One loss.",
                    {
                        "lost": _NAMES,
                        "verdict": {"enum": ["ok", "degraded", "loss", "unknown"]},
                        "services": _rows(_FATE),
                    },
                )
            ),
            "findings": _rows(_FINDING),
        },
    ),
}


SCHEMA_VERSION: Final = 1


def document(kind: str, body: Mapping[str, Any]) -> str:
    """A JSON document of a kind, indented, byte-stable."""
    whole = {"kind": kind, "schema_version": SCHEMA_VERSION, **body}
    return json.dumps(plain(whole), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Values as JSON has them; big integers stay integers, dates become ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    return value.isoformat() if isinstance(value, date) else value


def alert_rows(alerts: Sequence[Alert]) -> list[dict[str, Any]]:
    """Alerts with their place spelled out."""
    return [
        {
            "rule": a.rule,
            "severity": a.severity,
            "subject": a.subject,
            "message": a.message,
            "fix": a.fix,
            "file": a.place.file,
            "line": a.place.line,
            "column": a.place.column,
            "fingerprint": a.fingerprint,
            "domains": list(a.domains),
        }
        for a in alerts
    ]


def check_json(
    estate: str,
    alerts: Sequence[Alert],
    coverage: Coverage | None,
) -> str:
    """The result of `evac check`. coverage: None if the estate cannot be used."""
    body = {"estate": estate, "counts": counts(alerts), "diagnostics": alert_rows(alerts)}
    known = {
        "coverage_permille": coverage.score_permille if coverage else None,
        "missing": plain(coverage.missing) if coverage else [],
        "missing_left_out": coverage.left_out if coverage else 0,
    }
    return document("evac-check", body | known)


def verify_json(plan_digest: str, verdict: Verdict) -> str:
    """The result of `evac verify`."""
    body = {"plan_digest": plan_digest, "holds": verdict.holds, "violations": verdict.violations}
    return document(
        "evac-verdict",
        body | {"objective": verdict.objective, "bound": verdict.bound, "steps": verdict.steps},
    )


def simulate_json(plan_digest: str, found: Simulation) -> str:
    """The result of `evac simulate`."""
    return document(
        "evac-simulation", {"plan_digest": plan_digest, "percentiles": PERCENTILES, "result": found}
    )
