"""The packer's public face: `place` for a whole problem, `Packer` for one service after another.

It knows servers, services and numbers only. Higher tiers go first: no replica of a lower tier stands
where it keeps out one of a higher tier that could stand there.
"""

from __future__ import annotations

import numpy as np

from evac.planning.packing.bound import FluidBound, fluid_bound
from evac.planning.packing.construct import (
    WORK_UNIT,
    Packing,
    checks_of,
    copy_packing,
    fill_by_prices,
    first_fit,
    first_fit_order,
    open_packing,
    settle_tiers,
    to_placement,
)
from evac.planning.packing.improve import improve
from evac.planning.packing.packer import Packer
from evac.planning.packing.problem import UNBOUNDED, Int64Array, PackingProblem, Placement, check_problem

__all__ = [
    "UNBOUNDED",
    "WORK_UNIT",
    "FluidBound",
    "Packer",
    "PackingProblem",
    "Placement",
    "fluid_bound",
    "place",
]

SETTLE_CHECKS_PER_SERVER = 50


def place(
    problem: PackingProblem, *, order: Int64Array | None = None, work: int = 0, seed: int = 0
) -> Placement:
    """Place the replicas that `problem` wants; deterministic in all arguments.

    order: services in the order in which first-fit takes them; with work = 0 it is kept to the letter and
    nothing else is tried. work: units spent on improvement after construction, WORK_UNIT tests of a service
    against a server each. seed: which servers and services are looked at first. Never places less than
    first-fit, compared tier by tier. Raises InvalidInput (code packing-input).
    """
    check_problem(problem)
    plain = open_packing(problem)
    first_fit(plain, first_fit_order(problem) if order is None else np.asarray(order, dtype=np.int64))
    if not plain.left.any() or (order is not None and work == 0):
        return to_placement(plain, 0)
    return _place_priced(problem, plain, work, seed)


def _place_priced(problem: PackingProblem, plain: Packing, work: int, seed: int) -> Placement:
    """Against the packing of first-fit: one by prices, the better of both improved."""
    settle_checks = SETTLE_CHECKS_PER_SERVER * problem.servers
    settle_tiers(plain, settle_checks)
    priced = open_packing(problem)
    market = fill_by_prices(priced, seed)
    settle_tiers(priced, settle_checks)
    best = priced if priced.score() > plain.score() else plain
    if work == 0:
        return to_placement(best, 0)
    trial = copy_packing(best)
    begin = checks_of(trial)
    improve(trial, market._replace(left=trial.left), work * WORK_UNIT)
    spent = -(-(checks_of(trial) - begin) // WORK_UNIT)
    return to_placement(trial if trial.score() > best.score() else best, spent)
