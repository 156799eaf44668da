"""What the contract tests of drivers share: folders that servers may reach, and free ports."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder that a server may reach that runs as a user of its own: pytest's own folders are closed."""
    folder = Path(tempfile.mkdtemp(prefix="evac-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
