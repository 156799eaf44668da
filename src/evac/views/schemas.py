"""JSON Schemas (2020-12) of what evac writes for machines: plan files and audit documents.

What is listed stays; new members may be added within a schema_version, so readers ignore strangers.
"""

from __future__ import annotations

from typing import Any, Final

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
)

_PLACEMENT: Final = _object("Replicas started.", {"service": _TEXT, "server": _TEXT, "count": _COUNT})

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
        "fate": {"enum": ["degraded", "recovers", "lost", "unknown"]},
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
