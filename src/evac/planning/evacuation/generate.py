"""Serial schedule generation: milestones in an order of priority, each as early as it can be.

Whatever an item waits for is generated first, so every order is feasible. Also the objective.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import numpy as np

from evac.planning.compiled import allocating_inner, inner, kernel, spliced, unlocked_kernel
from evac.planning.evacuation.board import (
    AT_LEVEL,
    FAILED_TIME,
    FLOOR,
    LEVELLED,
    MEMBER,
    NEVER,
    REACHED,
    SHEDS,
    SOFT,
    UNKNOWN,
    WAIT,
    Board,
    Ints,
)
from evac.planning.evacuation.items import recover_store, reset, run_item, start_late, try_again

GRACE_FACTOR = 16
"""How much more a tick counts after the grace than before, where there is one."""


@inner
def _wants(board: Board, item: int) -> bool:
    """Whether an item needs generating: a component with a lost base, a top with starts."""
    components = board.components
    if item < components:
        return board.heap[board.base[MEMBER] + item + 1] > board.heap[board.base[MEMBER] + item]
    return board.service[item - components].top_starts > 0


@inner
def _push_needs(board: Board, item: int, depth: int) -> int:
    """Push what an item waits for and is not generated; the new depth of the stack."""
    components = board.components
    if item >= components:
        own = board.service[item - components].component
        if board.service[item - components].base_lost and not board.item[own].done:
            board.item[depth].stack = own
            depth += 1
        return depth
    for k in range(board.heap[board.base[WAIT] + item], board.heap[board.base[WAIT] + item + 1]):
        if not board.item[board.heap[k]].done and depth < len(board.item):
            board.item[depth].stack = board.heap[k]
            depth += 1
    return depth


@inner
def cost(board: Board, at: int) -> int:
    """What one unit of weight pays when its milestone holds from a tick on, as the search counts it."""
    until = min(at, board.horizon)
    if board.grace == 0:
        return until
    return GRACE_FACTOR * max(0, until - board.grace) + until


@inner
def _price(board: Board, item: int) -> int:
    """What an item adds to the objective at the least, now that it is generated."""
    components = board.components
    if item >= components:
        service = item - components
        return board.service[service].top_weight * cost(
            board, max(board.service[service].base_at, board.service[service].top_own)
        )
    total = 0
    for k in range(board.heap[board.base[MEMBER] + item], board.heap[board.base[MEMBER] + item + 1]):
        service = board.heap[k]
        total += board.service[service].base_weight * cost(board, board.service[service].base_at)
        if board.service[service].top_starts == 0:
            total += board.service[service].top_weight * cost(board, board.service[service].base_at)
    return total


@inner
def run_with_needs(board: Board, item: int, options: Ints, limit: int) -> int:
    """Generate an item after all it waits for; what that adds to the objective, at most just over `limit`."""
    paid = 0
    depth = 1
    board.item[0].stack = item
    while depth > 0 and paid <= limit:
        item = board.item[depth - 1].stack
        if board.item[item].done:
            depth -= 1
            continue
        deeper = _push_needs(board, item, depth)
        if deeper > depth:
            depth = deeper
            continue
        depth -= 1
        board.item[item].done = 1
        if _wants(board, item):
            _raise_floor(board, item)
            run_item(board, item, options[item])
            board.size[REACHED] = max(board.size[REACHED], _end(board, item))
            paid += _price(board, item)
        elif item < board.components:
            board.item[item].at = 0
    return paid


@inner
def _raise_floor(board: Board, item: int) -> None:
    """Where levels are finished one by one, nothing of a level begins before the last is over."""
    if board.size[LEVELLED] and board.item[item].level > board.size[AT_LEVEL]:
        board.size[AT_LEVEL], board.size[FLOOR] = board.item[item].level, board.size[REACHED]


@spliced
def run_stretch(board: Board, order: Ints, options: Ints, first: int, last: int, limit: int) -> int:
    """Generate order[first:last]; what they add to the objective, or NEVER when it exceeds `limit`."""
    paid = 0
    for k in range(first, last):
        paid += run_with_needs(board, order[k], options, limit - paid)
        if paid > limit:
            return NEVER
    return paid


@unlocked_kernel
def generate(board: Board, order: Ints, options: Ints, limit: int) -> int:
    """Generate all items in an order; the searched objective, or NEVER as soon as it exceeds `limit`.

    order: items by priority; options: (items, 3) taste, eager and favoured pool of each.
    """
    begin(board)
    if run_stretch(board, order, options, 0, len(order), limit) >= NEVER:
        return NEVER
    return conclude(board, options)


@inner
def begin(board: Board) -> None:
    """Nothing is scheduled but, where a site still runs, its stores: they are saved first."""
    reset(board)
    if board.grace > 0:
        for store in range(len(board.store)):
            recover_store(board, store)


@spliced
def conclude(board: Board, options: Ints) -> int:
    """What was left out once more, then what nobody waits for: late services and the other stores.

    Boots and sheds that came later may have made room, so components that found none are tried again,
    what is needed first. Returns the price of the whole.
    """
    for component in range(board.components):
        failed = board.item[component].done and board.item[component].at >= NEVER
        if failed and board.item[component].why != FAILED_TIME:
            try_again(board, component, options[component])
    for component in range(board.components):
        if board.item[component].why == FAILED_TIME and board.item[component].at >= NEVER:
            start_late(board, component, options[component])
    for store in range(len(board.store)):
        recover_store(board, store)
    return finish(board)


@inner
def _end(board: Board, item: int) -> int:
    """When an item is done; 0 where it never is."""
    top = item >= board.components
    at = board.service[item - board.components].top_own if top else board.item[item].at
    return at if at < NEVER else 0


@allocating_inner
def _shed_times(board: Board) -> None:
    """When sheds take top and base away: the replica in time that goes below the floor decides the base."""
    for service in board.service:
        service.top_shed_at = service.base_shed_at = NEVER
    count = board.size[SHEDS]
    if count == 0:
        return
    left = np.array([service.surviving for service in board.service], np.int64)
    at = np.array([board.shed[k].at for k in range(count)], np.int64)
    for line in np.argsort(at, kind="mergesort"):
        shed = board.shed[line]
        number = board.present[shed.entry].service
        service = board.service[number]
        left[number] -= shed.count
        service.top_shed_at = min(service.top_shed_at, shed.at)
        if left[number] < service.serves:
            service.base_shed_at = min(service.base_shed_at, shed.at)


@inner
def outage(board: Board, back: int, gone: int) -> int:
    """Ticks of [0, H) without a milestone that holds in [back, gone), counted from the grace on."""
    horizon = board.horizon
    late = max(0, min(back, horizon) - board.grace)
    return min(horizon, late + horizon - min(gone, horizon))


@inner
def finish(board: Board) -> int:
    """Times of tops, soft dependencies and sheds included; the objective as the search counts it."""
    _shed_times(board)
    total = 0
    for service in range(len(board.service)):
        top = max(board.service[service].base_at, board.service[service].top_own)
        if board.service[service].top_starts > 0 and board.service[service].top_own == UNKNOWN:
            top = NEVER
        gone = min(board.service[service].top_shed_at, board.service[service].base_shed_at)
        for k in range(board.heap[board.base[SOFT] + service], board.heap[board.base[SOFT] + service + 1]):
            other = board.heap[k]
            top = max(top, board.service[other].base_at)
            gone = min(gone, board.service[other].base_shed_at)
        board.service[service].top_at = top
        board.service[service].top_shed_at = gone
        total += board.service[service].base_weight * _value(
            board, board.service[service].base_at, board.service[service].base_shed_at
        )
        total += board.service[service].top_weight * _value(board, top, gone)
    return total


@inner
def _value(board: Board, back: int, gone: int) -> int:
    """Outage as the search counts it: ticks within the grace count a little."""
    if board.grace == 0:
        return outage(board, back, gone)
    horizon = board.horizon
    plain = min(horizon, min(back, horizon) + horizon - min(gone, horizon))
    return GRACE_FACTOR * outage(board, back, gone) + plain


@kernel
def objective(board: Board) -> int:
    """Weighted person-ticks of a finished generation: the Z of the model."""
    total = 0
    for service in range(len(board.service)):
        base, top = board.service[service].base_shed_at, board.service[service].top_shed_at
        total += board.service[service].base_weight * outage(board, board.service[service].base_at, base)
        total += board.service[service].top_weight * outage(board, board.service[service].top_at, top)
    return total
