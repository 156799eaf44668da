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
    clock = done = 0
    for root in range(count):
        if order[root] >= 0:
            continue
        order[root] = low[root] = clock
        clock += 1
        stack.append(root)
        work = [(root, iter(edges[root]))]
        while work:
            node, following = work[-1]
            for other in following:
                if order[other] < 0:
                    order[other] = low[other] = clock
                    clock += 1
                    stack.append(other)
                    work.append((other, iter(edges[other])))
                    break
                # What has a component already is on the stack no more.
                if found[other] < 0 and order[other] < low[node]:
                    low[node] = order[other]
            else:
                work.pop()
                if low[node] == order[node]:
                    while found[node] < 0:
                        found[stack.pop()] = done
                    done += 1
                if work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
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
