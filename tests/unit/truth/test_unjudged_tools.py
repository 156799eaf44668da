"""Nobody knows whether a tool runs of which nobody knows whether the loss took it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import audit
from evac.audit.impacts import planned
from evac.estate import load
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify import check

ESTATE = """
evac: 1
name: tools
sites: {a: {}, b: {}}
halls: {a/h1: {}, a/h2: {}}
racks: {a/h1/r: {}, a/h2/r: {}}
classes: {c: {cpu: 8 cores, memory: 64 GiB, boot: 60 s}}
pools: {pb: {site: b, cpu: 16 cores, memory: 99 GiB}}
services:
  pipeline: {tier: 0, people: 1, replicas: {a: 1}, start: 10 s, demand: {cpu: 1 cores, memory: 1 GiB},
             traffic: {kind: none}, eligible_sites: [a]}
  second: {tier: 0, people: 1, replicas: {pb: 1}, start: 10 s, demand: {cpu: 1 cores, memory: 1 GiB},
           traffic: {kind: none}}
  shop: {tier: 1, people: 9, start: 60 s, demand: {cpu: 4 cores, memory: 1 GiB}, traffic: {kind: none},
         eligible_sites: [b]}
  front: {tier: 1, people: 9, replicas: {pb: 1}, start: 60 s, demand: {cpu: 4 cores, memory: 1 GiB},
          traffic: {kind: none}, needs: [shop]}
tools: {TOOLS}
limits: {manual: {MANUAL}}
"""
SERVERS = """server,site,rack,class,state,bmc
a-v1,a,a/h1/r,c,serving,
a-v2,a,a/h2/r,c,serving,
b-v1,b,,c,STATE,yes
"""


def written(folder: Path, tools: str, manual: str, state: str) -> Estate:
    (folder / "estate.yaml").write_text(ESTATE.replace("TOOLS", tools).replace("MANUAL", manual))
    (folder / "servers.csv").write_text(SERVERS.replace("STATE", state))
    (folder / "replicas.csv").write_text("service,target,count\nshop,a-v1,1\n")
    return load(folder)


@pytest.mark.parametrize(
    ("tools", "manual", "state", "told", "estimate"),
    [
        ("deploy: pipeline", "", "serving", ("unknown", False), "unknown"),
        ("deploy: pipeline", "start: 5 min", "serving", ("restored", False), "not proved"),
        ("deploy: [{any_of: [pipeline, second]}]", "", "serving", ("restored", True), "recovers"),
        ("deploy: second", "", "serving", ("restored", True), "recovers"),
        ("boot: pipeline", "", "dark", ("unknown", False), "not proved"),
        ("boot: pipeline", "", "serving", ("restored", True), "not proved"),
    ],
)
def test_what_needs_a_tool_that_cannot_be_judged_cannot_be_judged(
    tools: str,
    manual: str,
    state: str,
    told: tuple[str, bool],
    estimate: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """told: state of shop, and whether the time until it is back is known."""
    estate = written(tmp_path, tools, manual, state)
    made = plan(estate, lose("a/h1"))
    assert check(estate, made).violations == ()
    outcomes = {one.service: one for one in made.outcomes}
    assert outcomes["pipeline"].state == "unknown"
    for name in ("shop", "front"):
        assert (outcomes[name].state, outcomes[name].recovery_ms is not None) == told
        if told[0] == "unknown":
            assert "where the replicas of pipeline run" in outcomes[name].reason
    for most in ("PLANNED_MOST", "PLACES_MOST", "LARGE_MOST"):
        monkeypatch.setattr(planned, most, 0)
    report = audit(estate)
    (row,) = (row for row in report.rows if row.domain == "a/h1")
    fates = {one.service: one.fate for one in row.fates(report.services)}
    assert (fates["shop"], fates["front"]) == (estimate, estimate)
