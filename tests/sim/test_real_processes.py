"""A sample of the boundaries again, with real processes, SIGKILL and SIGSTOP, on the embedded store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sim.real_controller import STEPS, TTL_MS

PROGRAM = Path(__file__).with_name("real_controller.py")
LIMIT_S = 20.0


@contextmanager
def controller(folder: Path, at: int, number: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, str(PROGRAM), str(folder), str(at), str(int(number))])
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(LIMIT_S)


def _until_stopped(pid: int) -> bool:
    """Whether it stopped; False where it ended without."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in ("T", "Z"):
            return state == "T"
        time.sleep(0.01)
    raise AssertionError("it neither stopped nor ended")


def _finish(folder: Path) -> None:
    """Whoever comes next ends the run; every effect is there once."""
    with controller(folder, 0, signal.SIGKILL) as process:
        assert process.wait(LIMIT_S) == 0
    effects = (folder / "effects").read_text().split()
    assert sorted(effects) == [f"run/s{n}" for n in range(STEPS)]


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2, 3, 4, 6, 9, 13, 17])
def test_a_controller_that_is_killed_there_is_replaced(tmp_path: Path, at: int) -> None:
    with controller(tmp_path, at, signal.SIGKILL) as process:
        assert process.wait(LIMIT_S) == -signal.SIGKILL
    _finish(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see that it stopped")
@pytest.mark.parametrize("at", [1, 2, 3, 4, 7, 12])
def test_a_controller_that_was_stopped_for_longer_than_its_lease_does_nothing_more(
    tmp_path: Path, at: int
) -> None:
    with controller(tmp_path, at, signal.SIGSTOP) as process:
        assert _until_stopped(process.pid)
        time.sleep(TTL_MS / 1_000 * 1.3)
        before = _effects(tmp_path)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(LIMIT_S) == 3, "it finds out that its lease is over"
        assert _effects(tmp_path) == before
    _finish(tmp_path)


def _effects(folder: Path) -> list[str]:
    path = folder / "effects"
    return path.read_text().split() if path.exists() else []
