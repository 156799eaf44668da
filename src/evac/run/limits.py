"""Limits of a run: slots held and units begun in a window, rebuilt from events after a crash. Pure.

What is held follows from the journal: `take` when it has a start, `give_back` when it has the result. A
promise covers the time between, so that a decision cannot assign the same capacity twice. Invariant: no
decision makes held + promised exceed a limit's capacity. If a person lowers a limit below what is held,
nothing new begins until there is capacity. People state a limit as `90%` of the estate's value, `450 kW`, or
`200`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from difflib import get_close_matches
from heapq import heappop, heappush
from typing import Final, NamedTuple

from evac.model.errors import RunError
from evac.model.records import dataclass
from evac.model.step_id import LimitId
from evac.run.values import KEPT, RunLimit, RunStep

Uses = tuple[tuple[int, int, int], ...]
"""(number of the limit, units, hold_ms); hold 0: until the step has a result; KEPT: beyond it."""


class Parts(NamedTuple):
    """Uses of a step that keeps something: the kept part, the rest, and what it needs to start again while
    keeping: no additional units, but nothing begins under an overdrawn limit.
    """

    kept: Uses
    rest: Uses
    again: Uses


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit that a person changed during the run, in watts or units."""

    limit: str
    now: int
    """What may be held."""
    whole: int
    """As declared in the estate."""
    held: int
    """Whoever holds it."""


def parted(uses: Uses) -> Parts:
    kept = tuple(use for use in uses if use[2] == KEPT)
    rest = tuple(use for use in uses if use[2] != KEPT)
    return Parts(kept, rest, (*rest, *((number, 0, KEPT) for number, _, _ in kept)))


class Limits:
    """All limits of one run. Timed holds end by the clock, kept ones when released, others with the step's
    result.

    A new leader has another clock: `restart` continues every hold as if no time had passed between the old
    leader's last event and its own first, so that no clock difference can shorten a window.
    """

    __slots__ = (
        "_apart",
        "_inrush",
        "_numbers",
        "_promised",
        "_timed",
        "_used",
        "capacity",
        "freed",
        "limits",
    )

    def __init__(self, limits: Iterable[RunLimit]) -> None:
        self.limits = tuple(limits)
        self._numbers = {limit.id: number for number, limit in enumerate(self.limits)}
        self.capacity = [limit.capacity for limit in self.limits]
        self._used = [0] * len(self.limits)
        self._promised = [0] * len(self.limits)
        self._timed: list[tuple[int, int, int]] = []
        self._apart: dict[str, int] = {}
        self._inrush = frozenset(n for n, one in enumerate(self.limits) if LimitId.parse(one.id).is_inrush)
        self.freed: set[int] = set()
        """Limits that gained capacity since the last check."""

    def fork(self) -> Limits:
        """An independent copy with the same holds; promises are dropped."""
        other = copy(self)
        other.capacity, other._used = self.capacity.copy(), self._used.copy()
        other._timed, other._apart = self._timed.copy(), self._apart.copy()
        other._promised, other.freed = [0] * len(self.limits), self.freed.copy()
        return other

    def uses(self, step: RunStep) -> Uses:
        """The step's uses by limit number. Raises RunError for a limit that is unknown or always too
        small.
        """
        found = []
        for name, units, hold_ms in step.uses:
            number = self._numbers.get(name)
            if number is None:
                raise RunError("limit-unknown", f"{step.id} uses {name}, which is not a limit of this run")
            limit = self.limits[number]
            if units > limit.capacity:
                raise RunError(
                    "limit-too-small", f"{step.id} needs {units} of {name}, which has only {limit.capacity}"
                )
            found.append((number, units, limit.window_ms if limit.kind == "rate" else hold_ms))
        return tuple(found)

    def moved(self, uses: Uses, server: str, other: str) -> Uses:
        """The uses with another boot server's limits in place of its own; kinds that it lacks are dropped."""
        if server == other:
            return uses
        found: list[tuple[int, int, int]] = []
        for number, units, hold_ms in uses:
            limit = LimitId.parse(self.limits[number].id)
            if limit.of == server:
                number = self._numbers.get(str(LimitId(limit.kind, other)), -1)
            if number >= 0:
                found.append((number, units, hold_ms))
        return tuple(found)

    def is_inrush(self, number: int) -> bool:
        """Whether it limits what servers draw while being switched on."""
        return number in self._inrush

    def room(self, number: int) -> int:
        return self.capacity[number] - self._used[number] - self._promised[number]

    def lacking(self, uses: Uses) -> int:
        """Number of the first limit without capacity for it, or -1."""
        for number, units, _ in uses:
            if self._used[number] + self._promised[number] + units > self.capacity[number]:
                return number
        return -1

    def promise(self, uses: Uses) -> None:
        for number, units, _ in uses:
            self._promised[number] += units

    def keep(self, uses: Uses) -> None:
        """The promise was used: `take` has counted it."""
        for number, units, _ in uses:
            self._promised[number] -= units

    def withdraw(self, uses: Uses) -> None:
        for number, units, _ in uses:
            self._promised[number] -= units
            self.freed.add(number)

    def forget_promises(self) -> None:
        """A new decision begins: offers not begun are made again."""
        self._promised = [0] * len(self.limits)

    def take(self, uses: Uses, at_ms: int) -> None:
        """The step began at `at_ms`."""
        for number, units, hold_ms in uses:
            self._used[number] += units
            if hold_ms > 0:
                heappush(self._timed, (at_ms + hold_ms, number, units))

    def hold_on(self, number: int, units: int, end_ms: int, until_ms: int) -> None:
        """Makes a timed hold that ends at `end_ms`, or has ended then, last until `until_ms`."""
        if until_ms > end_ms:
            heappush(self._timed, (end_ms, number, -units))
            heappush(self._timed, (until_ms, number, units))

    def give_back(self, uses: Uses) -> None:
        """The step has a result: frees what it held for its duration."""
        for number, units, hold_ms in uses:
            if not hold_ms:
                self._used[number] -= units
                self.freed.add(number)

    def release(self, kept: Uses) -> None:
        """Frees what was kept beyond a step."""
        for number, units, _ in kept:
            self._used[number] -= units
            self.freed.add(number)

    def change(self, name: str, capacity: int) -> None:
        """Sets a new capacity. Raises RunError for an unknown limit."""
        number = self._numbers.get(name)
        if number is None:
            raise RunError("limit-unknown", f"{name} is not a limit of this run")
        if capacity > self.capacity[number]:
            self.freed.add(number)
        self.capacity[number] = max(0, capacity)

    def changed(self) -> tuple[LimitRow, ...]:
        """Limits that a person changed, sorted by name."""
        found: list[LimitRow] = []
        for limit, now, used in zip(self.limits, self.capacity, self._used, strict=True):
            if now != limit.capacity:
                beside, whole = limit.beside, limit.whole or limit.capacity + limit.beside
                found.append(LimitRow(limit.id, now + beside, whole, used + beside))
        return tuple(sorted(found, key=lambda one: one.limit))

    def capacity_of(self, name: str) -> int:
        """Units that may be held now; 0 for an unknown limit."""
        number = self._numbers.get(name)
        return 0 if number is None else self.capacity[number]

    def knows(self, name: str) -> bool:
        return name in self._numbers

    def hold_apart(self, name: str, units: int) -> None:
        """Units held by things that the present plan does not know: counted until the run ends."""
        number = self._numbers.get(name)
        if number is not None:
            self._used[number] += units
            self._apart[name] = self._apart.get(name, 0) + units

    @property
    def apart(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted(self._apart.items()))

    def advance(self, now_ms: int) -> None:
        """Ends expired timed holds."""
        timed = self._timed
        while timed and timed[0][0] <= now_ms:
            _, number, units = heappop(timed)
            self._used[number] -= units
            self.freed.add(number)

    def next_ms(self) -> int | None:
        """When the next timed hold ends."""
        return self._timed[0][0] if self._timed else None

    def restart(self, last_ms: int, at_ms: int) -> None:
        """A new leader begins at `at_ms`; the last event of the old one was at `last_ms`."""
        self.advance(last_ms)
        later_ms = max(0, at_ms - last_ms)
        self._timed = [(end_ms + later_ms, number, units) for end_ms, number, units in self._timed]

    def carry_over(self, old: Limits) -> None:
        """Takes over, by name, the timed holds and separately held units of a replaced plan's limits."""
        for name, units in old._apart.items():
            self.hold_apart(name, units)
        for until_ms, number, units in old._timed:
            mine = self._numbers.get(old.limits[number].id)
            if mine is not None:
                self._used[mine] += units
                heappush(self._timed, (until_ms, mine, units))

    def held(self, last_ms: int) -> tuple[tuple[str, int, int], ...]:
        """(limit, end, units) of timed holds not expired at `last_ms`, sorted."""
        return tuple(
            sorted((self.limits[n].id, end, units) for end, n, units in self._timed if end > last_ms)
        )

    def used(self, name: str) -> int:
        """Units held now, without promises."""
        return self._used[self._numbers[name]]


