"""A sheet on paper: page numbers, its title on every page, and boxes to sign."""

from __future__ import annotations

import re

from evac.views.sheet import Sheet, SheetPart, sheet_page

HOSTILE = '</style><script>alert(1)</script> "} body { display: none } \\22 fire-1'


def test_every_page_has_its_number_and_the_title_of_the_sheet() -> None:
    shown = sheet_page(Sheet("Report on fire-1", "under way", (SheetPart("Actions"),)))
    assert 'content: "Report on fire-1"' in shown
    assert 'content: "Page " counter(page) " of " counter(pages)' in shown
    for words in ("Printed by", "Checked by", "Date and local time", "Initials"):
        assert f"<dt>{words}</dt>" in shown
    assert "<p>None recorded.</p>" in shown, "a part without content says so"


def test_a_title_cannot_leave_the_margin_that_it_is_written_in() -> None:
    shown = sheet_page(Sheet(HOSTILE, "", ()))
    (margin,) = re.findall(r'@bottom-left { content: "([^"]*)"; [^}]* } @bottom-right', shown)[-1:]
    assert not set(margin) & set('"<>{}\\;')
    assert "<script>" not in shown
    assert shown.count("</style>") == 1
