"""From an instance to the best generation found, within an amount of work.

Work is counted in generations. Small instances search rows and order together; in large ones a placement is
kept while its order is searched, then rows are chosen again in the order found. Of a site that is restored,
servers that no service waits for boot last, in what the others leave of each limit: longest boots first,
feeds in turn, so that the last server is on about as early as any order allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import Instance
from evac.planning.compiled import kernel
from evac.planning.evacuation.board import AHEAD_WAIT, LEVELLED, NEED_STORE, NEVER, WAIT, Board, Ints
from evac.planning.evacuation.items import EAGER, FAVOUR, TASTE
from evac.planning.evacuation.legality import breaches, breaks_rules, first_idle_shed
from evac.planning.evacuation.lowering import lower
from evac.planning.evacuation.order import (
    Items,
    closure_order,
    entries,
    items_of,
    level_order,
    lost_tools,
    tier_order,
)
from evac.planning.evacuation.search import (
    anneal,
    as_run,
    generate,
    objective,
    sweep,
    use_capacity,
)
from evac.planning.evacuation.starts import ON_FIRST, keep_rows, remember
from evac.planning.evacuation.timing import boot, power_allows

Progress = Callable[[int, int, int], None]
"""Called with (work done, work in all, best objective so far as the search counts it)."""

SMALL = 3_000
"""Rows and starts up to which rows are chosen anew in every generation."""
HEAT_DIVISOR = 100_000
CHUNKS = 12
COOLINGS = (20, 100, 400, 1_600)
"""Descents begin at the objective over each of these in turn; when all have failed, the search ends."""
OPTION_SHARE, SPREAD_OPTION_SHARE = 50, 80
SEEK_LEGAL = 400
"""Generations spent on an order that keeps the tiers where no constructive one does."""
MENDS = 8
LONGEST_MENDS, NEARLY = 16, 4
"""Where the tiers of so few services are broken still, mending goes on for longer: an order that keeps them
all can be worth many times as much.
"""
WRITE_OFFS = 8
"""Rounds of writing off what stays down, where the tiers are broken still."""
ROUNDS = 9
PLACING_SHARE = 16
"""Generations on pinned rows that it takes to choose rows anew, remember them and price the order again."""
LEAST_SHARE = 10
"""Generations' worth of work that one sweep takes at the least."""
WINDOWS = (32, 96, 24, 200)
"""Items that a sweep looks at together, sweep by sweep."""


@dataclass(slots=True, eq=False)
class Found:
    """The best so far: an order with its options, its value, and whether rows are those remembered."""

    order: Ints
    options: Ints
    value: int
    pinned: bool
    legal: bool


def default_options(board: Board, eager: int) -> Ints:
    """Rows that are on first, no pool preferred. eager 1: bases shed rather than wait for boots."""
    items = 2 * board.components + len(board.service) + len(board.store)
    options = np.zeros((items, 4), np.int64)
    options[:, TASTE], options[:, FAVOUR] = ON_FIRST, -1
    options[: board.components, EAGER] = eager
    return options


def prepare(instance: Instance) -> tuple[Board, Items]:
    """The board and items of an instance."""
    board = lower(instance)
    return board, items_of(board, instance)


def first_plan(board: Board, items: Items) -> Found:
    """Closure order with eager sheds; then, where that breaks the tiers, ever more careful ones.

    Where tools are lost that people can do without, the order that brings them back first as well: what
    comes before a tool in an order is done by hand, and a whole chain by hand can take far longer.
    """
    closure = closure_order(items)
    found = _begin(board, items, closure, 1)
    tools = lost_tools(board, items)
    if len(tools):
        spared, kept = board.service["spared"].copy(), board.present["kept"].copy()
        first = closure_order(items, tools)
        other = _begin(board, items, np.concatenate([first, closure[~np.isin(closure, first)]]), 1)
        if (other.legal, -other.value) > (found.legal, -found.value):
            found = other
        else:
            board.service["spared"], board.present["kept"] = spared, kept
            generate(board, found.order, found.options, NEVER)
    for order, eager in ((closure, 0), (tier_order(board, items), 0)):
        if found.legal:
            break
        found = max(found, _begin(board, items, order, eager), key=lambda f: (f.legal, -f.value))
    return found


