"""The shape that the source keeps: small functions and modules, plain names, nothing left half done.

One test a rule, which names every file that breaks it: a test for each file would be half of all tests.
"""

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "lab" / "src").rglob("*.py"))]
WRITTEN = [*MODULES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]
WRITTEN += sorted((ROOT / "scripts").rglob("*.py"))
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600
BANNED_MODULES = frozenset({"utils", "helpers", "common", "misc"})
# "compensation" means both undo and money; say which. The rest marks work that is not done.
BANNED_WORDS = re.compile(r"\b(compensat\w*|TODO|FIXME|XXX)\b", re.IGNORECASE)
MACHINE_PATHS = re.compile(r"[\"'(\s](/work/|/home/\w|/root/|/tmp/\w)")


@dataclass(frozen=True, slots=True)
class Module:
    """What the rules ask of a file of ours; long: functions and their lines, where these are too many."""

    lines: int
    docstring: str | None
    classes: tuple[str, ...]
    long: tuple[tuple[str, int], ...]


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _module(path: Path) -> Module:
    tree = ast.parse(_text(path))
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    return Module(
        _text(path).count("\n"),
        ast.get_docstring(tree),
        tuple(node.name for node in nodes if isinstance(node, ast.ClassDef)),
        tuple((name, size) for name, size in sizes if size > FUNCTION_LINES_MAX),
    )


def _broken(paths: Iterable[Path], what: Callable[[Path], object]) -> dict[str, object]:
    """File -> what is wrong in it, for each in which anything is."""
    found = {path.relative_to(ROOT).as_posix(): what(path) for path in paths}
    return {name: wrong for name, wrong in found.items() if wrong}


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 400
    assert len(WRITTEN) > len(MODULES) + 300


def test_functions_stay_small() -> None:
    long = _broken(MODULES, lambda path: _module(path).long)
    assert long == {}, f"functions of more than {FUNCTION_LINES_MAX} lines"


def test_modules_stay_small_and_say_what_they_own() -> None:
    assert _broken(WRITTEN, lambda path: _module(path).lines > MODULE_LINES_MAX) == {}
    assert _broken(MODULES, lambda path: not _module(path).docstring) == {}, "the module has no docstring"
    assert _broken(MODULES, lambda path: path.stem in BANNED_MODULES) == {}


def test_nothing_is_left_half_done() -> None:
    found = _broken(MODULES, lambda path: [match[0] for match in BANNED_WORDS.finditer(_text(path))])
    assert found == {}


def test_no_manager_classes() -> None:
    found = _broken(MODULES, lambda path: [c for c in _module(path).classes if c.endswith("Manager")])
    assert found == {}


def test_no_path_of_one_machine() -> None:
    others = [path for path in WRITTEN if path != Path(__file__)]
    found = _broken(others, lambda path: [match[0] for match in MACHINE_PATHS.finditer(_text(path))])
    assert found == {}


def test_evac_starts_python_without_the_current_folder() -> None:
    """`sys.executable -m` would run a module that somebody put beside their estate. The lab runs its own."""
    product = [path for path in MODULES if "lab" not in path.relative_to(ROOT).parts]
    begun = {
        path.relative_to(ROOT).as_posix()
        for path in product
        for node in ast.walk(ast.parse(_text(path)))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable"
    }
    # The driver of octodns adds -I to the Python that a setting may name.
    assert begun == {"src/evac/app/own_python.py", "src/evac/drivers/octodns/driver.py"}
