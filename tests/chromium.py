"""One Chromium a worker, kept from one test that asks for it to the next of the same module.

Its driver keeps a loop running in the thread of the tests, in which no other test can run one of its own. A
worker may take the tests of a module in any order, from another worker too; so the browser ends before every
test that does not ask for it, and not only with its module.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def program() -> str | None:
    """The path of the browser on this machine."""
    return os.environ.get("EVAC_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


class Kept:
    """The browser of this worker, if one runs, and the end of it."""

    def __init__(self) -> None:
        self._browser: Browser | None = None
        self._module: object = None
        self._end = ExitStack()

    def browser(self, module: object) -> Browser:
        """The browser that runs, or a new one; skips where there is none."""
        found = program()
        if found is None:
            pytest.skip("no Chromium on this machine; EVAC_CHROMIUM names one")
        if self._browser is None:
            from playwright.sync_api import sync_playwright  # most workers never need it

            driver = self._end.enter_context(sync_playwright())
            self._browser = driver.chromium.launch(executable_path=found, args=list(ARGUMENTS))
            self._end.callback(self._browser.close)
        self._module = module
        return self._browser

    def end_before(self, item: pytest.Item) -> None:
        """Ends the browser, unless `item` is a test of the same module that asks for it."""
        if "browser" not in getattr(item, "fixturenames", ()) or item.path != self._module:
            self.end()

    def end(self) -> None:
        self._browser = None
        self._end.close()
