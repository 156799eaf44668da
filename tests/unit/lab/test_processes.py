"""The process table: a pid that is used again is another process; a family is found whole; marks are read."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evac_lab import process as processes
from evac_lab.process import Process
from evac_lab.state import LabError, LabFolder, LabState, Running, Starter, living
from tests.promptness import Stopwatch

# A parent whose child leads a session of its own, as the children of PostgreSQL do.
FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, start_new_session=True)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    yield started
    for pid in processes.descendants([started.pid], processes.table()):
        os.kill(pid, signal.SIGKILL)
    started.wait(10)
    started.stdout.close()


def test_a_family_is_found_across_sessions_and_ends_whole(parent: subprocess.Popen[bytes]) -> None:
    family = processes.descendants([parent.pid], processes.table())
    assert len(family) == 2
    processes.send(family, signal.SIGKILL)
    parent.wait(10)
    assert processes.wait_gone(family) == set()


def test_the_same_pid_at_another_moment_is_another_process(parent: subprocess.Popen[bytes]) -> None:
    since = processes.started(parent.pid)
    assert processes.same(parent.pid, since)
    assert not processes.same(parent.pid, since - 1)
    assert not processes.same(parent.pid, 0)


def test_what_a_crash_left_behind_is_found_by_its_mark(tmp_path: Path) -> None:
    folder = LabFolder(tmp_path / "one")
    folder.path.mkdir()
    starter = Starter(folder, LabState("loopback", 0, 0.0), lambda share, words: None)
    sleeper = (sys.executable, "-c", "import time; time.sleep(60)")
    starter.launch("pangyo", "etcd", Process("x", sleeper, tmp_path / "log"))
    starter.launch("anyang", "etcd", Process("x", sleeper, tmp_path / "log"))
    starter.let_go()
    try:
        deadline = (
            time.monotonic() + 5
        )  # a moment after its start the environment of a process is still empty
        while len(living(None, folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(living(None, folder)) == 2
        assert len(living(None, folder, "anyang")) == 1
        assert living(None, LabFolder(tmp_path / "on")) == set()
        assert len(living(folder.need(), folder, "pangyo")) == 1
    finally:
        left = living(None, folder)
        processes.send(left, signal.SIGKILL)
        assert processes.wait_gone(left) == set()
    assert living(folder.need(), folder) == set()


def test_the_state_is_read_back_as_it_was(tmp_path: Path) -> None:
    folder = LabFolder(tmp_path)
    running = Running("ansan", "dns", 7, 11, ("knotd", "-c", "x"), "log", "", ("ip",), "", {"A": "b"})
    state = LabState("namespaces", 2, 5.0, "up", 1.5, (running,), ("ansan",), {"pangyo": 3.5})
    folder.write(state)
    assert folder.need() == state


@pytest.mark.parametrize("text", ["{", '{"version": 99}'])
def test_a_state_that_cannot_be_read_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab.json").write_text(text)
    with pytest.raises(LabError) as raised:
        LabFolder(tmp_path).read()
    assert raised.value.hint == "evac lab down"


def test_one_command_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evac_lab.state._LOCK_SECONDS", 0.2)
    watch = Stopwatch()
    with (
        LabFolder(tmp_path).locked(),
        pytest.raises(LabError, match="another command"),
        LabFolder(tmp_path).locked(),
    ):
        pass
    assert watch.counted_s < 5
