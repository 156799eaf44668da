"""The runbook on paper: a cover that asks first, and a block for each step with the exact command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from markupsafe import escape

from evac.estate import load
from evac.incident.runbook import Runbook, runbook
from evac.views.incident_view import runbook_body, runbook_json, runbook_page
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


@pytest.mark.parametrize("known", [True, False])
def test_phones_are_those_that_the_estate_states(known: bool, tmp_path: Path) -> None:
    """On the cover, in each step, and where someone must be called; an unknown one stays free to write in."""
    text = resources.files("evac.app").joinpath("demo_company", "estate.yaml").read_text("utf-8")
    stated = text.replace("staff: night watch at Pangyo", 'staff: night watch at Pangyo, phone: "+82 31 1"')
    stated = stated.replace("owner: team-identity", 'owner: team-identity\n    owner_phone: "+82 2 2"')
    assert stated.count("+82") == 2
    file = tmp_path / "estate.yaml"
    file.write_text(stated if known else text)
    made = plan_of(steps=STEPS, outcomes=(outcome("login", "restored", 40_000_000, 65_000),))
    found = runbook(made, "sha256:" + "a" * 64, load(file))
    page = runbook_page(found)
    cells = dict(re.findall(r'<tr><th scope="row">([\w-]+)</th><td>[^<]*</td><td>([^<]*)</td></tr>', page))
    assert cells["pangyo"] == ("+82 31 1" if known else "")
    assert cells["team-identity"] == ("+82 2 2" if known else "")
    blocks = re.findall(r"<dt>Owner</dt><dd>([^<]*)</dd><dt>Phone</dt><dd>([^<]*)</dd>", page)
    assert len(blocks) == len(STEPS)
    for owner, phone in blocks:
        assert phone == ("+82 2 2" if known and "team-identity" in owner else "not stated")
    assert ("Call night watch at Pangyo, +82 31 1." in page) is known
    told = json.loads(runbook_json(found))
    assert told["phones"] == ({"pangyo": "+82 31 1", "team-identity": "+82 2 2"} if known else {})


def test_the_cover_dates_the_plan_or_says_that_no_date_is_stated(book: Runbook) -> None:
    assert "Plan date: not stated" in runbook_page(replace(book, as_of=""))
    assert "Plan date: 2026-11-01" in runbook_page(replace(book, as_of="2026-11-01"))


def test_the_cover_asks_before_anyone_begins(book: Runbook) -> None:
    page = runbook_page(book)
    for words in ("Is pangyo really lost?", "Is evac running at another site?", "Call night watch at Pangyo"):
        assert words in page
    assert page.index("Contacts") < page.index('<article class="blk">')
    assert "team-identity" in page


def test_a_long_one_is_folded_on_a_screen_and_whole_on_paper(book: Runbook) -> None:
    long = replace(book, parts=tuple(book.parts) * 20)
    for whole in (runbook_page(long), runbook_body(book, screen=True)):
        assert "<details" not in whole
    folded = runbook_body(long, screen=True)
    assert folded.count("<details") == 1 + len([part for part in long.parts if part.steps])
    assert folded.count('<article class="blk">') == runbook_page(long).count('<article class="blk">')


@pytest.mark.parametrize("site", ["south", "eu:2"])
def test_a_start_on_servers_without_a_pool_has_its_command_whatever_its_site_is_called(
    site: str, tmp_path: Path
) -> None:
    """Plans call them SITE:CLASS, and the id of a site may contain a colon."""
    settings = "kind: Deployment, name: login, namespace: id, kubeconfig: 'file:/etc/evac/k'"
    (tmp_path / "estate.yaml").write_text(
        f"evac: 2\nsites: {{north: {{}}, '{site}': {{}}}}\n"
        f"services: {{login: {{replicas: {{north: 2, '{site}': 1}}}}}}\n"
        f"endpoints: {{one: {{for: login, at: '{site}', driver: kubernetes, settings: {{{settings}}}}}}}\n"
    )
    made = plan_of(steps=(replace(step("start", "login", "base"), pool=f"{site}:std", count=2),))
    ((row,),) = (part.steps for part in runbook(made, "sha256:" + "a" * 64, load(tmp_path)).parts)
    assert row.do.startswith("kubectl ")
    assert "--replicas=3" in row.do
