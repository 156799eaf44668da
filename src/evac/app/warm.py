"""Compile every kernel once, at set-up, so that no user waits for it at three in the morning.

Plans, proves, simulates and audits the smallest example company; the compiled code is cached beside
the sources, or in NUMBA_CACHE_DIR where that cannot be written.
"""

from __future__ import annotations

from evac.audit import audit
from evac.estate.example import pangyo
from evac.model.scenario import lose
from evac.planning.plan import level_order, plan, plan_instance
from evac.planning.simulation.simulate import simulate
from evac.planning.warm import warm as warm_planner
from evac.testing.instances import worked_example
from evac.verify import check


def warm() -> None:
    """Go once through every kernel, in the small and in the large form of each."""
    warm_planner()
    instance = worked_example()
    made = plan_instance(instance, work=24)
    simulate(instance, made, trials=2)
    level_order(instance)
    for mended in (False, True):
        estate = pangyo(servers=1_000, mended=mended)
        audit(estate)
        check(estate, plan(estate, lose("pangyo"), work=12))


if __name__ == "__main__":
    warm()
