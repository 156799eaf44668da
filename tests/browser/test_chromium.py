"""A test that asks for a browser takes no loop from one that does not, whatever stands before it."""

from __future__ import annotations

import asyncio

import pytest
from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("_turn", [1, 2])
def test_a_browser_runs(browser: Browser, _turn: int) -> None:
    assert browser.contexts == []  # those of the test before are closed
    page = browser.new_context(offline=True).new_page()
    page.set_content("<h1>here</h1>")
    assert page.inner_text("h1") == "here"


def test_a_loop_runs_after_a_browser_of_the_same_module() -> None:
    assert asyncio.run(asyncio.sleep(0, "done")) == "done"


def test_a_browser_runs_again(browser: Browser) -> None:
    assert browser.is_connected()
