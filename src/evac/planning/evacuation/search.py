"""Serial schedule generation and the search over orders.

A generation places milestones in order of priority, each as early as possible; whatever an item waits for is
generated first, so every order is feasible. The search moves items and prices the result.

The random numbers are splitmix64 on integers, and the exponential threshold is built from bits, so that
the same seed gives the same plan on every machine. All ways of running items are modes of one kernel: each
kernel that contains them costs the compiler all of them again.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import inner, kernel, unlocked_kernel
from evac.planning.evacuation.asked import EAGER, FAVOUR, ROWS, TASTE, ask, bar, was_asked
from evac.planning.evacuation.board import (
    ASKER,
    AT_LEVEL,
    BARS,
    BOOT,
    FAILED_ROOM,
    FAILED_TIME,
    FLOOR,
    LEFTOVERS,
    LEVELLED,
    MEMBER,
    NEVER,
    PAID,
    REACHED,
    SHED,
    SHEDS,
    SOFT,
    SPOILED,
    UNKNOWN,
    Board,
    Ints,
)
from evac.planning.evacuation.idle_sheds import take_back_idle
from evac.planning.evacuation.items import (
    AGAIN,
    IN_TURN,
    back_to_mark,
    puts_off,
    recover_store,
    reset,
    run_ahead,
    run_item,
    set_mark,
    start_late,
)
from evac.planning.evacuation.legality import breaks_rules
from evac.planning.evacuation.making_way import place_failed
from evac.planning.evacuation.moves import restart_shed, shed_times
from evac.planning.evacuation.pricing import cost, extra_for_doubt, value
from evac.planning.evacuation.sequence import BEFORE, keep_events, next_item, note_event, repeats, wants
from evac.planning.evacuation.timing import tool_at

EACH_ODDS = 4
"""One change in this many, of the rows that an item avoids, changes its replicas per server instead."""
FRACTION_BITS = 10
LN2_PERMILLE = 693
_GENERATE, _ANNEAL, _SWEEP, _USE_ROOM = range(4)
"""Modes of `_run`."""

Random = NDArray[np.uint64]


class _Task(NamedTuple):
    """Input of `_run`."""

    mode: int
    limit: int
    """Generation: stops when the value exceeds it. Annealing: value of the initial order."""
    steps: int
    """Annealing: number of generations; sweep: tries per window."""
    heat: int
    """Temperature at the start, in the unit of the objective."""
    share: int
    """Annealing: percent of moves that change an option; sweep: items per window."""
    random: Random
    best_order: Ints
    best_options: Ints
    each: int = 0
    """Annealing: 1 if it may spread an item's replicas over servers."""


@inner
def _price(board: Board, item: int) -> int:
    """What an item adds to the objective at least, now that it is generated."""
    components = board.components
    if item >= components:
        service = item - components
        return board.service[service].top_weight * cost(
            board, max(board.service[service].base_at, board.service[service].top_own)
        )
    total = 0
    for k in range(board.heap[board.base[MEMBER] + item], board.heap[board.base[MEMBER] + item + 1]):
        service = board.service[board.heap[k]]
        weight = service.base_weight + (service.top_weight if service.top_starts == 0 else 0)
        total += weight * cost(board, service.base_at)
    return total


@inner
def _run_with_needs(board: Board, item: int, options: Ints, limit: int) -> int:
    """Generates an item after everything it waits for; returns what that adds to the objective, at most just
    over `limit`.
    """
    stores = board.components + len(board.service)
    first_ahead = stores + len(board.store)
    paid, depth = 0, 1
    board.item[0].stack = item
    while depth > 0 and paid <= limit:
        item, depth = next_item(board, depth)
        if item >= first_ahead:
            note_event(board, item)
            run_ahead(board, item - first_ahead, options[item])
        elif item >= stores:
            _recover(board, item, options[item, TASTE])
        elif item != UNKNOWN and wants(board, item):
            note_event(board, item)
            _raise_floor(board, item)
            run_item(board, item, options[item], IN_TURN)
            board.size[REACHED] = max(board.size[REACHED], _end(board, item))
            paid += _price(board, item)
        elif 0 <= item < board.components:
            board.item[item].at = 0
    return paid


@inner
def _recover(board: Board, item: int, choice: int) -> None:
    """Recovers a store in its own turn, if nothing that needs it has done so."""
    store = item - board.components - len(board.service)
    if board.store[store].primary_at == UNKNOWN:
        note_event(board, item)
        board.size[ASKER] = item
        ask(board, TASTE)
        recover_store(board, store, choice)


