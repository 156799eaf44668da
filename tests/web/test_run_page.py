"""Pages of runs: what stands there follows from the journal; what is asked is confirmed, and asked once."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace

import httpx2
import orjson
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from evac.app import runs
from evac.engine.lead.watch_journal import of_event
from evac.engine.plans.library import put_plan
from evac.engine.runs.binding import Bound, put_bound
from evac.engine.runs.reading import encode_all
from evac.engine.runs.requests import prefix_of
from evac.notices.rule import of_watching
from evac.office.facts import LossFacts
from evac.office.office import Office
from evac.office.reckoning import WhatIf
from evac.run.state import replay
from evac.run.waits import Paused, Wait
from evac.store.journal import Journal
from evac.store.port import MemoryStore, Put
from evac.views.decisions import decision_of
from evac.views.documents import RunShown, run_document
from evac.views.run_report import run_text
from evac.views.wait_words import clock, words_of
from evac.web.pages.projection import TOLERANCE_MS, behind, projected
from evac.web.pages.run_view import hour
from evac.web.pages.what_if_view import _cards
from tests.web.burning import (
    BROKEN,
    BY_HAND,
    LOST,
    RUN,
    burn,
    burn_at,
    events_of,
    followed,
    loss_at,
    made,
    spec_of,
)
from tests.web.rooms import play
from tests.web.test_now_page import opened

NOW_MS = 1_790_000_000_000
RAN_MS = 1_200_000
LOSS = LossFacts("south", "site", "loss", 1, 0, 0, 1, 0, 0, 10, 0, 0, 4, 4, 0, 0, False, "", "")
GATED = "promote:carts"


async def burning(office: Office, ran_ms: int = RAN_MS, approvals: int = 0) -> None:
    """A run in the store of the room, and a look that waits until it was replayed."""
    await burn(office.store, office.clock.now_ms(), ran_ms, approvals)
    assert (await followed(office)).events > 0


def fields(page: str, **more: str) -> dict[str, str]:
    """What a form of a page sends."""
    hidden = dict(re.findall(r'<input type="hidden" name="([a-z_]+)" value="([^"]*)">', page))
    return {**hidden, **more}


def test_a_run_is_behind_since_its_first_late_step_and_not_before() -> None:
    spec = spec_of(made().digest)
    late = replay(spec, events_of(spec, NOW_MS, RAN_MS, "", slow=2.0))
    said = projected(late.fork(), NOW_MS)
    assert said.late_ms > TOLERANCE_MS
    assert said.begun_ms < said.behind.since_ms < NOW_MS
    step = late.steps[late.index[said.behind.step]]
    assert said.behind.since_ms == late.started_ms + step.start_ms + step.duration_ms
    due = replay(spec, events_of(spec, NOW_MS, RAN_MS // 2, "", slow=0.5))
    assert behind(due, NOW_MS).since_ms == 0


def test_the_page_says_what_waits_first_and_where_the_run_is_heading() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burning(office)
        text = (await client.get(f"/runs/{RUN}")).text
        assert f"{BROKEN} failed" in text
        assert (
            text.index("Waiting for a person") < text.index('class="stats"') < text.index('<svg class="pic"')
        )
        assert "Projected finish" in text
        assert ' style="' not in text
        assert text.count("<rect") < 300
        assert f"/runs/{RUN}" in (await client.get("/runs")).text
        feed = (await client.get(f"/runs/{RUN}/events?before=4")).text
        numbers = [int(n) for n in re.findall(r'<span class="soft">(\d+) <span', feed)]
        assert numbers == [3, 2, 1]

    play(story, MemoryStore())


def test_what_cannot_be_taken_back_is_confirmed_by_name_and_says_why() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burning(office)
        path = f"/runs/{RUN}/ask"
        page = (await client.get(f"{path}?verb=cancel")).text
        for sent in ({"reason": "x"}, {"reason": "x", "typed": "south"}, {"reason": " ", "typed": LOST}):
            refused = await client.post(path, data=fields(page, **sent))
            assert refused.status_code == 422
            assert 'role="alert"' in refused.text
            assert not await office.store.list(prefix_of(RUN))
        sent = fields(page, reason="wrong site", typed=LOST, who="ann")
        foreign = await client.post(path, data=sent, headers={"Origin": "http://evil.example"})
        assert foreign.status_code == 403
        assert not await office.store.list(prefix_of(RUN))
        done = await client.post(path, data=sent)
        assert (done.status_code, done.headers["location"]) == (303, f"/runs/{RUN}?done=asked")
        assert "takes effect once a controller leads" in (await client.get(done.headers["location"])).text
        await client.post(path, data=sent)
        (entry,) = await office.store.list(prefix_of(RUN))
        assert b'"verb":"cancel"' in entry.value
        assert b'"who":"ann"' in entry.value

    play(story, MemoryStore())


def test_an_approval_covers_what_the_form_showed() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burning(office, 1_000, approvals=1)
        page = (await client.get(f"/runs/{RUN}/ask?verb=approve")).text
        assert "carts" in page
        await client.post(f"/runs/{RUN}/ask", data=fields(page, reason="seen"))
        (entry,) = await office.store.list(prefix_of(RUN))
        assert b'"sites":["north"]' in entry.value

    play(story, MemoryStore())


def test_approving_a_step_shows_one_figure_who_waits_and_what_each_answer_does() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        now_ms = office.clock.now_ms()
        await burn(office.store, now_ms, RAN_MS * 3, loss=loss_at(now_ms - RAN_MS * 3), bad="")
        await office.look()
        while not office.runs():
            await asyncio.sleep(0.01)
        office.refresh()
        document = (await client.get(f"/v1/runs/{RUN}/decision?step={GATED}")).json()
        (lost,) = document["most_lost"]
        assert lost["is_final"], "the old primary is fenced"
        figure = lost["words"]
        assert figure.startswith(lost["figure"])
        form = (await client.get(f"/runs/{RUN}/ask?verb=approve&step={GATED}")).text
        page, waits = (await client.get(f"/runs/{RUN}")).text, (await client.get("/waiting")).text
        report = (await client.get("/incidents/fire-1/report")).text
        rest = figure.removeprefix(lost["figure"])
        for shown in (form, page, waits, report):
            assert lost["figure"] in shown
            assert rest in shown
            assert set(re.findall(r"[\d.]+ s(?=: last seen| of writes)", shown)) == {lost["figure"]}
        head = (await client.get(f"/v1/runs/{RUN}")).json()
        assert head["most_lost"] == document["most_lost"]
        assert any(figure in words for words in head["waits_for"])
        assert "final, fenced at" in form
        assert [one["service"] for one in document["waiting"]][:2] == ["cart", "web"]
        assert "<strong>cart</strong> (2 million)" in form
        assert "Cart (2 million people) and 1 more wait for it." in page
        answers = {one["answer"]: one for one in document["choices"]}
        assert set(answers) == {"approve", "skip", "wait"}
        assert answers["skip"]["services"] == [one["service"] for one in document["waiting"]]
        assert "does not grow" in answers["wait"]["words"]
        assert all(one["words"] in form for one in document["choices"])

    play(story, MemoryStore())


def test_a_run_that_leaves_services_down_ends_with_exceptions_everywhere() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        spec = replace(spec_of(made().digest), steps=())
        now_ms, words = office.clock.now_ms(), "down: reports; shed: ads"
        await put_plan(office.store, made().data)
        lease = await office.store.acquire("leader", "south/1/a", 600_000)
        await put_bound(office.store, Bound(spec, {}), lease)
        events = events_of(spec, now_ms, 60_000, "")
        assert events[-1].data["phase"] == "succeeded_with_exceptions"
        await Journal.create(office.store, RUN, lease, records=encode_all(events))
        told = orjson.dumps({"run": RUN, "plan": spec.plan})
        await office.store.transact((), (Put("incident/fire-1", told),), lease)
        await office.look()
        office.refresh()
        page = (await client.get(f"/runs/{RUN}")).text
        assert f'class="answer warning" role="status">Succeeded with exceptions: {words}.' in page
        assert "<strong>reports</strong>" in page
        assert "2,000 people" in page
        head = (await client.get(f"/v1/runs/{RUN}")).json()
        assert head["left"] == [
            {"name": "reports", "state": "down", "people": 2_000},
            {"name": "ads", "state": "shed", "people": 0},
        ]
        (line,) = (await client.get("/v1/runs")).json()["items"]
        assert (line["state"], line["why"]) == ("succeeded_with_exceptions", words)
        assert words in (await client.get("/incidents/fire-1")).text
        document = await runs.view_of(office.store, RUN)
        text = run_text(run_document(RunShown(document, "", now_ms)), 120, False)
        assert f"succeeded with exceptions: {words}" in text
        notice = of_event(RUN, events[-1])
        assert notice is not None
        news = of_watching("run", *notice)
        assert news is not None
        assert (news.severity, words in news.words) == ("warning", True)

    play(story, MemoryStore())


def test_what_is_and_what_is_expected_are_apart_and_other_days_are_named() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burning(office, 60_000)
        page = (await client.get(f"/runs/{RUN}")).text
        table = page[page.index('id="h-services"') : page.index('id="h-steps"')]
        rows = dict(re.findall(r'<tr[^>]*><th scope="row">(\w[\w-]*)</th>(.*?)</tr>', table))
        assert '<span class="state error">down</span>' in rows["cart"]
        assert "expected within its objective" in rows["cart"] or "misses its objective" in rows["cart"]
        assert "in time" not in table

    play(story, MemoryStore())
    day_ms = 86_400_000
    assert re.fullmatch(clock(NOW_MS) + r":\d\d UTC", hour(NOW_MS, NOW_MS))
    assert hour(NOW_MS + day_ms, NOW_MS).startswith("2026-")
    paused = Wait(Paused("operator", "kim", "x", NOW_MS + day_ms, "resume"), since_ms=NOW_MS)
    assert f"at {clock(NOW_MS + day_ms, NOW_MS)} UTC" in words_of(paused)
    said = what_if_of_all_data_gone()
    assert said == "4 stores not restored"


def what_if_of_all_data_gone() -> str:
    """The figure for lost writes, where nothing of some stores is left."""
    loss = replace(LOSS, data_loss_ms=0, stores_lost=4, stores_gone=4)
    (card,) = (c for c in _cards(WhatIf(("south",), "", loss, ())) if c.name == "Maximum data loss")
    assert card.state == "error"
    return card.value


def test_skip_cancel_and_undo_are_no_primary_buttons_and_list_what_they_do() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burning(office)
        page = (await client.get(f"/runs/{RUN}")).text
        for verb in ("skip", "cancel", "undo"):
            links = re.findall(rf'<a ([^>]*)href="/runs/{RUN}/ask\?verb={verb}[^>]*>', page)
            assert links
            assert all("primary" not in given for given in links), verb
        skip = (await client.get(f"/runs/{RUN}/ask?verb=skip&step={BROKEN}")).text
        assert 'class="btn big danger"' in skip
        assert "primary" not in skip
        assert "Not restored by this run</b>: sso" in skip
        cancel = (await client.get(f"/runs/{RUN}/ask?verb=cancel")).text
        assert re.search(r"Left out: \d+ steps, ", cancel)
        undo = (await client.get(f"/runs/{RUN}/ask?verb=undo")).text
        assert "Completed steps are undone where evac is allowed to." in undo

    play(story, MemoryStore())


def test_a_rollback_names_every_service_that_loses_what_the_run_did() -> None:
    spec, seen = spec_of(made().digest), set[str]()
    spec = replace(spec, steps=tuple(replace(step, manual=False) for step in spec.steps))
    events = events_of(spec, NOW_MS, 72 * RAN_MS, "")
    for cut in range(1, len(events) + 1):
        view = replay(spec, events[:cut])
        choice = decision_of(RunShown(view, "", 0), "", None).choice("undo")
        if choice is None:
            continue
        undone = {
            step.target
            for i, step in enumerate(view.steps)
            if view.phases[i] == "succeeded" and step.safe_undo and step.kind in ("start", "shift")
        }
        assert undone <= {*choice.again, *choice.services}
        assert not {*choice.again} & {*choice.services}
        seen |= {*choice.again}
    assert seen, "a service was back"


@pytest.mark.parametrize("query", ["verb=burn", "verb=retry", "verb=skip&step=nothing", ""])
def test_what_cannot_be_asked_is_a_problem(query: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burning(office)
        assert (await client.get(f"/runs/{RUN}/ask?{query}")).status_code == 422

    play(story, MemoryStore())


@pytest.mark.browser
def test_pages_fit_and_axe_finds_nothing(browser: Browser, served: tuple[str, str]) -> None:
    digest = burn_at(served[1], int(time.time() * 1_000), RAN_MS)
    url = f"{served[0]}/runs/{RUN}"
    page = opened(browser, f"{served[0]}/runs")
    page.locator(f"a[href='/runs/{RUN}']").wait_for(timeout=60_000)
    asked = [
        f"{url}/ask?verb={verb}"
        for verb in ("cancel", "undo", f"skip&step={BROKEN}", f"attest&step={BY_HAND}")
    ]
    for path in (url, *asked, f"{served[0]}/plans", f"{served[0]}/plans/{digest}"):
        for width, scheme in ((390, "light"), (1440, "dark"), (1920, "light")):
            page = opened(browser, path, width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert width != 1440 or Axe().run(page).response["violations"] == [], path
            if path == url and width == 390:
                page.locator("details.menu > summary").first.click()
                box = page.locator("details.menu[open] > div").first.bounding_box()
                assert box is not None
                assert 0 <= box["x"] <= width - box["width"], "the whole menu shows"
