"""Small directed graphs over integers: components and topological order.

Iterative, so that a chain of any length is safe; deterministic, so that order follows from ids.
"""

from __future__ import annotations

from collections.abc import Sequence


def components(edges: Sequence[Sequence[int]]) -> list[int]:
    """Strongly connected component of each node (Tarjan 1972).

    `edges[i]` are the successors of i. Components are numbered so that every edge between two
    components goes from a higher number to a lower one: what is needed has the lower number.
    """
    count = len(edges)
    order, low, found = [-1] * count, [0] * count, [-1] * count
    stack: list[int] = []
    on_stack = [False] * count
    clock = done = 0
    for root in range(count):
        if order[root] >= 0:
            continue
        work: list[tuple[int, int]] = [(root, 0)]
        while work:
            node, cursor = work.pop()
            if cursor == 0:
                order[node] = low[node] = clock
                clock += 1
                stack.append(node)
                on_stack[node] = True
            descended = False
            for position in range(cursor, len(edges[node])):
                other = edges[node][position]
                if order[other] < 0:
                    work += [(node, position + 1), (other, 0)]
                    descended = True
                    break
                if on_stack[other]:
                    low[node] = min(low[node], order[other])
            if descended:
                continue
            if low[node] == order[node]:
                while True:
                    other = stack.pop()
                    on_stack[other] = False
                    found[other] = done
                    if other == node:
                        break
                done += 1
            if work:
                parent = work[-1][0]
                low[parent] = min(low[parent], low[node])
    return found


def reachable(edges: Sequence[Sequence[int]], starts: Sequence[int]) -> list[bool]:
    """Which nodes can be reached from any of `starts`, themselves included."""
    seen = [False] * len(edges)
    work = list(starts)
    for node in work:
        seen[node] = True
    while work:
        for other in edges[work.pop()]:
            if not seen[other]:
                seen[other] = True
                work.append(other)
    return seen
