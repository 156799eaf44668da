"""The board a plan is sought on: an instance as flat tables for compiled kernels, and their scratch.

Tables are arrays of records, so that a kernel takes one argument and reads `board.service[s].tier`.
Fields above the blank line of each table are fixed; those below change while a schedule is generated.
Ragged tables lie in one `heap`: entry i of table T owns heap[heap[base[T] + i] : heap[base[T] + i + 1]].
An item is a milestone to be scheduled: 0..C-1 the bases of components, C..C+S-1 the tops of services.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.derive.power import POWER_COLUMNS
from evac.model.steps import StepKind
from evac.model.units import RESOURCE_COUNT

Ints = NDArray[np.int64]
Table = NDArray[Any]
"""An array of records."""

NEVER: Final = 2**60
"""A tick that does not come."""
UNKNOWN: Final = -1

FENCE, PROMOTE, BOOT, START, VERIFY, SHIFT, SHED = range(7)
KINDS: Final[tuple[StepKind, ...]] = ("fence", "promote", "boot", "start", "verify", "shift", "shed")
"""Step kinds the kernels know, in the order of their codes."""

MEMBER, WAIT, NEED_STORE, NEED_UP, SOFT, HARD_USER, TOOL, ON_ROW, CONFLICT, USES, VICTIMS = range(11)
"""Ragged tables. MEMBER, WAIT, NEED_STORE, NEED_UP (what it hard-depends on and runs) by component; SOFT,
HARD_USER by service; TOOL by kind;
ON_ROW: entries of present on a row that may be shed, least valuable first; CONFLICT: services of a
group; USES: lines of `use` of a set (set 0 is empty); VICTIMS: one list, least valuable first."""
GROUP_ROW, CANDIDATE, CANDIDATE_CLASS, CANDIDATE_TICKS, CANDIDATE_SET, MANUAL_TICKS, MANUAL_SET = range(
    11, 18
)
"""Plain tables in the heap."""

HELD, STARTS, SHEDS, BOOTS, RAN, RECOVERED, MARKED, CONFLICTED, SOURCES, LEVEL, VICTIM, ENTRY = range(12)
FLOOR, REACHED, AT_LEVEL, LEVELLED, GIVEN, TURN, VERSION, RELEASED = range(12, 20)
"""Places in `Board.size`: lengths of logs and scratch lists, the cursor over what may be shed, the
tick before which nothing more may begin, the last one reached, the level at work, whether levels are
finished one by one (1), whether rows are given (1) or chosen (0), the services that were started so far,
what was refused how often (see `Board.refused`), and how often something was held no longer."""
FAILED_ROOM, FAILED_TIME = 1, 2
"""Why an item is not there: no room for it, or no time before the horizon."""
NEED, LEAST = range(2)
"""Rows of `Board.vector`: what a shed must free; the least any service needs of each resource."""
BLOCK = 64
"""Rows of `GROUP_ROW` that share one upper limit of room, so that full stretches are passed over."""
STRETCH = 64
"""Ticks that share one count of full ticks, so that busy stretches are passed over."""


def _fields(*names: str) -> list[tuple[Any, ...]]:
    return [(name, np.int64) for name in " ".join(names).split()]


def _record(*fields: Any) -> np.dtype[Any]:
    return np.dtype(list(fields), align=True)


_VECTOR: Final = (np.int64, (RESOURCE_COUNT,))
_PAIR: Final = (np.int64, (2,))

SERVICE_TYPE: Final = _record(
    ("demand", *_VECTOR),
    *_fields(
        "base_starts top_starts start verify shift_ticks shed per_server rack_cap feed_cap site_cap",
        "conflict tier shift base_lost top_lost blocked surviving serves base_weight top_weight",
        "component shift_set first_present last_present sheddable",
    ),
    ("verify_at", *_PAIR),
    ("verify_manual", *_PAIR),
    *_fields(
        "head left top_shed_at base_shed_at base_at top_at top_own top_done shift_at shift_manual",
        "leaves breach spared written_off",
    ),
)
ROW_TYPE: Final = _record(
    ("room", *_VECTOR),
    ("power", np.int64, (POWER_COLUMNS,)),
    *_fields("site rack feed pool group place is_pool dark watts rises"),
    ("free", *_VECTOR),
    ("unshed", *_VECTOR),
    ("spare", *_VECTOR),
    *_fields("on_at boot_at boot_manual shed_end count conflict_mark boot_log marked conflicted booted"),
)
GROUP_TYPE: Final = _record(
    *_fields("first last pool dark boot_set boot_ticks ready by_itself by_hand"),
    *_fields(
        "first_open next_dark boot_bound boot_since hand_since boot_mark hand_mark", "boot_begun hand_begun"
    ),
)
POOL_TYPE: Final = _record(
    *_fields("start_set shed_set first_dark last_dark"),
    *_fields("booted_count first_booted"),
    ("busy_from", *_PAIR),
    ("busy_to", *_PAIR),
    ("busy_ticks", *_PAIR),
    ("busy_at", *_PAIR),
    ("begun_from", *_PAIR),
    ("begun_to", *_PAIR),
    ("begun_ticks", *_PAIR),
    ("begun_at", *_PAIR),
)
STORE_TYPE: Final = _record(
    *_fields("fence fence_set first_candidate last_candidate"),
    *_fields("candidate fence_at fence_manual promote_at promote_manual primary_at recovered"),
)
PRESENT_TYPE: Final = _record(*_fields("service row count", "left given kept"))
LIMIT_TYPE: Final = _record(*_fields("cap least", "high"))
USE_TYPE: Final = _record(*_fields("limit units offset hold"))
ITEM_TYPE: Final = _record(*_fields("release", "done at why stack ran given_first given_last level seen"))
OUTSET_TYPE: Final = _record(*_fields("uses ticks at"))
HELD_TYPE: Final = _record(*_fields("uses hands ticks count at"))
STARTED_TYPE: Final = _record(("unshed", *_VECTOR), *_fields("service mile row at manual next waits"))
SHED_TYPE: Final = _record(*_fields("entry count at manual service end_before"))
SOURCE_TYPE: Final = _record(*_fields("kind number time cursor"))
PLACE_TYPE: Final = _record(*_fields("rack feed site fits rack_fits feed_fits"))
BUDGET_TYPE: Final = _record(*_fields("room left"))
BLOCK_TYPE: Final = _record(("most", *_VECTOR))


class Board(NamedTuple):
    """All tables. Times in ticks; `*_set` number use sets; `last_tier` is the lowest tier.

    group: rows alike in pool and boot kind (dark 0: on), dark groups take racks in turn; free: room of
    a row once everything scheduled is on it, unshed: the part of it that waits for no shed; on_at: from
    when a row is on (UNKNOWN: not booted); started, shed, held: logs; `waits` 1: the start uses room
    that a shed frees; given: rows of an earlier placement, by item; base_at, top_at: from when a
    milestone holds (NEVER: not at all); outset: what is held before anything is planned (power steps);
    ready: tick before which a group cannot boot; release: before which an item cannot begin.
    busy_from, busy_to: between them no start in a pool fits that takes `busy_ticks` or more, with tools and
    by hand, unless something was released since `busy_at`; *_begun, begun_*: as it was when the item at
    work was begun; refused: by row, see `next_shed_row`.
    """

    horizon: int
    grace: int
    width: int
    last_tier: int
    components: int
    service: Table
    row: Table
    group: Table
    pool: Table
    store: Table
    present: Table
    limit: Table
    use: Table
    item: Table
    held: Table
    started: Table
    shed: Table
    source: Table
    given: Ints
    place: Table
    budget: Table
    outset: Table
    block: Table
    refused: Ints
    eligible: NDArray[np.bool_]
    heap: Ints
    base: Ints
    size: Ints
    mark: Ints
    vector: Ints
    used: NDArray[np.int32]
    full: NDArray[np.int32]
