"""A sample of the boundaries again, with real processes, SIGKILL and SIGSTOP, on the embedded store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.crashing import assert_killed_and_replaced, assert_stopped_and_replaced
from tests.sim.real_controller import TTL_MS


def _store(folder: Path) -> str:
    return f"sqlite:{folder / 'evac.db'}"


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2, 3, 4, 6, 9, 13, 17])
def test_a_controller_that_is_killed_there_is_replaced(tmp_path: Path, at: int) -> None:
    assert_killed_and_replaced(tmp_path, _store(tmp_path), at)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see that it stopped")
@pytest.mark.parametrize("at", [1, 2, 3, 4, 7, 12])
def test_a_controller_that_was_stopped_for_longer_than_its_lease_does_nothing_more(
    tmp_path: Path, at: int
) -> None:
    assert_stopped_and_replaced(tmp_path, _store(tmp_path), at, TTL_MS / 1_000 * 1.3)
