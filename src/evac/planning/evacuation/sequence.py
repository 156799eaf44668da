"""The sequence in which the items of an order run: each after everything that it waits for.

The sequence depends on the order only, not on what items find. Each run of an item is an event, unless it
cannot do anything: a store that an earlier item has recovered, or what is already running. Two orders with
the same events, and options that differ only in what was not asked for (see `asked`), are one generation.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Final

from evac.planning.compiled import inner
from evac.planning.evacuation.board import (
    AHEAD_WAIT,
    EVENTS,
    MANUAL_TICKS,
    MEMBER,
    START,
    TOOL,
    UNKNOWN,
    VERIFY,
    WAIT,
    Board,
    Ints,
)

BEFORE: Final = -2
"""What recovered a store (`by`) that was recovered before the first item ran."""


@inner
def wants(board: Board, item: int) -> bool:
    """Whether an item must be generated: a component with a lost base, a top with starts."""
    components = board.components
    if item < components:
        return board.heap[board.base[MEMBER] + item + 1] > board.heap[board.base[MEMBER] + item]
    return board.service[item - components].top_starts > 0


@inner
def _push_needs(board: Board, item: int, depth: int) -> int:
    """Pushes ungenerated items that an item waits for; returns the new stack depth."""
    components = board.components
    if item >= components + len(board.service):
        return depth
    if item >= components:
        own = board.service[item - components].component
        if board.service[item - components].base_lost and not board.item[own].done:
            board.item[depth].stack = own
            depth += 1
        return _push_tools(board, _push_tools(board, depth, START), VERIFY)
    return _push_waits(board, item, depth, WAIT)


@inner
def _push_tools(board: Board, depth: int, kind: int) -> int:
    """Pushes ungenerated tools of a kind without a manual way; returns the new depth.

    No base waits for a top, so items that first need its service wait for nothing here.
    """
    if board.heap[board.base[MANUAL_TICKS] + kind] >= 0:
        return depth
    for k in range(board.heap[board.base[TOOL] + kind], board.heap[board.base[TOOL] + kind + 1]):
        tool = board.service[board.heap[k]].component
        if not board.item[tool].done and depth < len(board.item):
            board.item[depth].stack = tool
            depth += 1
    return depth


@inner
def _push_waits(board: Board, component: int, depth: int, waits: int) -> int:
    """Pushes ungenerated items that a component waits for by a table; returns the new stack depth."""
    for k in range(board.heap[board.base[waits] + component], board.heap[board.base[waits] + component + 1]):
        if not board.item[board.heap[k]].done and depth < len(board.item):
            board.item[depth].stack = board.heap[k]
            depth += 1
    return depth


@inner
def _goes_ahead(board: Board, component: int) -> bool:
    """Whether a base may start before what it needs only to serve: not if it ran or was tried."""
    tried = board.item[component].done or board.item[component].ahead != UNKNOWN
    return not tried and wants(board, component)


@inner
def next_item(board: Board, depth: int) -> tuple[int, int]:
    """The next item to run of a stack of that depth, after all that it waits for, which is pushed; and the
    depth without it. (UNKNOWN, 0): the stack is empty.
    """
    stores = board.components + len(board.service)
    first_ahead = stores + len(board.store)
    while depth > 0:
        item = board.item[depth - 1].stack
        ahead = item - first_ahead
        if board.item[item].done:
            depth -= 1
        elif ahead >= 0 and not _goes_ahead(board, ahead):
            board.item[item].done = 1
        else:
            if ahead >= 0:
                deeper = _push_waits(board, ahead, depth, AHEAD_WAIT)
            else:
                deeper = _push_needs(board, item, depth)
            if deeper <= depth:
                board.item[item].done = 1
                return item, depth - 1
            depth = deeper
    return UNKNOWN, 0


@inner
def note_event(board: Board, item: int) -> None:
    """Notes that an item runs now and may do something."""
    board.item[board.size[EVENTS]].event = item
    board.size[EVENTS] += 1


@inner
def keep_events(board: Board) -> int:
    """Keeps what the generation on the board asked for, its events, and what recovered its stores, for
    `repeats` and `asked.was_asked`; returns the number of events.
    """
    for item in board.item:
        item.had_asked, item.had_event = item.asked, item.event
    for store in board.store:
        store.was_by = store.by
    return board.size[EVENTS]


@inner
def _is_event(board: Board, item: int) -> bool:
    """Whether the run of an item was an event of the generation that was kept, if all before it were."""
    store = item - board.components - len(board.service)
    if store < 0:
        return wants(board, item)
    if store >= len(board.store):
        return True
    by = board.store[store].was_by
    return by != BEFORE and (by < 0 or by == item or not board.item[by].done)


@inner
def repeats(board: Board, order: Ints, events: int) -> bool:
    """Whether an order has the events of the generation that was kept, which had so many."""
    first_ahead, at = board.components + len(board.service) + len(board.store), 0
    for item in board.item:
        item.done, item.ahead = 0, UNKNOWN
    for k in range(len(order)):
        depth = 1
        board.item[0].stack = order[k]
        while depth > 0:
            item, depth = next_item(board, depth)
            if item >= first_ahead:
                board.item[item - first_ahead].ahead = 0
            if item != UNKNOWN and _is_event(board, item):
                if at == events or board.item[at].had_event != item:
                    return False
                at += 1
    return at == events
