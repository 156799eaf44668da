"""Finds the best generation for an instance within an amount of work.

Work is counted in generations. Small instances search rows and order together; large ones fix a placement
while searching its order, then choose rows again in the order found. At a restored site, servers that no
service waits for boot last, within the remaining limits: longest boots first, feeds in turn, so that the last
server is on about as early as any order allows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evac.model.instance import Instance
from evac.model.records import dataclass
from evac.planning.compiled import kernel
from evac.planning.evacuation.asked import EAGER, FAVOUR, TASTE
from evac.planning.evacuation.board import (
    AHEAD_WAIT,
    BARS,
    HARD_USER,
    LEVELLED,
    NEED_STORE,
    NEVER,
    WAIT,
    Board,
    Ints,
)
from evac.planning.evacuation.items import PUT_OFF
from evac.planning.evacuation.legality import breaches, breaks_rules, first_idle_shed
from evac.planning.evacuation.lowering import lower
from evac.planning.evacuation.order import (
    Items,
    closure_order,
    entries,
    items_of,
    large_first,
    level_order,
    lost_tools,
    tier_order,
)
from evac.planning.evacuation.pricing import objective, price_of_doubt
from evac.planning.evacuation.search import (
    anneal,
    as_run,
    generate,
    sweep,
    use_capacity,
)
from evac.planning.evacuation.sources import ON_FIRST
from evac.planning.evacuation.starts import keep_rows, remember
from evac.planning.evacuation.timing import boot, power_allows

Progress = Callable[[int, int, int], None]
"""Called with (work done, total work, best objective so far as the search counts it)."""

SMALL = 3_000
"""Largest number of rows and starts for which every generation chooses rows again."""
HEAT_DIVISOR = 100_000
CHUNKS = 12
COOLINGS = (20, 100, 400, 1_600)
"""Descents begin at the objective divided by each of these in turn; when all have failed, the search ends."""
OPTION_SHARE, SPREAD_OPTION_SHARE = 50, 80
SEEK_LEGAL = 400
"""Generations spent on finding an order that keeps the tier rules, if no constructive one does."""
MENDS = 8
LONGEST_MENDS, NEARLY = 16, 4
"""With at most this many services breaking the tier rules, repair continues longer: an order that keeps all
rules can be worth many times as much.
"""
WRITE_OFFS = 8
"""Rounds of writing off what stays down, if the tier rules are still broken."""
ROUNDS = 9
PLACING_SHARE = 16
"""Generations on pinned rows that cost as much as choosing rows again, remembering them and pricing the
order.
"""
LEAST_SHARE = 10
"""Minimum cost of one sweep, in generations."""
EAGER_TOPS = 2
"""Not only bases shed rather than wait for boots, but also what services are missing above them."""
TINY, LITTLE_WORK = 100, 3_600
"""Up to this many rows and starts, an instance in which something does not fit is searched even where no
search is asked for: that many generations times rows and starts, which is all that the smallest ones need.
"""
WINDOWS = (32, 96, 24, 200)
"""Items per window, sweep by sweep."""


@dataclass(slots=True, eq=False)
class Found:
    """The best so far: an order with its options, its value, and whether rows are those remembered."""

    order: Ints
    options: Ints
    value: int
    pinned: bool
    legal: bool


def default_options(board: Board, eager: int) -> Ints:
    """Prefers rows that are on, no pool. eager 1: bases shed rather than wait for boots; EAGER_TOPS: all."""
    items = 2 * board.components + len(board.service) + len(board.store)
    options = np.zeros((items, 4), np.int64)
    options[:, TASTE], options[:, FAVOUR] = ON_FIRST, -1
    options[: items if eager == EAGER_TOPS else board.components, EAGER] = eager > 0
    return options


def prepare(instance: Instance) -> tuple[Board, Items]:
    """The board and items of an instance."""
    board = lower(instance)
    return board, items_of(board, instance)


def first_plan(board: Board, items: Items) -> Found:
    """Closure order with eager sheds; then, if that breaks the tier rules, more and more careful ones.

    If tools are lost that people can do without, also tries restoring them first: what precedes a tool is
    done by hand, and a long manual chain can take far longer. If something does not fit, tiny instances also
    try what takes the most of a server first. If a service would stay degraded, also tries shedding for what
    it is missing.
    """
    closure = closure_order(items)
    found = _begin(board, items, closure, 1)
    tools = lost_tools(board, items)
    if len(tools):
        first = closure_order(items, tools)
        found = _better(board, items, found, np.concatenate([first, closure[~np.isin(closure, first)]]))
    if len(board.row) + len(board.started) <= TINY and _is_crowded(board):
        found = _better(board, items, found, large_first(board, items, closure))
    if _sheds_may_fill(board):
        found = _topped(board, found)
    for order, eager in ((closure, 0), (tier_order(board, items), 0)):
        if found.legal:
            break
        found = max(found, _begin(board, items, order, eager), key=lambda f: (f.legal, -f.value))
    return found


def _better(board: Board, items: Items, found: Found, order: Ints) -> Found:
    """The repaired result of another order if it is better, else `found`; the better one is on the board."""
    marks = board.service[["spared", "written_off"]].copy()
    kept = board.present["kept"].copy()
    other = _begin(board, items, order, 1)
    if (other.legal, -other.value) > (found.legal, -found.value):
        return other
    board.service["spared"], board.service["written_off"] = marks["spared"], marks["written_off"]
    board.present["kept"] = kept
    generate(board, found.order, found.options, NEVER)
    return found


def _is_crowded(board: Board) -> bool:
    """Whether something is shed, finds no capacity, or may have used capacity of unknown size."""
    services = board.service
    down = (services["base_lost"] > 0) & (services["blocked"] == 0) & (services["base_at"] >= board.horizon)
    lacks = (services["top_starts"] > 0) & (services["top_own"] >= NEVER)
    shed = services["left"] < services["surviving"]
    return bool(board.vague or (down | lacks | shed).any())


def _topped(board: Board, found: Found) -> Found:
    """The same order with sheds for missing replicas if that is better and legal, else `found`."""
    options = default_options(board, EAGER_TOPS)
    value = generate(board, found.order, options, found.value)
    if value < found.value and not breaks_rules(board):
        return Found(found.order, options, value, False, True)
    generate(board, found.order, found.options, NEVER)
    return found


def _sheds_may_fill(board: Board) -> bool:
    """Whether a service that serves lacks replicas for which a shed was an option. If it only waits for what
    it needs softly, no shed helps.
    """
    services, top_own = board.service, board.service["top_own"]
    lacks = (services["top_starts"] > 0) & (services["top_weight"] > 0)
    lacks &= (services["base_at"] < board.horizon) & ((top_own < 0) | (top_own >= NEVER))
    asked = board.item["asked"][board.components + np.arange(len(services))]
    return bool((lacks & (asked >> (BARS + EAGER) & 1 > 0)).any())


def _begin(board: Board, items: Items, order: Ints, eager: int) -> Found:
    """The repaired result of an order, with no one spared yet."""
    board.service["spared"] = board.service["written_off"] = board.present["kept"] = 0
    return _mend(board, items, Found(order, default_options(board, eager), NEVER, False, False))


def _mend(board: Board, items: Items, found: Found) -> Found:
    """Generates; while tier rules are broken, moves services that lack capacity before the first of a lower
    tier, or to the front if that was not enough. What was shed and could run elsewhere does so before lower
    tiers have their turn, or is spared if that was not enough. What could have stayed is kept.
    """
    keep_rows(board, 0)
    moved, tried = np.zeros(len(items.tier), np.bool_), set()
    first = np.zeros(len(board.service), np.bool_)
    for turn in range(LONGEST_MENDS + 1):
        found.value = generate(board, found.order, found.options, NEVER)
        breaches, idle = _breaches(board), _idle_sheds(board)
        found.legal = not breaches and not idle
        marks = (board.service["spared"], board.service["written_off"], board.present["kept"])
        state = b"".join(part.tobytes() for part in (found.order, moved, first, *marks))
        if found.legal or (turn >= MENDS and len(breaches) > NEARLY) or state in tried:
            break
        tried.add(state)
        board.present["kept"][idle] += 1
        services = board.service[breaches]
        shed = services["left"] < services["surviving"]
        hit = np.array(breaches, np.int64)[shed]
        fresh = hit[~first[hit] & (board.service["base_lost"][hit] == 0)]
        _put_off_below(board, fresh)
        first[fresh] = True
        board.service["spared"][np.setdiff1d(hit, fresh)] = 1
        late = np.unique(services["component"][~shed])
        late = late[np.lexsort((late, items.tier[late]))]
        # What was tried first and still lacks capacity may take it from what was spared of lower tiers.
        highest = items.tier[late[moved[late]]].min(initial=board.last_tier)
        board.service["spared"][board.service["tier"] > highest] = 0
        rest = found.order[~np.isin(found.order, late)]
        found.order = np.concatenate([late[moved[late]], _before_lower(rest, late[~moved[late]], items)])
        moved[late] = True
    return found


def _put_off_below(board: Board, shed: Ints) -> None:
    """Puts off what no service needs that is as important as those that were shed, and whose other needs are
    met.
    """
    if not len(shed):
        return
    tier, items = board.service["tier"], board.item[board.service["component"]]
    in_vain = (board.service["base_lost"] > 0) & (items["at"] >= NEVER) & (items["why"] == 0)
    needed = (tier <= tier[shed].min()) & ~in_vain
    while True:
        users = [needed[entries(board, HARD_USER, service)].any() for service in range(len(needed))]
        more = needed | np.array(users, np.bool_)
        if (more == needed).all():
            break
        needed = more
    board.service["written_off"][~needed & (board.service["base_lost"] > 0)] = PUT_OFF


def _before_lower(order: Ints, late: Ints, items: Items) -> Ints:
    """`order` with each of `late` moved before the first of a lower tier."""
    lowest = np.maximum.accumulate(items.tier[order])
    return np.insert(order, np.searchsorted(lowest, items.tier[late], side="right"), late)


def _write_off(board: Board, items: Items, found: Found) -> Found:
    """Leaves what stays down for last, round by round, so that what only it needs makes way.

    The last resort: a down service keeps nothing of lower tiers in place. Takes the first order that keeps
    the tier rules; if none does, the previous result.
    """
    order = found.order
    keep_rows(board, int(found.pinned))
    generate(board, order, found.options, NEVER)
    keep_rows(board, 0)
    for _ in range(WRITE_OFFS):
        breaches = np.array(_breaches(board), np.int64)
        board.present["kept"][_idle_sheds(board)] += 1
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
    """Services that are down although lower tiers should make way for them."""
    breaches(board, len(board.service))
    found: list[int] = np.flatnonzero(board.service["breach"]).tolist()
    return found


def _idle_sheds(board: Board) -> list[int]:
    """Entries of `present`, each once, that had a replica shed although it could have stayed."""
    found = set[int]()
    line = first_idle_shed(board, 0)
    while line >= 0:
        found.add(int(board.shed[line]["entry"]))
        line = first_idle_shed(board, line + 1)
    return sorted(found)


def solve(
    instance: Instance,
    work: int,
    seed: int = 0,
    progress: Progress | None = None,
    floor: Callable[[], int] | None = None,
) -> Board:
    """The board with the best generation found, deterministic for input, work and seed. floor: a lower bound
    on every generation, as `search` counts it; a search that reaches it ends. It is requested only if a
    search begins.
    """
    board, items = prepare(instance)
    found = first_plan(board, items)
    size = len(board.row) + len(board.started)
    small = size <= SMALL
    random = np.array([seed * 2_654_435_761 + 1], np.uint64)
    if work <= 0 and size <= TINY and found.legal and len(items.active) and _is_crowded(board):
        work, floor = LITTLE_WORK // size, None
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
    _without_idle_moves(board, found)
    return board


def _without_idle_moves(board: Board, found: Found) -> None:
    """Generates again until nothing has moved that could have stayed: each of that stays from then on."""
    movable = board.service["movable"][board.present["service"]] > 0
    while idle := [entry for entry in _idle_sheds(board) if movable[entry]]:
        board.present["kept"][idle] = board.present["count"][idle]
        keep_rows(board, 0)
        generate(board, found.order, found.options, NEVER)


def _search_small(
    board: Board,
    found: Found,
    random: NDArray[np.uint64],
    work: int,
    progress: Progress | None,
    floor: int,
) -> Found:
    """Annealing over order and options, choosing rows again each time; the best of several descents. A few
    more, twice as long, may spread replicas over servers: a replica that takes a whole server can keep out
    one that needs only part of it.
    """
    best, barren = _in_full(board, found), 0
    spreads = bool((board.service["base_starts"] > 1).any() and (board.row["is_pool"] == 0).any())
    for chunk in range(CHUNKS + spreads * len(COOLINGS)):
        if best.legal and best.value <= floor:
            break
        if chunk < CHUNKS and barren >= len(COOLINGS):
            continue
        share, heat = max(1, work // CHUNKS), _certain(board, best) // COOLINGS[chunk % len(COOLINGS)]
        spread = chunk >= CHUNKS
        option_share = SPREAD_OPTION_SHARE if spread else OPTION_SHARE
        again = _anneal(board, best, random, share << spread, heat, option_share, int(spread))
        if (again.legal, -again.value) > (best.legal, -best.value):
            best, barren = again, -1
        barren += 1
        if progress is not None:
            progress(min((chunk + 1) * share, work), work, best.value)
    return best


def _certain(board: Board, found: Found) -> int:
    """The value without what it has for doubts, from which descents begin: that part no order may change."""
    if not board.vague:
        return found.value
    keep_rows(board, int(found.pinned))
    generate(board, found.order, found.options, NEVER)
    return found.value - int(price_of_doubt(board))


def _in_full(board: Board, found: Found) -> Found:
    """The same order with every store before the first item that recovers it, and an early-start item before
    every base that may start ahead, so that the search can move them too.
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
    """Sweeps over the order for a fixed placement, and now and then a new placement for the order."""
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
    """One sweep over an order whose rows are pinned; keeps the previous one if it is no better."""
    keep_rows(board, 1)
    generate(board, found.order, found.options, NEVER)
    order = found.order.copy()
    as_run(board, order)
    heat = (found.value - int(price_of_doubt(board))) // HEAT_DIVISOR * (turns - turn) // turns
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
    """Remembers the rows of a generation, and prices its order again on them."""
    keep_rows(board, 0)
    generate(board, found.order, found.options, NEVER)
    remember(board)
    keep_rows(board, 1)
    value = generate(board, found.order, found.options, NEVER)
    legal = found.legal and not breaks_rules(board)
    return Found(found.order, found.options, value, True, legal)