@inner
def _raise_floor(board: Board, item: int) -> None:
    """If levels are finished one by one, nothing of a level begins before the last one has ended."""
    if board.size[LEVELLED] and board.item[item].level > board.size[AT_LEVEL]:
        board.size[AT_LEVEL], board.size[FLOOR] = board.item[item].level, board.size[REACHED]


@inner
def _run_stretch(board: Board, order: Ints, options: Ints, first: int, last: int, limit: int) -> int:
    """Generates order[first:last]; returns what they add to the objective, or NEVER if that exceeds
    `limit`.
    """
    paid = 0
    for k in range(first, last):
        paid += _run_with_needs(board, order[k], options, limit - paid)
        if paid > limit:
            return NEVER
    return paid


@inner
def _generation(board: Board, order: Ints, options: Ints, limit: int) -> int:
    """Generates all items in an order; returns the searched objective, or NEVER as soon as it exceeds
    `limit`.

    order: items by priority; options: (items, 4) as in `items.TASTE` and the constants after it.
    """
    _begin(board)
    board.size[PAID] = _run_stretch(board, order, options, 0, len(order), limit)
    if board.size[PAID] >= NEVER:
        return NEVER
    return _conclude(board, options)


@inner
def _begin(board: Board) -> None:
    """Starts empty, except that stores are saved first while a site still runs."""
    reset(board)
    board.size[SPOILED] = board.size[LEFTOVERS] = 0
    board.size[ASKER] = BEFORE
    for turn in range(len(board.store) if board.grace > 0 else 0):
        recover_store(board, board.store[turn].turn, 0)


@inner
def _conclude(board: Board, options: Ints) -> int:
    """Retries what was left out, then places what no one waits for: late services, other stores, and shed
    services that can run elsewhere. After all of that, what is put off. Returns the total price.

    Later boots and sheds may have freed capacity: components that found none, and tops, are retried. What
    sheds left over is then there for every tier."""
    board.size[LEFTOVERS], last = 1, puts_off(board)
    for turn in range(last + 1):
        sheds = -1
        while sheds != board.size[SHEDS] or take_back_idle(board) > 0:
            sheds = board.size[SHEDS]
            place_failed(board, options, turn == last)
        if turn > 0 or max(tool_at(board, BOOT), tool_at(board, SHED)) > 0:
            for service in range(len(board.service)):
                if board.service[service].top_starts > 0 and board.service[service].top_own >= NEVER:
                    run_item(board, board.components + service, options[board.components + service], AGAIN)
        bar(board, UNKNOWN, 0)
        for component in range(board.components if turn == last else 0):
            if board.item[component].why == FAILED_TIME and board.item[component].at >= NEVER:
                start_late(board, component, options[component])
        for store in range(len(board.store)):
            recover_store(board, store, 0)
        restart_shed(board, options)
    return NEVER if board.size[SPOILED] else _finish(board)


@inner
def _end(board: Board, item: int) -> int:
    """When an item is done; 0 if it never is."""
    own = item - board.components
    at = board.service[own].top_own if own >= 0 else board.item[item].at
    return at if at < NEVER else 0


@inner
def _finish(board: Board) -> int:
    """Sets times of tops, including soft dependencies and sheds; returns the objective as the search counts
    it.
    """
    shed_times(board)
    total = 0
    for service in range(len(board.service)):
        top = max(board.service[service].base_at, board.service[service].top_own)
        if board.service[service].top_starts > 0 and board.service[service].top_own == UNKNOWN:
            top = NEVER
        gone, since = board.service[service].top_shed_at, board.service[service].top_since
        shed = board.service[service].surviving - board.service[service].left
        if gone < NEVER and shed == board.service[service].moved:
            top, since, gone = max(top, board.service[service].again), min(since, gone), NEVER
        gone = min(gone, board.service[service].base_shed_at)
        for k in range(board.heap[board.base[SOFT] + service], board.heap[board.base[SOFT] + service + 1]):
            other = board.heap[k]
            top = max(top, board.service[other].base_at)
            since = min(since, board.service[other].base_since)
            gone = min(gone, board.service[other].base_shed_at)
        board.service[service].top_at = top
        board.service[service].top_shed_at, board.service[service].top_since = gone, since
        total += board.service[service].base_weight * value(
            board,
            board.service[service].base_since,
            board.service[service].base_at,
            board.service[service].base_shed_at,
        )
        total += board.service[service].top_weight * value(board, since, top, gone)
    if board.vague:
        total += extra_for_doubt(board)
    return total


