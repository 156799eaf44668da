"""The frame of every page: symbols, colours, what a page says after an action, and what is lost."""

from __future__ import annotations

import re

import httpx2
import pytest
from playwright.sync_api import Browser

from evac.office.office import Office
from evac.web.pages import frame
from tests.web.rooms import play


def test_a_page_carries_the_symbols_that_it_shows_and_no_others() -> None:
    async def story(client: httpx2.AsyncClient, _: Office) -> None:
        page = (await client.get("/now")).text
        used = set(re.findall(r'href="#i-([a-z]+)"', page))
        assert used
        assert set(re.findall(r'<symbol id="i-([a-z]+)"', page)) == used
        assert used < set(frame.symbols())
        assert ' style="' not in page

    play(story)


def test_colours_are_chosen_by_a_link_and_kept_in_a_cookie() -> None:
    async def story(client: httpx2.AsyncClient, _: Office) -> None:
        assert "data-theme" not in (await client.get("/now")).text
        come = {"referer": f"{client.base_url}/runs?begin=0"}
        chosen = await client.get("/theme?to=dark", headers=come)
        assert (chosen.status_code, chosen.headers["location"]) == (303, "/runs?begin=0")
        assert '<html lang="en" data-theme="dark">' in (await client.get("/now")).text
        foreign = await client.get("/theme?to=blue", headers={"referer": "http://evil.example/x"})
        assert foreign.headers["location"] == "/now"
        assert "data-theme" not in (await client.get("/now")).text

    play(story)


def test_a_page_says_what_was_done_and_nothing_that_an_address_makes_up() -> None:
    async def story(client: httpx2.AsyncClient, _: Office) -> None:
        said = (await client.get("/now?done=held")).text
        assert re.search(r'class="toast" role="status">.*Everything is on hold\.', said)
        assert 'class="toast"' not in (await client.get("/now?done=<b>all is well</b>")).text
        assert 'class="toast"' not in (await client.get("/now")).text

    play(story)


def test_going_back_keeps_the_question_and_the_anchor() -> None:
    assert frame.back_to("/runs/a?show=failed#h-steps", "taken").headers["location"] == (
        "/runs/a?show=failed&done=taken#h-steps"
    )


def test_the_sheet_begins_with_its_layers_and_has_the_scales() -> None:
    body, _ = frame.style()
    assert body.index(b"@layer tokens, base") < body.index(b"--slate-1:") < body.index(b"@font-face")


@pytest.mark.slow
def test_a_phone_breaks_no_option_of_a_command(browser: Browser) -> None:
    page = browser.new_context(viewport={"width": 390, "height": 900}).new_page()
    run = "pangyo-fire-6ecfbdd1"
    long = "start:" + "a-long-name-" * 9
    for filler in range(0, 24, 3):
        command = f"evac approve {run}{'x' * filler} --step promote:sessions --reason WHY {long}"
        page.set_content(
            f"<style>{frame.style()[0].decode()}</style><p>Or type <code>{frame.typed(command)}</code></p>"
        )
        assert page.inner_text("code") == command, "it is copied as it is typed"
        lines = page.eval_on_selector_all(".nowrap", "all => all.map(one => one.getClientRects().length)")
        assert set(lines) == {1}
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
