"""Where each value is from, how old it is, and whether it may still be relied on.

Owns shelf lives: what has expired on the day of the estate is unknown to everybody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

from evac.estate.format.problems import Problems, shown
from evac.model.diagnostic import Place
from evac.model.estate import Fact

TABLE_COLUMNS = {
    "servers": (
        "cpu_millicores",
        "memory_mib",
        "disk_gib",
        "accelerators",
        "watts",
        "bmc",
        "bmc_address",
        "serial",
        "position",
    ),
    "replicas": (),
    "racks": ("power_budget_watts",),
}
"""Paths of facts in tables: the table as a whole, and its columns that may be unknown."""


class FactBook:
    """Facts by path. `as_of` None: nothing expires."""

    def __init__(self, as_of: date | None, problems: Problems) -> None:
        self.as_of = as_of
        self._problems = problems
        self._facts: dict[str, tuple[Fact, Place]] = {}
        self._expired: set[str] = set()

    def record(self, path: str, values: dict[str, Any], place: Place) -> None:
        """Take down the provenance of the value at `path`."""
        if path in self._facts:
            first = self._facts[path][1]
            message = f"the provenance of {shown(path)} is stated twice, first at {first}"
            self._problems.add("fact-twice", message, place, "keep one of the two")
            return
        observed, days = values.get("observed"), values.get("good_for_days")
        if days is not None and observed is None:
            message = f"{shown(path)} has a shelf life but no date"
            self._problems.add("fact-without-date", message, place, "add observed: YYYY-MM-DD")
        expired = self._is_past(observed, days)
        self._facts[path] = (Fact(path, values.get("source"), observed, days, expired), place)
        if expired:
            self._expired.add(path)
            message = (
                f"{shown(path)} was observed on {observed} and good for {days} days: it counts as unknown"
            )
            self._problems.add("fact-expired", message, place, "look again and write the new date")

    def _is_past(self, observed: date | None, days: int | None) -> bool:
        if self.as_of is None or observed is None or days is None:
            return False
        try:
            return self.as_of > observed + timedelta(days=days)
        except OverflowError:
            return False

    def is_expired(self, path: str) -> bool:
        """Whether this very path is past its shelf life."""
        return path in self._expired

    @property
    def any_expired(self) -> bool:
        return bool(self._expired)

    def all(self) -> tuple[Fact, ...]:
        return tuple(self._facts[path][0] for path in sorted(self._facts))

    def check_paths(self, known: Iterable[str], stated: set[str]) -> None:
        """Warn of provenance for values that nobody stated, and say so if nothing can expire."""
        paths = {
            *known,
            *TABLE_COLUMNS,
            *(f"{t}/{c}" for t, columns in TABLE_COLUMNS.items() for c in columns),
        }
        for path in sorted(stated - paths):
            hint = (
                self._problems.suggest(path, paths) or "the path is SECTION/ID/KEY, such as services/pay/rto"
            )
            message = f"no value is stated at {shown(path)}"
            self._problems.add("fact-unknown", message, self._facts[path][1], hint)
        dated = next((place for fact, place in self._facts.values() if fact.good_for_days is not None), None)
        if self.as_of is None and dated is not None:
            message = "shelf lives are stated, but no day to judge them by: nothing counts as expired"
            self._problems.add("facts-never-expire", message, dated, "add as_of: YYYY-MM-DD, or give --as-of")
