"""What the guide to writing an importer says holds of the importer that was written by it."""

from __future__ import annotations

import re
from pathlib import Path

from evac.estate.importers import KINDS
from evac.estate.importers.running import IMPORTERS

GUIDE = "docs/contributing/importer.md"
WRITTEN = "compose"
FILES = {
    f"src/evac/estate/importers/{name}.py" for name in (f"{WRITTEN}/reader", f"{WRITTEN}/files", "running")
}
AS_A_KIND = re.compile(rf"[\"']{WRITTEN}[\"']|importers\.{WRITTEN}\b|[Cc]ompose file")


def test_an_importer_is_a_module_and_a_line_of_the_register(project_root: Path) -> None:
    known = {
        path.relative_to(project_root).as_posix()
        for path in (project_root / "src").rglob("*.py")
        if path.name != "__init__.py" and AS_A_KIND.search(path.read_text(encoding="utf-8"))
    }
    assert known == FILES
    page = (project_root / GUIDE).read_text(encoding="utf-8")
    assert {name for name in FILES if name in page} == FILES


def test_every_importer_has_a_module_a_test_and_a_section(project_root: Path) -> None:
    page = (project_root / "docs" / "how-to" / "import.md").read_text(encoding="utf-8")
    assert tuple(sorted(IMPORTERS)) == KINDS
    for kind, module in IMPORTERS.items():
        assert module.removesuffix(".reader") == f"evac.estate.importers.{kind}"
        assert f"`{kind}`" in page
