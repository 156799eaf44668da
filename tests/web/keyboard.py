"""A person without a mouse: everything by Tab, letters and Enter, and always with the focus to be seen."""

from __future__ import annotations

from collections.abc import Mapping

from playwright.sync_api import Browser, Page

MOST = 400
FOCUS = """() => {
  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  return {
    id: one.id, tag: one.tagName, words: (one.getAttribute("aria-label") || one.innerText || "").trim(),
    seen: box.width > 0 && (style.outlineStyle !== "none" || style.boxShadow !== "none"),
  };
}"""


def sat_down(browser: Browser, width: int, scheme: str, scripts: bool) -> Page:
    """A new window, in one of the forms that people have."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=scripts,
    )
    return context.new_page()


def tab_to(page: Page, wanted: str) -> None:
    """Presses Tab until the focus is on what has this id, or whose words begin so."""
    passed = []
    for _ in range(MOST):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        passed.append(focus["id"] or focus["words"])
        if focus["id"] == wanted or focus["words"].startswith(wanted):
            assert focus["seen"], f"the focus on {wanted} cannot be seen"
            return
    raise AssertionError(f"Tab never comes to {wanted}, but to {passed[:80]}")


def press(page: Page, wanted: str) -> None:
    """To a link or a button, and Enter; waits for the page that answers."""
    tab_to(page, wanted)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def fill_in(page: Page, values: Mapping[str, str], button: str) -> None:
    """Fields by their id, in the order of the form, and the button that sends it."""
    for field, value in values.items():
        tab_to(page, field)
        page.keyboard.press("Control+A")
        page.keyboard.type(value)
    press(page, button)
