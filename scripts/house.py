"""Print figures of the source: lines, modules, headers, small helpers, modules with one reader."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "src", ROOT / "lab" / "src")
SMALL = 5
ONE_READER_MOST = 150
_NAME = re.compile(r"\w+")


def _header_end(tree: ast.Module) -> int:
    """The last line of docstring and imports."""
    end = 0
    for node in tree.body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_text and not isinstance(node, ast.Import | ast.ImportFrom):
            break
        end = node.end_lineno or end
    return end


def _small_helpers(tree: ast.Module, text: str) -> Iterator[str]:
    """Private functions of fewer than `SMALL` lines that their module names once more."""
    uses = Counter(_NAME.findall(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("_"):
            is_small = (node.end_lineno or 0) - node.lineno + 1 < SMALL
            if is_small and not node.name.startswith("__") and uses[node.name] == 2:
                yield node.name


def _imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def main() -> None:
    texts = {path: path.read_text("utf-8") for folder in FOLDERS for path in sorted(folder.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lines = sum(text.count("\n") for text in texts.values())
    headers = sum(map(_header_end, trees.values()))
    helpers = {path: list(_small_helpers(tree, texts[path])) for path, tree in trees.items()}
    print(f"lines {lines:,}; modules {len(texts)}; headers {headers / lines:.1%}")
    print(f"private functions used once, under {SMALL} lines: {sum(map(len, helpers.values()))}")
    for path, names in sorted(helpers.items(), key=lambda row: -len(row[1]))[:20]:
        if names:
            print(f"  {path.relative_to(ROOT)}: {', '.join(names)}")
    readers = {path: _imports(tree) for path, tree in trees.items()}
    print(f"modules of at most {ONE_READER_MOST} lines with one reader:")
    for path, text in texts.items():
        folder = next(folder for folder in FOLDERS if path.is_relative_to(folder))
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        mine = [other for other, found in readers.items() if name in found and other != path]
        if len(mine) == 1 and text.count("\n") <= ONE_READER_MOST:
            sizes = text.count("\n"), texts[mine[0]].count("\n")
            print(f"  {path.relative_to(ROOT)} ({sizes[0]}) -> {mine[0].relative_to(ROOT)} ({sizes[1]})")


if __name__ == "__main__":
    main()
