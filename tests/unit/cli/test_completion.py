"""What the shell completes, and that completion neither fails nor waits for what it cannot read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from evac.cli import console
from evac.cli.program import GROUPS, cli

ESTATE = """\
evac: 1
name: shop
sites: {north: {}, south: {}}
halls: {north/hall-1: {}, north/hall-2: {}}
groups: {north-utility: {members: [north]}}
"""


@pytest.fixture
def shop(tmp_path: Path) -> str:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    (tmp_path / "broken.yaml").write_text("sites: [\n")
    return str(tmp_path)


def completed(incomplete: str, *line: str) -> list[str]:
    found = ShellComplete(cli, {}, "evac", "_EVAC_COMPLETE").get_completions(list(line), incomplete)
    return [item.value for item in found]


def test_domains_of_the_estate_on_the_line(shop: str) -> None:
    assert completed("", "plan", shop, "--lose") == ["north", "north-utility", "south"]
    assert completed("north/", "plan", shop, "--lose") == ["north/hall-1", "north/hall-2"]
    assert completed("so", "audit", shop, "--lose") == ["south"]
    assert completed("n", "what-if", "--estate", shop) == ["north", "north-utility"]


def test_where_a_site_is_asked_for_only_sites_complete(shop: str) -> None:
    assert completed("", "plan", shop, "--evacuate") == ["north", "south"]
    assert completed("n", "apply", "plan.json", shop, "--abandon") == ["north"]


def test_nothing_completes_where_nothing_can_be_read(tmp_path: Path) -> None:
    assert completed("", "plan", str(tmp_path / "missing"), "--lose") == []
    assert completed("", "run", "show", "--store", f"sqlite:{tmp_path}") == []
    assert completed("sha", "apply", "--store", f"sqlite:{tmp_path}") == []


def test_commands_complete_without_importing_any() -> None:
    code = (
        "import sys\nfrom click.shell_completion import ShellComplete\nfrom evac.cli.program import cli\n"
        "found = ShellComplete(cli, {}, 'evac', '_E').get_completions([], '')\n"
        "print(len(found), [name for name in sys.modules if name.endswith('_command')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == f"{sum(map(len, GROUPS.values()))} []"


def test_the_next_command_names_the_files_of_this_one() -> None:
    console.forget()
    line = "next: evac verify PLAN ESTATE, then evac simulate PLAN ESTATE"
    assert console.with_way(line) == line
    console.remember_path("ESTATE", "my shop")
    console.remember_path("PLAN", "p.json")
    wanted = "next: evac verify p.json 'my shop', then evac simulate p.json 'my shop'"
    assert console.with_way(line) == wanted
    assert console.with_way("create one: evac plan ESTATE") == "create one: evac plan ESTATE"
    assert console.with_way("next: evac plan ESTATE -o PLAN") == "next: evac plan 'my shop' -o PLAN"
    console.forget()


def test_swapped_arguments_are_not_repeated() -> None:
    console.forget()
    console.remember_path("ESTATE", "plan.json")
    console.remember_path("PLAN", "shop")
    assert console.with_way("next: evac verify PLAN ESTATE") == "next: evac verify PLAN ESTATE"
    console.forget()
