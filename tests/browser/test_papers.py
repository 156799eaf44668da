"""Papers as they come out of a printer: A4, with ids that can be typed and room to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from evac.views.sheet import Sheet, SheetPart, sheet_page

pytestmark = pytest.mark.browser

A4_PX = 703
"""186 mm, as the page leaves them."""
HEAD = ("step", "what", "where", "begins", "takes", "after", "who", "done at", "by")
WHAT = "start replicas: web; before: the image is in the registry; room is free; a person agrees: checks pass"
ROW = (
    "start:web:top:1",
    WHAT,
    "south-pool; 2 in all",
    "1 min 05 s",
    "10 s",
    "fence:accounts",
    "team-web",
    "",
    "",
)


def test_a_runbook_keeps_its_steps_whole_and_has_room_to_write(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "book.html"
    path.write_text(sheet_page(Sheet("Runbook", "", (SheetPart("Wave 0", head=HEAD, rows=(ROW,)),))), "utf-8")
    page = browser.new_page(viewport={"width": A4_PX, "height": 900})
    page.goto(path.as_uri())
    page.emulate_media(media="print")
    lines = """() => {
        const range = document.createRange();
        range.selectNodeContents(document.querySelector("tbody th"));
        return range.getClientRects().length;
    }"""
    assert page.evaluate(lines) == 1
    widths = page.evaluate("() => [...document.querySelectorAll('td:empty')].map(td => td.offsetWidth)")
    assert len(widths) == 2
    assert min(widths) >= 60
    assert page.evaluate("document.documentElement.scrollWidth") <= A4_PX
    page.close()
