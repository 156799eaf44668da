"""Ids of steps and of limits are written and read in one module; everything else asks it.

Looks at every text that is put together like an id, and at every text that is cut or compared like one.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from evac.steps.registry import KINDS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "src" / "evac", ROOT / "lab" / "src")
HOME = "model/step_id.py"
OF_LIMITS = frozenset(
    {"boots", "bmc", "dhcp", "driver", "fences", "hands", "image", "inrush", "promotions", "sheds", "starts"}
) | {"traffic"}
WORDS = {kind.name for kind in KINDS} | OF_LIMITS
BEGIN = re.compile(rf"({'|'.join(sorted(map(re.escape, WORDS), key=len, reverse=True))})(:|~)(?!\s)")
CUTS = frozenset(
    {"partition", "rpartition", "split", "rsplit", "startswith", "removeprefix", "find", "index"}
)
IDS = re.compile(r"(^|_)(step|step_id|steps|limit|limit_id|act)$|^(id|of_step|planned|begun)$")


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr="id", value=ast.Name(id=name)):
            return name
        case ast.Attribute(attr=name):
            return name
    return ""


def _composed(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=[ast.Constant(value=str(begin)), ast.FormattedValue(), *_]):
                if BEGIN.match(begin):
                    yield node
            case ast.JoinedStr(
                values=[ast.FormattedValue(value=first), ast.Constant(value=str(between)), _, *_]
            ):
                named = _name(first)
                if (between == ":" and re.search(r"(^|_)(kind|purpose)$", named)) or between.startswith("~"):
                    yield node
            case ast.BinOp(op=ast.Add(), left=ast.Constant(value=str(begin))) if BEGIN.fullmatch(begin):
                yield node


def _cut(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr=cut, value=text), args=[ast.Constant(value=str(at)), *_]
            ) if cut in CUTS:
                if (at in (":", "~") and IDS.search(_name(text))) or BEGIN.fullmatch(at):
                    yield node
            case ast.Compare(left=ast.Constant(value=":" | "~"), ops=[ast.In() | ast.NotIn()]):
                if IDS.search(_name(node.comparators[0])):
                    yield node


def made_or_cut(source: str) -> list[str]:
    """`line: code` of each text that is put together, or taken apart, like the id of a step or a limit."""
    tree = ast.parse(source)
    found = {(node.lineno, ast.unparse(node)) for node in (*_composed(tree), *_cut(tree))}
    return [f"{line}: {code}" for line, code in sorted(found)]


def test_ids_are_written_and_read_in_one_module() -> None:
    found = {}
    for source in SOURCES:
        for path in sorted(source.rglob("*.py")):
            name = path.relative_to(source).as_posix()
            if name != HOME and (lines := made_or_cut(path.read_text(encoding="utf-8"))):
                found[name] = lines
    assert found == {}, f"use evac.{HOME.removesuffix('.py').replace('/', '.')}"


@pytest.mark.parametrize(
    "source",
    [
        "name = f'boot:{server}'",
        "name = f'start:{service}:{milestone}:{number}'",
        "name = f'{candidate.kind}:{store.id}'",
        "name = f'{epoch.purpose}:{epoch.store}'",
        "name = f'{step}~{turn}'",
        "name = 'power:' + feed",
        "limit = f'boots:{feed.id}'",
        "kind, _, target = step.partition(':')",
        "kind = view.steps[i].id.split(':')[0]",
        "if step.id.startswith('boot:'): pass",
        "server = name.removeprefix('boot:')",
        "if '~' in step: pass",
    ],
)
def test_an_id_that_is_made_or_cut_is_seen(source: str) -> None:
    assert made_or_cut(source)


@pytest.mark.parametrize(
    "source",
    [
        "text = f'promote: {why}'",
        "host, _, port = address.rpartition(':')",
        "place = f'{item.file}:{item.line}'",
        "name = boot_step(server)",
    ],
)
def test_what_is_no_id_is_left_alone(source: str) -> None:
    assert not made_or_cut(source)
