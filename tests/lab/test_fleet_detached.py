"""A fleet in the background: it answers when the command comes back, and ends when it is told to."""

import json
import subprocess
import sys
from pathlib import Path

from evac.lab.fleet.running import read_state

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
    assert "no fleet runs" in _fleet(tmp_path, "--end").stderr
