"""The report page in a real browser: it fits, reads well by keyboard and screen reader, and prints."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.conftest import Opened

pytestmark = pytest.mark.browser

NAMES = ("small", "flawed", "mended")
WIDTHS = (390, 768, 1440, 1920)
Open = Callable[..., Opened]

OUT_OF_BOUNDS = """() => [...document.querySelectorAll('body *')].filter(e => {
  if (e.closest('.scroll, .skip, .unseen') || !e.checkVisibility()) return false;
  const box = e.getBoundingClientRect();
  return box.width > 0 && (box.right > document.documentElement.clientWidth + 1 || box.left < -1);
}).map(e => e.tagName + '.' + (e.getAttribute('class') || '') + ' ' + e.textContent.slice(0, 60))"""

FOCUSED = """() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  return {tag: e.tagName, name: (e.getAttribute('aria-label') || e.textContent).trim(),
          outline: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
          seen: box.width > 0 && box.right > 0 && box.bottom > 0 && box.top < innerHeight};
}"""

REACHABLE = """() => [...document.querySelectorAll('a, summary, .scroll')]
  .filter(e => e.checkVisibility({contentVisibilityAuto: true}))
  .map(e => ({tag: e.tagName, name: (e.getAttribute('aria-label') || e.textContent).trim()}))"""


ONE_ROW_OF_EACH_LOOK = """() => {
  for (const table of document.querySelectorAll('table')) {
    const looks = new Set();
    for (const row of table.querySelectorAll('tbody tr')) {
      const look = [row, ...row.querySelectorAll('*')]
        .map(e => e.tagName + '.' + (e.getAttribute('class') || '')).join(' ');
      if (looks.has(look)) row.remove();
      looks.add(look);
    }
  }
}"""


def open_all(page: Page) -> None:
    page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true; })")


def resize(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_for_nothing_has_an_outline_and_fits_every_window(opened: Open, name: str) -> None:
    found = opened(name)
    page = found.page
    page.wait_for_load_state("networkidle")
    assert page.title().startswith("Loss of ")
    assert found.complaints == []
    check_outline(page)
    for _ in range(2):
        for width in WIDTHS:
            resize(page, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(OUT_OF_BOUNDS) == [], width
        open_all(page)


def check_outline(page: Page) -> None:
    """Ids are unique, headings in order, and the navigation leads to what is there."""
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    levels = page.evaluate("() => [...document.querySelectorAll('h1,h2,h3,h4,h5')].map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    links = page.evaluate("() => [...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))")
    assert links
    assert set(links) <= set(ids)


def test_the_answer_is_on_the_first_screen_of_a_phone(opened: Open) -> None:
    page = opened("mended", 390).page
    box = page.locator(".verdict").first.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 844


def test_letters_of_charts_keep_their_size_and_labels_their_place(opened: Open) -> None:
    page = opened("mended", 390).page
    for width in (390, 1440):
        resize(page, width)
        sizes = page.evaluate(
            "() => [...document.querySelectorAll('.chart text')].filter(e => e.checkVisibility())"
            ".map(e => e.getScreenCTM().a * parseFloat(getComputedStyle(e).fontSize))"
        )
        assert len(sizes) > 50
        assert min(sizes) >= 11
        boxes = page.evaluate(
            "() => [...document.querySelectorAll('#gantt-t')].map(t => t.parentElement)"
            ".flatMap(s => [...s.querySelectorAll('.label')]).map(e => e.getBoundingClientRect())"
            ".map(b => [b.top, b.bottom])"
        )
        assert len(boxes) > 10
        for (_, bottom), (top, _) in itertools.pairwise(boxes):
            assert bottom <= top + 3


def test_the_skip_link_comes_first_and_leads_to_the_answer(opened: Open) -> None:
    page = opened("small").page
    page.keyboard.press("Tab")
    focused = page.evaluate(FOCUSED)
    assert focused["name"] == "Skip to the summary"
    assert focused["seen"]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_tab_reaches_every_link_summary_and_table_with_a_visible_focus(opened: Open) -> None:
    page = opened("small").page
    expected = page.evaluate(REACHABLE)
    assert {"A", "SUMMARY", "DIV"} == {entry["tag"] for entry in expected}
    reached = []
    for _ in expected:
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        assert focused is not None
        assert focused["outline"], focused
        assert focused["seen"], focused
        reached.append({"tag": focused["tag"], "name": focused["name"]})
    assert reached == expected


def test_a_folded_list_opens_by_keyboard(opened: Open) -> None:
    page = opened("small").page
    last = page.locator("#numbers summary").last
    last.focus()
    page.keyboard.press("Enter")
    table = page.locator("#numbers details table")
    assert table.is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "group"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("All ")


AXE_CASES = (("small", "light"), ("small", "dark"), ("mended", "light"), ("flawed", "dark"))


@pytest.mark.parametrize(("name", "scheme"), AXE_CASES)
def test_axe_finds_nothing(opened: Open, name: str, scheme: str) -> None:
    """Of rows that look alike one is enough: the contrast of each of 4,000 cells would take half a minute."""
    page = opened(name, 1280, scheme).page
    open_all(page)
    rows = page.locator("tbody tr").count()
    page.evaluate(ONE_ROW_OF_EACH_LOOK)
    assert 0 < page.locator("tbody tr").count() < rows
    assert violations(page) == []


@pytest.mark.parametrize(
    ("rule", "flaw"),
    [
        ("color-contrast", "() => { document.querySelector('.verdict').style.color = '#999'; }"),
        ("svg-img-alt", "() => document.querySelectorAll('#gantt-t, #gantt-d').forEach(e => e.remove())"),
        (
            "scrollable-region-focusable",
            "() => document.querySelectorAll('.scroll').forEach(e => "
            "{ e.removeAttribute('tabindex'); e.style.width = '60px'; })",
        ),
    ],
)
def test_axe_would_find_a_flaw(opened: Open, rule: str, flaw: str) -> None:
    page = opened("small").page
    page.evaluate(flaw)
    page.evaluate(ONE_ROW_OF_EACH_LOOK)
    assert [name for name, _ in violations(page, rule)] == [rule]


def violations(page: Page, *rules: str) -> list[tuple[str, str]]:
    """(rule, first place) of everything axe-core finds; rules: of these alone."""
    only = {"runOnly": list(rules)} if rules else {}
    found = Axe().run(page, options={"resultTypes": ["violations"], **only}).response["violations"]
    return [(v["id"], v["nodes"][0]["html"][:200]) for v in found]


def test_dark_is_dark_and_bars_stand_out_from_either_paper(opened: Open) -> None:
    """Three to one for what a chart says by colour (WCAG 2.2, 1.4.11); resting parts say nothing."""
    page = opened("mended").page
    grounds = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds[scheme] = sum(int(part) for part in paper.removeprefix("rgb(").rstrip(")").split(","))
        for style in ("start", "verify", "shift", "used after", "line"):
            where = "." + style.replace(" ", ".")
            kind = "stroke" if style == "line" else "fill"
            colour = page.evaluate(f"getComputedStyle(document.querySelector('.chart {where}')).{kind}")
            assert contrast(colour, paper) >= 3, (style, colour, paper)
    assert grounds["light"] == 3 * 255
    assert grounds["dark"] < 3 * 40


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2 between two colours written `rgb(1, 2, 3)`."""

    def luminance(colour: str) -> float:
        parts = [int(p) / 255 for p in colour.removeprefix("rgb(").rstrip(")").split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_chart_has_a_name_and_a_description(opened: Open) -> None:
    page = opened("small").page
    charts = page.get_by_role("img").all()
    assert len(charts) >= 8
    for chart in charts:
        names = (chart.get_attribute("aria-labelledby") or "").split()
        words = [page.locator(f"#{name}").text_content() or "" for name in names]
        assert len(words) == 2
        assert all(len(w) > 3 for w in words)


def test_the_first_column_and_the_heads_stay_in_sight(opened: Open) -> None:
    page = opened("mended", 390).page
    region = page.locator("#matrix .scroll").first
    region.evaluate("e => { e.scrollLeft = 200; e.scrollTop = 300; }")
    box = region.bounding_box()
    corner = region.locator("thead th").first.bounding_box()
    assert box is not None
    assert corner is not None
    assert abs(corner["x"] - box["x"]) <= 2
    assert abs(corner["y"] - box["y"]) <= 2


def test_it_prints_dark_on_white_without_the_navigation(opened: Open, tmp_path: Path) -> None:
    page = opened("mended").page
    for scheme in ("light", "dark"):
        page.emulate_media(media="screen", color_scheme=scheme)  # type: ignore[arg-type]
        data = page.pdf(path=tmp_path / "page.pdf", format="A4")
        assert data.startswith(b"%PDF-")
        pages = sum(data.count(b"/Type /Page" + end) for end in (b"\n", b"/", b" "))
        assert 2 < pages < 40
        page.emulate_media(media="print", color_scheme=scheme)  # type: ignore[arg-type]
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        assert page.locator(".on-paper").is_visible()


def test_long_lists_are_folded_and_the_page_stays_light(opened: Open, pages: dict[str, Path]) -> None:
    page = opened("flawed").page
    rows = page.evaluate("() => [...document.querySelectorAll('tr')].filter(e => e.checkVisibility()).length")
    assert rows < 200
    assert pages["flawed"].stat().st_size < 1_000_000
