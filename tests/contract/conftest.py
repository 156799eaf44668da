"""What the contract tests share: folders that servers may reach, and the worlds that adapters open."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contract.capabilities.story import Case
from tests.contract.capabilities.suites import Asked

MEMORY = Path("/dev/shm")
ROOM = 2 << 30


def _fastest_place() -> Path | None:
    """Memory where there is plenty: what is tested is what servers say, not how a disk syncs."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
        return MEMORY
    return None


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that a server may reach that runs as a user of its own: pytest's own folders are closed."""
    folder = Path(tempfile.mkdtemp(prefix="evac-", dir=_fastest_place()))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """As `open_folder`."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def case(request: pytest.FixtureRequest, server_folder: Path) -> Iterator[Case]:
    """A world for one verb of one driver (`suites.acting`)."""
    with request.param(server_folder) as made:
        yield made


@pytest.fixture
def asked(request: pytest.FixtureRequest, server_folder: Path) -> Iterator[Asked]:
    """A world for the questions of one capability (`suites.asking`)."""
    with request.param(server_folder) as made:
        yield made
