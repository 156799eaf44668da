"""Compile every kernel once, at set-up, so that no user waits for it at three in the morning.

Plans, proves, simulates and audits the smallest example company; the compiled code is cached next to the
sources, or in NUMBA_CACHE_DIR if that folder is read-only.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from evac.model import extras


def _search() -> None:
    from evac.planning.warm import warm as warm_search

    warm_search()


def _others() -> None:
    from evac.audit.impacts.all_losses import impacts
    from evac.audit.impacts.losses import losses
    from evac.derive.domains import topology
    from evac.derive.planning_instance import derive
    from evac.estate.examples import pangyo
    from evac.model.scenario import lose
    from evac.planning.bound import bound
    from evac.planning.simulation.simulate import warm as warm_simulation
    from evac.planning.warm import tiny_instance

    bound(tiny_instance(), work=1)
    for mended in (False, True):
        estate = pangyo(servers=1_000, mended=mended)
        top = topology(estate)
        impacts(top, losses(top))  # without planned losses, which belong to the other part
        bound(derive(estate, lose("pangyo")), work=1)
    warm_simulation()


APART: Final[Mapping[str, Callable[[], None]]] = MappingProxyType({"search": _search, "others": _others})
"""Parts that share no kernel, so that two processes can fill the cache concurrently."""


def warm() -> None:
    """Run every kernel once, in the small and in the large form of each."""
    from evac.audit import audit
    from evac.estate.examples import pangyo
    from evac.model.scenario import lose
    from evac.planning.plan import level_order, plan, plan_instance
    from evac.planning.simulation.simulate import simulate
    from evac.planning.warm import tiny_instance
    from evac.verify import check

    for part in APART.values():
        part()
    instance = tiny_instance()
    made = plan_instance(instance, work=24)
    simulate(instance, made, trials=2)
    level_order(instance)
    for mended in (False, True):
        estate = pangyo(servers=1_000, mended=mended)
        audit(estate)
        check(estate, plan(estate, lose("pangyo"), work=12))


def fill_cache() -> int:
    """Compile the parts concurrently if there are cores for it, then the rest. Returns the exit code: 0, or
    that of a part that failed.
    """
    if (os.cpu_count() or 1) > 1:
        context = multiprocessing.get_context("spawn")
        parts = [context.Process(target=part, name=name) for name, part in APART.items()]
        for part in parts:
            part.start()
        for part in parts:
            part.join()
        if failed := [part.exitcode or 0 for part in parts if part.exitcode]:
            return abs(failed[0])
    warm()
    from evac.planning.compiled import note_complete

    note_complete()
    return 0


if __name__ == "__main__":
    if not extras.is_installed("large"):
        sys.exit(f"error: {extras.needs('large', 'compiling the kernels').message}")
    sys.exit(fill_cache())
