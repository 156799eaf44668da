"""A real browser for the tests of the report page, and pages with everything on them.

The browser is a local program that is driven through pipes, and the pages are local files: no test
here needs a network. The guard against sockets stays up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

from evac.audit import audit
from evac.derive.planning_instance import derive
from evac.estate import examples, load
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.planning.simulation.simulate import simulate
from evac.verify import check_instance
from evac.views.audit_view import audit_context
from evac.views.html_report import html_report
from evac.views.plan_view import Planned


@dataclass(frozen=True, slots=True)
class Opened:
    """A page, and what it did that a page without scripts and network never does."""

    page: Page
    context: BrowserContext
    complaints: list[str]


def whole_page(estate: Estate, lost: str) -> str:
    """A page with every part: plan, check, simulation, audit."""
    scenario = lose(lost)
    made = plan(estate, scenario, work=0, sensitivity=True)
    instance = derive(estate, scenario)
    planned = Planned(made, "sha256:0", check_instance(instance, made), simulate(instance, made, trials=50))
    report = audit(estate)
    return html_report(
        estate,
        title=f"Loss of {lost}",
        lead=f"Plan for {estate.name}.",
        footer="Made by a test.",
        planned=planned,
        audit=audit_context(report, report.findings),
    )


@pytest.fixture(scope="session")
def pages(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`small`: a plan that misses objectives; `flawed`: much is lost for good; `mended`: much is done."""
    folder = tmp_path_factory.mktemp("pages")
    texts = {
        "small": whole_page(load(project_root / "tests" / "fixtures" / "estates" / "small"), "north"),
        "flawed": whole_page(examples.pangyo(servers=1000), "pangyo"),
        "mended": whole_page(examples.pangyo(servers=1000, mended=True), "pangyo"),
    }
    found = {name: folder / f"{name}.html" for name in texts}
    for name, text in texts.items():
        found[name].write_text(text, "utf-8")
    return found


@pytest.fixture
def opened(browser: Browser, pages: dict[str, Path]) -> Iterator[Callable[..., Opened]]:
    """Opens a page: its name, the width of the window, the colour scheme."""
    contexts: list[BrowserContext] = []

    def open_page(name: str, width: int = 1280, scheme: str = "light", **options: object) -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,  # type: ignore[arg-type]
            offline=True,
            **options,  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        complaints = _listen(page, pages[name].as_uri())
        page.goto(pages[name].as_uri())
        return Opened(page, context, complaints)

    yield open_page
    for context in contexts:
        context.close()


def _listen(page: Page, address: str) -> list[str]:
    complaints: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        complaints.append(f"console {message.type}: {message.text}")

    def on_request(request: Request) -> None:
        if request.url.partition("#")[0] != address:
            complaints.append(f"request: {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", on_request)
    return complaints
