"""Intervals as they were read, by path, to the places in the Estate that hold their worse ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evac.estate.format.kinds import Field, Mapped, Record, Records
from evac.estate.format.reading import Ends
from evac.estate.format.spec import HEAD, SECTIONS, Section
from evac.model.estate import Interval

Where = tuple[str | int, ...]


def intervals_of(read: Mapping[str, Ends]) -> tuple[Interval, ...]:
    """Sorted by path. Every path was read by the table of the format, so it leads somewhere."""
    found = []
    for path, (worse, better) in sorted(read.items()):
        where = _where(path.split("/"))
        assert where is not None, path
        found.append(Interval(path, where, worse, better))
    return tuple(found)


def _where(parts: list[str]) -> Where | None:
    for spec in HEAD:
        if parts == [spec.key]:
            return (spec.attr,)
    section = next(s for s in SECTIONS if s.key == parts[0])
    inner = _in_section(section, parts[1:])
    return None if inner is None else (section.attr, *inner)


def _in_section(section: Section, parts: list[str]) -> Where | None:
    """Ids may be paths themselves, so the longest id behind which the keys make sense is the one."""
    if section.style == "mapping":
        return _in_record(section.record, parts)
    for cut in range(len(parts) - 1, 0, -1):
        inner = _in_record(section.record, parts[cut:])
        if inner is not None:
            name = "/".join(parts[:cut])
            return (int(name) if section.style == "list" else name, *inner)
    return None


def _in_record(record: Record, parts: list[str]) -> Where | None:
    spec = record.by_key.get(parts[0]) if parts else None
    if spec is None:
        return None
    inner = _in_kind(spec.kind, parts[1:])
    return None if inner is None else (*_step(spec), *inner)


def _step(spec: Field) -> Where:
    attribute: Where = (spec.attr,) if spec.attr else ()
    return attribute if spec.slot is None else (*attribute, spec.slot)


def _in_kind(kind: Any, parts: list[str]) -> Where | None:
    if isinstance(kind, Record):
        return _in_record(kind, parts)
    if isinstance(kind, Records):
        inner = _in_record(kind.item, parts[1:])
        return None if inner is None else (int(parts[0]), *inner)
    if isinstance(kind, Mapped):
        return tuple(parts) if len(parts) == 1 else None
    return None if parts else ()