def _place_anew(board: Board, found: Found) -> Found:
    """Chooses rows again in the order found, if that is better; otherwise keeps the remembered ones."""
    keep_rows(board, 0)
    value = generate(board, found.order, found.options, found.value)
    if value >= found.value or breaks_rules(board):
        return found
    return _settle(board, Found(found.order, found.options, value, False, found.legal))


def round_of(instance: Instance) -> Callable[[], object]:
    """One round of the search, from the first plan on, to measure its length."""
    board, items = prepare(instance)
    found = first_plan(board, items)
    return lambda: generate(board, found.order, found.options, NEVER)


def level_by_level(instance: Instance) -> Board:
    """The baseline: finishes a dependency level before the next begins, ties by id.

    Uses our own placement, tiers first, so that only the order is compared.
    """
    board, items = prepare(instance)
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
    """Runs the search of large instances on a small one, to compile its kernels."""
    board, items = prepare(instance)
    _search_large(board, first_plan(board, items), np.array([1], np.uint64), LEAST_SHARE, None)


def value_of(board: Board) -> int:
    """Z of the generation on the board: weighted person-ticks."""
    return int(objective(board))


@kernel
def _boot_rows(board: Board, rows: Ints) -> int:
    """Boots rows one after the other, each as early as possible; returns how many."""
    done = 0
    for row in rows:
        if board.row[row].on_at < 0 and power_allows(board, row) and boot(board, row, board.row[row].group):
            done += 1
    return done


def bring_up_rest(instance: Instance, board: Board) -> int:
    """Boots every server of the restored domain that is not on yet and that power allows; returns how
    many.
    """
    rows = instance.brought_up.astype(np.int64)
    if not len(rows):
        return 0
    done = int(_boot_rows(board, rows[_order(board, rows)]))
    keep_rows(board, 0)
    use_capacity(board, default_options(board, 0))
    return done


def _order(board: Board, rows: Ints) -> Ints:
    """Self-starting servers first, because they draw power anyway; then by length, groups in turn."""
    group = board.row["group"][rows]
    turn = np.empty(len(rows), np.int64)
    by_group = np.lexsort((board.row["place"][rows], group))
    first = np.flatnonzero(np.r_[True, group[by_group][1:] != group[by_group][:-1]])
    turn[by_group] = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    lines = board.group[group]
    return np.lexsort((group, turn, -lines["boot_ticks"], -lines["by_itself"]))
