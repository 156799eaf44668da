"""The runbook on paper: a cover that asks first, and a block for each step with the exact command."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import resources

import pytest
from markupsafe import escape

from evac.estate import load
from evac.incident.runbook import Runbook, runbook
from evac.views.incident_view import runbook_page
from tests.unit.incident.stories import outcome, plan_of, step

STEPS = (
    step("fence", "accounts"),
    replace(step("promote", "accounts", after=["fence:accounts"]), candidate="anyang"),
    replace(step("start", "login", "base"), pool="anyang-units"),
    replace(step("start", "login", "top"), pool="anyang-units", count=3),
    step("shift", "login", after=["start:login:base"]),
)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Runbook:
    source = resources.files("evac.app").joinpath("demo_company", "estate.yaml")
    file = tmp_path_factory.mktemp("company") / "estate.yaml"
    file.write_text(source.read_text("utf-8"))
    estate = load(file)
    made = plan_of(steps=STEPS, outcomes=(outcome("login", "restored", 40_000_000, 65_000),))
    return runbook(made, "sha256:" + "a" * 64, estate)


def test_every_step_has_a_block_with_room_to_sign(book: Runbook) -> None:
    page = runbook_page(book)
    steps = [step for part in book.parts for step in part.steps]
    assert len(re.findall(r'<article class="blk">', page)) == len(steps)
    assert page.count("Initials") == len(steps)
    for name in ("Check before", "Do", "Done when", "Roll back", "Owner"):
        assert page.count(f"<dt>{name}</dt>") == len(steps)
    assert [int(n) for n in re.findall(r'class="no">(\d+)<', page)] == list(range(1, len(steps) + 1))
    assert "counter(pages)" in page


def test_it_says_the_exact_command_with_the_replicas_that_then_run(book: Runbook) -> None:
    steps = {step.id: step for part in book.parts for step in part.steps}
    assert "host=accounts.anyang.example" in steps["promote:accounts"].do
    counts = [
        int(step.do.rpartition("=")[2])
        for step in sorted(steps.values(), key=lambda one: one.start_ms)
        if step.id.startswith("start:login")
    ]
    assert counts == [3, 6], "two run in anyang already, and four start"
    assert "update add login.example 60 A 192.0.2.2" in steps["shift:login"].do
    assert escape(steps["promote:accounts"].do) in runbook_page(book)


def test_the_cover_asks_before_anyone_begins(book: Runbook) -> None:
    page = runbook_page(book)
    for words in ("Is pangyo really lost?", "Is evac running at another site?", "Call night watch at Pangyo"):
        assert words in page
    assert page.index("Contacts") < page.index('<article class="blk">')
    assert "team-identity" in page
