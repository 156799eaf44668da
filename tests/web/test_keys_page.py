"""Shortcuts: every page of the menu has a letter of its own, and the keys lead where the list says."""

from __future__ import annotations

from collections import Counter

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from evac.office.office import Office
from evac.web.pages import PAGES, frame
from tests.web.rooms import play
from tests.web.test_now_page import opened


def test_every_page_of_the_menu_has_a_letter_of_its_own() -> None:
    letters = [page.key for page in PAGES if page.word] + [key for key, _, _ in frame.LINKED]
    assert all(len(key) == 1 for key in letters)
    assert max(Counter(letters).values()) == 1


def test_the_list_is_complete_without_a_script() -> None:
    async def story(client: httpx2.AsyncClient, _: Office) -> None:
        text = (await client.get("/keys")).text
        for page in PAGES:
            if page.key:
                assert f'<kbd>{page.key}</kbd></dt><dd><a href="{page.path}">{page.word}</a>' in text
        assert f"{PAGES[0].key}:{PAGES[0].path}" in (await client.get("/now")).text

    play(story)


@pytest.mark.browser
def test_keys_follow_links_and_leave_fields_alone(browser: Browser, served: tuple[str, str]) -> None:
    page = opened(browser, f"{served[0]}/now", 390, "dark")
    page.keyboard.press("?")
    page.wait_for_url("**/keys")
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/runs")
    page.keyboard.press("g")
    page.keyboard.press("h")
    page.wait_for_url("**/hold")
    page.locator("textarea").first.focus()
    page.keyboard.type("g n?")
    assert page.url.endswith("/hold")
    assert page.locator("textarea").first.input_value() == "g n?"
