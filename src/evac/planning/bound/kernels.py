"""Compiled loops of the weight splitting. Floats with + - * / only, so every machine rounds alike."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from evac.planning.compiled import fill, njit

HEAD, ARC, SHARE = 0, 1, 2


@njit(cache=True)
def busy_times(weight, size, release, arrivals, speed, horizon, heap, left, out):
    """Mean busy ticks of each member of a supply row under the preemptive greedy.

    weight, size, release, out: (n,); arrivals: (n,) members by release; heap, left: (n,) scratch.
    Work after the horizon counts at the horizon.
    """
    count = len(size)
    for k in range(count):
        left[k] = size[k]
        out[k] = 0.0
    ready = 0
    cursor = 0
    clock = 0.0
    while ready > 0 or cursor < count:
        if ready == 0 and release[arrivals[cursor]] > clock:
            clock = release[arrivals[cursor]]
        while cursor < count and release[arrivals[cursor]] <= clock:
            ready = _push(heap, ready, arrivals[cursor], weight, size)
            cursor += 1
        member = heap[0]
        until = clock + left[member] / speed
        done = True
        if cursor < count and release[arrivals[cursor]] < until:
            until = release[arrivals[cursor]]
            done = False
        work = (until - clock) * speed
        if until <= horizon:
            out[member] += work * (clock + until) * 0.5
        elif clock >= horizon:
            out[member] += work * horizon
        else:
            out[member] += (horizon - clock) * speed * (clock + horizon) * 0.5 + (
                until - horizon
            ) * speed * horizon
        left[member] -= work
        clock = until
        if done:
            ready = _pop(heap, ready, weight, size)
    for k in range(count):
        out[k] /= size[k]


@njit(cache=True)
def _before(a, b, weight, size):
    mine = weight[a] * size[b]
    theirs = weight[b] * size[a]
    return mine > theirs or (mine == theirs and a < b)


@njit(cache=True)
def _push(heap, ready, member, weight, size):
    child = ready
    while child > 0:
        parent = (child - 1) // 2
        if not _before(member, heap[parent], weight, size):
            break
        heap[child] = heap[parent]
        child = parent
    heap[child] = member
    return ready + 1


@njit(cache=True)
def _pop(heap, ready, weight, size):
    ready -= 1
    member = heap[ready]
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= ready:
            break
        if child + 1 < ready and _before(heap[child + 1], heap[child], weight, size):
            child += 1
        if not _before(heap[child], member, weight, size):
            break
        heap[parent] = heap[child]
        parent = child
    heap[parent] = member
    return ready


@njit(cache=True)
def room_waits(weight, size, first, gain_tick, gain, horizon, out):
    """Mean ticks each member of a capacity row waits for room, laid end to end by weight per size."""
    ratio = np.empty(len(size))
    for member in range(len(size)):
        ratio[member] = -(weight[member] / size[member])
    order = np.argsort(ratio, kind="mergesort")
    room = first
    tick = 0.0
    event = 0
    for place in range(len(order)):
        member = order[place]
        left = size[member]
        total = 0.0
        while left > 0.0:
            if tick >= horizon:
                total += left * horizon
                left = 0.0
            elif room > 0.0:
                taken = min(left, room)
                total += taken * tick
                left -= taken
                room -= taken
            elif event < len(gain):
                tick = gain_tick[event]
                room += gain[event]
                event += 1
            else:
                tick = horizon
        out[member] = total / size[member]


@njit(cache=True)
def spread_flows(
    order, weight, head, lost, reserve, horizon, start, kind, target, worth, theta, flow, received, short
):
    """Splits the weight of every milestone among its options, those that wait first.

    flow: per option; received: (N,) scratch; short: (N,) 1 where all weight must stay on the head.
    Enough stays on the head to pay for u: (H - r) x head >= reserve + sum of flow x worth.
    """
    for i in range(len(weight)):
        received[i] = weight[i]
    for place in range(len(order) - 1, -1, -1):
        i = order[place]
        total = received[i]
        others = 0.0
        owed = 0.0
        for o in range(start[i] + 1, start[i + 1]):
            others += theta[o]
            owed += theta[o] * worth[o]
        scale = 1.0
        short[i] = 0
        if lost[i]:
            room = (horizon - head[i]) * total - reserve[i]
            price = total * (owed + (horizon - head[i]) * others)
            if room <= 0.0:
                short[i] = 1
                scale = 0.0
            elif price > room:
                scale = room / price
        flow[start[i]] = total * (1.0 - scale * others)
        for o in range(start[i] + 1, start[i + 1]):
            flow[o] = total * scale * theta[o]
            if kind[o] == ARC:
                received[target[o]] += flow[o]


@njit(cache=True)
def weigh_options(order, head, lost, horizon, start, kind, target, worth, theta, wait, short, value, gain):
    """Worth of one more unit of weight on each option (gain) and at each milestone (value)."""
    for place in range(len(order)):
        i = order[place]
        own = head[i] if lost[i] else 0.0
        if short[i] == 1:
            own = horizon
        gain[start[i]] = own
        others = 0.0
        owed = 0.0
        total = 0.0
        for o in range(start[i] + 1, start[i + 1]):
            least = 0.0 if short[i] == 1 else worth[o]
            gain[o] = least + (value[target[o]] if kind[o] == ARC else wait[target[o]])
            others += theta[o]
            owed += theta[o] * worth[o]
            total += theta[o] * gain[o]
        if short[i] == 1:
            value[i] = horizon
            continue
        scale = 1.0
        if lost[i]:
            price = owed + (horizon - head[i]) * others
            if price > horizon - head[i]:
                scale = (horizon - head[i]) / price
        value[i] = own * (1.0 - scale * others) + scale * total


@njit(cache=True)
def dual_value(head, lost, reserve, horizon, start, kind, target, worth, wait, flow):
    """Objective of the split, less what the placement adds for certain."""
    total = 0.0
    for i in range(len(head)):
        owed = reserve[i]
        for o in range(start[i] + 1, start[i + 1]):
            total += flow[o] * worth[o]
            owed += flow[o] * worth[o]
            if kind[o] == SHARE:
                total += flow[o] * wait[target[o]]
        if lost[i]:
            own = flow[start[i]]
            total += own * head[i]
            slack = (horizon - head[i]) * own - owed
            if slack < 0.0:
                total += slack
    return total


@njit(cache=True)
def shift_shares(start, theta, gain, step, mean):
    """Moves the split of every milestone towards its better options.

    mean: ticks below which differences count in full, above it they count in proportion.
    """
    for i in range(len(start) - 1):
        best = gain[start[i]]
        for o in range(start[i] + 1, start[i + 1]):
            best = max(best, gain[o])
        scale = max(best, mean)
        total = 0.0
        for o in range(start[i], start[i + 1]):
            theta[o] = max(theta[o] * max(0.5, 1.0 + step * (gain[o] - best) / scale), 1e-9)
            total += theta[o]
        for o in range(start[i], start[i + 1]):
            theta[o] /= total


@njit(cache=True)
def price_rows(
    row_start,
    speed,
    size,
    release,
    arrivals,
    first,
    gain_start,
    gain_tick,
    gain,
    horizon,
    weight,
    wait,
    heap,
    left,
):
    """Waits of all members of all rows, given their weights. A row with speed 0 is a capacity row."""
    for row in range(len(speed)):
        a, b = row_start[row], row_start[row + 1]
        if speed[row] > 0.0:
            busy_times(
                weight[a:b],
                size[a:b],
                release[a:b],
                arrivals[a:b],
                speed[row],
                horizon,
                heap[a:b],
                left[a:b],
                wait[a:b],
            )
        else:
            e, f = gain_start[row], gain_start[row + 1]
            room_waits(weight[a:b], size[a:b], first[row], gain_tick[e:f], gain[e:f], horizon, wait[a:b])


@njit(cache=True, nogil=True)
def ascend(
    iterations,
    begin,
    pace,
    mean,
    best,
    counted,
    order,
    weight,
    head,
    lost,
    reserve,
    horizon,
    start,
    kind,
    target,
    worth,
    row_start,
    speed,
    size,
    release,
    arrivals,
    first,
    gain_start,
    gain_tick,
    gain,
    theta,
    flow,
    best_flow,
    sum_flow,
    sum_wait,
):
    """Runs iterations `begin` to `begin + iterations`; returns (best value, iterations averaged).

    theta, flow, best_flow, sum_flow, sum_wait change in place. counted: iterations already in the
    sums, which restart whenever the number of the iteration is a power of two.
    """
    nodes, options, members = len(weight), len(theta), len(size)
    received, short = np.zeros(nodes), np.zeros(nodes, np.int8)
    value, worthwhile = np.zeros(nodes), np.zeros(options)
    shares, wait = np.zeros(members), np.zeros(members)
    heap, left = np.zeros(members, np.int64), np.zeros(members)
    for k in range(begin, begin + iterations):
        spread_flows(
            order,
            weight,
            head,
            lost,
            reserve,
            horizon,
            start,
            kind,
            target,
            worth,
            theta,
            flow,
            received,
            short,
        )
        for o in range(options):
            if kind[o] == SHARE:
                shares[target[o]] = flow[o]
        price_rows(
            row_start,
            speed,
            size,
            release,
            arrivals,
            first,
            gain_start,
            gain_tick,
            gain,
            horizon,
            shares,
            wait,
            heap,
            left,
        )
        now = dual_value(head, lost, reserve, horizon, start, kind, target, worth, wait, flow)
        if now > best:
            best = now
            best_flow[:] = flow
        if k & (k - 1) == 0:
            counted = 0
            fill(sum_flow, 0.0)
            fill(sum_wait, 0.0)
        counted += 1
        for o in range(options):
            sum_flow[o] += flow[o]
        for member in range(members):
            sum_wait[member] += wait[member]
        weigh_options(
            order, head, lost, horizon, start, kind, target, worth, theta, wait, short, value, worthwhile
        )
        shift_shares(start, theta, worthwhile, pace / (1.0 + k / 30.0), mean)
    return best, counted


@njit(cache=True)
def value_of(
    head,
    lost,
    reserve,
    horizon,
    start,
    kind,
    target,
    worth,
    row_start,
    speed,
    size,
    release,
    arrivals,
    first,
    gain_start,
    gain_tick,
    gain,
    flow,
):
    """Objective of given flows, less what the placement adds for certain."""
    members = len(size)
    shares, wait = np.zeros(members), np.zeros(members)
    for o in range(len(flow)):
        if kind[o] == SHARE:
            shares[target[o]] = flow[o]
    price_rows(
        row_start,
        speed,
        size,
        release,
        arrivals,
        first,
        gain_start,
        gain_tick,
        gain,
        horizon,
        shares,
        wait,
        np.zeros(members, np.int64),
        np.zeros(members),
    )
    return dual_value(head, lost, reserve, horizon, start, kind, target, worth, wait, flow)


@njit(cache=True)
def ceiling_of(order, weight, head, lost, start, kind, target, worth, wait):
    """What no split can beat, if nothing has to stay unplaced: given waits pushed along the arcs.

    wait: of each member, an average over splits, which no split of these rows can exceed.
    """
    outage = np.zeros(len(weight))
    total = 0.0
    for place in range(len(order)):
        i = order[place]
        outage[i] = head[i] if lost[i] else 0.0
        for o in range(start[i] + 1, start[i + 1]):
            after = outage[target[o]] if kind[o] == ARC else wait[target[o]]
            outage[i] = max(outage[i], after + worth[o])
        total += weight[i] * outage[i]
    return total
