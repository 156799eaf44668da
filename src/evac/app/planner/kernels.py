"""How kernels run in this process: compiled, or as plain Python where that finishes before a compiler would.

Compiled kernels are cached on disk, so each version of evac compiles once. Plain Python gives the same answer
ten times slower, which for a few services is still faster than loading compiled code. The time in plain
Python is estimated from the size of the problem in advance; for a plan, one round of the search is timed, and
for an audit that would have to compile first, the plan of one loss.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import IO, Final

import numpy as np

from evac.app.own_python import OWN_PYTHON
from evac.model import extras
from evac.model.estate import Estate
from evac.model.instance import Instance
from evac.model.scenario import lose
from evac.planning.compiled import ALL, PROGRESS, interpreted, kept_in, kernel_bases, kernels_are_kept

Report = Callable[[str], None]
"""Receives one line about compilation, about twice a second."""

LOADING_S: Final = 2.0
"""Time to load cached kernels."""
COMPILING_S: Final = 30.0
"""Plain Python may take this long if nothing is compiled yet, because compiling takes longer."""
PATIENCE_S: Final = 900.0
"""Without a compiler, work that takes longer than this in plain Python is refused."""
LOSS_S: Final = 25e-6
"""Time of an audit for each service and loss, in plain Python."""
PLAN_S: Final = 6e-3
"""Time of a plan for each service, server and pool of a small estate, in plain Python, at worst. Most plans
take a fiftieth of it.
"""
START_S: Final = 20e-6
"""Time of a simulation for each step of each trial, in plain Python."""
LARGE: Final = 100
"""From this many services on, no search round is timed first, because that would take too long."""
ROUND_S: Final = 0.5e-3
"""Time of a search round for each service of a large instance, and for each ten servers."""
FIRST_ROUNDS: Final = 20
"""Rounds until there is a first plan."""
ENDS_EARLY: Final = 5
"""A search that finds nothing better ends after a third of its work, so half of it is counted; and of what it
tries, less than four in ten lead to another generation and are run.
"""
POLL_S: Final = 0.5
TRIES: Final = 2
"""The first plan of a process also imports modules."""
_LOCK: Final = "compiling.lock"
FIRST_S: Final = 90.0
"""Estimated total compile time until some kernels have shown how long they take here."""
SURE: Final = 0.03


@contextmanager
def kernels(plain_s: float, report: Report = lambda line: None) -> Iterator[None]:
    """Context in which kernels run in the faster way; compiles them first if needed.

    plain_s: the time that the work would take in plain Python. Raises InvalidInput if that is too long and no
    compiler is installed.
    """
    if not extras.is_installed("large"):
        if plain_s > PATIENCE_S:
            words = f"an answer of about {plain_s / 60:.0f} minutes without compiled kernels"
            raise extras.needs("large", words)
        if plain_s > COMPILING_S:
            faster = extras.install("large")
            report(f"no compiled kernels: this takes about {plain_s:.0f} s; faster with: {faster}")
        with interpreted():
            yield
        return
    if plain_s <= LOADING_S or (plain_s <= COMPILING_S and kernels_are_kept() is None):
        with interpreted():
            yield
        return
    if kernels_are_kept() is None:
        compile_all(report)
    yield


def audit_s(estate: Estate, lost: tuple[str, ...], pairs: bool) -> float:
    """Time of an audit in plain Python: of the named losses or all of them; and of pairs."""
    from evac.audit.impacts.planned import planned_size

    above = len(estate.sites) + len(estate.halls) + len(estate.feeds) + len(estate.groups)
    losses = len(lost) or above + len(estate.racks)
    if pairs:
        losses += above * (above - 1) // 2
    plans_s = planned_size(estate, losses) * PLAN_S
    if plans_s > COMPILING_S and kernels_are_kept() is None:
        plans_s *= _as_measured(estate)
    return (losses * len(estate.services) + len(estate.fleet)) * LOSS_S + plans_s


def _as_measured(estate: Estate) -> float:
    """Which share of its estimate the plan for the loss of the site with the most replicas takes; 1 if no
    site is known to have any, or if trying it might take as long as compiling.
    """
    from evac.audit.impacts.planned import planned_size
    from evac.planning.plan import foresee

    expected_s = planned_size(estate, 1) * PLAN_S
    largest = _site_with_most_replicas(estate)
    if largest is None or not 0 < expected_s <= COMPILING_S:
        return 1.0
    took: list[float] = []
    with interpreted():
        while len(took) < TRIES and sum(took) < LOADING_S:
            began = time.process_time()  # on a busy machine compiling also takes longer
            foresee(estate, lose(largest))
            took.append(time.process_time() - began)
    return min(1.0, min(took) / expected_s)


def _site_with_most_replicas(estate: Estate) -> str | None:
    """Among those not lost now; None if the replicas of none are known."""
    from evac.derive.domains import lost_now, site_of_replicas, topology

    top = topology(estate)
    site = site_of_replicas(top)
    known = site >= 0
    count = np.bincount(site[known], estate.replicas.count[known], len(estate.sites))
    count[lost_now(top).sites] = 0
    return estate.sites[int(count.argmax())].id if count.any() else None


def simulation_s(steps: int, trials: int) -> float:
    """Time of a simulation in plain Python."""
    return steps * trials * START_S


def search_s(instance: Instance, work: int) -> float:
    """Time of a plan in plain Python: the rounds of its search, one of which is timed."""
    size = len(instance.services) + len(instance.rows) // 10
    if size > LARGE:
        return size * ROUND_S * (FIRST_ROUNDS + work / ENDS_EARLY)
    from evac.planning.evacuation.solve import round_of

    with interpreted():
        began = time.process_time()  # on a busy machine compiling also takes longer
        again = round_of(instance)
        first = time.process_time()
        again()
        each = time.process_time() - first
    return first - began + each * work / ENDS_EARLY


def compile_all(report: Report) -> None:
    """Compile every kernel in separate processes and report progress.

    Does nothing if kernels cannot be cached: the process that needs a kernel compiles it.
    """
    folder = kept_in(kernel_bases(), Path(sys.modules["evac"].__file__ or "").parent)
    if folder is None:
        report("compiling planner kernels as needed; there is no folder to keep them in: set NUMBA_CACHE_DIR")
        return
    whole, began = _count_kernels(), time.monotonic()
    before = _count_compiled(folder)

    def tell() -> None:
        report(_progress(before, _count_compiled(folder), whole, time.monotonic() - began, folder))

    tell()
    with (folder / _LOCK).open("w") as lock:
        while not _is_ours(lock):  # another process is compiling the same
            time.sleep(POLL_S)
            tell()
        if kernels_are_kept() is None:
            (folder / PROGRESS).unlink(missing_ok=True)  # what it counts was not kept
            before, began = _count_compiled(folder), time.monotonic()
            _compile(report, tell)


def _is_ours(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _compile(report: Report, tell: Callable[[], None]) -> None:
    process = subprocess.Popen(
        [*OWN_PYTHON, "-m", "evac.app.warm"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        while process.poll() is None:
            time.sleep(POLL_S)
            tell()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if process.returncode:
        trace = (process.stderr.read() if process.stderr else b"").decode(errors="replace").splitlines()
        report(f"compiling ended with {process.returncode}: {''.join(trace[-1:])[:200]}")


def _count_kernels() -> int:
    import evac.audit
    import evac.planning

    for room in (evac.audit, evac.planning):
        for module in walk_packages(room.__path__, f"{room.__name__}."):
            if module.name != "evac.planning.compiling":  # numba is not needed to count
                import_module(module.name)
    return len(ALL)


def _count_compiled(folder: Path) -> int:
    inner = 0
    with suppress(FileNotFoundError):
        inner = (folder / PROGRESS).stat().st_size
    return inner + sum(1 for _ in folder.rglob("*.nbi"))


def _progress(before: int, done: int, whole: int, passed_s: float, folder: Path) -> str:
    """One line: how many, time left, where."""
    share = (done - before) / max(1, whole - before)
    left_s = FIRST_S if share < SURE else passed_s * (1 - share) / share
    return (
        f"compiling planner kernels: {min(done, whole)} of {whole}, about {max(1, round(left_s))} s left; "
        f"kept in {folder}"
    )
