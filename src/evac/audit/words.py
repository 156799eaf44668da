"""How amounts, times and lists read in messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from evac.audit.impacts.stores import NEVER

_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
_RESOURCE_UNITS: Final = {"cpu": "mCPU", "memory": "MiB", "disk": "GiB", "accelerators": "accelerators"}
_LARGER: Final = {"cpu": (1_000, "cores"), "memory": (1_024, "GiB"), "disk": (1_024, "TiB")}


def duration(ms: int) -> str:
    """A time in its two largest units: `2 h 5 min`; `never` for one that does not end."""
    if ms >= NEVER:
        return "never"
    parts: list[str] = []
    rest = ms
    for size, name in _UNITS:
        if rest >= size and len(parts) < 2:
            parts.append(f"{rest // size} {name}")
            rest %= size
    return " ".join(parts) or f"{ms} ms"


def amount(resource: str, value: int) -> str:
    """A capacity in the larger unit once it is large: `227,341 cores`."""
    return " ".join(measured(resource, value))


def measured(resource: str, value: int) -> tuple[str, str]:
    """The number and the unit of a capacity, in the larger unit once it is large."""
    size, unit = _LARGER.get(resource, (1, ""))
    if unit and value >= 10 * size:
        return f"{-(-value // size):,}", unit
    return f"{value:,}", _RESOURCE_UNITS.get(resource, resource)


def bandwidth(mbps: int) -> str:
    """`20 Gbit/s` or `150 Mbit/s`."""
    return f"{mbps / 1_000:,.1f} Gbit/s" if mbps >= 10_000 else f"{mbps:,} Mbit/s"


def listed(names: Sequence[str], most: int = 3, count: int | None = None) -> str:
    """`a, b, c and 5 more`; count: how many there are, if only the first are given."""
    shown = ", ".join(names[:most])
    rest = (len(names) if count is None else count) - most
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 service`, `12 services`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def is_or_are(count: int) -> str:
    return "is" if count == 1 else "are"
