"""The order of a run's steps: what a step waits for comes before it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from evac.model.errors import RunError
from evac.run.values import RunStep


def in_order(steps: Sequence[RunStep]) -> tuple[RunStep, ...]:
    """The steps, each after those that it waits for. Raises RunError if some wait for each other: none of
    them could ever start.
    """
    by_id: dict[str, RunStep] = {step.id: step for step in steps}
    graph = {name: [one for one in step.after if one in by_id] for name, step in by_id.items()}
    try:
        return tuple(by_id[name] for name in TopologicalSorter(graph).static_order())
    except CycleError as error:
        names = " after ".join(reversed(error.args[1]))
        raise RunError(
            "run-cycle",
            f"steps of the run wait for each other: {names}",
            "this is a fault in evac: report it with the plan and the estate; nothing was started",
        ) from error
