"""Plans of wild instances, with cycles, tools, hands, racks across sites and survivors, keep every rule."""

from __future__ import annotations

import pytest

from bench.wild_instances import wild_instance
from evac.planning.plan import plan_instance
from evac.verify import check_instance

NEEDED = (373, 1_711, 2_595, 2_806, 4_043, 4_184, 4_283, 4_697, 5_521, 5_604)
"""Where a service once took the room of what it needs itself."""
TOO_LATE = (540,)
"""Where a shed would make room that comes too late."""
ACROSS = (1_001, 1_439, 1_847, 2_458, 2_472, 4_293, 4_849)
"""Where racks or feeds lie in more than one site."""
STANDS_ON = (5_042, 5_120, 5_321)
"""Where what a service waits for, or what cannot be shed without a lost tool, holds the room."""


@pytest.mark.parametrize("seed", [*NEEDED, *TOO_LATE, *ACROSS, *STANDS_ON])
def test_no_plan_breaks_a_rule(seed: int) -> None:
    instance = wild_instance(seed)
    for work in (0, 30):
        assert not check_instance(instance, plan_instance(instance, work=work)).violations
