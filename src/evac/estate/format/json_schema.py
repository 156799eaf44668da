"""The JSON Schema of an estate file, made from the table of the format.

For editors and for people who write estates with programs; the reader does not use it.
"""

from __future__ import annotations

from typing import Any

from evac.estate.format.kinds import ID_MAX, record_schema, with_fact
from evac.estate.format.spec import FACT, FORMAT_VERSION, HEAD, SECTIONS, TOOLS, Section

SCHEMA_ID = "urn:evac:estate:1"


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one YAML file of an estate."""
    properties: dict[str, Any] = {
        "evac": {
            "description": "version of the format",
            "anyOf": [{"const": FORMAT_VERSION}, {"const": str(FORMAT_VERSION)}],
        }
    }
    for spec in HEAD:
        properties[spec.key] = {"description": spec.doc, **with_fact(spec.kind)}
    for section in SECTIONS:
        properties[section.key] = {"description": section.doc, **_or_empty(_section(section))}
    properties["tools"] = {
        "description": "services that recovery itself needs, by role",
        **_or_empty(TOOLS.schema()),
    }
    properties["facts"] = {
        "description": "where values are from, by path such as services/pay/rto",
        **_or_empty({"type": "object", "additionalProperties": record_schema(FACT.fields)}),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "evac estate",
        "description": "What a company runs, where, on what, and what needs what.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {"fact": _fact()},
    }


def _or_empty(inner: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [inner, {"type": "null"}]}


def _section(section: Section) -> dict[str, Any]:
    entry = record_schema(section.fields)
    if section.style == "mapping":
        return entry
    if section.style == "list":
        return {"type": "array", "items": entry}
    keys = {"maxLength": ID_MAX, "pattern": "/" if section.path_id else "^[^/]"}
    empty = {"anyOf": [entry, {"type": "null"}]} if "required" not in entry else entry
    return {"type": "object", "propertyNames": keys, "additionalProperties": empty}


def _fact() -> dict[str, Any]:
    """A value with its provenance beside it; where it stands says what the value may be."""
    described = {f.key: {"description": f.doc, **f.kind.schema()} for f in FACT.fields}
    return {
        "type": "object",
        "properties": {"value": {}, **described},
        "additionalProperties": False,
        "required": ["value"],
    }
