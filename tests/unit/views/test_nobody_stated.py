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
    assert "unknown: the estate states no users of the services that are not restored" in out
    assert "nothing is lost" not in out
    assert "steps none" in out


STAYS = """evac: 1
name: kelp
sites: {ham: {}, ber: {}}
pools: {ham-k8s: {site: ham, cpu: 8 cores, memory: 8 GiB}}
services:
  shop: {tier: 0, people: 5 K, replicas: {ham-k8s: 2}, demand: {cpu: 1 core, memory: 1 GiB},
    start: 1 min, eligible_sites: [ham]}
"""


def test_a_service_that_runs_to_the_end_of_the_horizon_costs_nothing_but_is_not_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a deadline, what cannot move serves until the horizon, and its users are stated."""
    (tmp_path / "estate.yaml").write_text(STAYS)
    assert run(["plan", str(tmp_path), "--evacuate", "ham"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Not coming back: 1 service, 5,000 people" in out
    assert "1 service without another place is down after that" in out
    assert "quality unknown: the outage of what has no other place begins only after the horizon" in out
