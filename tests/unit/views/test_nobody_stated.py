"""A plan that leaves a service down never says that nothing is lost, also where no people are stated."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.cli.main import run

ESTATE = """evac: 1
name: kelp
sites: {ham: {}, ber: {}}
providers: {paynet: {}}
services:
  cards: {external: true, provider: paynet}
"""


def test_a_service_of_nobody_that_stays_down_is_not_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    plan = tmp_path / "plan.json"
    assert run(["plan", str(tmp_path), "--lose", "provider:paynet", "-o", str(plan)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the one affected service does not come back" in out
    assert "unknown: the estate does not say how many people use the services that are not restored" in out
    assert "nothing is lost" not in out
    assert "steps none" in out
