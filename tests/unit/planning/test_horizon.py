"""Durations and horizons beyond reason: bounded memory, the same answer, words that help."""

from pathlib import Path

import pytest

from evac.derive.planning_instance import derive
from evac.estate import load
from evac.model.errors import InvalidInput
from evac.model.scenario import Policy, lose
from evac.planning.plan import plan
from evac.verify import check

TEXT = """\
evac: 1
horizon: {horizon}
sites: {{a: {{}}, b: {{}}}}
pools: {{p: {{site: b, cpu: 40 cores, memory: 100 GiB, starts: 1 per {window}}}}}
limits: {{traffic_changes_at_once: 1, promotions_at_once: 1, manual: {{start: {long}}}}}
stores:
  d: {{engine: x, members: [{{at: a, mode: primary}}, {{at: b, mode: sync}}], promote: {long}, fence: {long}}}
services:
  slow: {{people: 9, tier: 0, replicas: {{a: 2}}, start: {long}, verify: {long}, needs: [{{store: d}}],
         traffic: {{kind: dns, ttl: {long}, change: {long}}}}}
  quick: {{people: 5, tier: 1, replicas: {{a: 2}}, share: 50 %, start: 10 s,
          demand: {{cpu: 1 core, memory: 1 GiB}}}}
"""
LONGEST = "9007199254740 s"


def read(folder: Path, **words: str) -> Path:
    path = folder / "estate.yaml"
    path.write_text(TEXT.format(**{"horizon": "1 h", "window": "10 s", "long": LONGEST, **words}))
    return path


def test_a_step_longer_than_the_horizon_never_ends_and_fills_no_memory(tmp_path: Path) -> None:
    estate = load(read(tmp_path))
    instance = derive(estate, lose("a"), Policy())
    assert instance.services.start.max() == instance.horizon + 1
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert {o.service: o.state for o in made.outcomes} == {"quick": "restored", "slow": "unplaced"}


def test_how_much_longer_than_the_horizon_is_no_matter(tmp_path: Path) -> None:
    longer, long = (plan(load(read(tmp_path, long=words)), lose("a")) for words in (LONGEST, "3601 s"))
    assert (longer.objective, longer.bound, longer.certificate) == (
        long.objective,
        long.bound,
        long.certificate,
    )


def test_a_rate_over_a_window_longer_than_the_horizon_is_used_once(tmp_path: Path) -> None:
    estate = load(read(tmp_path, window=LONGEST))
    made = plan(estate, lose("a"))
    assert check(estate, made).holds
    assert sum(step.count for step in made.steps if step.kind == "start") == 1


def test_a_horizon_too_long_for_its_limits_says_how_long_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evac.planning.evacuation.lowering.CELLS_MAX", 5_000_000)
    with pytest.raises(InvalidInput) as refused:
        plan(load(read(tmp_path, horizon="366 d")), lose("a"))
    assert refused.value.code == "horizon-too-long"
