"""A fleet in the background: it answers when the command comes back, and ends when it is told to."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evac_lab.fleet import running
from evac_lab.fleet.running import FleetFailed, read_state

FREE = ("--port", "0", "--admin-port", "0", "--quiet")


def _fleet(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evac", "lab", "fleet", "--folder", str(folder / "state"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=folder)


def test_it_answers_when_the_command_comes_back_and_ends_when_told(tmp_path: Path) -> None:
    begun = _fleet(tmp_path, "--servers", "3", "-o", "estate", "--for", "200", "--detach", *FREE)
    assert begun.returncode == 0, begun.stderr
    about = json.loads(begun.stdout.splitlines()[0])
    assert read_state(tmp_path / "state") == {key: value for key, value in about.items() if key != "ready"}
    assert (tmp_path / "estate" / "estate.yaml").is_file()
    again = _fleet(tmp_path, "--servers", "3", "--detach", *FREE)
    assert again.returncode == 1
    assert "--end" in again.stderr
    assert _fleet(tmp_path, "--end").returncode == 0
    assert read_state(tmp_path / "state") is None
    assert "no fleet is running" in _fleet(tmp_path, "--end").stderr


def test_nothing_is_left_of_one_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ > {tmp_path}/pid\nwhile :; do sleep 0.1; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(running, "START_S", 1.0)
    monkeypatch.setattr(running, "STOP_S", 0.2)
    with pytest.raises(FleetFailed, match="did not start"):
        running.begin(["lab", "fleet"], tmp_path / "state")
    group, deadline = int((tmp_path / "pid").read_text()), time.monotonic() + 10.0
    while (lives := _lives(group)) and time.monotonic() < deadline:
        time.sleep(0.05)  # init takes what was below it a moment to reap
    assert not lives


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
