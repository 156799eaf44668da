"""What the pages for contributors say: which files somebody touches who adds one more of something, and which
test shows that a guard holds.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evac.audit import RULES

ROOT = Path(__file__).resolve().parents[2]
RULE_MODULES = ROOT / "src" / "evac" / "audit" / "rules"
RULE_PAGES = ROOT / "docs" / "reference" / "rules"
NO_RULES = {"index.md", "suppressions.md"}
DEMO = ROOT / "src" / "evac" / "app" / "demo" / "story.py"
"""Tells of three known flaws of the example company, by name."""


def test_an_audit_rule_is_one_module_and_one_page() -> None:
    slugs = {rule.id for rule in RULES}
    modules = {path.stem for path in RULE_MODULES.glob("*.py")} - {"__init__"}
    assert modules == {slug.replace("-", "_") for slug in slugs}
    assert {path.name for path in RULE_PAGES.glob("*.md")} - NO_RULES == {f"{slug}.md" for slug in slugs}
    for rule in RULES:
        page = (RULE_PAGES / f"{rule.id}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {rule.code} {rule.id}: ")


@pytest.mark.parametrize("pattern", ["{module}", '"{slug}"', "{code}"])
def test_no_other_source_file_names_an_audit_rule(pattern: str) -> None:
    """Neither to register it nor to treat its findings in a way of their own."""
    names = [
        pattern.format(module=rule.id.replace("-", "_"), slug=rule.id, code=rule.code)
        for rule in RULES
        if pattern != "{module}" or "-" in rule.id
    ]
    named = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, names))})(?![\w-])")
    sources = [p for p in (ROOT / "src").rglob("*.py") if p.parent != RULE_MODULES and p != DEMO]
    found = {
        p.relative_to(ROOT).as_posix(): set(named.findall(p.read_text(encoding="utf-8"))) for p in sources
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_the_guide_names_the_files_and_an_example_that_exists() -> None:
    guide = (ROOT / "docs" / "contributing" / "audit-rule.md").read_text(encoding="utf-8")
    for place in ("src/evac/audit/rules/", "docs/reference/rules/", "tests/unit/audit/", "CHANGELOG.md"):
        assert f"`{place}" in guide
        assert (ROOT / place).exists()
    for path in re.findall(r"`((?:src|docs|tests)/[\w/-]+\.\w+)`", guide):
        assert (ROOT / path).exists(), path
    assert any(rule.id in guide and rule.code in guide for rule in RULES)


def test_every_file_that_the_guide_to_a_kind_of_step_names_is_there() -> None:
    guide = (ROOT / "docs" / "contributing" / "step-kind.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|md))`", guide))
    places = (ROOT, ROOT / "src" / "evac", ROOT / "tests" / "unit" / "steps")
    assert len(named) >= 10
    assert {path for path in named if not any((place / path).exists() for place in places)} == set()


def test_every_attack_names_tests_that_exist_and_no_test_of_an_attacker_is_left_out() -> None:
    page = (ROOT / "docs" / "contributing" / "attacks.md").read_text(encoding="utf-8")
    named: set[tuple[str, str]] = set()
    for line in page.splitlines():
        path = ""
        for word in re.findall(r"`((?:\w+/)+test_\w+\.py|test_\w+)`", line.rpartition(" | ")[2] or line):
            path = word if word.endswith(".py") else path
            named |= {(path, word)} - {(path, path)}
    known = {
        (path.relative_to(ROOT / "tests").as_posix(), name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named - known == set()
    assert {one for one in known - named if one[0].startswith("security/")} == set()
