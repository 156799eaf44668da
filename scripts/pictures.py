"""Takes a picture of every page of the war room while `evac serve --demo` runs, as `make pictures` does.

The demo is played to its end: peace, a fire, an approval, an update, a resolved incident, credits. Pages of
each stage are kept in a folder of that name, in four forms: wide and narrow, light and dark. Needs Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from front_pictures import BROWSERS, EVAC, lines_of

WIDTHS = (1440, 390)
SCHEMES = ("light", "dark")
PAGE_MS = 120_000
CALM = {
    name: name for name in ("now", "what-if", "plans", "runs", "incidents", "backups", "doctor", "notices")
}
FIRE = {
    "now": "now",
    "run": "{run}",
    "run-events": "{run}/events",
    "approve": "{approve}",
    "skip": "{run}/ask?verb=skip&step=promote:sessions",
    "incident": "incidents/pangyo-fire",
    "what-if": "what-if?lose=anyang",
    "plan": "{plan}",
    "runbook": "{plan}/runbook",
    "approvals": "waiting",
    "alerts": "notices",
    "hold": "hold",
    "keys": "keys",
    "account": "who",
    "not-found": "no-such-page",
    "status": "status",
}
RESTORED = {
    "now": "now",
    "status": "status",
    "update": "incidents/pangyo-fire/write?kind=update",
    "resolve": "incidents/pangyo-fire/write?kind=resolved",
}
RESOLVED = {
    "now": "now",
    "incident": "incidents/pangyo-fire",
    "report": "incidents/pangyo-fire/report",
    "reopen": "incidents/pangyo-fire/write?kind=reopened",
    "status": "status",
    "credits": "credits",
    "credits-case": "credits/pangyo-fire?account=c04001",
    "credits-approve": "credits/pangyo-fire/approve",
    "backups": "backups",
}
"""Name of a picture -> page, for each stage."""


class Album:
    """Pictures in one folder for each stage, one window for each form."""

    def __init__(self, browser: Browser, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder
        self.pages = {
            f"{width}-{scheme}": browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            ).new_page()
            for width in WIDTHS
            for scheme in SCHEMES
        }

    @property
    def page(self) -> Page:
        """The one that plays."""
        return next(iter(self.pages.values()))

    def go(self, page: Page, path: str) -> None:
        page.goto(f"{self.address}/{path}", wait_until="load", timeout=PAGE_MS)

    def take(self, stage: str, paths: Mapping[str, str], forms: Sequence[str] = ()) -> None:
        """Whole pages. forms: those that there is time for; empty: all."""
        (self.folder / stage).mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            for form in forms or self.pages:
                self.go(self.pages[form], path)
                self.pages[form].screenshot(
                    path=self.folder / stage / f"{name}-{form}.png", full_page=True, timeout=PAGE_MS
                )

    def send(self, path: str, values: dict[str, str], button: str) -> None:
        """Fill in a form and press a button."""
        self.go(self.page, path)
        for field, value in values.items():
            self.page.fill(f"#{field}", value)
        self.page.get_by_role("button", name=button).click()
        self.page.wait_for_load_state()

    def link(self, path: str, part: str) -> str:
        """The address of the first link of a page with a part in it, without the leading slash."""
        self.go(self.page, path)
        return str(self.page.locator(f'a[href*="{part}"]').first.get_attribute("href")).lstrip("/")


@contextmanager
def demo(port: int) -> Iterator[Callable[[str], str]]:
    """Runs the demo; the value waits for a line with some words, and returns it."""
    started = subprocess.Popen(
        [EVAC, "serve", "--demo", "--port", str(port)],
        env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = lines_of(started)

    def until(words: str) -> str:
        for line in lines:
            print(line, flush=True)
            if words in line:
                return line
        raise SystemExit(f"the demo ended before: {words}")

    try:
        yield until
    finally:
        started.terminate()
        started.wait(30)


def play(album: Album, until: Callable[[str], str]) -> None:
    """The demo from start to end, with pictures of every stage."""
    until("a plan for the loss")
    album.take("1-calm", CALM, ["1440-light"])
    run = "runs/" + until("so it waits for you").rpartition("/runs/")[2]
    names = {
        "run": run,
        "approve": album.link(run, "/ask?verb=approve"),
        "plan": album.link("plans", "/plans/sha256"),
    }
    album.take("2-fire", {name: path.format(**names) for name, path in FIRE.items()})
    album.go(album.page, names["approve"])
    typed = album.page.locator("label[for=typed] strong")
    values = {"reason": "logins of 19 seconds are worth it", "who": "kim"}
    if typed.count():
        values["typed"] = typed.inner_text()
    album.send(names["approve"], values, "Approve")
    until("The run has ended.")
    album.take("3-restored", RESTORED)
    album.send("incidents/pangyo-fire/write?kind=update", {"who": "kim"}, "Publish update")
    values = {"text": "all but Mail is back", "value": "pangyo-fire", "who": "kim"}
    album.send("incidents/pangyo-fire/write?kind=resolved", values, "Resolve incident")
    until("To start with your own")
    album.take("4-resolved", RESOLVED)


def main() -> int:
    """Play the demo once; 0 once every page has its pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/pictures"))
    folder = parser.parse_args().folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = os.environ.get("EVAC_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as driver, demo(port) as until:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        play(Album(browser, f"http://127.0.0.1:{port}", folder), until)
        browser.close()
    print(f"{folder}: {len(list(folder.rglob('*.png')))} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
