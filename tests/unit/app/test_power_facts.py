"""What a look at the power said, read back: who is on, how old it is, and files that are something else."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evac.app.observing import servers_on
from evac.app.planner.plans import Question, scenario_of
from evac.derive.planning_instance import derive
from evac.estate.codecs import plan as plan_codec
from evac.model.errors import InvalidInput, UnknownDomain
from evac.model.scenario import Scenario
from evac.planning.plan import plan
from evac.verify import check
from tests.unit.planning.dark import dark_site

NOW_MS = int(datetime(2026, 11, 3, 12, tzinfo=UTC).timestamp()) * 1_000


def facts(folder: Path, at: str = "2026-11-03T11:50:00Z", **power: str) -> Path:
    rows = [{"server": name, "power": state} for name, state in power.items()]
    target = folder / "seen.json"
    target.write_text(json.dumps({"power": {"observed_at": at, "sites": [{"servers": rows}]}}))
    return target


def test_those_that_are_on_or_on_their_way(tmp_path: Path) -> None:
    path = facts(tmp_path, b="on", a="rising", c="off", d="falling", e="")
    assert servers_on(path, NOW_MS) == ("a", "b")


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("2026-11-03T10:50:00Z", "is more than an hour old"),
        ("2026-11-03T13:10:00Z", "is dated more than an hour in the future"),
        ("yesterday", "does not say when it was observed"),
        ("", "does not say when it was observed"),
    ],
)
def test_an_old_look_says_nothing_about_now(at: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=words) as error:
        servers_on(facts(tmp_path, at, a="on"), NOW_MS)
    assert "evac observe" in (error.value.hint or "")


THEN = '"observed_at": "2026-11-03T12:00:00Z"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "[]",
        "{}",
        '{"power": null}',
        f'{{"power": {{{THEN}}}}}',
        f'{{"power": {{{THEN}, "sites": [{{"servers": [{{"server": "a"}}]}}]}}}}',
        f'{{"power": {{{THEN}, "sites": [{{"servers": [{{"server": 1, "power": "on"}}]}}]}}}}',
    ],
)
def test_other_files_are_refused_in_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InvalidInput):
        servers_on(tmp_path / "x.json", NOW_MS)
    with pytest.raises(InvalidInput):
        servers_on(tmp_path / "missing.json", NOW_MS)


def test_what_is_on_is_not_booted_again_and_its_rack_has_power(tmp_path: Path) -> None:
    estate = dark_site(tmp_path)
    scenario = scenario_of(estate, Question(restore=("a",), on=("a11w0", "a11x", "b1")))
    made = plan(estate, scenario)
    assert check(estate, made).violations == ()
    boots = {step.target: step for step in made.steps if step.kind == "boot"}
    assert {"a11w0", "a11x"}.isdisjoint(boots)
    assert made.wave is not None
    assert (made.wave.servers, len(boots)) == (14, 14)
    assert min(boots["a11w1"].start_ms, boots["a11w2"].start_ms) < 120_000  # no breaker is waited for
    starts = [step for step in made.steps if step.kind == "start"]
    assert sum(step.count for step in starts) == 2  # being on is not serving
    data = plan_codec.encode(made)
    assert plan_codec.decode(data).scenario == scenario
    assert plan_codec.encode(plan_codec.decode(data)) == data


def test_what_draws_already_counts_on_its_budgets(tmp_path: Path) -> None:
    estate = dark_site(tmp_path)
    on = derive(estate, Scenario("restore", ("a",), on=("a11w0",)))
    assert {b.id: b.on_watts for b in on.power}["a"] == 300


def test_names_that_are_no_servers_and_other_questions_are_refused(tmp_path: Path) -> None:
    estate = dark_site(tmp_path)
    with pytest.raises(UnknownDomain):
        derive(estate, Scenario("restore", ("a",), on=("zzz",)))
    with pytest.raises(InvalidInput):
        scenario_of(estate, Question(lose=("a",), on=("a11w0",)))
