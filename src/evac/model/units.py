"""Base units, their names, and the one place where a quantity is rounded.

Durations are integer milliseconds in files and in the estate; the planner counts in ticks.
A duration or a demand is rounded up and a capacity down, once, so that planner, bound and
checker see the same integers.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

RESOURCES: Final = ("cpu_millicores", "memory_mib", "disk_gib", "accelerators")
"""Columns of every demand and capacity vector, in this order."""

RESOURCE_WORDS: Final = ("cpu", "memory", "disk", "accelerators")
RESOURCE_COUNT: Final = len(RESOURCES)

_RESOURCE_UNITS: Final = {"cpu": "mCPU", "memory": "MiB", "disk": "GiB", "accelerators": "accelerators"}
_LARGER: Final = {"cpu": (1_000, "cores"), "memory": (1_024, "GiB"), "disk": (1_024, "TiB")}

TICK_MS: Final = 1_000
"""Default length of a planner tick in milliseconds."""

QUANTITY_LIMIT: Final = 2**53
"""Largest quantity any file may state, in base units: exact in JSON numbers of every language."""

UNLIMITED: Final = QUANTITY_LIMIT - 1
"""A capacity for which a file says `unlimited`: it limits nothing. One that is not stated is unknown."""

UNBOUNDED: Final = 2**40
"""Stands for 'no spread cap' and 'unlimited capacity' where an integer column needs a value."""


def ticks_up(duration_ms: int, tick_ms: int) -> int:
    """Duration in whole ticks, rounded up."""
    return -(-duration_ms // tick_ms)


def ceil_share(numerator: int, denominator: int, count: int) -> int:
    """Smallest whole number of replicas that is at least the share of `count`; at least 1."""
    return max(1, -(-numerator * count // denominator))


def floor_share(numerator: int, denominator: int, count: int) -> int:
    """Most replicas a spread share of `count` allows; at least 1."""
    return max(1, numerator * count // denominator)


def moment_words(moment_s: int) -> str:
    """`2026-11-25 02:55:00 UTC`."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def amount(resource: str, value: int) -> str:
    """A capacity in the larger unit once it is large: `227,341 cores`."""
    return " ".join(measured(resource, value))


def measured(resource: str, value: int) -> tuple[str, str]:
    """The number and the unit of a capacity, in the larger unit once it is large."""
    size, unit = _LARGER.get(resource, (1, ""))
    if unit and (value >= 10 * size or value % size == 0):
        return f"{-(-value // size):,}", unit.removesuffix("s") if value == size else unit
    return f"{value:,}", _RESOURCE_UNITS.get(resource, resource)


def traffic(measure: str, value: int) -> str:
    """`20.0 Gbit/s`, `150 Mbit/s` or, of connections, `1,200 connections`."""
    if measure == "connections":
        return f"{value:,} {'connection' if value == 1 else 'connections'}"
    return f"{value / 1_000:,.1f} Gbit/s" if value >= 10_000 else f"{value:,} Mbit/s"
