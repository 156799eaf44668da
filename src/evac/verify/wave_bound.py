"""How early the last server of a wave can be on: the checker's own reading of the bound that limits give.

Written from the page docs/explanation/cold-start.md and the instance alone; the planner has its own version
of the same page. Exact whole numbers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from evac.model.instance import WHOLE, Instance


@dataclass(frozen=True, slots=True)
class Held:
    """What one kind of boot holds of one limit, and how many of them there are."""

    ready: int
    ticks: int
    units: int
    offset: int
    hold: int
    count: int
    by_hand: bool

    @property
    def ahead(self) -> int:
        """First tick at which it may hold."""
        return self.ready + self.offset

    @property
    def tail(self) -> int:
        """Ticks from the end of the hold to the end of the boot; below 0 where the hold outlives it."""
        return self.ticks - self.offset - self.hold


def latest_bound(instance: Instance, rows: list[int], back: int) -> int:
    """Tick before which no order has these rows on; `back`: before which the tools of boots do not serve."""
    counts = Counter(int(instance.rows.boot_kind[row]) for row in rows)
    spare = _by_hand(instance, back)
    best = _longest(instance, counts, back, spare)
    held: dict[int, list[Held]] = {}
    for number, count in sorted(counts.items()):
        kind = instance.boot_kinds[number]
        for use in kind.uses:
            hold = kind.duration if use.hold == WHOLE else use.hold
            if use.units > 0 and hold > 0:
                line = Held(kind.ready_least, kind.duration, use.units, use.offset, hold, count, kind.by_hand)
                held.setdefault(use.limit, []).append(line)
    for limit, lines in held.items():
        best = max(best, _of_limit(instance.limits[limit].capacity, lines, back, spare))
    return best


def _by_hand(instance: Instance, back: int) -> int:
    """Boots that people can begin before the tools are back."""
    need = instance.tools.get("boot")
    if need is None or not need.services or need.manual is None:
        return 0
    hands = [instance.limits[use.limit].capacity // use.units for use in need.manual_uses]
    return min(hands) * -(-back // max(need.manual, 1)) if hands else sum(instance.bring_up.tolist())


def _longest(instance: Instance, counts: Counter[int], back: int, spare: int) -> int:
    """The longest single boot; late, that of which people cannot begin all in time."""
    kinds = [(instance.boot_kinds[number], count) for number, count in counts.items()]
    best = max((kind.ready_least + kind.duration for kind, _ in kinds), default=0)
    for kind, count in sorted(kinds, key=lambda pair: -pair[0].duration):
        if kind.by_itself or kind.by_hand:
            continue
        if count > spare:
            return max(best, back + kind.duration)
        spare -= count
    return best


def _of_limit(capacity: int, lines: list[Held], back: int, spare: int) -> int:
    best = 0
    for early in {line.ahead for line in lines}:
        for late in {line.tail for line in lines}:
            some = [line for line in lines if line.ahead >= early and line.tail >= late]
            if some:
                best = max(best, _of_set(capacity, some, some))
                waiting = [replace(line, ready=max(line.ready, back)) for line in some if not line.by_hand]
                if back > 0 and waiting:
                    best = max(best, _of_set(capacity, waiting, _without(waiting, spare)))
    return best


def _without(lines: list[Held], spare: int) -> list[Held]:
    """The boots that are left when the `spare` largest of them are taken out."""
    found = []
    for line in sorted(lines, key=lambda x: -(x.units * x.hold)):
        taken = min(spare, line.count)
        spare -= taken
        if line.count > taken:
            found.append(replace(line, count=line.count - taken))
    return found


def _of_set(capacity: int, whole: list[Held], counted: list[Held]) -> int:
    """Area and count of the boots counted, with the best start, length and tail of the whole set."""
    if not counted:
        return 0
    slots = capacity // min(line.units for line in whole)
    if slots == 0:
        return 2**40
    ahead = min(line.ahead for line in whole)
    area = sum(line.units * line.hold * line.count for line in counted)
    waves = -(-sum(line.count for line in counted) // slots) - 1
    by_area = ahead + min(line.tail for line in whole) - (-area // capacity)
    by_count = ahead + waves * min(line.hold for line in whole) + min(x.ticks - x.offset for x in whole)
    return max(by_area, by_count)
