"""How long a restore takes: what was measured, and what follows for a backup that has grown since.

A restore is the start of its tool and its engine, which takes the same time whatever the size, and then bytes
at a rate. Restores of different sizes tell the two apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import fsum
from typing import Final

from evac.model.backup import RESTORED, BackupFacts, MeasuredRestore, ProofRecord
from evac.model.records import dataclass

SPREAD: Final = 2
"""Sizes tell the start from the rate if the largest is at least this many times the smallest."""
REACH: Final = 4
"""Up to this many times the largest measured size, the measured rate counts; beyond it, the time grows in
proportion.
"""


@dataclass(frozen=True, slots=True)
class _Line:
    """Start and rate, fitted to measured restores. most_bytes: how far they reach."""

    start_ms: float
    ms_per_byte: float
    most_bytes: float

    def at(self, size: int) -> float:
        within = min(float(size), self.most_bytes)
        return (self.start_ms + self.ms_per_byte * within) * (size / within)


def measured_restores(facts: BackupFacts) -> tuple[tuple[str, str, int], ...]:
    """(data set, backup, milliseconds), sorted: how long a restore takes now, from the last measured one on.
    If the backup has grown since, it takes longer as larger restores of it did, or of other backups by
    the same tool; in proportion if none of another size was measured. Never less than measured. A backup
    of unknown size is as large as the largest that was restored of it.

    Damaged backups are left out. Rounded up to two digits, so that a plan does not go stale because one test
    took slightly longer than the one before.
    """
    sizes = {(one.data_set, one.copy): one.bytes for one in facts.copies}
    mine: dict[tuple[str, str], list[MeasuredRestore]] = {}
    by_tool: dict[str, list[MeasuredRestore]] = {}
    for one in _measured(facts):
        mine.setdefault((one.data_set, one.copy), []).append(one)
        by_tool.setdefault(one.tool, []).append(one)
    own = {name: _line(of_it) for name, of_it in mine.items()}
    of_tool = {tool: _line_of_tool(found, own) for tool, found in by_tool.items()}
    found = []
    for name, of_it in sorted(mine.items()):
        last = of_it[-1]
        now_bytes = max(sizes.get(name) or max(one.bytes for one in of_it), last.bytes)
        line = own[name] or of_tool[last.tool]
        found.append((*name, _two_digits(_grown(last, now_bytes, line))))
    return tuple(found)


def _line_of_tool(
    measured: Sequence[MeasuredRestore], own: Mapping[tuple[str, str], _Line | None]
) -> _Line | None:
    """That of its backups on which a restore grows most, because places are not equally fast; if none was
    measured at different sizes, the line of all together.
    """
    names = dict.fromkeys((one.data_set, one.copy) for one in measured)
    lines = [line for name in names if (line := own[name]) is not None]
    if not lines:
        return _line(measured)
    steepest = min(lines, key=lambda line: line.start_ms / line.ms_per_byte)
    return replace(steepest, most_bytes=min(line.most_bytes for line in lines))


def measured_of(proof: ProofRecord) -> MeasuredRestore | None:
    """What a restore test measured; None if it did not come to an end, or measured nothing."""
    ended = proof.level >= RESTORED and proof.outcome in ("passed", "too-slow", "too-old")
    if not ended or not proof.bytes_read or proof.took_ms <= 0:
        return None
    facts = (proof.tool, proof.bytes_read, proof.took_ms, proof.at_ms)
    return MeasuredRestore(proof.data_set, proof.copy, *facts)


def newest_of_each_size(measured: Iterable[MeasuredRestore]) -> tuple[MeasuredRestore, ...]:
    """Of each backup, the newest restore of each order of size (as many binary digits), oldest first."""
    found: dict[tuple[str, str, int], MeasuredRestore] = {}
    for one in measured:
        key = one.data_set, one.copy, one.bytes.bit_length()
        found[key] = max(found.get(key, one), one, key=lambda one: (one.at_ms, one.took_ms, one.bytes))
    return tuple(sorted(found.values(), key=lambda one: (one.at_ms, one.data_set, one.copy, one.bytes)))


def _measured(facts: BackupFacts) -> list[MeasuredRestore]:
    """Older versions of evac kept only proofs."""
    proven = (one for one in map(measured_of, facts.proofs) if one is not None)
    return list(newest_of_each_size((*proven, *facts.measured)))


def _grown(last: MeasuredRestore, now_bytes: int, line: _Line | None) -> int:
    """Its last measured time, and what it has grown since."""
    if line is None or now_bytes == last.bytes:
        return -(-last.took_ms * now_bytes // last.bytes)
    return int(last.took_ms * line.at(now_bytes) / line.at(last.bytes)) + 1


def _line(found: Sequence[MeasuredRestore]) -> _Line | None:
    """The line whose relative errors have the least sum of squares; None if the sizes are too similar, or if
    larger restores were not slower: then nothing is known of the rate.
    """
    most, least = max(one.bytes for one in found), min(one.bytes for one in found)
    if most < SPREAD * least:
        return None
    ones = [1 / one.took_ms for one in found]
    sizes = [one.bytes / one.took_ms for one in found]
    start, rate = _least_squares(ones, sizes)
    if start < 0:
        start, rate = 0.0, fsum(sizes) / _product(sizes, sizes)
    return _Line(start, rate, REACH * most) if rate > 0 else None


def _least_squares(ones: Sequence[float], sizes: Sequence[float]) -> tuple[float, float]:
    """x and y for which each x * one + y * size is as close to 1 as it can be."""
    both = _product(ones, sizes)
    scale = _product(ones, ones) * _product(sizes, sizes) - both * both
    if scale <= 0:
        return 0.0, 0.0
    x = (fsum(ones) * _product(sizes, sizes) - fsum(sizes) * both) / scale
    y = (fsum(sizes) * _product(ones, ones) - fsum(ones) * both) / scale
    return x, y


def _product(one: Iterable[float], other: Iterable[float]) -> float:
    return fsum(a * b for a, b in zip(one, other, strict=True))


def _two_digits(value_ms: int) -> int:
    step: int = 10 ** max(0, len(str(value_ms)) - 2)
    return -(-value_ms // step) * step
