"""Benchmarks find what they measure: whether one can be imported shows only when it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

REFEREES = {"dbos", "ortools", "prefect", "rebalancer", "temporalio"}
"""Peers in an environment of their own (`make bench-referees`)."""


def _modules() -> list[str]:
    folder = Path(__file__).parents[2] / "bench"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__main__")


@pytest.mark.parametrize("name", _modules())
def test_a_benchmark_can_be_imported(name: str) -> None:
    try:
        found = importlib.import_module(f"bench.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in REFEREES:
            raise
        pytest.skip(f"{error.name} is a referee, and not installed here")
    assert found.__doc__


@pytest.mark.parametrize("name", ["run_figures", "lab_figures", "bench_boot", "bench_serve"])
def test_a_part_that_there_is_not_is_said_with_those_that_there_are(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"bench.{name}").main(["--only", "nothing"])
    assert ended.value.code == 2
    assert "; not nothing" in capsys.readouterr().err
