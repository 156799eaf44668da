"""Plans as canonical JSON (RFC 8785, integers only), and back.

Integers beyond 2**53 are written as decimal strings, so that every JSON reader keeps them exact.
Fields of a step that hold their default are left out. Reading is bounded in size and depth.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as _checked

from evac.model.canonical import canonical_json
from evac.model.errors import PlanError
from evac.model.plan import Plan
from evac.model.units import QUANTITY_LIMIT

SCHEMA_VERSION: Final = 1
SIZE_LIMIT_BYTES: Final = 512 * 2**20
DEPTH_LIMIT: Final = 12
_SHOWN: Final = 20


def encode(plan: Plan) -> bytes:
    """Canonical bytes of a plan, with a final newline. Same plan, same bytes."""
    return (
        canonical_json({"kind": "evac-plan", "schema_version": SCHEMA_VERSION, "plan": _plain(plan)}) + b"\n"
    )


def plan_digest(data: bytes) -> str:
    """The digest a plan is approved and named by: over its canonical bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def decode(data: bytes, name: str = "plan") -> Plan:
    """The plan in `data`. Raises PlanError with every problem named, at most twenty."""
    document = _document(data, name)
    if document.get("kind") != "evac-plan":
        raise PlanError(
            "plan-format", f"{name} is no evac plan", "make one: evac plan ESTATE --lose SITE -o PLAN"
        )
    if document.get("schema_version") != SCHEMA_VERSION:
        version = str(document.get("schema_version"))[:40]
        raise PlanError(
            "plan-version", f"{name} has schema version {version}; this evac reads {SCHEMA_VERSION}"
        )
    try:
        return _adapter().validate_python(document.get("plan"))
    except ValidationError as error:
        raise PlanError("plan-invalid", _problems(name, error), "make it anew: evac plan") from error


def read(path: Path) -> tuple[Plan, str]:
    """The plan in a file and its digest. Raises PlanError where it cannot be read."""
    try:
        if not path.is_file():
            raise PlanError(
                "plan-missing", f"{path} is not a file", "make one: evac plan ESTATE --lose SITE -o PLAN"
            )
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise PlanError("plan-too-large", f"{path} is larger than {SIZE_LIMIT_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise PlanError("plan-unreadable", f"{path}: {error.strerror}") from error
    return decode(data, str(path)), plan_digest(data)


def _document(data: bytes, name: str) -> dict[str, Any]:
    try:
        if _depth(data) > DEPTH_LIMIT:
            raise PlanError("plan-too-deep", f"{name} is nested deeper than {DEPTH_LIMIT} levels")
        document = json.loads(data.decode(), parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError) as error:
        raise PlanError("plan-format", f"{name} is not JSON: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise PlanError("plan-format", f"{name} is no evac plan")
    return document


def _no_float(text: str) -> Any:
    raise ValueError(f"number {text[:40]} is not an integer")


def _depth(data: bytes) -> int:
    """An upper bound of the nesting, found without parsing; brackets in strings only raise it."""
    depth = deepest = 0
    for byte in data.translate(None, delete=bytes(set(range(256)) - set(b"[]{}"))):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _problems(name: str, error: ValidationError) -> str:
    rows = [
        f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors(include_input=False)
    ]
    more = f"; and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"{name} is not a valid plan: " + "; ".join(rows[:_SHOWN]) + more


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Plan]:
    """Strangers among the keys are refused: a plan says nothing that evac does not read."""
    return TypeAdapter(_checked(Plan, frozen=True, config=ConfigDict(extra="forbid")))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if not _is_default(f, value)}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > QUANTITY_LIMIT:
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.isoformat() if isinstance(value, date) else value


def _is_default(f: Any, value: Any) -> bool:
    if f.default_factory is not MISSING:
        return not getattr(value, f.name)
    return f.default is not MISSING and getattr(value, f.name) == f.default
