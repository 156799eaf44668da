"""Saved states of a half-built schedule, so that a trial that changes only the later part need not redo the
rest.

Mark k stands before place `k * tasks // marks` of the order; mark 0 is the empty schedule and needs no
saving.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import allocating_kernel, kernel
from evac.planning.scheduling.profile import BLOCK, EVER, Profile, clear

Ints = NDArray[np.int64]
MARKS_MOST = 64
MEMORY_BYTES = 64 << 20


class Saved(NamedTuple):
    """One row per mark; see `Profile` for the columns."""

    time: Ints
    level: Ints
    block: Ints  # [marks, blocks, 4]
    listing: Ints  # [marks, 2, regions] head, place
    listed: Ints
    fresh: Ints
    floor: Ints
    place: Ints  # [marks] the place in the order
    valid: NDArray[np.bool_]  # [marks]


def no_states(profile: Profile, floor: Ints, tasks: int) -> Saved:
    """Room for as many marks as fit into the memory allowed, at least the empty one."""
    words = (
        2 * profile.time.size
        + profile.block.size
        + 2 * profile.head.size
        + profile.listed.size
        + floor.size
        + 1
    )
    marks = int(max(1, min(MARKS_MOST, tasks // 8, MEMORY_BYTES // (8 * words))))

    def ints(*shape: int) -> Ints:
        return np.zeros((marks, *shape), np.int64)

    return Saved(
        time=ints(profile.time.size),
        level=ints(profile.time.size),
        block=ints(*profile.block.shape),
        listing=ints(2, profile.head.size),
        listed=ints(profile.listed.size),
        fresh=ints(),
        floor=ints(floor.size),
        place=np.arange(marks, dtype=np.int64) * tasks // marks,
        valid=np.arange(marks) == 0,
    )


@allocating_kernel
def save(saved: Saved, mark: int, profile: Profile, floor: Ints) -> None:
    """Keep the present state under the mark."""
    blocks = profile.fresh[0]
    entries = blocks * BLOCK
    saved.time[mark, :entries] = profile.time[:entries]
    saved.level[mark, :entries] = profile.level[:entries]
    saved.block[mark, :blocks] = profile.block[:blocks]
    saved.listing[mark, 0] = profile.head
    saved.listing[mark, 1] = profile.place
    saved.listed[mark] = profile.listed
    saved.fresh[mark] = blocks
    saved.floor[mark] = floor
    saved.valid[mark] = True


@allocating_kernel
def restore(saved: Saved, mark: int, profile: Profile, floor: Ints) -> None:
    """Make the state under a valid mark the present one."""
    if mark == 0:
        clear(profile)
        floor[:] = -EVER
        return
    blocks = saved.fresh[mark]
    entries = blocks * BLOCK
    profile.time[:entries] = saved.time[mark, :entries]
    profile.level[:entries] = saved.level[mark, :entries]
    profile.block[:blocks] = saved.block[mark, :blocks]
    profile.head[:] = saved.listing[mark, 0]
    profile.place[:] = saved.listing[mark, 1]
    profile.listed[:] = saved.listed[mark]
    profile.fresh[0] = blocks
    floor[:] = saved.floor[mark]


@kernel
def last_before(saved: Saved, place: int) -> int:
    """The last valid mark at or before a place of the order."""
    best = 0
    for mark in range(1, saved.place.size):
        if saved.valid[mark] and saved.place[mark] <= place:
            best = mark
    return best


@kernel
def forget_after(saved: Saved, place: int) -> None:
    """Marks behind a place of the order hold no longer."""
    for mark in range(1, saved.place.size):
        if saved.place[mark] > place:
            saved.valid[mark] = False
