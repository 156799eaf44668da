"""Plans whose ticks or weights nothing can be worked out with: one violation, never a crash."""

from dataclasses import replace
from pathlib import Path

import pytest

from evac.estate import load
from evac.verify import check
from tests.unit.planning.instances import worked_example
from tests.unit.verify.worked_plan import worked_plan

ESTATE = """\
evac: 1
sites: {a: {}, b: {}}
pools: {p: {site: b, cpu: 4 cores, memory: 8 GiB}}
services: {x: {people: 9 M, tier: 0, replicas: {a: 1}, start: 5 s, demand: {cpu: 1 core, memory: 1 GiB}}}
"""


@pytest.mark.parametrize(
    "change",
    [
        {"tick_ms": 0},
        {"tick_ms": -1_000},
        {"tick_ms": 10**15},
        {"tier_weights": ()},
        {"tier_weights": (8, -4)},
        {"tier_weights": (10**40,)},
        {"tier_weights": (2**40,)},
    ],
)
def test_what_cannot_be_counted_in_is_one_violation(change: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    estate = load(tmp_path)
    made = replace(worked_plan(worked_example()), **change)  # type: ignore[arg-type]
    verdict = check(estate, made)
    assert [violation.rule for violation in verdict.violations] == ["F1"]