def _begin(board: Board, items: Items, order: Ints, eager: int) -> Found:
    """What an order comes to, mended, with no one spared yet."""
    board.service["spared"] = board.service["written_off"] = board.present["kept"] = 0
    return _mend(board, items, Found(order, default_options(board, eager), NEVER, False, False))


def _mend(board: Board, items: Items, found: Found) -> Found:
    """Generate; while the tiers are broken, spare who was shed in vain, and put who lacks capacity before the
    first of a lower tier; first of all where that was not enough. What could have stayed is kept.
    """
    keep_rows(board, 0)
    moved = np.zeros(len(items.tier), np.bool_)
    for turn in range(LONGEST_MENDS + 1):
        found.value = generate(board, found.order, found.options, NEVER)
        breaches, idle = _breaches(board), _idle_sheds(board)
        found.legal = not breaches and not idle
        if found.legal or (turn >= MENDS and len(breaches) > NEARLY):
            break
        board.present["kept"][idle] = 1
        services = board.service[breaches]
        shed = services["left"] < services["surviving"]
        board.service["spared"][np.array(breaches, np.int64)[shed]] = 1
        late = np.unique(services["component"][~shed])
        late = late[np.lexsort((late, items.tier[late]))]
        rest = found.order[~np.isin(found.order, late)]
        found.order = np.concatenate([late[moved[late]], _before_lower(rest, late[~moved[late]], items)])
        moved[late] = True
    return found


def _before_lower(order: Ints, late: Ints, items: Items) -> Ints:
    """`order` with each of `late` put before the first of a lower tier."""
    lowest = np.maximum.accumulate(items.tier[order])
    return np.insert(order, np.searchsorted(lowest, items.tier[late], side="right"), late)


def _write_off(board: Board, items: Items, found: Found) -> Found:
    """Leave what stays down for the end, round by round, so that what only it needs makes way.

    The last resort: a service that is down keeps nothing of lower tiers standing. The first order that
    keeps the tiers is taken; what was found before where none does.
    """
    order = found.order
    keep_rows(board, int(found.pinned))
    generate(board, order, found.options, NEVER)
    keep_rows(board, 0)
    for _ in range(WRITE_OFFS):
        breaches = np.array(_breaches(board), np.int64)
        board.present["kept"][_idle_sheds(board)] = 1
        services = board.service[breaches]
        shed = services["left"] < services["surviving"]
        board.service["spared"][breaches[shed]] = 1
        down = board.service["base_lost"] & (board.service["base_at"] >= NEVER)
        first = np.unique(services["component"][~shed])
        down[np.isin(board.service["component"], first)] = 0
        board.service["written_off"] = down
        order = np.concatenate(
            [first[np.argsort(items.tier[first], kind="stable")], order[~np.isin(order, first)]]
        )
        value = generate(board, order, found.options, NEVER)
        if not breaks_rules(board):
            return Found(order, found.options, value, False, True)
    board.service["written_off"] = 0
    return found


def _breaches(board: Board) -> list[int]:
    """Services that are down though lower tiers should make way for them."""
    breaches(board, len(board.service))
    found: list[int] = np.flatnonzero(board.service["breach"]).tolist()
    return found


def _idle_sheds(board: Board) -> list[int]:
    """Entries of present that were shed though they could have stayed."""
    found: list[int] = []
    line = first_idle_shed(board, 0)
    while line >= 0:
        found.append(int(board.shed[line]["entry"]))
        line = first_idle_shed(board, line + 1)
    return found