@inner
def _draw(random: Random, below: int) -> int:
    """Random integer in [0, below) from splitmix64 (Steele, Lea and Flood 2014)."""
    z = np.uint64(random[0] + np.uint64(0x9E3779B97F4A7C15))
    random[0] = z
    z = np.uint64((z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    z = np.uint64((z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    z = z ^ (z >> np.uint64(31))
    # int() would leave it unsigned, and unsigned with signed makes floats in kernels.
    number: Any = np.int64((z >> np.uint64(1)) % np.uint64(below))
    return number


@inner
def _slack(random: Random, temperature: int) -> int:
    """An exponential number of mean about `temperature`: a geometric count of bits and a fraction."""
    halvings = 0
    while halvings < 20 and _draw(random, 2) == 1:
        halvings += 1
    scaled = (halvings << FRACTION_BITS) + _draw(random, 1 << FRACTION_BITS)
    return (temperature * scaled >> FRACTION_BITS) * LN2_PERMILLE // 1000


@inner
def _shift(order: Ints, source: int, target: int) -> None:
    """Move the item at `source` to `target`, the others close up."""
    item = order[source]
    step = 1 if target > source else -1
    at = source
    while at != target:
        order[at] = order[at + step]
        at += step
    order[target] = item


@inner
def _reach(random: Random, count: int) -> int:
    """Distance of an insertion: short moves are likelier, long ones happen."""
    reach = 1
    while reach < count and _draw(random, 3) > 0:
        reach *= 2
    return 1 + _draw(random, min(reach, count - 1))


@inner
def _vary_options(board: Board, random: Random, options: Ints, item: int, each: int) -> tuple[int, int]:
    """Changes one option of an item; returns (column, old value). each 1: may also change its replicas per
    server.
    """
    column = min(_draw(random, 5), ROWS)
    first = board.components + len(board.service)
    if first <= item < first + len(board.store):
        column = TASTE
    old = options[item, column]
    if column == TASTE:
        options[item, column] = _draw(random, 3)
    elif column == EAGER:
        options[item, column] = 1 - old
    elif column == FAVOUR:
        options[item, column] = _draw(random, len(board.pool) + 1) - 1
    elif each > 0 and _draw(random, EACH_ODDS) == 0:
        options[item, column] = old ^ ((1 + _draw(random, 3)) << BARS)
    else:
        options[item, column] = old ^ (1 << _draw(random, max(1, min(BARS, len(board.row)))))
    return column, old


@inner
def _keep(order: Ints, options: Ints, best_order: Ints, best_options: Ints) -> None:
    for item in range(len(order)):
        best_order[item] = order[item]
    for item in range(len(options)):
        for column in range(options.shape[1]):
            best_options[item, column] = options[item, column]


@inner
def _differs(
    board: Board, order: Ints, options: Ints, at: int, column: int, old: int, varied: bool, events: int
) -> bool:
    """Whether a change of the order, or of an option of order[at], may lead to another generation than the
    one that was kept.
    """
    if varied:
        item = order[at]
        return was_asked(board, item, column, old, options[item, column])
    return not repeats(board, order, events)


@inner
def _anneal(board: Board, order: Ints, options: Ints, task: _Task) -> int:
    """Runs generations from an order of value `limit`; returns the best value found. The temperature falls
    linearly to 0; `order` and `options` end as the last accepted ones. What only repeats the generation
    accepted before is judged without being run. In mode `_GENERATE`, runs one generation unchanged.
    """
    random, count, best, events, paid = task.random, len(order), task.limit, UNKNOWN, 0
    if task.mode == _ANNEAL:
        _keep(order, options, task.best_order, task.best_options)
        if count < 2 and task.share == 0:
            return best
    current = best
    for step in range(task.steps):
        limit, varied, source, target, column, old = current, False, 0, 0, 0, 0
        if task.mode == _ANNEAL:
            limit = current + _slack(random, task.heat * (task.steps - step) // task.steps)
            source = _draw(random, count)
            varied = count < 2 or _draw(random, 100) < task.share
            target = source
            if varied:
                column, old = _vary_options(board, random, options, order[source], task.each)
            else:
                reach = _reach(random, count)
                target = source - reach if _draw(random, 2) else source + reach
                target = min(max(target, 0), count - 1)
                _shift(order, source, target)
        is_same = events >= 0
        is_same = is_same and not _differs(board, order, options, target, column, old, varied, events)
        value = current if paid <= limit else NEVER
        if not is_same:
            value = _generation(board, order, options, limit)
        if task.mode == _GENERATE:
            return value
        if value <= limit and (is_same or not breaks_rules(board)):
            if not is_same:
                current, events, paid = value, keep_events(board), board.size[PAID]
            if value < best:
                best = value
                _keep(order, options, task.best_order, task.best_options)
        elif varied:
            options[order[source], column] = old
        else:
            _shift(order, target, source)
    return best


@inner
def _try_moves(board: Board, order: Ints, options: Ints, task: _Task, first: int, last: int) -> None:
    """Tries insertions within order[first:last], each priced by generating only that stretch from the
    mark.
    """
    random, current = task.random, NEVER
    for turn in range(task.steps + 1):
        limit, source, target = NEVER, first, first
        if turn > 0:
            source = first + _draw(random, last - first)
            reach = _reach(random, last - first)
            target = source - reach if _draw(random, 2) else source + reach
            target = min(max(target, first), last - 1)
            if source == target:
                continue
            _shift(order, source, target)
            limit = current + _slack(random, task.heat)
        value = _run_stretch(board, order, options, first, last, limit)
        back_to_mark(board)
        if turn == 0 or value <= limit:
            current = value
        else:
            _shift(order, target, source)


@inner
def _sweep(board: Board, order: Ints, options: Ints, task: _Task) -> int:
    """Improves an order from front to back, one window at a time; returns the value of the final order.

    An insertion inside a window hardly changes what follows it, so it is judged by the window alone, at a
    small part of a generation's cost. `order` must be in the sequence items ran.
    """
    _begin(board)
    count = len(order)
    first = 0
    while first < count:
        last = min(first + task.share, count)
        if last - first > 1:
            set_mark(board)
            _try_moves(board, order, options, task, first, last)
        step = last if last == count else first + (task.share + 1) // 2
        _run_stretch(board, order, options, first, step, NEVER)
        first = step
    return _conclude(board, options)


@inner
def _use_capacity(board: Board, options: Ints) -> int:
    """Retries components that found no capacity in their turn: now there is more."""
    board.size[LEFTOVERS] = 1
    for component in range(board.components):
        failed = board.item[component].done and board.item[component].at >= NEVER
        if failed and board.item[component].why == FAILED_ROOM:
            run_item(board, component, options[component], AGAIN)
    restart_shed(board, options)
    return _finish(board)


@unlocked_kernel
def _run(board: Board, order: Ints, options: Ints, task: _Task) -> int:
    if task.mode == _SWEEP:
        return _sweep(board, order, options, task)
    if task.mode == _USE_ROOM:
        return _use_capacity(board, options)
    return _anneal(board, order, options, task)


def generate(board: Board, order: Ints, options: Ints, limit: int) -> int:
    """Generates all items in an order; returns the searched objective, or NEVER as soon as it exceeds
    `limit`.

    order: items by priority; options: (items, 4) as in `items.TASTE` and the constants after it.
    """
    task = _Task(_GENERATE, limit, 1, 0, 0, np.zeros(1, np.uint64), order, options)
    return _run(board, order, options, task)


def anneal(
    board: Board,
    order: Ints,
    options: Ints,
    random: Random,
    steps: int,
    heat: int,
    share: int,
    value: int,
    each: int = 0,
) -> tuple[int, Ints, Ints]:
    """Anneals for some generations from an order of known value; returns the best value, its order and
    options.

    heat: initial temperature, in the unit of the objective; share: percent of moves that change options; each
    1: may also change replicas per server.
    """
    best_order, best_options = order.copy(), options.copy()
    task = _Task(_ANNEAL, value, steps, heat, share, random, best_order, best_options, each)
    return _run(board, order.copy(), options.copy(), task), best_order, best_options


def sweep(
    board: Board, order: Ints, options: Ints, random: Random, window: int, tries: int, heat: int
) -> int:
    """Improves an order in place from front to back, one window of items at a time; returns its value.
    `order` must be in the sequence in which items ran.
    """
    return _run(board, order, options, _Task(_SWEEP, NEVER, tries, heat, window, random, order, options))


def use_capacity(board: Board, options: Ints) -> None:
    """Retries components that found no capacity in their turn."""
    nothing = np.zeros(0, np.int64)
    task = _Task(_USE_ROOM, NEVER, 0, 0, 0, np.zeros(1, np.uint64), nothing, options)
    _run(board, nothing, options, task)


@kernel
def as_run(board: Board, order: Ints) -> None:
    """Rewrites an order as the sequence in which its items ran in the generation on the board."""
    for k in range(len(order)):
        order[k] = board.item[k].ran
