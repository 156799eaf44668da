"""Every capability that a driver declares is held to its contract by a test that names the pair."""

from __future__ import annotations

import ast
from pathlib import Path

from evac.drivers.registry import DRIVERS


def covered(folder: Path) -> set[tuple[str, str]]:
    """(driver, capability) of each `@covers("driver", Capability, ...)` on a test."""
    found: set[tuple[str, str]] = set()
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "covers":
                    driver, *capabilities = mark.args
                    assert isinstance(driver, ast.Constant)
                    found.update((str(driver.value), ast.unparse(one)) for one in capabilities)
    return found


def test_every_declared_capability_is_covered_on_a_real_server(project_root: Path) -> None:
    declared = {
        (name, capability.__name__) for name, spec in DRIVERS.items() for capability in spec.capabilities
    }
    assert covered(project_root / "tests" / "contract") == declared
