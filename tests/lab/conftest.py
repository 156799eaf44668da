"""A lab of one's own for a test module: in a folder and at addresses that nobody else has."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evac_lab import clients, doctor, world
from evac_lab.state import LOOPBACK_OFFSETS, LabFolder, topology
from evac_lab.world import Options


def free_offset() -> int:
    """A lab number whose addresses are free; workers of one machine begin at different ones."""
    first = os.getpid() % (LOOPBACK_OFFSETS - 10)
    for step in range(LOOPBACK_OFFSETS - 10):
        offset = 10 + (first + step) % (LOOPBACK_OFFSETS - 10)
        if not doctor.taken_ports(topology("loopback", offset)):
            return offset
    raise AssertionError("no lab number is free")


def need_servers() -> None:
    if missing := doctor.missing_programs():
        pytest.skip(f"not installed: {', '.join(one.program for one in missing)}")


@contextmanager
def lab_folder() -> Iterator[LabFolder]:
    """A folder that the user of PostgreSQL may reach; the lab in it is ended whatever happens."""
    with _turn():
        path = Path(tempfile.mkdtemp(prefix="evac-lab-"))
        path.chmod(0o755)
        folder = LabFolder(path)
        try:
            yield folder
        finally:
            world.down(folder)
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _turn() -> Iterator[None]:
    """One lab at a time: its sites stand for machines of their own, and two labs on two cores leave each a
    third of one.
    """
    with (Path(tempfile.gettempdir()) / f"evac-test-labs-{os.getuid()}").open("w") as file:
        if not _turns:
            fcntl.flock(file, fcntl.LOCK_EX)
        _turns.append(file.name)
        try:
            yield
        finally:
            _turns.pop()


_turns: list[str] = []
"""Labs of this process; all of them share its turn."""


def _few(controllers: bool) -> Options:
    return Options(offset=free_offset(), writers=6, pause_s=0.1, controllers=controllers)


@contextmanager
def running_lab(options: Options | None = None, *, controllers: bool = True) -> Iterator[LabFolder]:
    """A lab with a few clients, on loopback unless told otherwise."""
    need_servers()
    with lab_folder() as folder:
        world.up(options or _few(controllers), folder)
        yield folder


@pytest.fixture
def folder() -> Iterator[LabFolder]:
    need_servers()
    with lab_folder() as made:
        yield made


def writes(lab: LabFolder, at_least: int = 5, within_s: float = 8.0) -> int:
    """Waits for new acknowledged writes; returns how many came."""
    offset, deadline = clients.size(lab.ledger), time.monotonic() + within_s
    found = 0
    while found < at_least and time.monotonic() < deadline:
        time.sleep(0.1)
        found = len(clients.acknowledged(clients.read_ledger(lab.ledger, offset)))
    return found
