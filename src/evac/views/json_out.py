"""JSON for scripts: every document says its kind and schema_version; keys are sorted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date
from fractions import Fraction
from typing import Any, Final

from evac.planning.simulation.simulate import PERCENTILES, Simulation
from evac.verify import Verdict
from evac.views.alerts import Alert, counts

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
    score_permille: int | None,
    missing: Sequence[tuple[str, str, str, int]],
) -> str:
    """The answer of `evac check`."""
    rows = [{"path": p, "what": w, "why": y, "count": n} for p, w, y, n in missing]
    body = {"estate": estate, "counts": counts(alerts), "diagnostics": alert_rows(alerts)}
    return document("evac-check", body | {"coverage_permille": score_permille, "missing": rows})


def verify_json(plan_digest: str, verdict: Verdict) -> str:
    """The answer of `evac verify`."""
    body = {"plan_digest": plan_digest, "holds": verdict.holds, "violations": verdict.violations}
    return document(
        "evac-verdict",
        body | {"objective": verdict.objective, "bound": verdict.bound, "steps": verdict.steps},
    )


def simulate_json(plan_digest: str, found: Simulation) -> str:
    """The answer of `evac simulate`."""
    return document(
        "evac-simulation", {"plan_digest": plan_digest, "percentiles": PERCENTILES, "result": found}
    )
