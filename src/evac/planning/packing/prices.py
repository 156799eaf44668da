"""Filling servers by prices: each server takes the set of replicas worth most to it.

First-fit asks where a service goes, and leaves servers whose last tenth nothing fits. Here each
server asks what would fill it best: a multi-dimensional knapsack over all services, by greedy on price
over the largest share of the room that is left. A price says how hard a service is to place: it rises while
replicas of it are left over, up to the worth of the service, and falls while it is taken too
readily - a subgradient method on the relaxation in which the replica counts are priced (Dantzig and
Wolfe 1960). Of the shares that vector packing rules weigh by (Panigrahy et al. 2011 compare some), the
largest packed best here, far better than the sum of shares or of their squares.
Floats decide prices only, by + - * / (rounded alike everywhere); room and counters are int64.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evac.planning.compiled import allocating_kernel, kernel, vector_kernel
from evac.planning.packing.kernels import domain_room, move_in
from evac.planning.packing.problem import Int64Array
from evac.planning.packing.state import CHECKS, State

FloatArray = NDArray[np.float64]
RandomState = NDArray[np.uint64]

PICKS_MAX: Final = 256
"""Most replicas that one server takes in one filling."""
SPARED_MAX: Final = 4
"""Replicas of a server that are, one at a time, tried to do without."""
WINDOW: Final = 240
"""Services that one server is offered: enough to fill it well, and the cost no longer grows with S."""
FEW: Final = 24
"""So many columns are scored one after another as fast as several at once."""
CHEAPEST: Final = 1e-9
"""Least share of room that a replica is said to take."""
NEVER: Final = -np.inf
"""Score of what does not fit, and value of what may not join."""
TIER_STEP: Final = 1000.0
"""Worth of a replica over one of the next tier."""


class Market(NamedTuple):
    """Prices and scratch of the fillers; S services, T tiers.

    worth (S): most that a replica may be priced at, tiers far apart. price (S). weight (S), rank
    (S): weight of a replica and number of its tier, 0 first. left (S): replicas still to place.
    shuffled (S): services in a seeded order, of which each server sees a window. random (1): state
    of the generator. The rest is scratch: offer, fitting, act (services); here, picked (S) and group_here
    (groups): what stands or is picked on the server at hand; out, best, own (PICKS_MAX): picks;
    sums (3, T): weight per tier of the picks, the best picks and what stood there; room (R). What may be
    taken next stands in columns, so that the processor scores several at once: act, value, cost, score
    (columns), needs (R, columns; quantities, which are below 2^48, as floats).
    """

    worth: FloatArray
    price: FloatArray
    weight: Int64Array
    rank: Int64Array
    left: Int64Array
    shuffled: Int64Array
    random: RandomState
    offer: Int64Array
    fitting: Int64Array
    act: Int64Array
    here: Int64Array
    picked: Int64Array
    group_here: Int64Array
    out: Int64Array
    best: Int64Array
    own: Int64Array
    sums: Int64Array
    room: Int64Array
    needs: FloatArray
    value: FloatArray
    cost: FloatArray
    score: FloatArray


def new_market(
    state: State, weight: Int64Array, rank: Int64Array, price: FloatArray, left: Int64Array, seed: int
) -> Market:
    """A market over the services of `state`; the seed chooses what each server gets to see."""
    services = weight.size
    tiers = int(rank.max(initial=0)) + 1
    random = np.array([(2 * seed + 1) * 2685821657736338717 % (1 << 64)], dtype=np.uint64)
    shuffled = np.arange(services, dtype=np.int64)
    shuffle(shuffled, random)
    return Market(
        worth=tier_worth(weight, rank),
        price=price,
        weight=weight,
        rank=rank,
        left=left,
        shuffled=shuffled,
        random=random,
        offer=np.zeros(services + PICKS_MAX, dtype=np.int64),
        fitting=np.zeros(services + PICKS_MAX, dtype=np.int64),
        act=np.zeros(services + PICKS_MAX, dtype=np.int64),
        here=np.zeros(services, dtype=np.int64),
        picked=np.zeros(services, dtype=np.int64),
        group_here=np.zeros(state.group_standing.size, dtype=np.int64),
        out=np.zeros(PICKS_MAX, dtype=np.int64),
        best=np.zeros(PICKS_MAX, dtype=np.int64),
        own=np.zeros(PICKS_MAX, dtype=np.int64),
        sums=np.zeros((3, tiers), dtype=np.int64),
        room=np.zeros(state.free.shape[1], dtype=np.int64),
        needs=np.zeros((state.free.shape[1], services + PICKS_MAX)),
        value=np.zeros(services + PICKS_MAX),
        cost=np.zeros(services + PICKS_MAX),
        score=np.zeros(services + PICKS_MAX),
    )


def tier_worth(weight: Int64Array, rank: Int64Array) -> FloatArray:
    """Ceiling (S) of prices: weight within its tier (at most 1), times TIER_STEP per tier below."""
    tiers = int(rank.max(initial=0)) + 1
    most = np.ones(tiers)
    np.maximum.at(most, rank, weight.astype(np.float64))
    scale = np.array([TIER_STEP ** (tiers - 1 - t) for t in range(tiers)])
    return np.asarray(np.maximum(weight / most[rank], 1e-6) * scale[rank])


@kernel
def draw(random: RandomState, below: int) -> int:
    """A number in [0, below): xorshift of Marsaglia (2003), 64 bits."""
    x = random[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    random[0] = x
    return int(np.int64(x >> np.uint64(1)) % below)


@kernel
def shuffle(values: Int64Array, random: RandomState) -> None:
    """Fisher-Yates, in place."""
    for i in range(values.shape[0] - 1, 0, -1):
        j = draw(random, i + 1)
        values[i], values[j] = values[j], values[i]


@kernel
def note(state: State, market: Market, position: int, sign: int) -> None:
    """Note (sign 1) or forget (-1) in `here` and `group_here` what stands on a position."""
    entry = state.head[position]
    while entry >= 0:
        _note_one(state, market, state.entry_service[entry], sign * state.entry_count[entry])
        entry = state.entry_next[entry]


@kernel
def _note_one(state: State, market: Market, service: int, count: int) -> None:
    market.here[service] += count
    if state.group[service] >= 0:
        market.group_here[state.group[service]] += count


@kernel
def _fits(room: Int64Array, demand: Int64Array, service: int) -> bool:
    for r in range(room.shape[0]):  # noqa: SIM110  (numba compiles the loop, not the generator)
        if room[r] < demand[service, r]:
            return False
    return True


@kernel
def _may_join(state: State, market: Market, service: int, block: int) -> bool:
    """Whether replicas are left, and limits, groups and caps allow one more beside the picks."""
    if market.left[service] <= 0 or market.here[service] >= state.max_per_server[service]:
        return False
    if market.picked[service] > 0 and domain_room(state, service, block) <= market.picked[service]:
        return False
    group = state.group[service]
    return bool(group < 0 or market.group_here[group] == 0)


@kernel
def _shortlist(state: State, market: Market, block: int, offered: int) -> int:
    """Those of the offer that fit the room and that the block and what is present allow: `fitting`."""
    room, demand, offer, left = market.room, state.demand, market.offer, market.left
    kept = 0
    state.meta[CHECKS] += offered
    for i in range(offered):
        service = offer[i]
        # Cheap tests first: most services end at the second.
        if left[service] <= 0 or not _fits(room, demand, service):
            continue
        if _may_join(state, market, service, block) and domain_room(state, service, block) > 0:
            market.fitting[kept] = service
            kept += 1
    return kept


@kernel
def _set_columns(state: State, market: Market, services: Int64Array, columns: int) -> None:
    """Services become columns: what their replicas are worth and need."""
    act, value, price, needs, demand = market.act, market.value, market.price, market.needs, state.demand
    for k in range(columns):
        service = services[k]
        act[k], value[k] = service, price[service]
        for r in range(needs.shape[0]):
            needs[r, k] = demand[service, r]


@kernel
def _narrow(state: State, market: Market, block: int, fitting: int) -> int:
    """Those of the shortlist that still fit what room is left become columns: their number."""
    room, demand, act = market.room, state.demand, market.act
    columns = 0
    for i in range(fitting):
        service = market.fitting[i]
        if _fits(room, demand, service) and _may_join(state, market, service, block):
            act[columns] = service
            columns += 1
    _set_columns(state, market, act, columns)
    return columns


@vector_kernel
def _score(
    score: FloatArray,
    cost: FloatArray,
    value: FloatArray,
    needs: FloatArray,
    room: Int64Array,
    columns: int,
    thrifty: bool,
) -> None:
    """The score of each column: its value, thrifty: over its largest share of room; NEVER if it fits not."""
    if columns < FEW:
        for k in range(columns):
            score[k] = _score_one(value[k], needs, room, k, thrifty)
        return
    for k in range(columns):
        score[k] = value[k]
        cost[k] = CHEAPEST
    for r in range(room.shape[0]):
        least = float(room[r])
        share = 1.0 / max(room[r], 1)
        for k in range(columns):
            score[k] = score[k] if needs[r, k] <= least else NEVER
        if thrifty:
            for k in range(columns):
                here = needs[r, k] * share
                cost[k] = here if here > cost[k] else cost[k]
    if thrifty:
        for k in range(columns):
            score[k] = score[k] / cost[k]


@vector_kernel
def _score_one(value: float, needs: FloatArray, room: Int64Array, column: int, thrifty: bool) -> float:
    """As `_score`, for one column; the same to the last bit."""
    cost = CHEAPEST
    for r in range(room.shape[0]):
        need = needs[r, column]
        if need > room[r]:
            return NEVER
        if thrifty:
            cost = max(cost, need * (1.0 / max(room[r], 1)))
    return value / cost if thrifty else value


@kernel
def _best_of(score: FloatArray, columns: int) -> tuple[int, int]:
    """The first column of highest score, -1 where none may be taken; how many may."""
    best, still = NEVER, 0
    for k in range(columns):
        still += score[k] >= 0.0
        best = score[k] if score[k] > best else best
    if still == 0:
        return -1, 0
    chosen = 0
    while score[chosen] != best:
        chosen += 1
    return chosen, still


@kernel
def _take(state: State, market: Market, service: int, taken: int) -> int:
    market.out[taken] = service
    market.left[service] -= 1
    market.picked[service] += 1
    _note_one(state, market, service, 1)
    for r in range(market.room.shape[0]):
        market.room[r] -= state.demand[service, r]
    return taken + 1


@kernel
def _strike(state: State, market: Market, block: int, column: int, columns: int) -> int:
    """Strike the columns that may not join any more once that of a column was taken; how many these are."""
    service = market.act[column]
    again = _may_join(state, market, service, block)
    group = state.group[service]
    if again and group < 0:
        return 0
    struck = 0
    for k in range(columns):
        if market.act[k] == service or (group >= 0 and state.group[market.act[k]] == group):
            struck += market.score[k] >= 0.0
            market.value[k] = NEVER
    return struck


@kernel
def _close_up(market: Market, columns: int) -> int:
    """Leave out the columns that may never be taken again; the others stay in order."""
    still = 0
    for k in range(columns):
        if market.score[k] >= 0.0 and market.value[k] >= 0.0:
            market.act[still] = market.act[k]
            market.value[still] = market.value[k]
            for r in range(market.needs.shape[0]):
                market.needs[r, still] = market.needs[r, k]
            still += 1
    return still


@kernel
def _fill(state: State, market: Market, block: int, columns: int, taken: int, thrifty: bool) -> int:
    """Extend `out[:taken]` greedily from the columns; `room`, `left`, notes go along. Its new length."""
    kept = columns
    checks = 0
    while kept > 0 and taken < market.out.shape[0]:
        checks += kept
        _score(market.score, market.cost, market.value, market.needs, market.room, columns, thrifty)
        column, kept = _best_of(market.score, columns)
        if column < 0:
            break
        taken = _take(state, market, market.act[column], taken)
        kept -= _strike(state, market, block, column, columns)
        if 2 * kept < columns:
            columns = _close_up(market, columns)
    state.meta[CHECKS] += checks
    return taken


@kernel
def _put_down(state: State, market: Market, taken: int) -> None:
    """Forget the picks `out[:taken]`: they are left to place again."""
    for i in range(taken):
        service = market.out[i]
        market.left[service] += 1
        market.picked[service] -= 1
        _note_one(state, market, service, -1)


@kernel
def _look_at(state: State, market: Market, position: int) -> None:
    for r in range(market.room.shape[0]):
        market.room[r] = state.free[position, r]


@kernel
def _offer_window(market: Market, window: int) -> int:
    """Offer a window of the shuffled services to the next server; returns its length."""
    services = market.shuffled.shape[0]
    length = int(min(window, services))
    start = draw(market.random, services) if length < services else 0
    before_end = min(length, services - start)
    for i in range(before_end):
        market.offer[i] = market.shuffled[start + i]
    for i in range(before_end, length):
        market.offer[i] = market.shuffled[i - before_end]
    return length


@kernel
def _follow(market: Market, wanted: Int64Array, taken: FloatArray, progress: float, rate: float) -> None:
    """Lower the price of what is taken faster than servers pass by, raise what is taken more slowly."""
    for service in range(wanted.shape[0]):
        if wanted[service] > 0:
            ahead = 20.0 * (taken[service] / wanted[service] - progress)
            market.price[service] *= 1.0 - rate * min(max(ahead, -1.0), 1.0)
            market.price[service] = min(market.price[service], market.worth[service])


@allocating_kernel
def fill_all(
    state: State,
    market: Market,
    positions: Int64Array,
    wanted: Int64Array,
    share: float,
    rate: float,
    dry: bool,
) -> None:
    """Let each position take what is worth most to it; prices follow so that demand is spread evenly.

    wanted (S): replicas that all positions together should take, were they `share` = 1 of the room;
    a dry run (with `left` beyond every need) only learns prices. Tree and log are not kept.
    """
    taken = np.zeros(wanted.shape[0], dtype=np.float64)
    every = max(1, min(64, positions.shape[0] // 8))
    for i in range(positions.shape[0]):
        position = positions[i]
        block = state.block_of[position]
        _look_at(state, market, position)
        note(state, market, position, 1)
        columns = _shortlist(state, market, block, _offer_window(market, WINDOW))
        state.meta[CHECKS] += columns
        _set_columns(state, market, market.fitting, columns)
        length = _fill(state, market, block, columns, 0, True)
        for j in range(length):
            taken[market.out[j]] += 1
        _put_down(state, market, length)
        note(state, market, position, -1)
        if not dry:
            _settle(state, market, position, market.out, length)
        if (i + 1) % every == 0:
            _follow(market, wanted, taken, share * (i + 1) / positions.shape[0], rate)


@kernel
def _settle(state: State, market: Market, position: int, picks: Int64Array, length: int) -> None:
    """Put the picks on the position."""
    for j in range(length):
        move_in(state, picks[j], position, 1, False)
        market.left[picks[j]] -= 1


@kernel
def _clear(state: State, market: Market, position: int) -> int:
    """Take away what was placed, not what was present; `own[:length]` remembers it. -1: too much here."""
    length = 0
    entry = state.head[position]
    while entry >= 0:
        if not state.entry_fixed[entry]:
            length += state.entry_count[entry]
        entry = state.entry_next[entry]
    if length > market.own.shape[0]:
        return -1
    length = 0
    entry = state.head[position]
    while entry >= 0:
        following = state.entry_next[entry]
        if not state.entry_fixed[entry]:
            service, count = state.entry_service[entry], state.entry_count[entry]
            for _ in range(count):
                market.own[length] = service
                length += 1
            market.left[service] += count
            move_in(state, service, position, -count, False)
        entry = following
    return length


@kernel
def _sum_up(market: Market, picks: Int64Array, length: int, row: int) -> float:
    """Weight per tier of some picks into `sums[row]`; returns their price."""
    market.sums[row, :] = 0
    price = 0.0
    for i in range(length):
        market.sums[row, market.rank[picks[i]]] += market.weight[picks[i]]
        price += market.price[picks[i]]
    return price


@kernel
def _is_better(market: Market, price: float, best_price: float, strict: bool) -> bool:
    """Picks (sums row 0) against the best (row 1): by price; if strict, tier by tier first."""
    if strict:
        for t in range(market.sums.shape[1]):
            if market.sums[0, t] != market.sums[1, t]:
                return bool(market.sums[0, t] > market.sums[1, t])
    return price > best_price * (1.0 + 1e-9)


@kernel
def _retry(state: State, market: Market, position: int, fitting: int, own: int, variant: int) -> int:
    """One way to fill the position again: from nothing (variants -2, -1), or with all of its own but one."""
    _look_at(state, market, position)
    block = state.block_of[position]
    taken = 0
    if variant >= 0:
        for i in range(own):
            if i != variant:
                taken = _take(state, market, market.own[i], taken)
    state.meta[CHECKS] += fitting
    columns = _narrow(state, market, block, fitting)
    return _fill(state, market, block, columns, taken, variant == -2)


@kernel
def _keep(market: Market, length: int) -> None:
    """The picks become the best picks."""
    for t in range(market.sums.shape[1]):
        market.sums[1, t] = market.sums[0, t]
    for i in range(length):
        market.best[i] = market.out[i]


@kernel
def refill(state: State, market: Market, position: int, offered: int, strict: bool) -> bool:
    """Fill one position anew from `offer[:offered]` and its own; keep the better. True if it changed."""
    own = _clear(state, market, position)
    if own < 0:
        return False
    note(state, market, position, 1)
    best_price = _sum_up(market, market.own, own, 1)
    best = -1
    for i in range(own):
        market.offer[offered + i] = market.own[i]
    _look_at(state, market, position)
    fitting = _shortlist(state, market, state.block_of[position], offered + own)
    first = draw(market.random, own) if own > SPARED_MAX else 0
    for variant in range(-2, min(own, SPARED_MAX)):
        if variant >= 0:
            variant = (variant + first) % own
        length = _retry(state, market, position, fitting, own, variant)
        price = _sum_up(market, market.out, length, 0)
        if _is_better(market, price, best_price, strict):
            best, best_price = length, price
            _keep(market, length)
        _put_down(state, market, length)
    note(state, market, position, -1)
    if best < 0:
        _settle(state, market, position, market.own, own)
        return False
    _settle(state, market, position, market.best, best)
    return True


@kernel
def _offer_left(market: Market, waiting: Int64Array, count: int) -> int:
    """Offer services that have replicas left, a window of them where there are many."""
    length = min(count, WINDOW)
    start = draw(market.random, count) if length < count else 0
    for i in range(length):
        market.offer[i] = waiting[(start + i) % count]
    return length


@kernel
def _list_waiting(market: Market, waiting: Int64Array) -> int:
    count = 0
    for i in range(market.shuffled.shape[0]):
        if market.left[market.shuffled[i]] > 0:
            waiting[count] = market.shuffled[i]
            count += 1
    return count


@kernel
def _reprice(market: Market, up: float, down: float) -> None:
    """Raise what is left over towards its worth, lower what is fully placed."""
    for service in range(market.price.shape[0]):
        if market.left[service] > 0:
            market.price[service] = min(market.worth[service], market.price[service] * (1.0 + up))
        else:
            market.price[service] *= 1.0 - down


@allocating_kernel
def refill_all(
    state: State, market: Market, positions: Int64Array, up: float, down: float, strict: bool, checks: int
) -> int:
    """Refill each position in turn, repricing 50 times on the way; stops once `checks` tests are spent.

    strict: no change may lower the weight of a tier for the sake of a lower one. Returns how many
    positions changed. Tree and log are not kept.
    """
    waiting = np.zeros(market.left.shape[0], dtype=np.int64)
    every = max(1, positions.shape[0] // 50)
    end = state.meta[CHECKS] + checks
    changed, count = 0, 0
    for i in range(positions.shape[0]):
        if i % 16 == 0:
            count = _list_waiting(market, waiting)
            if count == 0 or state.meta[CHECKS] >= end:
                break
        changed += refill(state, market, positions[i], _offer_left(market, waiting, count), strict)
        if (i + 1) % every == 0:
            _reprice(market, up, down)
    return changed
