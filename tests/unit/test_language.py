"""User-visible text is plain English: no phrase of `tests/language/banned.txt` in docs, help or messages.

Searched are the pages of the documentation, the templates, the descriptions of the API, and every string of
the program that reads like words (two words or more). Docstrings count where users see them: those of
commands are their help, those of routes and their shapes describe the API.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BANNED = ROOT / "tests" / "language" / "banned.txt"
CODE = re.compile(r"```.*?^ *```|`[^`]*`|<!--.*?-->|\{[^}]*\}|\]\([^)]*\)", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^ {4,}\S.*$", re.MULTILINE)
TAGS = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}|<[^>]*>", re.DOTALL)


@functools.cache
def phrases() -> list[tuple[re.Pattern[str], str]]:
    """What is banned, and what to write instead."""
    found = []
    for line in BANNED.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern, _, better = line.partition(" -> ")
            found.append((re.compile(pattern.strip(), re.IGNORECASE), better.strip()))
    return found


def _page(path: Path) -> Iterator[tuple[int, str]]:
    """The prose of a page: code is blanked, line numbers are kept."""
    text = path.read_text(encoding="utf-8")
    for pattern in (CODE, INDENTED):
        text = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    yield from enumerate(text.splitlines(), 1)


def _template(path: Path) -> Iterator[tuple[int, str]]:
    text = TAGS.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), path.read_text(encoding="utf-8"))
    yield from enumerate(text.splitlines(), 1)


def _strings(path: Path) -> Iterator[tuple[int, str]]:
    """Strings of two words or more, and the docstrings of commands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in notes and " " in text.strip():
                yield node.lineno, re.sub(r"`[^`]*`", " ", text)
            case ast.FunctionDef(decorator_list=decorators) if any(
                isinstance(one, ast.Call)
                and isinstance(one.func, ast.Attribute)
                and one.func.attr == "command"
                for one in decorators
            ):
                yield node.lineno, ast.get_docstring(node) or ""


def _descriptions(path: Path) -> Iterator[tuple[int, str]]:
    """Descriptions and summaries of an OpenAPI document, which has one a line."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if found := re.fullmatch(r' *"(?:description|summary)": (".*"),?', line):
            yield number, re.sub(r"`[^`]*`", " ", json.loads(found[1]))


def hits(path: Path) -> list[str]:
    """`line: what was found -> what to write` of one file."""
    readers = {".md": _page, ".j2": _template, ".py": _strings, ".json": _descriptions}
    banned = phrases()
    return [
        f"{line}: {found[0]!r} -> {better}"
        for line, text in readers[path.suffix](path)
        for pattern, better in banned
        if (found := pattern.search(text))
    ]


def sources() -> list[Path]:
    """Every file whose words users see."""
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts]
    top = [
        ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "SECURITY", "CHANGELOG")
    ]
    programs = [p for folder in ("src", "lab/src") for p in (ROOT / folder).rglob("*.py")]
    api = ROOT / "docs" / "reference" / "openapi.json"
    return sorted([*pages, *top, api, *programs, *(ROOT / "src").rglob("*.html.j2")])


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(), ids=_name)
def test_text_has_no_banned_phrase(path: Path) -> None:
    assert hits(path) == [], f"see {BANNED.name}"


def test_pages_templates_and_programs_are_all_searched() -> None:
    assert {path.suffix for path in sources()} == {".j2", ".json", ".md", ".py"}
