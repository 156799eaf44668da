"""What drivers declare: true of their classes, importable without their libraries, and the only way by which
the rest of the program knows them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.capabilities import ABOUT, Fences
from evac.drivers.registry import DRIVERS

HEAVY = ("aiohttp", "dns", "asyncmy", "asyncpg", "redis", "lightkube")
NAMES = frozenset(DRIVERS)
OTHER_MEANINGS = frozenset({"command", "dns", "etcd", "http", "kubernetes", "manual", "noop", "process"})
"""Names that are words of other things too, such as a scheme of URLs: they count next to a driver alone."""
OTHER_ROOMS = (
    "drivers",
    "estate/importers",
    "estate/examples",
    "app/credit/computing",
    "app/demo_company",
    "model/extras",
)
"""Drivers themselves; names of images; examples; dialects of SQL; extras of the package."""


def class_of(name: str) -> Any:
    module, _, maker = DRIVERS[name].make.partition(":")
    return getattr(import_module(module), maker)


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_a_class_inherits_from_what_its_driver_declares(name: str) -> None:
    spec, kind = DRIVERS[name], class_of(name)
    assert {one for one in kind.__mro__ if one in ABOUT} == set(spec.capabilities)
    for capability in spec.capabilities:
        assert ABOUT[capability].verbs <= getattr(kind, "verbs", frozenset()), capability
    assert bool(spec.proofs) == (Fences in spec.capabilities)


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_every_protocol_of_a_driver_is_implemented(name: str) -> None:
    kind = class_of(name)
    for capability in DRIVERS[name].capabilities:
        for part in vars(capability):
            if not part.startswith("_"):
                assert getattr(kind, part) is not getattr(capability, part), f"{name} lacks {part}"


def test_declarations_need_no_library() -> None:
    program = (
        "import sys, evac.drivers.registry;"
        f"print([m for m in {HEAVY} if m in sys.modules],"
        " sorted(m for m in sys.modules if m.startswith('evac.drivers.') and m.endswith('.driver')))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[] []"


def named_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of each literal that equals a driver's name in a comparison, a set or a key of a dict."""
    for node in ast.walk(tree):
        parts: list[ast.expr | None] = []
        near = ""
        if isinstance(node, ast.Compare):
            parts, near = [node.left, *node.comparators], ast.unparse(node)
            parts += [one for part in node.comparators for one in getattr(part, "elts", ())]
        elif isinstance(node, ast.Match):
            near = ast.unparse(node.subject)
            parts = [p.value for case in node.cases for p in ast.walk(case) if isinstance(p, ast.MatchValue)]
        elif isinstance(node, ast.Set):
            parts, near = list(node.elts), ast.unparse(node)
        elif isinstance(node, ast.Dict):
            parts, near = list(node.keys), "".join(ast.unparse(k) for k in node.keys if k is not None)
        for part in parts:
            if not isinstance(part, ast.Constant) or part.value not in NAMES:
                continue
            if part.value not in OTHER_MEANINGS or "driver" in near or mixed(parts):
                yield part.lineno, str(part.value)


def mixed(parts: list[ast.expr | None]) -> bool:
    """Whether several drivers are named together."""
    found = {one.value for one in parts if isinstance(one, ast.Constant)}
    return len(found & NAMES) > 1 and bool(found & (NAMES - OTHER_MEANINGS))


def test_no_one_but_drivers_tells_them_apart_by_name(project_root: Path) -> None:
    src = project_root / "src" / "evac"
    found = [
        f"{path.relative_to(src)}:{line} {name}"
        for path in sorted(src.rglob("*.py"))
        if not path.relative_to(src).as_posix().startswith(OTHER_ROOMS)
        for line, name in named_in(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_names_are_found_where_they_count() -> None:
    words = (
        "a.driver == 'http'\nb in ('postgres', 'x')\nc = {'dns', 'haproxy'}\nd = {'redis': 1}\n"
        "match end.driver:\n    case 'etcd':\n        pass\n"
        "url.scheme == 'http'\nkind in ('dns', 'anycast')\n"
    )
    found = sorted(name for _, name in named_in(ast.parse(words)))
    assert found == ["dns", "etcd", "haproxy", "http", "postgres", "redis"]
