"""From an instance to the best generation found, within an amount of work.

Work is counted in generations. Small instances search rows and order together; in large ones a
placement is kept while its order is searched, then rows are chosen anew in the order found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evac.model.instance import Instance
from evac.planning.evacuation.board import LEVELLED, NEVER, Board, Ints
from evac.planning.evacuation.generate import generate, objective
from evac.planning.evacuation.given import keep_rows, remember
from evac.planning.evacuation.legality import breaks_tiers
from evac.planning.evacuation.lowering import lower
from evac.planning.evacuation.order import Items, closure_order, items_of, level_order, tier_order
from evac.planning.evacuation.search import EAGER, FAVOUR, TASTE, anneal
from evac.planning.evacuation.sources import BOOTED_FIRST
from evac.planning.evacuation.tools import refuse_self_reference

Progress = Callable[[int, int, int], None]
"""Called with (work done, work in all, best objective so far as the search counts it)."""

SMALL = 3_000
"""Rows and starts up to which rows are chosen anew in every generation."""
HEAT_DIVISOR = 100_000
CHUNKS = 12
OPTION_SHARE = 30


@dataclass(slots=True, eq=False)
class Found:
    """The best so far: an order with its options, its value, and whether rows are those remembered."""

    order: Ints
    options: Ints
    value: int
    given: bool
    legal: bool


def default_options(board: Board) -> Ints:
    """Booted rows first, sheds only when nothing else fits, no pool preferred."""
    options = np.zeros((board.components + len(board.service), 3), np.int64)
    options[:, TASTE], options[:, EAGER], options[:, FAVOUR] = BOOTED_FIRST, 0, -1
    return options


def prepare(instance: Instance) -> tuple[Board, Items]:
    """The board and items of an instance. Raises Infeasible for a tool that needs itself."""
    refuse_self_reference(instance)
    board = lower(instance)
    return board, items_of(board, instance)


def first_plan(board: Board, items: Items) -> Found:
    """The better of closure order and tier order; tier order wherever the other breaks the tiers."""
    options = default_options(board)
    found: Found | None = None
    for order in (closure_order(items), tier_order(board, items)):
        value = generate(board, order, options, NEVER)
        legal = not breaks_tiers(board)
        if found is None or (legal, -value) > (found.legal, -found.value):
            found = Found(order, options, value, False, legal)
    assert found is not None
    return found


def solve(
    instance: Instance,
    work: int,
    seed: int = 0,
    progress: Progress | None = None,
    prepared: tuple[Board, Items] | None = None,
) -> Board:
    """The board with the best generation found on it, the same for the same input, work and seed."""
    board, items = prepared or prepare(instance)
    found = first_plan(board, items)
    random = np.array([seed * 2_654_435_761 + 1], np.uint64)
    if work > 0 and len(items.active):
        small = len(board.row) + len(board.started) <= SMALL
        search = _search_small if small else _search_large
        found = search(board, found, random, work, progress)
    keep_rows(board, int(found.given))
    generate(board, found.order, found.options, NEVER)
    return board


def _search_small(
    board: Board, found: Found, random: np.ndarray, work: int, progress: Progress | None
) -> Found:
    """Annealing over order and options, rows chosen anew each time; the best of several descents."""
    best = found
    for chunk in range(CHUNKS):
        share = max(1, work // CHUNKS)
        again = _anneal(board, best, random, share, best.value // (100 << (chunk % 4 * 2)), OPTION_SHARE)
        if (again.legal, -again.value) > (best.legal, -best.value):
            best = again
        if progress is not None:
            progress((chunk + 1) * share, work, best.value)
    return best


def _search_large(
    board: Board, found: Found, random: np.ndarray, work: int, progress: Progress | None
) -> Found:
    """Orders for a placement that is kept, and from time to time a new placement for the order."""
    best = _settle(board, found)
    for chunk in range(CHUNKS):
        share = max(1, work // CHUNKS)
        heat = best.value // HEAT_DIVISOR * (CHUNKS - chunk) // CHUNKS
        best = _anneal(board, best, random, share, heat, 0)
        best = _place_anew(board, best)
        if progress is not None:
            progress((chunk + 1) * share, work, best.value)
    return best


def _anneal(board: Board, found: Found, random: np.ndarray, work: int, heat: int, share: int) -> Found:
    order, options = found.order.copy(), found.options.copy()
    best_order, best_options = order.copy(), options.copy()
    keep_rows(board, int(found.given))
    start = found.value if found.legal else NEVER >> 1
    best, _ = anneal(
        board, order, options, random, work, max(heat, 1), share, best_order, best_options, start
    )
    return Found(best_order, best_options, best, found.given, found.legal or best < start)


def _settle(board: Board, found: Found) -> Found:
    """Remember the rows of a generation, and price its order again on them."""
    keep_rows(board, 0)
    generate(board, found.order, found.options, NEVER)
    remember(board)
    keep_rows(board, 1)
    value = generate(board, found.order, found.options, NEVER)
    legal = found.legal and not breaks_tiers(board)
    return Found(found.order, found.options, value, True, legal)


def _place_anew(board: Board, found: Found) -> Found:
    """Rows chosen anew in the order found, if that is better; the remembered ones otherwise."""
    keep_rows(board, 0)
    value = generate(board, found.order, found.options, found.value)
    if value >= found.value or breaks_tiers(board):
        return found
    return _settle(board, Found(found.order, found.options, value, False, found.legal))


def level_by_level(instance: Instance, prepared: tuple[Board, Items] | None = None) -> Board:
    """The baseline: a dependency level is finished before the next begins, ties by id."""
    board, items = prepared or prepare(instance)
    order = level_order(board, items, instance.services.id)
    keep_rows(board, 0)
    board.size[LEVELLED] = 1
    generate(board, order, default_options(board), NEVER)
    board.size[LEVELLED] = 0
    return board


def value_of(board: Board) -> int:
    """Z of the generation on the board: weighted person-ticks."""
    return int(objective(board))