def solve(
    instance: Instance,
    work: int,
    seed: int = 0,
    progress: Progress | None = None,
    prepared: tuple[Board, Items] | None = None,
    floor: Callable[[], int] | None = None,
) -> Board:
    """The board with the best generation found on it, the same for the same input, work and seed. floor: a
    value that no generation can get below, as `search` counts it; a search that has reached it would find
    nothing better, and ends. It is asked for only where a search begins.
    """
    board, items = prepared or prepare(instance)
    found = first_plan(board, items)
    small = len(board.row) + len(board.started) <= SMALL
    random = np.array([seed * 2_654_435_761 + 1], np.uint64)
    if found.legal and (work <= 0 or not len(items.active)):
        # A legal first plan is the last one generated: it still lies on the board.
        return board
    if small and not found.legal:
        found = _anneal(board, found, random, SEEK_LEGAL, 1, OPTION_SHARE)
    if not found.legal:
        found = _write_off(board, items, found)
    if work > 0 and len(items.active):
        if small:
            found = _search_small(board, found, random, work, progress, -1 if floor is None else floor())
        else:
            found = _search_large(board, found, random, work, progress)
    keep_rows(board, int(found.pinned))
    generate(board, found.order, found.options, NEVER)
    return board


def _search_small(
    board: Board,
    found: Found,
    random: NDArray[np.uint64],
    work: int,
    progress: Progress | None,
    floor: int,
) -> Found:
    """Annealing over order and options, rows chosen anew each time; the best of several descents. A few more,
    twice as long, may spread replicas over servers: one that takes a server whole can keep out what needs a
    part of it.
    """
    best, barren = _in_full(board, found), 0
    spreads = bool((board.service["base_starts"] > 1).any() and (board.row["is_pool"] == 0).any())
    for chunk in range(CHUNKS + spreads * len(COOLINGS)):
        if best.legal and best.value <= floor:
            break
        if chunk < CHUNKS and barren >= len(COOLINGS):
            continue
        share, heat = max(1, work // CHUNKS), best.value // COOLINGS[chunk % len(COOLINGS)]
        spread = chunk >= CHUNKS
        option_share = SPREAD_OPTION_SHARE if spread else OPTION_SHARE
        again = _anneal(board, best, random, share << spread, heat, option_share, int(spread))
        if (again.legal, -again.value) > (best.legal, -best.value):
            best, barren = again, -1
        barren += 1
        if progress is not None:
            progress(min((chunk + 1) * share, work), work, best.value)
    return best


def _in_full(board: Board, found: Found) -> Found:
    """The same order with every store before the first item that recovers it, and before every base that may
    start ahead an item for that, so that they can be moved too.
    """
    keep_rows(board, 0)
    generate(board, found.order, found.options, NEVER)
    ran = found.order.copy()
    as_run(board, ran)
    first, seen = board.components + len(board.service), dict[int, None]()
    for item in ran.tolist():
        if item < board.components:
            seen |= {first + int(store): None for store in entries(board, NEED_STORE, item)}
            if len(entries(board, WAIT, item)) > len(entries(board, AHEAD_WAIT, item)):
                seen[first + len(board.store) + item] = None
        seen[item] = None
    seen |= {first + store: None for store in range(len(board.store))}
    order = np.array(list(seen), np.int64)
    value = generate(board, order, found.options, NEVER)
    if value > found.value or (found.legal and breaks_rules(board)):
        return found
    return Found(order, found.options, value, found.pinned, found.legal)


def _search_large(
    board: Board, found: Found, random: NDArray[np.uint64], work: int, progress: Progress | None
) -> Found:
    """Sweeps over the order for a placement that is kept, and now and then a new placement for the order."""
    best = _settle(board, found)
    rounds = max(1, min(ROUNDS, work // (LEAST_SHARE + PLACING_SHARE)))
    each = max(LEAST_SHARE, work // rounds - PLACING_SHARE)
    for turn in range(rounds):
        window = WINDOWS[turn % len(WINDOWS)]
        tries = max(1, each * window // (2 * window + 1))
        best = _sweep(board, best, random, window, tries, turn, rounds)
        best = _place_anew(board, best)
        if progress is not None:
            progress((turn + 1) * work // rounds, work, best.value)
    return best


def _sweep(
    board: Board, found: Found, random: NDArray[np.uint64], window: int, tries: int, turn: int, turns: int
) -> Found:
    """One sweep over an order whose rows are pinned; what was there if it is no better."""
    keep_rows(board, 1)
    generate(board, found.order, found.options, NEVER)
    order = found.order.copy()
    as_run(board, order)
    heat = found.value // HEAT_DIVISOR * (turns - turn) // turns
    value = sweep(board, order, found.options, random, window, tries, max(heat, 1))
    if value >= found.value or (found.legal and breaks_rules(board)):
        return found
    return Found(order, found.options, value, True, found.legal)


def _anneal(
    board: Board, found: Found, random: NDArray[np.uint64], work: int, heat: int, share: int, each: int = 0
) -> Found:
    keep_rows(board, int(found.pinned))
    start = found.value if found.legal else NEVER >> 1
    best, order, options = anneal(
        board, found.order, found.options, random, work, max(heat, 1), share, start, each
    )
    return Found(order, options, best, found.pinned, found.legal or best < start)


def _settle(board: Board, found: Found) -> Found:
    """Remember the rows of a generation, and price its order again on them."""
    keep_rows(board, 0)
    generate(board, found.order, found.options, NEVER)
    remember(board)
    keep_rows(board, 1)
    value = generate(board, found.order, found.options, NEVER)
    legal = found.legal and not breaks_rules(board)
    return Found(found.order, found.options, value, True, legal)


def _place_anew(board: Board, found: Found) -> Found:
    """Rows chosen anew in the order found, if that is better; the remembered ones otherwise."""
    keep_rows(board, 0)
    value = generate(board, found.order, found.options, found.value)
    if value >= found.value or breaks_rules(board):
        return found
    return _settle(board, Found(found.order, found.options, value, False, found.legal))


def round_of(instance: Instance) -> Callable[[], object]:
    """One round of the search for an instance, from its first plan on: a search is so many of them."""
    board, items = prepare(instance)
    found = first_plan(board, items)
    return lambda: generate(board, found.order, found.options, NEVER)


def level_by_level(instance: Instance, prepared: tuple[Board, Items] | None = None) -> Board:
    """The baseline: a dependency level is finished before the next begins, ties by id.

    Rows are those of our own placement, tiers first, so that only the order is compared.
    """
    board, items = prepared or prepare(instance)
    placed = _mend(
        board, items, Found(tier_order(board, items), default_options(board, 0), NEVER, False, False)
    )
    _settle(board, placed)
    order = level_order(board, items, instance.services.id)
    board.size[LEVELLED] = 1
    generate(board, order, placed.options, NEVER)
    board.size[LEVELLED] = 0
    keep_rows(board, 0)
    return board


def warm_large(instance: Instance) -> None:
    """Run the search of large instances on a small one, so that its kernels are compiled."""
    board, items = prepare(instance)
    _search_large(board, first_plan(board, items), np.array([1], np.uint64), LEAST_SHARE, None)


def value_of(board: Board) -> int:
    """Z of the generation on the board: weighted person-ticks."""
    return int(objective(board))


@kernel
def _boot_rows(board: Board, rows: Ints) -> int:
    """Boot rows one after the other, each as early as it can; how many there are."""
    done = 0
    for row in rows:
        if board.row[row].on_at < 0 and power_allows(board, row) and boot(board, row, board.row[row].group):
            done += 1
    return done


def bring_up_rest(instance: Instance, board: Board) -> int:
    """Boot every server of the restored domain that is not on yet and that power allows; how many."""
    rows = instance.brought_up.astype(np.int64)
    if not len(rows):
        return 0
    done = int(_boot_rows(board, rows[_order(board, rows)]))
    keep_rows(board, 0)
    use_capacity(board, default_options(board, 0))
    return done


def _order(board: Board, rows: Ints) -> Ints:
    """Those that come on by themselves, as their watts are drawn anyway; then by length, groups in turn."""
    group = board.row["group"][rows]
    turn = np.empty(len(rows), np.int64)
    by_group = np.lexsort((board.row["place"][rows], group))
    first = np.flatnonzero(np.r_[True, group[by_group][1:] != group[by_group][:-1]])
    turn[by_group] = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    lines = board.group[group]
    return np.lexsort((group, turn, -lines["boot_ticks"], -lines["by_itself"]))
