"""Who agrees to a run, holds it or checks an estate does not wait for libraries that only planning needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numba", "llvmlite", "polars", "highspy", "aiohttp", "pydantic")


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("evac.cli.estate_command", HEAVY),
        ("evac.control.store", (*HEAVY, "numpy")),
        ("evac.app.applying", HEAVY),
        ("evac.app.controlling", HEAVY),
        ("evac.agent.service", ("numpy", "yaml")),
    ],
)
def test_it_starts_without_what_only_planning_needs(module: str, without: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {without} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
