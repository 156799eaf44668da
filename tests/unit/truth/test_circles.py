"""A tool that needs itself is unplaced with its reason; the rest of the estate is planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.audit import audit
from evac.audit.impacts.all_losses import FATES
from evac.model.plan import Outcome
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.truth.written import written

ESTATE = """
name: tools
sites: {a: {}, b: {}}
pools: {pa: {site: a, cpu: 64 cores, memory: 64 GiB}, pb: {site: b, cpu: 64 cores, memory: 64 GiB}}
services:
  deploy: {tier: 0, people: 0, replicas: {pa: 1}, start: 60 s, demand: {cpu: 1 core, memory: 1 GiB}}
  front: {tier: 0, people: 9, replicas: {pb: 1}, needs: [back], demand: {cpu: 1 core, memory: 1 GiB}}
  back: {tier: 0, people: 9, replicas: {pa: 1}, start: 60 s, demand: {cpu: 1 core, memory: 1 GiB}}
  other: {tier: 0, people: 9, replicas: {pa: 1, pb: 1}, share: 50 %, traffic: {kind: dns, change: 5 s},
          start: 60 s, demand: {cpu: 1 core, memory: 1 GiB}}
tools: {deploy: deploy}
"""


def outcomes(folder: Path, text: str) -> dict[str, Outcome]:
    estate = written(folder, text)
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    report = audit(estate)
    row = report.impacts.fate[report.impacts.losses.index["a"]]
    for number, service in enumerate(estate.services):
        lost = next(o.state == "unplaced" for o in made.outcomes if o.service == service.id)
        assert (FATES[int(row[number])] == "lost") == lost
    return {o.service: o for o in made.outcomes}


def test_a_tool_that_needs_itself_is_unplaced_and_what_needs_it_says_so(tmp_path: Path) -> None:
    found = outcomes(tmp_path, ESTATE)
    assert found["deploy"].reason.startswith("circular dependency: restoring deploy needs deploy")
    assert found["back"].needs == "deploy"
    assert [found[name].why and found[name].why.kind for name in ("back", "front")] == ["needs-tool", "needs"]
    assert found["front"].needs == "back"
    assert found["other"].state == "degraded"
    assert found["other"].base_ms == 5_000


def test_a_way_by_hand_brings_all_of_it_back(tmp_path: Path) -> None:
    found = outcomes(tmp_path, ESTATE + "limits: {manual: {start: 10 min}}\n")
    assert {o.state for o in found.values()} == {"restored"}


@pytest.mark.parametrize("tools", ["{deploy: [deploy, vault]}", "{deploy: deploy, secrets: vault}"])
def test_tools_that_need_each_other_name_each_other(tmp_path: Path, tools: str) -> None:
    vault = (
        "  vault: {tier: 0, people: 0, replicas: {pa: 1}, start: 9 s, demand: {cpu: 1 core, memory: 1 GiB}}\n"
    )
    text = ESTATE.replace("tools: {deploy: deploy}\n", f"{vault}tools: {tools}\n")
    found = outcomes(tmp_path, text)
    assert found["deploy"].reason.startswith(
        "circular dependency: restoring deploy needs vault, which needs deploy"
    )
    assert found["vault"].state == "unplaced"
    assert found["back"].needs in ("deploy", "vault")