_VALUE: Final = re.compile(r"(\d{1,12}(?:\.\d{1,3})?)\s*(%|W|kW|MW)?", re.ASCII)
_WATTS: Final = {"W": 1, "kW": 1_000, "MW": 1_000_000}
KINDS_MOST: Final = 12
_WORDS: Final = "give a share of the estate's value (90%), watts (450 kW) or a plain number"


def capacity_of(limits: Limits, name: str, value: str) -> int:
    """The run's share of a limit when a person states `value`; what others hold is subtracted. Raises
    RunError for an unknown limit or an invalid value.
    """
    limit = next((one for one in limits.limits if one.id == name), None)
    if limit is None:
        names = sorted(one.id for one in limits.limits)
        near = get_close_matches(name, names, 3)
        known = f"did you mean {' or '.join(near)}?" if near else _of_each_kind(names)
        raise RunError("limit-unknown", f"{name} is not a limit of this run; {known}", known)
    found = _VALUE.fullmatch(value.strip())
    if found is None:
        raise RunError("limit-value", f"invalid limit value: {value}; {_WORDS}", _WORDS)
    thousandths, unit = round(float(found[1]) * 1_000), found[2] or ""
    if unit in _WATTS and not LimitId.parse(name).is_watts:
        raise RunError("limit-value", f"{name} is not measured in watts; {_WORDS}", _WORDS)
    if unit == "%":
        whole = (limit.whole or limit.capacity + limit.beside) * thousandths // 100_000
    else:
        whole = thousandths * _WATTS.get(unit, 1) // 1_000
    return max(0, whole - limit.beside)


def _of_each_kind(names: Sequence[str]) -> str:
    """The first of each kind and their number: a large run has thousands."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(LimitId.parse(name).kind, []).append(name)
    found = [own[0] + (f" and {len(own) - 1} more of its kind" if own[1:] else "") for own in kinds.values()]
    return f"it has {', '.join(found[:KINDS_MOST])}" if found else "it has none"
