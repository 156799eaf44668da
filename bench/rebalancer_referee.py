"""Runs Meta's Rebalancer on a packing problem: `python rebalancer_referee.py PROBLEM.npz ANSWER.npz SECONDS`.

A program for the referee's own interpreter (Python 3.12 with `rebalancer` and numpy), so it imports nothing
of evac. All replicas start in a waiting room; the goal is to free the waiting room of weight, the
constraints are capacity, one replica of a service on a server, and the rack caps. Local search by moves
and swaps, tuned by hand: its defaults place a tenth as much in the same time.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from rebalancer import ProblemSolver
from rebalancer.specs import (
    CapacitySpec,
    ConstraintSpec,
    Filter,
    GoalSpec,
    GroupCountSpec,
    Limit,
    LocalSearchSolverSpec,
    MoveTypeSpec,
    SingleRandomBatchesMoveTypeSpec,
    SolverSpec,
    SwapMoveTypeSpec,
    ToFreeSpec,
)

WAITING = "waiting"
PLENTY = 1e15


def main(problem_path: str, answer_path: str, seconds: int) -> None:
    """Solve and write `placed` per service, rows (service, server) and the CPU and wall seconds it took."""
    data = np.load(problem_path)
    objects = [(s, f"{s}:{i}") for s, n in enumerate(data["count"].tolist()) for i in range(n)]
    solver = _problem(data, objects)
    solver.add_solver(_search(seconds))
    wall, cpu = time.perf_counter(), time.process_time()
    assignment = solver.solve()["assignment"]
    took = time.perf_counter() - wall, time.process_time() - cpu
    rows = [(s, int(assignment[name])) for s, name in objects if assignment[name] != WAITING]
    placed = np.bincount([s for s, _ in rows], minlength=data["count"].size)
    np.savez(answer_path, placed=placed, rows=np.array(rows, dtype=np.int64), seconds=np.array(took))


def _problem(data: np.lib.npyio.NpzFile, objects: list[tuple[int, str]]) -> ProblemSolver:
    servers, resources = data["free"].shape
    hosts = [str(v) for v in range(servers)]
    solver = ProblemSolver(service_name="evac", service_scope="bench")
    solver.set_log_level("ERR")
    solver.disable_solution_summary()
    solver.set_object_name("replica").set_container_name("host")
    solver.set_assignment({WAITING: [name for _, name in objects]} | {host: [] for host in hosts})
    for r in range(resources):
        solver.add_object_dimension(f"r{r}", {name: float(data["demand"][s, r]) for s, name in objects})
        room = {host: float(max(0, data["free"][v, r])) for v, host in enumerate(hosts)}
        solver.add_container_dimension(f"r{r}", room | {WAITING: PLENTY})
        capacity = CapacitySpec(name=f"capacity{r}", scope="host", dimension=f"r{r}")
        solver.add_constraint(ConstraintSpec(capacitySpec=capacity))
    solver.add_object_dimension("weight", {name: float(data["weight"][s]) for s, name in objects})
    _spread(solver, data, objects, hosts)
    goal = ToFreeSpec(name="placed", containers=[WAITING], dimension="weight")
    solver.add_goal(GoalSpec(toFreeSpec=goal))
    return solver


def _spread(
    solver: ProblemSolver, data: np.lib.npyio.NpzFile, objects: list[tuple[int, str]], hosts: list[str]
) -> None:
    groups: dict[str, list[str]] = {}
    for s, name in objects:
        groups.setdefault(str(s), []).append(name)
    solver.add_partition("service", groups)
    racks = {host: f"rack{data['rack'][v]}" for v, host in enumerate(hosts)}
    solver.add_scope("rack", racks | {WAITING: WAITING})
    not_waiting = Filter(itemsBlacklist=[WAITING])
    per_host = GroupCountSpec(
        name="one on a server",
        scope="host",
        partitionName="service",
        limit=Limit(globalLimit=1.0),
        filter=not_waiting,
    )
    caps = {str(s): float(cap) for s, cap in enumerate(data["rack_cap"].tolist())}
    per_rack = GroupCountSpec(
        name="spread over racks",
        scope="rack",
        partitionName="service",
        limit=Limit(groupLimits=caps),
        filter=not_waiting,
    )
    for spec in (per_host, per_rack):
        solver.add_constraint(ConstraintSpec(groupCountSpec=spec))


def _search(seconds: int) -> SolverSpec:
    """The settings that placed most in equal time: small random batches of servers, heavy replicas first."""
    batches = SingleRandomBatchesMoveTypeSpec(randomContainerBatchSize=3)
    moves = [
        MoveTypeSpec(singleRandomBatchesMoveTypeSpec=batches),
        MoveTypeSpec(swapMoveTypeSpec=SwapMoveTypeSpec()),
    ]
    search = LocalSearchSolverSpec(solveTime=seconds, moveTypeList=moves, objectOrderingDimension="weight")
    return SolverSpec(localSearchSolverSpec=search)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
