"""JSON for scripts, and its JSON Schemas (2020-12): every document says its kind and schema_version; keys
are sorted.

What is listed in a schema stays; new members may be added within a schema_version, so readers ignore what
they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from evac.planning.simulation.simulate import PERCENTILES, Simulation
from evac.views.problems import Alert, counts

if TYPE_CHECKING:  # the checker takes a third of a second to load
    from evac.verify import Verdict

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Final = {"type": ["integer", "null"], "minimum": 0}
_NAMES: Final = {"type": "array", "items": _TEXT}


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
    "What becomes of an affected service. restored_ms counts from the release of the plan, recovery_ms "
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
    why=_object(
        "The reason as data: its kind, and the services, store and site that it is about.",
        {"kind": _TEXT},
        services=_NAMES,
        more=_COUNT,
        store=_TEXT,
        site=_TEXT,
        backup={"type": "boolean"},
    ),
)

PLAN_SCHEMA: Final[dict[str, Any]] = {
    "$schema": _DIALECT,
    "title": "evac plan",
    **_object(
        "A plan. Amounts of outage are integers in tier-weighted user-milliseconds, written in full.",
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
            "certificate": {"type": "object"},
            "proof": {"enum": ["full", "partial"]},
        },
    ),
}

_FATE: Final = _object(
    "A service that is not unaffected by a loss.",
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
