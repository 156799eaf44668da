"""What the guide to adding a page says holds of the page that was written by it."""

from __future__ import annotations

import re
from pathlib import Path

from evac.web.access.port import declared
from evac.web.pages import PAGES

GUIDE = "docs/contributing/page.md"
WRITTEN = "waiting"
FILES = {
    f"src/evac/web/pages/{WRITTEN}.py",
    f"src/evac/web/templates/{WRITTEN}.html.j2",
    "src/evac/web/pages/__init__.py",
}
AS_A_PAGE = re.compile(rf"pages\.{WRITTEN}\b|\b{WRITTEN}\.PAGE|\b{WRITTEN}\.html\.j2|[\"']/{WRITTEN}[\"'?]")


def test_a_page_is_a_module_a_template_and_a_line_of_the_register(project_root: Path) -> None:
    known = {
        path.relative_to(project_root).as_posix()
        for suffix in ("*.py", "*.j2")
        for path in (project_root / "src").rglob(suffix)
        if AS_A_PAGE.search(path.read_text(encoding="utf-8"))
    }
    assert known == FILES
    guide = (project_root / GUIDE).read_text(encoding="utf-8")
    assert {name for name in FILES if name in guide} == FILES


def test_every_page_is_in_the_menu_once_and_says_who_may_read_it() -> None:
    in_menu = [page.word for page in PAGES if page.word]
    assert len({page.path for page in PAGES}) == len(PAGES)
    assert len(set(in_menu)) == len(in_menu)
    for page in PAGES:
        assert page.path in {getattr(route, "path", "") for route in page.router.routes}
        for route in page.router.routes:
            assert declared(route)
