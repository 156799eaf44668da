"""Local search over orders: insertion of items under annealing, every order generated and priced.

The random numbers are splitmix64 on integers, and the exponential threshold is built from bits, so that
the same seed gives the same plan on every machine.
"""

# Records are untyped to mypy, so what is read from them is Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import allocating_kernel, inner, kernel, spliced
from evac.planning.evacuation.board import NEVER, Board, Ints
from evac.planning.evacuation.generate import begin, conclude, generate, run_stretch
from evac.planning.evacuation.items import back_to_mark, set_mark
from evac.planning.evacuation.legality import breaks_rules

FRACTION_BITS = 10
LN2_PERMILLE = 693
TASTE, EAGER, FAVOUR = range(3)
"""Columns of the options of an item: which stock first, whether sheds compete, pool liked best (-1)."""


@inner
def draw(random: NDArray[np.uint64], below: int) -> int:
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
def _slack(random: NDArray[np.uint64], temperature: int) -> int:
    """An exponential number of mean about `temperature`: a geometric count of bits and a fraction."""
    halvings = 0
    while halvings < 20 and draw(random, 2) == 1:
        halvings += 1
    scaled = (halvings << FRACTION_BITS) + draw(random, 1 << FRACTION_BITS)
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
def _reach(random: NDArray[np.uint64], count: int) -> int:
    """How far an insertion goes: short moves are likelier, long ones happen."""
    reach = 1
    while reach < count and draw(random, 3) > 0:
        reach *= 2
    return 1 + draw(random, min(reach, count - 1))


@inner
def _vary_options(random: NDArray[np.uint64], options: Ints, item: int, pools: int) -> tuple[int, int]:
    """Change one option of an item; (column, old value)."""
    column = draw(random, 3)
    old = options[item, column]
    if column == TASTE:
        options[item, column] = draw(random, 3)
    elif column == EAGER:
        options[item, column] = 1 - old
    else:
        options[item, column] = draw(random, pools + 1) - 1
    return column, old


@allocating_kernel
def anneal(
    board: Board,
    order: Ints,
    options: Ints,
    random: NDArray[np.uint64],
    work: int,
    heat: int,
    option_share: int,
    best_order: Ints,
    best_options: Ints,
    current: int,
) -> tuple[int, int]:
    """`work` generations from an order of value `current`; (best, last) value found.

    heat: temperature at the start, in the unit of the objective, falling linearly to 0; option_share:
    percent of moves that change an option. `order` and `options` end as the last accepted ones.
    """
    count = len(order)
    best = current
    best_order[:] = order
    best_options[:] = options
    if count < 2 and option_share == 0:
        return best, current
    for step in range(work):
        temperature = heat * (work - step) // work
        limit = current + _slack(random, temperature)
        source = draw(random, count)
        varied = count < 2 or draw(random, 100) < option_share
        target = source
        column, old = 0, 0
        if varied:
            column, old = _vary_options(random, options, order[source], len(board.pool))
        else:
            reach = _reach(random, count)
            target = source - reach if draw(random, 2) else source + reach
            target = min(max(target, 0), count - 1)
            _shift(order, source, target)
        value = generate(board, order, options, limit)
        if value <= limit and not breaks_rules(board):
            current = value
            if value < best:
                best = value
                best_order[:] = order
                best_options[:] = options
        elif varied:
            options[order[source], column] = old
        else:
            _shift(order, target, source)
    return best, current


@spliced
def _try_moves(
    board: Board,
    order: Ints,
    options: Ints,
    random: NDArray[np.uint64],
    first: int,
    last: int,
    tries: int,
    heat: int,
) -> None:
    """Insertions within order[first:last], each priced by generating just that stretch from the mark."""
    current = run_stretch(board, order, options, first, last, NEVER)
    back_to_mark(board)
    for _ in range(tries):
        source = first + draw(random, last - first)
        reach = _reach(random, last - first)
        target = source - reach if draw(random, 2) else source + reach
        target = min(max(target, first), last - 1)
        if source == target:
            continue
        _shift(order, source, target)
        limit = current + _slack(random, heat)
        value = run_stretch(board, order, options, first, last, limit)
        back_to_mark(board)
        if value <= limit:
            current = value
        else:
            _shift(order, target, source)


@allocating_kernel
def sweep(
    board: Board, order: Ints, options: Ints, random: NDArray[np.uint64], window: int, tries: int, heat: int
) -> int:
    """Improve an order from front to back, a window at a time; the value of the order it ends with.

    An insertion inside a window leaves what follows it almost as it was, so it is judged by the window
    alone: that costs a small part of a generation. `order` must be in the sequence items ran.
    """
    begin(board)
    count = len(order)
    first = 0
    while first < count:
        last = min(first + window, count)
        if last - first > 1:
            set_mark(board)
            _try_moves(board, order, options, random, first, last, tries, heat)
        step = last if last == count else first + (window + 1) // 2
        run_stretch(board, order, options, first, step, NEVER)
        first = step
    return conclude(board, options)


@kernel
def as_run(board: Board, order: Ints) -> None:
    """Rewrite an order as the sequence in which its items ran in the generation on the board."""
    for k in range(len(order)):
        order[k] = board.item[k].ran
