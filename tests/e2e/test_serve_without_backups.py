"""A controller that takes no scheduled backups says so at its start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ESTATE = """evac: 2
name: company
sites: {anyang: {}, sejong: {}}
services: {wiki: {people: 300, rto: 2 h, replicas: {anyang: 1}}}
data_sets:
  wiki-files:
    kind: volume
    at: anyang
    used_by: [wiki]
    backups: [{at: sejong, endpoint: wiki-far, system: disk}]
    backup_policy: {rpo: 24 h%s}
endpoints:
  wiki-far:
    for: wiki-files
    at: sejong
    driver: restic
    settings: {repository: "/nowhere", password: "env:WIKI", paths: [/srv/wiki]}
"""
NO_BACKUPS = "it only executes requests, so it takes and checks no scheduled backups of wiki-files"


@pytest.mark.parametrize(
    ("policy", "watch", "says"),
    [
        (', schedule: "15 1 * * *"', "--no-watch", True),
        (', restore_test: "0 4 * * SUN"', "--no-watch", True),
        ("", "--no-watch", False),
        (', schedule: "15 1 * * *"', "", False),
    ],
)
def test_it_says_which_backups_no_one_takes(tmp_path: Path, policy: str, watch: str, says: bool) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE % policy)
    argv = [sys.executable, "-m", "evac", "serve", str(tmp_path / "estate.yaml"), "--site", "anyang"]
    argv += ["--store", f"sqlite:{tmp_path / 'evac.sqlite'}", *([watch] if watch else [])]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stderr is not None
            said = serving.stderr.readline()
            while "is running; store" not in said:
                assert said, "it ended"
                said = serving.stderr.readline()
        finally:
            serving.terminate()
        said = serving.stderr.read()
    assert (NO_BACKUPS in said) == says, said
