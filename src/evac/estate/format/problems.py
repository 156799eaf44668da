"""The problems of one reading: collected without end in sight, kept within bounds.

Owns how a problem becomes a Diagnostic and how a near name is found; knows no file format.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection
from typing import Final

from evac.estate.format.codes import CODES
from evac.model.diagnostic import Diagnostic, Place, Severity

KEPT_MAX: Final = 200
"""Diagnostics kept of one code; the rest is counted only, so that no flood hides another problem."""

_COMPARISONS_MAX: Final = 100_000
"""Names compared for suggestions in one reading: about a second."""

_CANDIDATES_MAX: Final = 400
"""Names that are really compared; of more, those that begin and end most alike."""

_GLANCES: Final = 4
"""So many names are looked at from both ends in the time of one comparison."""

_NAME_SHOWN: Final = 80


class Problems:
    """Collects diagnostics; never more than KEPT_MAX of a code, never the same one twice."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Place, str], Diagnostic] = {}
        self._by_code: Counter[str] = Counter()
        self._more: Counter[str] = Counter()
        self._comparisons = 0
        self._last_place = Place("")

    def add(
        self, code: str, message: str, place: Place, hint: str = "", severity: Severity | None = None
    ) -> None:
        """Record a problem. The severity is that of its code unless said otherwise."""
        key = (code, place, message)
        if key in self._kept:
            return
        if self._by_code[code] >= KEPT_MAX:
            self._more[code] += 1
            self._last_place = place
            return
        level = severity or CODES[code].severity
        self._by_code[code] += 1
        self._kept[key] = Diagnostic(code, message, place, level, hint)

    def suggest(self, name: str, known: Collection[str]) -> str:
        """`did you mean 'x'?` for the nearest known name, else an empty text; bounded work."""
        if self._comparisons >= _COMPARISONS_MAX or len(name) > _NAME_SHOWN:
            return ""
        slack = max(2, len(name) // 2)
        near_enough = [k for k in known if abs(len(k) - len(name)) <= slack]
        if len(near_enough) > _CANDIDATES_MAX:
            self._comparisons += len(near_enough) // _GLANCES
            near_enough.sort(key=lambda k: -_ends_alike(k, name))
        candidates = near_enough[:_CANDIDATES_MAX]
        self._comparisons += 1 + len(candidates)
        folded = {candidate.lower(): candidate for candidate in candidates}
        near = difflib.get_close_matches(name.lower(), folded, 1, 0.6)
        return f"did you mean '{folded[near[0]]}'?" if near else ""

    @property
    def has_errors(self) -> bool:
        return any(d.severity == "error" for d in self._kept.values())

    @property
    def count(self) -> int:
        return len(self._kept) + self._more.total()

    def all(self) -> tuple[Diagnostic, ...]:
        """Everything found, in the order of the files."""
        found = sorted(self._kept.values(), key=lambda d: d.sort_key)
        if self._more:
            parts = ", ".join(f"{count:,} {code}" for code, count in sorted(self._more.items()))
            message = f"and more that are not listed: {parts}"
            found.append(Diagnostic("more-problems", message, self._last_place, "note", "mend these first"))
        return tuple(found)


def _ends_alike(one: str, other: str) -> int:
    """Letters that two names share at their beginnings and at their ends."""
    head = tail = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        head += 1
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        tail += 1
    return head + tail


def shown(name: str) -> str:
    """A name of a file in bounds fit for a message: one line, quoted."""
    text = name if len(name) <= _NAME_SHOWN else name[: _NAME_SHOWN - 3] + "..."
    return "'" + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) + "'"
