"""The proof of a plan, made beside it: the long kernels of both run without the interpreter's lock, and the
one goes on meanwhile with the other. What comes out is the same as one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from evac.model.instance import Instance
from evac.planning.bound import BoundResult, bound, bound_of, draft_of

WORK: Final = 300
"""Iterations of the dual ascent: the bound is within a percent of its limit by then."""
LARGE: Final = 100
"""Services from which on a thread is worth its while."""
Proving = Callable[[int], Callable[[], BoundResult]]
"""Takes the objective of the plan as soon as it is known; what it returns waits for the proof."""


@contextmanager
def beside(instance: Instance) -> Iterator[Proving]:
    """Proves the bound of an instance while the block plans; of a small one when it is asked for."""
    if len(instance.services) < LARGE:
        yield lambda objective: lambda: bound(instance, work=WORK, best_objective=objective)
        return
    with ThreadPoolExecutor(1, "evac-proof") as helper:
        draft = helper.submit(draft_of, instance)

        def prove(objective: int) -> Callable[[], BoundResult]:
            proof: Future[BoundResult] = helper.submit(
                lambda: bound_of(instance, draft.result(), work=WORK, best_objective=objective)
            )
            return proof.result

        yield prove
