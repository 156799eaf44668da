"""What the contract tests share: folders that servers may reach, and the worlds that adapters open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.capabilities.story import Case
from tests.contract.capabilities.suites import Asked


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
