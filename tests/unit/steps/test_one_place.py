"""What is particular to a kind of step is in its module: others ask the registry and know no kind by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from evac.drivers.capabilities import ABOUT
from evac.steps.kind import Capability
from evac.steps.registry import KINDS

NAMES = {kind.name for kind in KINDS}
FILES_OF_A_KIND = 8
MODULES_OF_A_CODE = 8
"""Of the planner's kernels; the guide for contributors states it."""


def compared(tree: ast.AST) -> Iterator[int]:
    """Lines on which the kind of a step is compared with the name of one."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        asked = any(isinstance(s, ast.Attribute) and s.attr == "kind" and not of_scenario(s) for s in sides)
        named = any(isinstance(c, ast.Constant) and c.value in NAMES for s in sides for c in ast.walk(s))
        if asked and named:
            yield node.lineno


def of_scenario(kind: ast.Attribute) -> bool:
    """The question of a plan may be called `restore` too."""
    owner = kind.value
    return "scenario" in (getattr(owner, "attr", ""), getattr(owner, "id", ""))


def sources(project_root: Path) -> Iterator[tuple[str, ast.AST]]:
    base = project_root / "src" / "evac"
    for path in sorted(base.rglob("*.py")):
        name = path.relative_to(base).as_posix()
        if not name.startswith("steps/"):
            yield name, ast.parse(path.read_text())


def test_nobody_compares_with_the_name_of_a_kind(project_root: Path) -> None:
    assert [f"{name}:{line}" for name, tree in sources(project_root) for line in compared(tree)] == []


def test_a_kind_is_known_by_name_in_few_files(project_root: Path) -> None:
    """Of `reprotect`, which is not a verb and no question too, so that every mention is one of the kind."""
    naming = [
        name
        for name, tree in sources(project_root)
        if any(isinstance(n, ast.Constant) and n.value == "reprotect" for n in ast.walk(tree))
    ]
    assert len(naming) + len(("its module", "the registry")) <= FILES_OF_A_KIND, naming


def test_a_kind_in_the_kernels_is_named_in_few_of_their_modules(project_root: Path) -> None:
    """By the constant of its code, or by its class."""
    planner = [(name, tree) for name, tree in sources(project_root) if name.startswith("planning/")]
    counts = {
        kind.name: sum(
            not names_of(tree).isdisjoint({kind.name.upper(), type(kind).__name__}) for _, tree in planner
        )
        for kind in KINDS
        if kind.like == kind.name and max(kind.planner_code, kind.bound_code) >= 0
    }
    guide = (project_root / "docs" / "contributing" / "step-kind.md").read_text(encoding="utf-8")
    assert min(counts.values()) >= 3
    assert max(counts.values()) <= MODULES_OF_A_CODE, counts
    assert f"in {MODULES_OF_A_CODE} for `verify` and `shed`" in guide


def names_of(tree: ast.AST) -> set[str]:
    """Imported and assigned names of a module."""
    nodes = list(ast.walk(tree))
    imported = {node.name for node in nodes if isinstance(node, ast.alias)}
    return imported | {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def test_kinds_name_capabilities_that_drivers_can_have() -> None:
    assert {one.value for one in Capability} <= {protocol.__name__ for protocol in ABOUT}
