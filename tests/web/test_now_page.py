"""The page Now in a real browser, served by a real process: it fits, axe finds nothing, it stays fresh."""

from __future__ import annotations

import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route

from tests.web.conftest import PATIENCE_MS

pytestmark = pytest.mark.browser
PATHS = ("/now", "/now/losses?kind=site", "/now/services/-")


def opened(browser: Browser, url: str, width: int = 1440, scheme: str = "light", **more: object) -> Page:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    return page


@pytest.mark.parametrize("width", [390, 768, 1440, 1920])
def test_nothing_is_wider_than_the_window(browser: Browser, served: tuple[str, str], width: int) -> None:
    page = opened(browser, served[0] + "/now", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS[:2])
def test_axe_finds_nothing(browser: Browser, served: tuple[str, str], path: str, scheme: str) -> None:
    page = opened(browser, served[0] + path, 1440, scheme)
    assert Axe().run(page).response["violations"] == []


def test_it_opens_without_a_complaint(browser: Browser, served: tuple[str, str]) -> None:
    context = browser.new_context()
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(served[0] + "/")
    page.wait_for_function("() => document.querySelector('#stream')._htmx !== undefined", timeout=PATIENCE_MS)
    assert page.url.endswith("/now")
    assert complaints == []


def test_the_stream_is_followed_however_late_its_script_comes(
    browser: Browser, served: tuple[str, str]
) -> None:
    context = browser.new_context()
    page = context.new_page()

    def late(route: Route) -> None:
        time.sleep(1.0)
        route.continue_()

    page.route("**/hx-sse.min.js*", late)
    with page.expect_request("**/v1/stream", timeout=PATIENCE_MS) as followed:
        page.goto(served[0] + "/now")
    assert followed.value.url.endswith("/v1/stream")


def test_it_says_the_same_without_scripts(browser: Browser, served: tuple[str, str]) -> None:
    with_scripts = opened(browser, served[0] + "/now")
    without = opened(browser, served[0] + "/now", java_script_enabled=False)
    for part in ("h1", "#h-losses", "#h-matrix"):
        assert without.locator(part).inner_text() == with_scripts.locator(part).inner_text()


def test_what_is_not_the_answer_is_folded_until_it_is_asked_for(
    browser: Browser, served: tuple[str, str]
) -> None:
    page = opened(browser, served[0] + "/now", 390, java_script_enabled=False)
    for name in ("h-matrix", "h-room"):
        table = page.locator(f"[aria-labelledby={name}] table").first
        assert not table.is_visible()
        page.locator(f"#{name}").click()
        assert table.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "and it fits when open"


def test_what_happens_elsewhere_is_on_the_screen_without_a_reload(
    browser: Browser, served: tuple[str, str]
) -> None:
    page = opened(browser, served[0] + "/now")
    assert page.locator("aside.held").count() == 0
    page.locator("h1").evaluate("e => e.setAttribute('open', '')")  # as a fold that a person has opened
    told = {"reason": "smoke in the hall", "who": "ann"}
    answer = page.context.request.post(served[0] + "/v1/hold", data=told, timeout=PATIENCE_MS)
    assert answer.status == 201
    page.locator("aside.held", has_text="by ann: smoke in the hall").wait_for(timeout=PATIENCE_MS)
    assert page.locator("h1").get_attribute("open") == "", "what a person has opened stays open"
    told = {"reason": "they are out", "who": "ann"}  # other tests of this room begin without a hold
    assert page.context.request.delete(served[0] + "/v1/hold", params=told, timeout=PATIENCE_MS).ok
    page.locator("aside.held").wait_for(state="detached", timeout=PATIENCE_MS)
