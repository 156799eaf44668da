"""One trial by the kernel against one told step by step, on small nets of every kind."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest

from evac.planning.simulation.kernel import BUCKETS, CHAIN, Net, play_all


@dataclass
class Case:
    """lengths: negative where a step fails for good; uses: (limit, units, hold) of each, -1: all of it."""

    after: list[list[int]]
    uses: list[list[tuple[int, int, int]]]
    capacity: list[int]
    lengths: list[int]
    horizon: int


def drawn(seed: int, horizon: int) -> Case:
    draw = random.Random(seed)
    count, limits, longest = draw.randint(1, 14), draw.randint(1, 4), max(2, horizon // 8)
    uses = []
    for _ in range(count):
        some = draw.sample(range(limits), draw.randint(0, limits))
        holds = [draw.choice((-1, 0, draw.randint(1, longest))) for _ in some]
        uses.append(
            sorted(
                ((r, draw.randint(1, 3), h) for r, h in zip(some, holds, strict=True)), key=lambda use: use[2]
            )
        )
    return Case(
        after=[sorted(draw.sample(range(n), min(n, draw.randint(0, 2)))) for n in range(count)],
        uses=uses,
        capacity=[draw.randint(2, 4) for _ in range(limits)],
        lengths=[
            draw.choice((0, draw.randint(1, longest), draw.randint(1, 3), -draw.randint(1, 9)))
            for _ in range(count)
        ],
        horizon=horizon,
    )


def told(case: Case) -> list[int]:
    """When each step ends, horizon + 1 for never. Where two limits free a step at one tick, either may let it
    in: the kernel's own order of limits is followed.
    """
    never, count = case.horizon + 1, len(case.after)
    ends, free, left = [never] * count, list(case.capacity), [len(some) for some in case.after]
    lines: list[list[int]] = [[] for _ in case.capacity]
    events: list[tuple[int, str, int, int]] = []

    def wall(step: int) -> int:
        for limit, units, _ in case.uses[step]:
            if free[limit] < units or (lines[limit] and min(lines[limit]) < step):
                return limit
        return -1

    def admit(step: int, now: int) -> None:
        limit = wall(step)
        if limit >= 0:
            lines[limit].append(step)
            return
        length = case.lengths[step]
        for which, units, hold in case.uses[step]:
            free[which] -= units
            events.append((now + (abs(length) if hold < 0 else hold), "free", which, units))
        if length >= 0 and now + length <= case.horizon:
            ends[step] = now + length
            events.append((now + length, "end", step, 0))

    def let_in(limit: int, now: int) -> None:
        while lines[limit]:
            step = min(lines[limit])
            if free[limit] < max(units for which, units, _ in case.uses[step] if which == limit):
                break
            lines[limit].remove(step)
            admit(step, now)

    now, ready = 0, [step for step in range(count) if not left[step]]
    while True:
        for step in sorted(ready):
            admit(step, now)
        due = [event for event in events if event[0] <= case.horizon]
        if not due:
            for limit in range(len(lines)):
                if not any(event[0] <= case.horizon for event in events):
                    let_in(limit, now)
            due = [event for event in events if event[0] <= case.horizon]
            if not due:
                return ends
        now, ready, roomy = min(event[0] for event in due), [], set()
        for event in [one for one in due if one[0] == now]:
            events.remove(event)
            _, kind, what, units = event
            if kind == "free":
                free[what] += units
                roomy.add(what)
                continue
            for other in range(count):
                if what in case.after[other]:
                    left[other] -= 1
                    if not left[other]:
                        ready.append(other)
        for step in sorted(ready):
            admit(step, now)
        ready = []
        for limit in sorted(roomy):
            let_in(limit, now)


def edges(rows: list[int]) -> np.ndarray:
    return np.cumsum([0, *rows]).astype(np.int64)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def net_of(case: Case) -> Net:
    flat = [use for row in case.uses for use in row]
    groups = [
        [sum(use[2] == hold for use in row) for hold in sorted({use[2] for use in row})] for row in case.uses
    ]
    followers = [[n for n, some in enumerate(case.after) if step in some] for step in range(len(case.after))]
    limit = ints([use[0] for use in flat])
    return Net(
        waits=ints([len(some) for some in case.after]),
        after_from=edges([len(row) for row in followers]),
        after_to=ints([n for row in followers for n in row]),
        use_from=edges([len(row) for row in case.uses]),
        use_limit=limit,
        use_units=ints([use[1] for use in flat]),
        use_hold=ints([use[2] for use in flat]),
        groups_from=edges([len(row) for row in groups]),
        group_from=edges([n for row in groups for n in row]),
        capacity=ints(case.capacity),
        queue_from=edges(np.bincount(limit, minlength=len(case.capacity)).tolist()),
        horizon=case.horizon,
    )


@pytest.mark.parametrize("horizon", [3, 40, 30 * BUCKETS])
def test_a_trial_goes_as_it_is_told(horizon: int) -> None:
    ended = waited = 0
    for seed in range(400):
        case = drawn(seed, horizon)
        ends, chains = np.empty((1, len(case.after)), np.int64), np.full((1, CHAIN), -1, np.int64)
        play_all(net_of(case), ints(case.lengths)[None, :], ints([0]), ends, chains)
        assert ends[0].tolist() == told(case), seed
        ended += int((ends <= horizon).sum())
        free = [0 if not some else max(ends[0, n] for n in some) for some in case.after]
        waited += sum(
            end <= horizon and end > start + max(0, length)
            for end, start, length in zip(ends[0].tolist(), free, case.lengths, strict=True)
        )
    assert ended > 400
    assert waited > 50, "limits hold some back"
