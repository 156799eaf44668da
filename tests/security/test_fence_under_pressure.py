"""An agent that lacks descriptors, memory, a disk or a log: its primary stops before the permit ends.

`python -m bench fence` measures these and 10,000 connections.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.bench_fence import CASES, MARGIN_MS, CannotHave, left_s

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def test_a_primary_stops_before_its_permit_ends_whatever_its_agent_lacks(tmp_path: Path) -> None:
    chosen = {name: case for name, case in CASES.items() if case.small}
    for name in chosen:
        (tmp_path / name).mkdir()
    with ThreadPoolExecutor(len(chosen)) as pool:
        left = dict(
            zip(
                chosen,
                pool.map(lambda name: left_s(chosen[name], tmp_path / name), chosen),
                strict=True,
            )
        )
    assert {"descriptors", "memory", "files", "log"} <= left.keys()
    assert {name: one for name, one in left.items() if not 0 < one < MARGIN_MS / 1_000 + 0.5} == {}


@pytest.mark.parametrize("name", ["full-disk", "stopped-disk"])
def test_a_primary_stops_before_its_permit_ends_whatever_its_disk_does(tmp_path: Path, name: str) -> None:
    try:
        left = left_s(CASES[name], tmp_path)
    except CannotHave as error:
        pytest.skip(f"a disk of its own is not to be had here: {error}")
    assert 0 < left < MARGIN_MS / 1_000 + 0.5
