"""What the guide to writing a driver says, holds of the driver that was written by it."""

from __future__ import annotations

import re
from pathlib import Path

from evac.drivers.capabilities import ABOUT

GUIDE = "docs/contributing/driver.md"
WRITTEN = "powerdns"
FILES = {
    f"src/evac/drivers/{WRITTEN}/__init__.py",
    f"src/evac/drivers/{WRITTEN}/driver.py",
    "src/evac/drivers/registry.py",
}


def test_a_driver_is_a_folder_and_a_line_of_the_register(project_root: Path) -> None:
    known = {
        path.relative_to(project_root).as_posix()
        for path in (project_root / "src").rglob("*.py")
        if WRITTEN in path.read_text(encoding="utf-8").lower()
    }
    assert known == FILES
    page = (project_root / GUIDE).read_text(encoding="utf-8")
    assert {name for name in FILES if name in page} == FILES


def test_the_guide_names_every_capability_with_its_verbs(project_root: Path) -> None:
    rows = [line for line in (project_root / GUIDE).read_text(encoding="utf-8").splitlines() if "| `" in line]
    for capability, about in ABOUT.items():
        (row,) = (row for row in rows if row.startswith(f"| `{capability.__name__}`"))
        assert all(f"`{verb}`" in row for verb in about.verbs), row
        assert all(subject in row for subject in about.subjects), row


def test_every_test_that_the_guide_names_is_there(project_root: Path) -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (project_root / GUIDE).read_text(encoding="utf-8"))
    assert named
    for file, test in named:
        assert f"\ndef {test}(" in (project_root / file).read_text(encoding="utf-8"), f"{file}::{test}"
