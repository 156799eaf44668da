"""The page What if: a form without scripts; its answer is that of the API."""

from __future__ import annotations

import re

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from evac.office.office import Office
from tests.web.rooms import play
from tests.web.test_now_page import opened


def test_every_site_can_be_ticked_and_the_answer_is_that_of_the_api() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert office.facts is not None
        blank = (await client.get("/what-if")).text
        for site in office.facts.sites:
            assert f'name="lose" value="{site.id}">' in blank
        name = next(site.id for site in office.facts.sites if site.role == "full")
        told = (await client.post("/v1/what-if", json={"domains": [name]})).json()
        text = (await client.get("/what-if", params={"lose": name})).text
        assert f'value="{name}" checked' in text
        for row in told["services"]:
            assert f'#h-graph">{row["service"]}</a></th>' in text
        assert re.search(rf"{name} CPU: \d+ % before, lost after", text)
        said = re.search(r'<p role="status">(.*?)</p>', text)
        assert said
        assert "Estimated, as no plan is ready for this loss" in said[1]
        assert all(
            sentence[0].isupper() and sentence.endswith(".") for sentence in re.split(r"(?<=\.) ", said[1])
        )

    play(story)


def test_what_is_not_there_is_said_in_the_form() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        found = await client.get("/what-if?lose=atlantis&lose=%3Cscript%3E")
        assert found.status_code == 422
        assert 'role="alert"' in found.text
        assert "<script>" not in found.text
        assert "atlantis" in found.text.partition('role="alert"')[2].partition("</p>")[0]
        assert "&lt;script&gt;" in found.text.partition('role="alert"')[2].partition("</p>")[0]
        assert "No fault domain matches" in (await client.get("/what-if?find=atlantis")).text

    play(story)


def test_the_graph_of_one_service_is_one_link_away() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        told = (await client.post("/v1/what-if", json={"domains": ["south"]})).json()
        down = next(row for row in told["services"] if row["fate"] in ("lost", "recovers"))
        text = (await client.get("/what-if", params={"lose": "south", "of": down["service"]})).text
        assert f"What {down['service']} needs" in text
        assert "Back to the full loss" in text
        strange = await client.get("/what-if", params={"lose": "south", "of": "<b>nobody"})
        assert strange.status_code == 200
        assert "<b>nobody" not in strange.text
        assert "The estate has no service &lt;b&gt;nobody: this is the whole loss." in strange.text
        assert "The estate has no service" not in text

    play(story)


def test_the_api_tells_edges_and_room() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        told = (await client.post("/v1/what-if", json={"domains": ["south"]})).json()
        names = {row["service"] for row in told["services"]}
        assert all(names.issuperset(row["needs"]) for row in told["services"])
        gone = [row for row in told["capacity"] if row["site"] == "south"]
        assert {(row["total_left"], row["moved_in"]) for row in gone} == {(0, 0)}

    play(story)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark"), (1920, "light")])
def test_it_works_without_scripts_and_fits(
    browser: Browser, served: tuple[str, str], width: int, scheme: str
) -> None:
    page = opened(browser, f"{served[0]}/what-if", width, scheme, java_script_enabled=False)
    page.locator("input[value=south]").check()
    page.get_by_role("button", name="Show what happens").click()
    page.get_by_role("heading", name="What if south is lost?").wait_for()
    page = opened(browser, page.url, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    node = page.locator("svg.graph a" if width > 700 else "table.cards tbody th a").first
    node.focus()
    assert node.evaluate("element => element === document.activeElement")
    assert width < 700 or node.get_attribute("aria-label")
    assert page.locator("ul.spread").last.is_visible() is (width < 700)
    assert page.locator("svg.graph").is_visible() is (width > 700)
    for row in page.locator("tbody tr:has(td[data-l=Why])").all():
        name = row.locator("th").inner_text()
        assert not row.locator("td[data-l=Why]").inner_text().startswith(f"{name}:"), name
    said = page.locator("section[aria-labelledby=h-findings] small").all_text_contents()
    fixes = [words for words in said if words.startswith("Fix:")]
    assert fixes
    assert len(fixes) == len(set(fixes)), "the same change is listed once"
    assert Axe().run(page).response["violations"] == []
