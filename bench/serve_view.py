"""The page Now in a real browser that has never seen it: until it is drawn, and what it weighs.

Needs Chromium (`EVAC_CHROMIUM` names one) and playwright, as the tests do; without them nothing is measured.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterator
from typing import Any, Final

from bench.figures import Figure

VIEWS: Final = 5
PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
TIMES: Final = """() => {
  const page = performance.getEntriesByType('navigation')[0];
  const paint = performance.getEntriesByName('first-contentful-paint')[0];
  return [paint ? paint.startTime : null, page.domContentLoadedEventEnd];
}"""


def view(port: int) -> Iterator[Figure]:
    """First view of the page Now, each time in a browser context of its own."""
    program = os.environ.get("EVAC_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        yield Figure("view", "first view of the page Now", None, "s", 1, "at most", "no Chromium here")
        return
    from playwright.sync_api import sync_playwright

    drawn, weights = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        for _ in range(VIEWS):
            painted_ms, weight = _view(browser, f"http://127.0.0.1:{port}/now")
            drawn.append(painted_ms / 1e3)
            weights.append(weight / 1e3)
        browser.close()
    note = f"{VIEWS} contexts that have seen nothing; drawn and read"
    yield Figure(
        "view",
        "first view of the page Now in Chromium, median",
        statistics.median(drawn),
        "s",
        1,
        "at most",
        note,
        tuple(drawn),
    )
    yield Figure(
        "view_weight", "what is sent for it: page, style, scripts", max(weights), "kB", 300, "at most"
    )


def _view(browser: Any, address: str) -> tuple[float, int]:
    """(milliseconds until the page is drawn and can be used, bytes that came over the line)."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    line, sizes = context.new_cdp_session(page), []
    line.send("Network.enable")
    line.on("Network.loadingFinished", lambda told: sizes.append(int(told["encodedDataLength"])))
    page.goto(address, wait_until="load")
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
    painted, ready = page.evaluate(TIMES)
    context.close()
    return max(painted, ready), sum(sizes)
