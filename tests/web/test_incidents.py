"""Incidents in the war room: what records say, what people write down, and pages that anybody can use."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from pathlib import Path

import httpx2
import orjson
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from evac.app.incidents import EXPORTED, published
from evac.app.status_export import About
from evac.office.office import Office
from evac.store.port import MemoryStore, Put
from evac.views.status_page import status_files
from tests.web.burning import BROKEN, RUN, burn_at
from tests.web.conftest import PATIENCE_MS
from tests.web.rooms import BASE, ESTATE, office_of, play, primed, room_of
from tests.web.test_now_page import opened
from tests.web.test_run_page import burning, fields

NAMED = {
    "web: {family": "web: {public_name: Web shop, family",
    "pay: {family": "pay: {public_name: Payment, family",
}
PATH = "/incidents/fire-1"
NOTES = "/v1/incidents/fire-1/notes"


async def with_fire(client: httpx2.AsyncClient, office: Office) -> None:
    """A room that has seen the run of an incident."""
    await burning(office)
    while not office.runs():
        await asyncio.sleep(0.01)
    office.refresh()


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """An estate whose users know two components."""
    text = (ESTATE / "estate.yaml").read_text()
    for old, new in NAMED.items():
        text = text.replace(old, new)
    (tmp_path / "estate.yaml").write_text(text)
    return tmp_path


def test_the_menu_shows_that_one_is_on_the_status_page() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        page = (await client.get("/status")).text
        assert '<a href="/status" aria-current="page">' in page
        assert '<a href="/incidents" aria-current="page">' not in page

    play(story, MemoryStore())


def test_the_api_says_what_records_and_people_say() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        (row,) = (await client.get("/v1/incidents")).json()["items"]
        assert (row["incident"], row["run"], row["state"]) == ("fire-1", RUN, "under way")
        assert "sso" in row["still_down"]
        command = {"kind": "command", "value": "lee", "who": "ann"}
        first = await client.post(NOTES, json=command, headers={"Idempotency-Key": "k-1"})
        again = await client.post(NOTES, json=command, headers={"Idempotency-Key": "k-1"})
        assert (first.status_code, again.headers["idempotency-replayed"]) == (201, "true")
        seen = office.situation.version
        assert (await client.get("/v1/incidents/fire-1")).json()["incident"]["commander"] == "lee"
        await client.post(NOTES, json={"kind": "note", "text": "smoke in hall 2"})
        assert office.situation.version > seen, "whoever follows hears of it"
        told = (await client.get("/v1/incidents/fire-1/timeline?limit=1000")).json()
        words = [entry["words"] for entry in told["items"]]
        assert [w for w in words if "lee is in command" in w or "smoke in hall 2" in w] == words[-2:]
        assert any(BROKEN in one for one in words)
        assert len((await client.get(NOTES)).json()["items"]) == 2
        assert (await client.get(f"/v1/incidents/{RUN}")).json()["incident"]["incident"] == "fire-1"
        whole = (await client.get("/v1/incidents/fire-1/timeline?whole=true&limit=1")).json()
        assert whole["total"] > told["total"]

    play(story, MemoryStore())


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "note", "text": " \n"},
        {"kind": "state", "name": "Mail", "value": "fine"},
        {"kind": "gossip"},
        {"kind": "fact", "name": "clients_affected", "value": "many"},
        {"kind": "note", "text": "a\x00b"},
        {"kind": "note", "text": "safe\u202egnp.exe"},
        {"kind": "update", "name": "\x9b31m", "text": "x"},
        {"kind": "state", "name": "Nobody", "value": "degraded"},
    ],
)
def test_what_does_not_hold_together_is_not_written(body: dict[str, str]) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        assert (await client.post(NOTES, json=body)).status_code == 422
        assert await office.store.list("note/") == []

    play(story, MemoryStore())


def test_people_open_an_incident_before_anything_is_carried_out() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        body = {"incident": "smoke-1", "text": "it smells of smoke"}
        assert (await client.post("/v1/incidents", json=body)).status_code == 201
        assert (await client.post("/v1/incidents", json=body)).status_code == 409
        assert (await client.get("/v1/incidents")).json()["items"][0]["incident"] == "smoke-1"
        assert "it smells of smoke" in (await client.get("/incidents/smoke-1")).text
        lost = await client.post("/v1/incidents/smoke-2/notes", json={"kind": "note", "text": "x"})
        assert (lost.status_code, lost.json()["code"]) == (404, "incident-unknown")
        page = await client.get("/incidents/<b>", headers={"accept": "text/html,*/*;q=0.8"})
        assert (page.status_code, page.headers["content-type"][:9]) == (404, "text/html")
        assert 'role="alert">No such incident: &lt;b&gt;.' in page.text
        assert '<h1 id="h-problem">Not found</h1>' in page.text
        assert page.headers["cache-control"] == "no-store"
        document = await client.get("/v1/incidents/smoke-2", headers={"accept": "text/html"})
        assert document.json()["code"] == "incident-unknown"

    play(story)


def test_a_draft_is_edited_and_published_on_the_page(named: Path) -> None:
    async def story() -> None:
        office = await primed(office_of(MemoryStore(), named))
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(room_of(office)), base_url=BASE
        ) as client:
            await with_fire(client, office)
            page = (await client.get(f"{PATH}/write?kind=update")).text
            assert "Problems with Payment and Web shop" in page
            assert f'href="{PATH}/write?kind=update&amp;language=ko"' in page
            korean = (await client.get(f"{PATH}/write?kind=update&language=ko")).text
            assert "Payment, Web shop 서비스 장애 안내" in korean
            told = (await client.get("/v1/incidents/fire-1/draft?language=ko")).json()
            assert told["title"] == "Payment, Web shop 서비스 장애 안내"
            refused = await client.get("/v1/incidents/fire-1/draft?language=xx")
            assert refused.status_code == 422
            assert "'en' or 'ko'" in refused.text
            sent = fields(page, name="Trouble", text="Shop & pay are <down>.", who="ann")
            foreign = {"Origin": "http://evil.example"}
            assert (await client.post(f"{PATH}/write", data=sent, headers=foreign)).status_code == 403
            for missing in ({"text": " "}, {"text": "x" * 4_001}):
                refused = await client.post(f"{PATH}/write", data=sent | missing)
                assert refused.status_code == 422
                assert 'role="alert"' in refused.text
            kept = await client.post(f"{PATH}/write", data=sent | {"as": "draft"})
            assert kept.headers["location"].startswith(PATH)
            assert "A draft by a person" in (await client.get(PATH)).text
            page = (await client.get(f"{PATH}/write?kind=update")).text
            assert "Shop &amp; pay are &lt;down&gt;." in page, "a draft is taken up again"
            await client.post(f"{PATH}/write", data=fields(page, text="They are back.", who="ann"))
            shown = (await client.get(PATH)).text
            assert "They are back." in shown
            assert ' style="' not in shown
            seen = (await client.get("/status")).text
            assert "They are back." in seen
            assert "This page exists at this site only" in seen
            status = (await client.get("/v1/status")).json()
            assert {one["name"]: one["state"] for one in status["components"]} == {
                "Payment": "major outage",
                "Web shop": "major outage",
            }
            assert "fire-1" not in json.dumps(status), "names inside are told to nobody"
            assert "They are back." in (await client.get("/v1/status/feed")).text
            kinds = [row["kind"] for row in (await client.get(NOTES)).json()["items"]]
            assert kinds == ["draft", "update"]
            form = (await client.get(f"{PATH}/write?kind=fact")).text
            many = await client.post(
                f"{PATH}/write", data=fields(form, name="clients_affected", value="many")
            )
            assert many.status_code == 422
            assert "Clients affected must be a whole number" in many.text
            form = (await client.get(f"{PATH}/write?kind=state")).text
            assert form.count('<option value="">') == 2, "nothing is said of a component by mistake"
            untouched = await client.post(f"{PATH}/write", data=fields(form, name="Payment", value=""))
            assert (untouched.status_code, "is missing" in untouched.text) == (422, True)
            await client.post(f"{PATH}/write", data=fields(form, name="Payment", value="degraded"))
            assert "says that Payment is degraded" in (await client.get(PATH)).text
        await office.close()

    asyncio.run(story())


def test_one_form_publishes_phase_text_and_component_states_together(named: Path) -> None:
    async def story() -> None:
        office = await primed(office_of(MemoryStore(), named))
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(room_of(office)), base_url=BASE
        ) as client:
            await with_fire(client, office)
            page = (await client.get(f"{PATH}/write?kind=update")).text
            told = {"text": "They are back.", "phase": "monitoring", "due": "30", "who": "ann"}
            web = {"component-0": "Web shop", "was-0": "major outage", "state-0": "degraded"}
            tried = await client.post(f"{PATH}/write", data=fields(page, **told) | web | {"as": "preview"})
            assert "Not published" in tried.text
            assert "Next update by" in tried.text
            assert "major outage becomes <b>degraded</b>" in tried.text
            bare = await client.post(f"{PATH}/write", data=fields(page, **told) | web | {"text": " "})
            assert bare.status_code == 422
            before = (await client.get("/v1/status")).json()
            assert (before["state"], before["incidents"]) == ("operational", []), "nothing is public yet"
            preview = (await client.get("/status")).text
            assert "Not public yet: Payment, Web shop" in preview
            assert f'{PATH}/write?kind=update">Write the first update' in preview
            done = await client.post(f"{PATH}/write", data=fields(page, **told) | web)
            assert done.headers["location"].startswith(f"{PATH}?done=published")
            shown = (await client.get(PATH)).text
            assert re.search(r'<li class="now" aria-current="step">.*<b>Monitoring</b>', shown)
            status = (await client.get("/v1/status")).json()
            (update,) = status["incidents"][0]["updates"]
            assert update["phase"] == "monitoring"
            assert update["text"] == "They are back."
            assert update["next_by"].endswith(" UTC")
            preview = (await client.get("/status")).text
            assert "Not public yet" not in preview
            assert "Next update on fire-1 promised by" in preview
            assert {one["name"]: one["state"] for one in status["components"]}["Web shop"] == "degraded"
        await office.close()

    asyncio.run(story())


def test_an_update_in_two_languages_is_written_side_by_side(named: Path) -> None:
    async def story() -> None:
        office = await primed(office_of(MemoryStore(), named))
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(room_of(office)), base_url=BASE
        ) as client:
            await with_fire(client, office)
            assert "other_text" not in (await client.get(f"{PATH}/write?kind=update")).text
            export = {"ok_ms": 1, "since_ms": 0, "problem": "", "languages": ["en", "ko"]}
            await office.store.transact((), (Put(EXPORTED + "-", orjson.dumps(export)),))
            await office.incidents.look()
            office.refresh()
            page = (await client.get(f"{PATH}/write?kind=update")).text
            assert "Problems with Payment and Web shop" in page
            assert "Payment, Web shop 서비스 장애 안내" in page, "both drafts are side by side"
            told = {"name": "Back", "text": "They are back.", "phase": "monitoring", "who": "ann"}
            both = told | {"other_name": "복구", "other_text": "복구되었습니다."}
            tried = await client.post(f"{PATH}/write", data=fields(page, **both) | {"as": "preview"})
            assert "복구되었습니다." in tried.text.partition("Status update</h2>")[0]
            bare = await client.post(f"{PATH}/write", data=fields(page, **both) | {"other_text": ""})
            assert (bare.status_code, "other language has no text" in bare.text) == (422, True)
            for kind in ("draft", "update"):
                await client.post(f"{PATH}/write", data=fields(page, **both) | {"as": kind, "key": kind})
                again = (await client.get(f"{PATH}/write?kind=update")).text
                assert ("복구되었습니다." in again) is (kind == "draft"), "a draft is taken up again"
            assert "복구되었습니다." in (await client.get(PATH)).text
            ((_, _, title, text),) = await published(office.store)
            assert (title, text) == ("Back / 복구", "They are back.\n\n복구되었습니다.")
            made = await office.incidents.public(About("Shop", {"web": "Web shop", "pay": "Payment"}))
            files = status_files(made, "https://status.example", ("en", "ko"))
            assert json.loads(files["status.json"])["incidents"][0]["updates"][0]["other"] == [
                {"language": "ko", "title": "복구", "text": "복구되었습니다."}
            ]
            for name, here, there in (
                ("index.html", "They are back.", "복구되었습니다."),
                ("index.ko.html", "복구되었습니다.", "They are back."),
                ("feed.ko.xml", "복구되었습니다.", "They are back."),
            ):
                assert here in files[name]
                assert there not in files[name]
        await office.close()

    asyncio.run(story())


def test_resolving_lists_what_is_down_and_makes_nothing_operational(named: Path) -> None:
    async def story() -> None:
        office = await primed(office_of(MemoryStore(), named))
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(room_of(office)), base_url=BASE
        ) as client:
            await with_fire(client, office)
            down = (await client.get("/v1/incidents/fire-1")).json()["incident"]["still_down"]
            states = (await client.get("/v1/status")).json()["components"]
            page = (await client.get(f"{PATH}/write?kind=resolved")).text
            assert "Still down according to the records" in page
            assert "kind=update&amp;phase=monitoring" in page
            asked = (await client.get(f"{PATH}/write?kind=update&phase=monitoring")).text
            assert 'value="monitoring" checked' in asked
            assert "without a service" in page
            assert all(f"<b>{service}</b>" in page for service in down)
            for wrong in ({}, {"text": "enough"}, {"text": "enough", "value": "fire"}):
                refused = await client.post(f"{PATH}/write", data=fields(page, who="ann", **wrong))
                assert refused.status_code == 422, wrong
                assert "Still down according to the records" in refused.text, (
                    "the list stays beside what is wrong"
                )
                bare = await client.post(NOTES, json={"kind": "resolved", **wrong})
                assert bare.status_code == 422, wrong
            assert await office.store.list("note/") == []
            sent = fields(page, text="users were moved", value="fire-1", who="ann")
            assert (await client.post(f"{PATH}/write", data=sent)).status_code == 303
            row = (await client.get("/v1/incidents/fire-1")).json()["incident"]
            assert (row["state"], row["still_down"]) == ("over, services down", down)
            shown = (await client.get(PATH)).text
            assert 'class="answer warning"' in shown
            assert "still down" in shown
            assert [one["state"] for one in (await client.get("/v1/status")).json()["components"]] == [
                one["state"] for one in states
            ]
            report = (await client.get("/v1/incidents/fire-1/report")).json()
            assert report["basics"]["end"]["value"] is None
            assert "Resolve incident" not in shown
            again = fields(
                (await client.get(f"{PATH}/write?kind=reopened")).text, text="too early", who="lee"
            )
            assert (await client.post(f"{PATH}/write", data=again)).status_code == 303
            shown = (await client.get(PATH)).text
            assert "resolved by ann: users were moved" in shown, "the timeline keeps both"
            assert "reopened by lee: too early" in shown
            assert (await client.get("/v1/incidents/fire-1")).json()["incident"]["state"] == "under way"
        await office.close()

    asyncio.run(story())


def test_what_is_handed_in_and_printed_is_a_page_and_a_file() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        fact = {"kind": "fact", "name": "cause", "value": "a battery"}
        assert (await client.post(NOTES, json=fact)).status_code == 201
        assert "a battery" in (await client.get(f"{PATH}/report")).text
        plan = (await client.get("/v1/incidents/fire-1")).json()["plan"]
        step = (await client.get(f"/v1/runs/{RUN}/steps?limit=1")).json()["items"][0]["id"]
        book = (await client.get(f"/plans/{plan}/runbook")).text
        assert step in book
        assert 'href="/plans" aria-current="page"' in book
        assert f'href="/v1/plans/{plan}/runbook?format=pdf"' in book
        for form, start in (("json", "{"), ("html", "<!doctype html>"), ("markdown", "# "), ("pdf", "%PDF-")):
            for path in ("/v1/incidents/fire-1/report", f"/v1/plans/{plan}/runbook"):
                found = await client.get(f"{path}?format={form}")
                assert found.content.startswith(start.encode())
                assert found.headers["content-disposition"].startswith("attachment; filename=")
        assert (await client.get("/v1/plans/sha256:" + "0" * 64 + "/runbook")).status_code == 404

    play(story, MemoryStore())


@pytest.fixture(scope="module")
def burnt(served: tuple[str, str]) -> str:
    burn_at(served[1], int(time.time() * 1_000), 1_200_000)
    deadline = time.monotonic() + PATIENCE_MS / 1_000
    while b'"fire-1"' not in urllib.request.urlopen(f"{served[0]}/v1/incidents").read():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return served[0]


@pytest.mark.browser
def test_pages_fit_and_axe_finds_nothing(browser: Browser, burnt: str) -> None:
    kinds = ("state", "update", "resolved")
    for path in (PATH, "/status", f"{PATH}/report", *(f"{PATH}/write?kind={kind}" for kind in kinds)):
        page = opened(browser, burnt + path, 1440, "dark")
        assert Axe().run(page).response["violations"] == [], path
        lines = "[...document.querySelectorAll('.report table th[scope=row], .report table td')].filter("
        lines += "one => one.textContent.includes('UTC')).map(one => one.clientHeight)"
        page.emulate_media(media="print")
        whole = "[...document.querySelectorAll('.report table')].every(one => one.checkVisibility())"
        assert page.evaluate(whole), "paper has what a screen folds"
        page.emulate_media(media="screen")
        page.evaluate("document.querySelectorAll('.report details').forEach(one => { one.open = true })")
        heights = page.evaluate(lines) if path.endswith("report") else [0]
        assert heights
        assert max(heights) < 62, "a moment takes at most two lines"
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.context.close()


@pytest.mark.browser
def test_a_note_is_on_other_screens_without_a_reload_and_without_scripts_after_one(
    browser: Browser, burnt: str
) -> None:
    other = opened(browser, burnt + PATH)
    with other.expect_response(lambda answer: "/v1/stream" in answer.url, timeout=PATIENCE_MS):
        other.reload()
    plain = opened(browser, burnt + PATH, java_script_enabled=False)
    plain.get_by_role("link", name="Add a note").click()
    plain.get_by_label("Observation").fill("the fire is out")
    plain.get_by_label("Your name").fill("ann")
    plain.get_by_role("button", name="Save").click()
    plain.locator(".story", has_text="ann notes: the fire is out").wait_for(timeout=PATIENCE_MS)
    other.locator(".story", has_text="ann notes: the fire is out").wait_for(timeout=PATIENCE_MS)
    for page in (plain, other):
        assert "ann notes: the fire is out" in page.locator(".story").inner_text()
