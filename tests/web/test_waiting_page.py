"""The page Waiting: what people may do now in all runs, the most urgent first, with form and command."""

import asyncio
import time
from typing import Any

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from evac.office.office import Office
from evac.office.values import RunShort
from evac.run.waits import Approval, Failure, Gate, Hold, Wait
from evac.store.port import MemoryStore
from evac.web.pages.waiting import lines_of
from tests.web.burning import RUN, burn_at
from tests.web.rooms import play, unwrapped
from tests.web.test_now_page import opened
from tests.web.test_run_page import RAN_MS, burning


def short(run: str) -> RunShort:
    return RunShort(run, "i", "running", f"loss of {run}", "", 0, 0, 0, 1, 1, {}, (), "", "", True)


def test_the_most_urgent_comes_first_and_what_waits_longest_among_its_like() -> None:
    waits: dict[str, Any] = {
        "a": [
            Wait(Failure("x", "no answer"), ("retry", "skip"), "boot:s1", 7_000),
            Wait(Gate("moves carts", "carts"), ("approve", "skip"), "promote:carts", 5_000),
        ],
        "b": [
            Wait(Gate("moves users", "users"), ("approve", "skip"), "promote:users", 4_000),
            Wait(Approval(0, 2, ()), ("approve",), since_ms=9_000),
            Wait(Failure("x", "no answer"), ("retry", "skip"), "boot:s2"),
        ],
    }
    lines = lines_of([short("a"), short("b")], waits, on_hold=False)
    assert [(line.run, line.step) for line in lines] == [
        ("b", ""),
        ("b", "promote:users"),
        ("a", "promote:carts"),
        ("a", "boot:s1"),
        ("b", "boot:s2"),
    ]
    assert lines[2].asks[0] == ("Approve", "/runs/a/ask?verb=approve&step=promote%3Acarts")
    assert lines[0].commands == ("evac approve b --reason WHY",)


def test_a_hold_of_all_runs_is_no_wait_of_each_of_them() -> None:
    waits = {"a": [Wait(Hold("ann"), ("release",))]}
    assert lines_of([short("a")], waits, on_hold=True) == []
    (line,) = lines_of([short("a")], waits, on_hold=False)
    assert (line.asks, line.commands) == ((), ("evac hold --release",))


def test_the_page_says_what_waits_and_leads_to_the_form_that_ends_it() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        empty = (await client.get("/waiting")).text
        assert "Nothing is waiting for a person." in empty
        assert '<a href="/waiting" aria-current="page">' in empty
        await burning(office, 1_000, approvals=1)
        while RUN not in office.register.waits:
            await asyncio.sleep(0.01)
        office.refresh()
        text = (await client.get("/waiting")).text
        assert "1 decision waits for a person, in 1 run." in text
        assert "needs approval by 1 more person" in text
        assert (await client.get(f"/runs/{RUN}/ask?verb=approve")).status_code == 200
        assert f'href="/runs/{RUN}/ask?verb=approve"' in text
        assert f"<code>evac approve {RUN} --reason WHY</code>" in unwrapped(text)
        same = await client.get("/waiting")
        kept = await client.get("/waiting", headers={"If-None-Match": same.headers["etag"]})
        assert kept.status_code == 304

    play(story, MemoryStore())


@pytest.mark.browser
def test_the_page_fits_and_axe_finds_nothing(browser: Browser, served: tuple[str, str]) -> None:
    burn_at(served[1], int(time.time() * 1_000), RAN_MS)
    url = f"{served[0]}/waiting"
    for width, scheme in ((390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")):
        page = opened(browser, url, width, scheme)
        page.locator(f"a[href='/runs/{RUN}']").first.wait_for(timeout=60_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert Axe().run(page).response["violations"] == []
