"""The board that the search for a plan works on: an instance as flat tables for compiled kernels, and their
scratch.

Tables are arrays of records, so that a kernel takes one argument and reads `board.service[s].tier`. Fields
above the blank line of each table are fixed; those below change while a schedule is generated. Ragged tables
are stored in one `heap`: entry i of table T owns heap[heap[base[T] + i] : heap[base[T] + i + 1]]. An item is
what is to be scheduled: 0..C-1 the bases of components, C..C+S-1 the tops of services, and from C+S on
stores, and then once more the components, to start ahead of what they need only to serve. An order has stores
and starts ahead only where it is searched; else what needs a store recovers it.

The kernels at the end count how many replicas of a service fit on a row, within spread, and take capacity or
give it back.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.model.units import RESOURCE_COUNT
from evac.planning.compiled import inner
from evac.steps.boot import Boot
from evac.steps.fence import Fence
from evac.steps.promote import Promote
from evac.steps.registry import planned_in_order
from evac.steps.shed import Shed
from evac.steps.shift import Shift
from evac.steps.start import Start
from evac.steps.verify import Verify

Ints = NDArray[np.int64]
Table = NDArray[Any]
"""An array of records."""

NEVER: Final = 2**60
"""A tick that never comes."""
UNKNOWN: Final = -1

FENCE: Final = Fence.planner_code
PROMOTE: Final = Promote.planner_code
BOOT: Final = Boot.planner_code
START: Final = Start.planner_code
VERIFY: Final = Verify.planner_code
SHIFT: Final = Shift.planner_code
SHED: Final = Shed.planner_code
KINDS: Final = planned_in_order(lambda kind: kind.planner_code)
"""Step kinds known to the kernels, in the order of their codes."""

MEMBER, WAIT, NEED_STORE, NEED_UP, START_WAIT, START_STORE, SOFT, HARD_USER, TOOL, ON_ROW = range(10)
CONFLICT, USES, BUDGETS, AHEAD_WAIT, STORE_WAIT, VICTIMS, MOVERS, MOVER_ROWS, DOUBTED_WITH = range(10, 19)
"""Ragged tables. MEMBER, WAIT, NEED_STORE, NEED_UP (what it hard-depends on and runs) by component, and of
WAIT and NEED_STORE what its starts wait for: START_WAIT, START_STORE; AHEAD_WAIT: of WAIT all but what it
only needs to serve; SOFT, HARD_USER by service; TOOL by kind;
ON_ROW: entries of present on a row that may be shed, least valuable first; CONFLICT: services of a
group; USES: lines of `use` of a set (set 0 is empty); BUDGETS: budgets of power that rows draw from, of each
list of them that occurs; STORE_WAIT: components that a restore of a store waits for; VICTIMS: one list, least
valuable first; MOVERS: entries of present on a row that may move elsewhere, least valuable first; MOVER_ROWS:
one list, rows with any; DOUBTED_WITH: by service, those whose base waits for its base."""
GROUP_ROW, CANDIDATE, CANDIDATE_TICKS, CANDIDATE_SET, CANDIDATE_SENT, CANDIDATE_LOSS, CANDIDATE_FREE = range(
    19, 26
)
CANDIDATE_UNTIL, MANUAL_TICKS, MANUAL_SET = range(26, 29)
"""Plain tables in the heap. Of a candidate, in ms: CANDIDATE_SENT, until when it receives what is written
(-NEVER: what it loses does not depend on the plan); CANDIDATE_LOSS, the most that it loses, or else how
fresh it is; CANDIDATE_FREE and CANDIDATE_UNTIL, until when writes may go on if nothing is waived, and if it
is used at all."""
UNKNOWN_LOSS: Final = 2**58
"""Milliseconds of writes: more than any that are known."""

HELD, STARTS, SHEDS, BOOTS, RAN, RECOVERED, MARKED, CONFLICTED, SOURCES, LEVEL, VICTIM, ENTRY = range(12)
FLOOR, REACHED, AT_LEVEL, LEVELLED, PINNED, TURN, VERSION, LIFTED = range(12, 20)
BARRED, SPOILED, LEFTOVERS, RESERVED, BEGUN, BARRED_BY, ASKER, EVENTS, PAID = range(20, 29)
SIZES = 29
"""Places in `Board.size`: lengths of logs and scratch lists, the cursor over what may be shed, the
tick before which nothing more may begin, the last one reached, the level at work, whether levels are
finished one by one (1), whether rows are pinned (1) or chosen (0), the services that were started so far,
what was refused how often (see `Board.refused`), how often a hold was removed that was not the last one, the
rows that the item at work leaves alone (see `asked.bars`), whether an item that started ahead never served
(1), whether what sheds left over is there for every tier (1), how many reservations were made, the length of
the log of holds when the item at work was begun, the item whose options bar rows (UNKNOWN: none), the item
whose options are used, the number of events (see `sequence`), and what the items cost in their turns."""
FAILED_ROOM, FAILED_TIME = 1, 2
"""Why an item was not placed: no capacity for it, or no time before the horizon."""
BLOCK = 64
"""Rows of `GROUP_ROW` that share an upper limit of capacity, so that full stretches are skipped."""
BARS = 60
"""Rows that an item can leave alone one by one; of more rows every 60th together. Above those bits is how
many replicas it puts on one server at most, 0 for as many as there may be."""
BUSY_PLACES = 1024
"""Searches for a tick whose result is kept, see `Board.busy`."""
STRETCH = 64
"""Ticks that share one count of full ticks, so that busy stretches are skipped."""


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
        "component shift_set first_present last_present sheddable movable alone unsure unjudged",
    ),
    ("verify_at", *_PAIR),
    ("verify_manual", *_PAIR),
    *_fields(
        "head left top_shed_at base_shed_at base_at top_at top_own top_done shift_at shift_manual",
        "leaves breach spared written_off moved again stays base_since top_since base_grace top_grace",
        "base_doubt top_doubt move_doubt",
    ),
)
ROW_TYPE: Final = _record(
    ("capacity", *_VECTOR),
    *_fields("site rack feed budgets pool group place is_pool dark watts rises"),
    ("free", *_VECTOR),
    ("unshed", *_VECTOR),
    ("spare", *_VECTOR),
    *_fields(
        "on_at boot_at boot_manual shed_end count conflict_mark boot_log marked conflicted booted doubt"
    ),
)
BY_HAND, BY_HAND_LAST = 1, 2
"""Values of `by_hand` of a group: people boot it and are there anyway, or only where nothing else is left."""
BOOT_UNSURE, SHED_UNSURE = 1, 2
"""Bits of `unsure` of a group: no one can judge the tools that boot its rows, or those that shed there."""
GROUP_TYPE: Final = _record(
    *_fields("first last pool dark boot_set boot_ticks ready by_itself by_hand vague unsure"),
    *_fields(
        "first_open next_dark boot_bound boot_since hand_since boot_mark hand_mark", "boot_begun hand_begun"
    ),
)
POOL_TYPE: Final = _record(
    *_fields("start_set shed_set first_dark last_dark site eligible"),
    *_fields("booted_count first_booted"),
)
STORE_TYPE: Final = _record(
    *_fields("backup fence fence_set first_candidate last_candidate elects is_fenced turn"),
    *_fields(
        "until candidate fence_at fence_manual promote_at promote_manual primary_at recovered by was_by"
    ),
)
PRESENT_TYPE: Final = _record(*_fields("service row count", "left to_shed kept"))
LIMIT_TYPE: Final = _record(*_fields("cap least", "high"))
USE_TYPE: Final = _record(*_fields("limit units offset hold"))
ITEM_TYPE: Final = _record(
    *_fields("release", "done at why stack ran pinned_first pinned_last level seen ahead"),
    *_fields("asked event", "had_asked had_event", "start_by"),
)
OUTSET_TYPE: Final = _record(*_fields("uses ticks at"))
HELD_TYPE: Final = _record(*_fields("uses hands ticks count at serial"))
BUSY_TYPE: Final = _record(*_fields("uses hands ticks count since until length serial lifted"))
STARTED_TYPE: Final = _record(("unshed", *_VECTOR), *_fields("service mile row at manual next waits"))
SHED_TYPE: Final = _record(*_fields("entry count at manual service end_before"))
SOURCE_TYPE: Final = _record(*_fields("kind number time cursor"))
PLACE_TYPE: Final = _record(*_fields("rack feed site fits rack_fits feed_fits"))
BUDGET_TYPE: Final = _record(*_fields("capacity left"))
BLOCK_TYPE: Final = _record(("most", *_VECTOR))


class Board(NamedTuple):
    """All tables. Times in ticks; `*_set` number use sets; `last_tier` is the lowest tier.

    group: rows alike in pool and boot kind (dark 0: on), dark groups take racks in turn; vague: a bit for
    each resource of which no one knows how much is free; unsure, of a service: no one knows what its replicas
    demand; unjudged: no one knows what the loss does to it; vague, of the board: 1 if any fact is unknown;
    doubt, base_doubt, top_doubt: depends on an unknown fact, see `doubts`; move_doubt: of what moves, its new
    place; free: capacity of a row once all that is scheduled is on it, unshed: the part that waits for no
    shed; on_at: from when a row is on (UNKNOWN: not booted);
    started, shed, held: logs; `waits` 1: the start uses capacity that a shed frees; pinned: rows of an
    earlier placement, by item; base_at, top_at: from when a milestone holds (NEVER: not at all); outset: what
    is held before anything is planned (power steps); ready: tick before which a group cannot boot; release:
    before which an item cannot begin; ahead: when the starts of a base that were made before what it needs to
    serve are over (UNKNOWN: none were,
    NEVER: they could not be); moved: replicas of what runs that were shed and started again elsewhere, which
    serve from `again` on; stays: what is shed of it does not start again; base_since, top_since: from when a
    milestone was gone that holds from base_at or top_at on (the grace where it is lost, NEVER: it was not);
    base_grace, top_grace: the grace, 0 where a milestone did not hold before; start_by: of a component, when
    its base starts must have ended (0: whenever);
    need: what a shed must free of each resource up to the last that anything demands; least, least_mover: the
    least of each that any service needs to start, and that any needs which may move;
    eligible: of a pool, whether a service kept at home may use it otherwise; *_begun: as it was when the item
    at work was begun; refused: by row, see `next_shed_row`; turn: the n-th store to be saved while its site
    still runs; until: when the old primary of a store stops taking writes (UNKNOWN: not known).
    busy: from `since` to before `until` no tick takes `count` actions with these uses; that stays so while
    the first `length` holds of the log stay: while its line before `length` is still the reservation `serial`
    and no other hold was lifted. Of each place the first line is older than the item at work.
    """

    tick_ms: int
    horizon: int
    grace: int
    width: int
    last_tier: int
    components: int
    vague: int
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
    busy: Table
    started: Table
    shed: Table
    source: Table
    pinned: Ints
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
    need: Ints
    least: Ints
    least_mover: Ints
    used: NDArray[np.int32]
    full: NDArray[np.int32]


@inner
def _count_on(board: Board, row: int, count: int) -> None:
    if board.row[row].count == 0:
        board.row[board.size[MARKED]].marked = row
        board.size[MARKED] += 1
    board.row[row].count += count
    site = board.row[row].site
    if site >= 0:
        board.place[site].site += count
    if not board.row[row].is_pool:
        if board.row[row].rack >= 0:
            board.place[board.row[row].rack].rack += count
        if board.row[row].feed >= 0:
            board.place[board.row[row].feed].feed += count


@inner
def _mark_conflict(board: Board, row: int) -> None:
    if not board.row[row].conflict_mark:
        board.row[row].conflict_mark = True
        board.row[board.size[CONFLICTED]].conflicted = row
        board.size[CONFLICTED] += 1


@inner
def open_spread(board: Board, service: int) -> None:
    """Counts the present replicas of a service, survivors and started ones, and marks its conflicts."""
    for k in range(board.service[service].first_present, board.service[service].last_present):
        if board.present[k].left > 0:
            _count_on(board, board.present[k].row, board.present[k].left)
    entry = board.service[service].head
    while entry >= 0:
        _count_on(board, board.started[entry].row, 1)
        entry = board.started[entry].next
    group = board.service[service].conflict
    if group < 0:
        return
    for c in range(board.heap[board.base[CONFLICT] + group], board.heap[board.base[CONFLICT] + group + 1]):
        other = board.heap[c]
        for k in range(board.service[other].first_present, board.service[other].last_present):
            if board.present[k].left > 0:
                _mark_conflict(board, board.present[k].row)
        entry = board.service[other].head
        while entry >= 0:
            _mark_conflict(board, board.started[entry].row)
            entry = board.started[entry].next


@inner
def close_spread(board: Board) -> None:
    """Clears the counts of `open_spread`."""
    for k in range(board.size[MARKED]):
        row = board.row[k].marked
        board.row[row].count = 0
        if board.row[row].site >= 0:
            board.place[board.row[row].site].site = 0
        if board.row[row].rack >= 0:
            board.place[board.row[row].rack].rack = 0
        if board.row[row].feed >= 0:
            board.place[board.row[row].feed].feed = 0
    for k in range(board.size[CONFLICTED]):
        board.row[board.row[k].conflicted].conflict_mark = False
    board.size[MARKED] = 0
    board.size[CONFLICTED] = 0


@inner
def within_spread(board: Board, service: int, row: int) -> int:
    """Most further replicas of the open service that spread allows on a row."""
    site = board.row[row].site
    most = board.service[service].site_cap - (board.place[site].site if site >= 0 else 0)
    if board.row[row].is_pool:
        return most
    each = board.size[BARRED] >> BARS
    if each > 0:
        most = min(most, each - board.row[row].count)
    if board.service[service].conflict >= 0:
        if board.row[row].conflict_mark:
            return 0
        most = min(most, 1)
    most = min(most, board.service[service].per_server - board.row[row].count)
    if board.row[row].rack >= 0:
        most = min(most, board.service[service].rack_cap - board.place[board.row[row].rack].rack)
    if board.row[row].feed >= 0:
        most = min(most, board.service[service].feed_cap - board.place[board.row[row].feed].feed)
    return most


@inner
def capacity_for(board: Board, service: int, row: int, waits: int) -> int:
    """Most replicas of a service that a row has resources for; waits 1: including what sheds free."""
    most = NEVER
    capacity = board.row[row].free if waits else board.row[row].unshed
    for r in range(len(board.need)):
        need = board.service[service].demand[r]
        if need > 0:
            most = min(most, capacity[r] // need)
    return most


@inner
def take(board: Board, service: int, mile: int, row: int, at: int, by_hand: int, waits: int) -> int:
    """Starts one replica on a row at a tick: takes its capacity and logs it. Returns the line of the log."""
    line = board.size[STARTS]
    entry = board.started[line]
    entry.service, entry.mile, entry.row, entry.at = service, mile, row, at
    entry.manual, entry.waits, entry.next = by_hand, waits, board.service[service].head
    board.service[service].head = line
    board.size[STARTS] = line + 1
    for r in range(len(board.need)):
        board.started[line].unshed[r] = board.row[row].unshed[r]
        board.row[row].free[r] -= board.service[service].demand[r]
        left = board.row[row].free[r]
        if waits == 0:
            left = min(left, board.row[row].unshed[r] - board.service[service].demand[r])
        board.row[row].unshed[r] = min(board.row[row].unshed[r], left)
    if board.size[PINNED] == 0:
        _count_on(board, row, 1)
        if board.service[service].conflict >= 0 and not board.row[row].is_pool:
            _mark_conflict(board, row)
    return line


@inner
def untake_to(board: Board, mark: int) -> None:
    """Undoes every start after the first `mark`, last first."""
    while board.size[STARTS] > mark:
        line = board.size[STARTS] - 1
        entry = board.started[line]
        service, row = entry.service, entry.row
        block = board.block[board.row[row].place // BLOCK]
        for r in range(len(board.need)):
            board.row[row].free[r] += board.service[service].demand[r]
            board.row[row].unshed[r] = board.started[line].unshed[r]
            block.most[r] = max(block.most[r], board.row[row].unshed[r])
        board.service[service].head = entry.next
        board.size[STARTS] = line


@inner
def survey(board: Board, block: int) -> None:
    """Updates the upper limit of capacity of a block."""
    first = board.base[GROUP_ROW] + block * BLOCK
    most = board.block[block].most
    for r in range(len(board.need)):
        most[r] = 0
    for at in range(first, min(first + BLOCK, board.base[GROUP_ROW] + len(board.row))):
        unshed = board.row[board.heap[at]].unshed
        for r in range(len(board.need)):
            most[r] = max(most[r], unshed[r])


@inner
def may_fit(board: Board, service: int, block: int) -> bool:
    """Whether some row of a block may have capacity for a service; True is not a promise."""
    short = 0
    for r in range(len(board.need)):
        short += board.service[service].demand[r] > board.block[block].most[r]
    return short == 0


@inner
def is_full(board: Board, row: int) -> bool:
    """Whether a row has less than any service needs of some resource."""
    full = False
    for r in range(len(board.need)):
        full |= board.row[row].free[r] < board.least[r]
    return full
