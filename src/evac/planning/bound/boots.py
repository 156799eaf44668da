"""How fast dark rows can come up, taken optimistically.

Each kind of boot is charged to the one limit that holds it back longest; the kinds charged to one
limit form a group, of which at most a staircase of rows is up at any tick.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evac.model.fleet import IndexColumn
from evac.model.instance import WHOLE, BootKind, Instance


@dataclass(frozen=True, slots=True, eq=False)
class BootGroup:
    """Dark rows charged to one limit. batch: rows that can start at once, None for all of them;
    hold: ticks until the next batch; delay: least ticks of a boot."""

    rows: IndexColumn
    batch: int | None
    hold: int
    delay: int

    def up(self, tick: int) -> int:
        """Most rows that can be on at a tick, counted from the first possible boot."""
        if tick < self.delay or self.batch == 0:
            return 0
        if self.batch is None:
            return len(self.rows)
        return min(len(self.rows), self.batch * ((tick - self.delay) // self.hold + 1))


def boot_groups(instance: Instance) -> tuple[BootGroup, ...]:
    """All groups that have rows: those of limits by limit, then kinds that nothing limits."""
    rows = instance.rows
    dark = np.flatnonzero(instance.to_boot)
    counts = np.bincount(rows.boot_kind[dark], minlength=len(instance.boot_kinds))
    bound_by = [_effective(kind) for kind in instance.boot_kinds]
    kinds = [b for b in range(len(instance.boot_kinds)) if counts[b]]
    slowness = _slowness(instance, bound_by, kinds, counts)
    charged: dict[int, list[int]] = {}
    free: list[int] = []
    for b in kinds:
        if bound_by[b]:
            limit = min(bound_by[b], key=lambda t: (-slowness[t], t))
            charged.setdefault(limit, []).append(b)
        else:
            free.append(b)
    groups = [_group(instance, limit, charged[limit], bound_by, dark) for limit in sorted(charged)]
    for b in free:
        chosen = dark[rows.boot_kind[dark] == b].astype(np.int32)
        groups.append(BootGroup(chosen, None, 1, instance.boot_kinds[b].duration))
    return tuple(groups)


def _effective(kind: BootKind) -> dict[int, tuple[int, int]]:
    """limit -> (least units, least hold) of the uses that take anything."""
    found: dict[int, tuple[int, int]] = {}
    for use in kind.uses:
        hold = kind.duration if use.hold == WHOLE else use.hold
        if use.units > 0 and hold > 0:
            units, least = found.get(use.limit, (use.units, hold))
            found[use.limit] = (min(units, use.units), min(least, hold))
    return found


def _batch_and_hold(
    instance: Instance, limit: int, kinds: list[int], bound_by: list[dict[int, tuple[int, int]]]
) -> tuple[int, int]:
    units = min(bound_by[b][limit][0] for b in kinds)
    hold = min(bound_by[b][limit][1] for b in kinds)
    return instance.limits[limit].capacity // units, hold


def _slowness(
    instance: Instance,
    bound_by: list[dict[int, tuple[int, int]]],
    kinds: list[int],
    counts: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> dict[int, float]:
    """Ticks to boot everything that a limit binds; infinite where it allows none."""
    of_limit: dict[int, list[int]] = {}
    for b in kinds:
        for limit in bound_by[b]:
            of_limit.setdefault(limit, []).append(b)
    found: dict[int, float] = {}
    for limit, members in of_limit.items():
        batch, hold = _batch_and_hold(instance, limit, members, bound_by)
        total = int(counts[members].sum())
        found[limit] = -(-total // batch) * hold if batch else float("inf")
    return found


def _group(
    instance: Instance,
    limit: int,
    kinds: list[int],
    bound_by: list[dict[int, tuple[int, int]]],
    dark: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> BootGroup:
    batch, hold = _batch_and_hold(instance, limit, kinds, bound_by)
    chosen = dark[np.isin(instance.rows.boot_kind[dark], kinds)].astype(np.int32)
    delay = min(instance.boot_kinds[b].duration for b in kinds)
    return BootGroup(chosen, batch, hold, delay)
