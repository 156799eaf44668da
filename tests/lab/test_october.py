"""The whole story in one command, small and fast: real requests, the real engine, and a page at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket]


def _evac(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evac", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_it_ends_with_a_page_that_puts_then_beside_now(tmp_path: Path) -> None:
    out = tmp_path / "story"
    done = _evac(
        "lab", "october-2022", "-o", str(out), "--servers", "3000", "--speed", "600", "--budget", "0"
    )
    assert done.returncode == 0, done.stderr
    assert "127 h 30 min" in done.stdout
    assert "Feeds above their limit: 0." in done.stdout
    page = (out / "october-2022.html").read_text("utf-8")
    for words in ("Hour by hour", "What was assumed", "published", "assumed"):
        assert words in page
    plan = json.loads((out / "cold-start.plan.json").read_text("utf-8"))
    assert plan["power"]["pangyo"] > 0


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    done = _evac("lab", "october-2022", "-o", str(tmp_path), "--servers", "3000")
    assert done.returncode == 2
    assert "choose an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
