"""One name means one thing: no two classes of a room have the same name."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _room(path: Path, source: Path) -> str:
    """Of evac the first folder; of the lab each folder, as each is a program of its own."""
    inside = path.relative_to(source)
    return inside.parts[0] if source.name == "evac" else inside.parent.as_posix()


def test_no_two_classes_of_a_room_have_the_same_name() -> None:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for source in (ROOT / "src" / "evac", ROOT / "lab" / "src" / "evac_lab"):
        for path in sorted(source.rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    place = (f"{source.name}/{_room(path, source)}", node.name)
                    found[place].append(path.relative_to(source).as_posix())
    assert {place: files for place, files in found.items() if len(files) > 1} == {}
