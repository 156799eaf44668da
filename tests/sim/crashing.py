"""Real controller processes that are struck at a boundary, and another one that ends their run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sim.real_controller import STEPS

PROGRAM = Path(__file__).with_name("real_controller.py")
LIMIT_S = 30.0


@contextmanager
def controller(
    folder: Path, store: str, at: int = 0, number: signal.Signals = signal.SIGKILL, whom: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    target = [] if whom is None else [str(whom)]
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), store, str(at), str(int(number)), *target]
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(LIMIT_S)


def until_stopped(pid: int) -> bool:
    """Whether it stopped; False where it ended without."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in ("T", "Z"):
            return state == "T"
        time.sleep(0.01)
    raise AssertionError("it neither stopped nor ended")


def effects(folder: Path) -> list[str]:
    path = folder / "effects"
    return path.read_text().split() if path.exists() else []


def finish(folder: Path, store: str) -> None:
    """Whoever comes next ends the run; every effect is there once."""
    with controller(folder, store) as process:
        assert process.wait(LIMIT_S) == 0
    assert sorted(effects(folder)) == [f"run/s{n}" for n in range(STEPS)]


def assert_killed_and_replaced(folder: Path, store: str, at: int) -> None:
    with controller(folder, store, at) as process:
        assert process.wait(LIMIT_S) == -signal.SIGKILL
    finish(folder, store)


def assert_stopped_and_replaced(folder: Path, store: str, at: int, pause_s: float) -> None:
    """Stopped for longer than its lease it does nothing more, whatever it was about to do."""
    with controller(folder, store, at, signal.SIGSTOP) as process:
        assert until_stopped(process.pid)
        time.sleep(pause_s)
        before = effects(folder)
        process.send_signal(signal.SIGCONT)
        assert process.wait(LIMIT_S) == 3, "it finds out that its lease is over"
        assert effects(folder) == before
    finish(folder, store)
