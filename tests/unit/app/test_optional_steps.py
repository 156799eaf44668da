"""A step that a run can go on without keeps a dry run from no verdict, and its problem is shown."""

import asyncio
from pathlib import Path

import pytest

from evac.app.applying import LoadedPlan, dry_run
from evac.drivers.registry import Drivers
from evac.engine.runs.dry_run import Kept
from evac.model.scenario import Scenario
from evac.planning.plan import plan
from tests.unit.engine.messenger import LAX, TRAFFIC, estate

pytestmark = pytest.mark.enable_socket


def test_a_router_that_is_down_at_the_site_that_is_left_is_shown_and_refuses_nothing(tmp_path: Path) -> None:
    of = estate(tmp_path, TRAFFIC)
    loaded = LoadedPlan(plan(of, Scenario("evacuate", ("pangyo",), 600_000)), b"", "sha256:0", of, LAX)

    async def asked() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        drivers = Drivers()
        try:
            found = await dry_run(loaded, drivers, 1_000, Kept())
        finally:
            await drivers.close()
        return {step.id: (step.problems, step.actions) for step in found.steps}

    found = asyncio.run(asked())
    problems, actions = found["redirect:messenger"]
    assert problems == ()
    assert actions[-1].startswith("skipped if it fails, as it would now: ")
    shift = next(problems for name, (problems, _) in found.items() if name.startswith("shift:"))
    assert shift, "no router answers anywhere: one elsewhere is in the way"
