"""The emergency stop: on every page, with a reason, seen everywhere, released with a reason."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from evac.office.office import Office
from evac.store.port import MemoryStore
from tests.web.burning import RUN
from tests.web.rooms import play
from tests.web.test_incidents import with_fire
from tests.web.test_now_page import opened
from tests.web.test_run_page import fields

PAGES = (
    "/now",
    "/waiting",
    "/what-if",
    "/plans",
    "/runs",
    f"/runs/{RUN}",
    f"/runs/{RUN}/events",
    f"/runs/{RUN}/ask?verb=pause",
    "/incidents",
    "/incidents/fire-1",
    "/incidents/fire-1/report",
    "/incidents/fire-1/write?kind=note",
    "/status",
    "/notices",
    "/who",
    "/hold",
    "/no-such-page",
    "/incidents/no-such-incident",
)
BROWSER = {"accept": "text/html"}


def test_everything_is_held_and_released_from_any_page_and_every_page_says_so() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)

        async def read(path: str) -> str:  # as in a server: each request in its own context
            return (await asyncio.create_task(client.get(path, headers=BROWSER))).text

        for path in PAGES:
            page = await read(path)
            assert '<a href="/hold"' in page, path
            assert "Everything is on hold" not in page, path
        form = (await client.get("/hold")).text
        assert RUN in form, "it says what it stops"
        bare = await client.post("/hold", data=fields(form, reason=" "))
        assert bare.status_code == 422
        assert await office.standing_hold() is None
        sent = fields(form, reason="people are in hall 2", who="ann")
        assert (await client.post("/hold", data=sent)).headers["location"] == "/now?done=held"
        found = await office.standing_hold()
        assert found is not None
        assert (found.who, found.reason) == ("ann", "people are in hall 2")
        for path in PAGES:
            page = await read(path)
            assert "Everything is on hold</strong> by ann: people are in hall 2." in page, path
        twice = await client.post("/hold", data=fields(form, reason="me too", key="other"))
        assert twice.status_code == 422
        form = (await client.get("/hold")).text
        assert "Release hold</button>" in form
        assert (await client.post("/hold/release", data=fields(form, reason=""))).status_code == 422
        await client.post("/hold/release", data=fields(form, reason="they are out", who="lee"))
        assert await office.standing_hold() is None
        assert "Everything is on hold" not in (await client.get("/now")).text

    play(story, MemoryStore())


@pytest.mark.browser
def test_the_page_and_its_banner_fit_and_axe_finds_nothing(browser: Browser, served: tuple[str, str]) -> None:
    page = opened(browser, f"{served[0]}/hold", 1440, "dark")
    page.get_by_label("Reason").fill("people are in hall 2, " * 8)
    page.get_by_role("button", name="Hold everything").click()
    page.locator("aside.held").wait_for()
    try:
        assert Axe().run(page).response["violations"] == []
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.goto(f"{served[0]}/hold")
        page.get_by_label("Reason").fill("they are out")
        page.get_by_role("button", name="Release hold").click()
        page.get_by_role("heading", name="Hold everything").wait_for()
        page.context.close()
