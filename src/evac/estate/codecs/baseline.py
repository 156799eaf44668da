"""The baseline a company began with, as a file: only findings that are new against it fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from evac.audit.baseline import Baseline
from evac.model.canonical import canonical_json
from evac.model.diagnostic import SEVERITIES
from evac.model.errors import EvacError

BASELINE_VERSION: Final = 1
BASELINE_BYTES_MAX: Final = 64 * 2**20


def encode_baseline(baseline: Baseline) -> bytes:
    """Canonical JSON, one line."""
    known = [list(row) for row in baseline.known]
    body = {"kind": "evac-baseline", "schema_version": BASELINE_VERSION, "known": known}
    return canonical_json(body) + b"\n"


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file. Raises EvacError `baseline-invalid` where it is none."""
    try:
        if path.stat().st_size > BASELINE_BYTES_MAX:
            raise ValueError("too large")
        document = json.loads(path.read_bytes())
        if document.get("kind") != "evac-baseline" or document.get("schema_version") != BASELINE_VERSION:
            raise ValueError("not written by evac audit --write-baseline")
        known = tuple(
            (_fingerprint(row[0]), SEVERITIES[SEVERITIES.index(row[1])]) for row in document["known"]
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        hint = "write one: evac audit ESTATE --write-baseline FILE"
        why = error.strerror if isinstance(error, OSError) else str(error)[:200]
        raise EvacError("baseline-invalid", f"{path} is no baseline: {why}", hint) from error
    return Baseline(known)


def _fingerprint(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError("a fingerprint is not text")
    return value
