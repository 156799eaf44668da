"""What Now says of losses, places and sites follows from plans that are ready and from what runs did."""

from __future__ import annotations

import re
from dataclasses import replace

import httpx2
import orjson
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from evac import __version__
from evac.app.planner.plans import Made, make_plan
from evac.app.published import KEY, encode
from evac.derive.situation import of as situation_of
from evac.engine.plans.library import key_of, put_plan
from evac.engine.stores.guards import SITES_KEY
from evac.estate import load
from evac.model.observation import Observation, TrafficSeen
from evac.model.run_policy import SUCCEEDED
from evac.model.scenario import lose
from evac.model.situation import Away, Cause, Effects, LostNow, Rivals, Silent
from evac.office.office import Office
from evac.office.reckoning import verdict_of
from evac.office.values import Standing
from evac.store.port import MemoryStore, Put
from evac.web.pages.run_view import hour
from tests.web.burning import LOST, RUN, burn, followed, made
from tests.web.rooms import ESTATE, play, unwrapped
from tests.web.test_now_page import opened
from tests.web.test_run_page import fields


async def ready(office: Office, plan: Made | None = None, lost: str = LOST) -> None:
    """The plan for the loss of a site is ready, for the estate as it is now."""
    assert office.facts is not None
    digest = await put_plan(office.store, (plan or made()).data)
    told = {
        "plan": digest,
        "estate": office.facts.digest,
        "at_ms": office.clock.now_ms(),
        "took_ms": 9,
        "problem": "",
        "judged": __version__,
    }
    await office.store.transact((), (Put(key_of((lost,)), orjson.dumps(told)),))
    await office.look()
    office.refresh()


async def observed(office: Office, observation: Observation) -> None:
    await office.store.transact((), (Put(KEY, encode(observation, "", {})),))
    await office.look()
    await office.reckon()
    office.refresh()


def test_the_verdict_of_a_plan_that_is_ready_is_what_every_page_says() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        estimated = (await client.get("/v1/audit/losses")).json()["items"]
        assert all(row["plan"] == "" for row in estimated)
        await ready(office)
        words = verdict_of(made().digest, made().plan).words
        assert "not coming back: reports (2,000 people)" in words
        assert "shed: ads" in words
        now, losses = (await client.get("/now")).text, (await client.get("/now/losses?kind=site")).text
        asked = (await client.get(f"/what-if?lose={LOST}")).text
        for page in (now, losses, asked):
            assert words in page
        (row,) = (r for r in (await client.get("/v1/audit/losses")).json()["items"] if r["domain"] == LOST)
        assert (row["verdict"], row["what"], row["plan"]) == ("loss", words, made().digest)
        (one,) = (r for r in (await client.get("/v1/domains")).json()["items"] if r["id"] == LOST)
        assert one["verdict"] == "loss"
        assert "every site can be lost" not in now
        assert f'href="/plans/{made().digest}"' in asked

    play(story, MemoryStore())


@pytest.mark.parametrize("sees", ["witnesses", "a run"])
def test_verdicts_from_before_a_loss_promise_nothing(sees: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may count on the site that has burnt since; a real audit takes half a minute to say it anew."""

    burnt = "south"

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        async def verdicts() -> dict[str, str]:
            rows = (await client.get("/v1/audit/losses")).json()["items"]
            return {row["domain"]: row["verdict"] for row in rows}

        async def read(path: str) -> str:
            return " ".join(re.sub(r"<[^>]+>", "", (await client.get(path)).text).split())

        before = await verdicts()
        assert before["hill"] == "ok", "otherwise there is nothing to promise"
        if sees == "witnesses":
            monkeypatch.setattr(office._ballots, "lost", lambda marks: (burnt,))
        else:
            marked = Effects((LostNow(burnt, "lost", 1),))
            await office.store.transact((), (Put(KEY, encode(Observation(1, effects=marked), "", {})),))
        await office.look()
        after = await verdicts()
        assert after[burnt] == before[burnt], "its own plan is the one to carry out"
        assert {after[one] for one in before if one != burnt} <= {"unknown", "loss"}
        assert {one for one in before if before[one] == "loss"} <= {
            one for one in after if after[one] == "loss"
        }
        (one,) = (r for r in (await client.get("/v1/domains")).json()["items"] if r["id"] == "hill")
        assert one["verdict"] == after["hill"]
        words = f"udged before the loss of {burnt}, so what comes back is unknown"
        assert words in await read("/now/losses?kind=site")
        asked = await read("/what-if?lose=hill")
        assert (f"is unknown: judged before the loss of {burnt}." in asked) is (sees == "witnesses")
        votes = "loses the majority of its votes with hill"
        assert (votes in asked) is (sees == "a run"), "a question is answered as things are marked now"
        assert "is unknown: judged" not in await read(f"/what-if?lose=hill&lose={burnt}")
        if sees == "a run":
            await office.reckon()
            assert words not in await read("/now/losses?kind=site"), "judged anew"

    play(story, MemoryStore())


def test_a_plan_of_another_estate_says_nothing() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await ready(office)
        told = orjson.loads((await office.store.list("drawer/"))[0].value)
        value = orjson.dumps({**told, "estate": "sha256:other"})
        await office.store.transact((), (Put(key_of((LOST,)), value),))
        await office.look()
        rows = (await client.get("/v1/audit/losses")).json()["items"]
        assert all(row["plan"] == "" for row in rows)

    play(story, MemoryStore())


def test_a_second_loss_is_judged_by_what_it_makes_worse() -> None:
    """A service that is down already is not down because of a second loss."""

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        observation = Observation(1, effects=Effects((LostNow(LOST, "lost"),)))
        await observed(office, observation)
        now = situation_of(load(ESTATE), observation).estate
        first, second = (make_plan(now, lose(name), budget_ms=0) for name in (LOST, "south"))
        for name, one in ((LOST, first), ("south", second)):
            await ready(office, one, name)
        words = verdict_of(second.digest, second.plan, first.plan).words
        assert "already down" in words
        assert words != verdict_of(second.digest, second.plan).words
        row = '<th scope="row">south</th>'
        page = (await client.get("/now")).text
        assert words.lower() in page[page.index(row) :].lower()
        assert words in (await client.get("/what-if?lose=south")).text

    play(story, MemoryStore())


def test_what_is_lost_counts_for_nothing_and_is_cleared_by_name() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        marks = orjson.dumps({LOST: "lost"})
        await office.store.transact((), (Put(SITES_KEY, marks),))
        lost = LostNow(LOST, "lost", office.clock.now_ms() - 3_600_000, "fire-1-north")
        await observed(office, Observation(1, effects=Effects((lost,))))
        page = (await client.get("/now")).text
        assert f"{LOST} is lost since" in page
        assert "run fire-1-north" in page
        table = page[page.index('id="h-losses"') : page.index('id="h-matrix"')]
        assert f'<th scope="row">{LOST}</th>' not in table, "what is lost cannot be lost again"
        room = page[page.index('id="h-room"') : page.index('id="h-notices"')]
        assert LOST not in room
        assert all(one["id"] != LOST for one in (await client.get("/v1/domains")).json()["items"])
        form = (await client.get(f"/sites/clear?domain={LOST}")).text
        for wrong in ({"reason": "drill"}, {"reason": "drill", "typed": "south"}, {"typed": LOST}):
            assert (await client.post("/sites/clear", data=fields(form, **wrong))).status_code == 422
        assert (await office.store.get(SITES_KEY)).value == marks  # type: ignore[union-attr]
        sent = fields(form, reason="the drill is over", typed=LOST, who="ann")
        assert (await client.post("/sites/clear", data=sent)).headers["location"] == "/now?done=cleared"
        assert b'"lost"' not in (await office.store.get(SITES_KEY)).value  # type: ignore[union-attr]

    play(story, MemoryStore())


def test_what_is_lost_is_said_before_anything_is_reckoned_of_it() -> None:
    """On a busy machine an audit takes minutes, and after a fire the mark is what people look for."""

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        hall = LostNow(f"{LOST}/h1", "lost", office.clock.now_ms() - 60_000, "fire-1")
        seen = Observation(1, effects=Effects((hall,)))
        await office.store.transact((), (Put(KEY, encode(seen, "", {})),))
        await office.look()
        office.refresh()
        assert office.situation.lost == (hall,)
        assert f"{LOST}/h1 is lost since" in (await client.get("/now")).text

    play(story, MemoryStore())


def test_a_loss_that_a_run_has_answered_is_not_offered_to_be_run_again() -> None:
    """The plan for the loss is still ready when the run has ended; the one next action is another."""

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        now_ms = office.clock.now_ms()
        await burn(office.store, now_ms, 86_400_000, bad="", ended=True)
        assert (await followed(office)).phase in SUCCEEDED
        mark = LostNow(LOST, "lost", now_ms - 86_400_000, RUN)
        watched = tuple(
            replace(site, state="lost" if site.id == LOST else "healthy", since_ms=now_ms - 5_000)
            for site in office.situation.sites
        )
        seen = replace(office.situation, sites=watched)
        (run,) = seen.ended_runs
        forgotten = replace(seen, lost=(replace(mark, run="of-last-year"),))
        resolve, run_it = "Review and resolve", f"Run the plan for the loss of {LOST}?"
        run_second = "Run the plan for the loss of south?"
        both = tuple(replace(site, state="lost") for site in watched if site.id in (LOST, "south"))
        second = replace(next(one for one in seen.drawer if one.plan), lost=("south",))
        stories = (
            (seen, {run_it}),
            (replace(seen, lost=(mark,)), {resolve}),
            (replace(seen, lost=(mark,), ended_runs=(replace(run, state="cancelled"),)), {run_it}),
            (forgotten, set()),
            (replace(seen, sites=both, lost=(mark,), drawer=(*seen.drawer, second)), {run_second}),
        )
        for n, (situation, asked) in enumerate(stories, 1):
            office.situation = replace(situation, version=seen.version + n)
            page = (await client.get("/now")).text
            assert {words for words in (resolve, run_it, run_second) if words in page} == asked
            since = hour(mark.since_ms if situation.lost else now_ms - 5_000, now_ms)
            assert re.search(rf">Since <b>(<time[^>]*>)?{since.partition(' ')[0]}", page)

    play(story, MemoryStore())


@pytest.mark.parametrize("lost", [True, False])
def test_who_is_without_what_is_said_before_the_run_is_approved(lost: bool) -> None:
    """Only where the site is lost: a plan for one that works has taken nothing down."""

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burn(office.store, office.clock.now_ms(), 1_000, approvals=1)
        assert (await followed(office)).started_ms <= 0
        state: Standing = "lost" if lost else "healthy"
        sites = tuple(
            replace(site, state=state if site.id == LOST else "healthy") for site in office.situation.sites
        )
        office.situation = replace(office.situation, sites=sites)
        page = (await client.get("/now")).text
        title = re.findall(r"<h1>(.*)</h1>", page)[0]
        assert (re.search(r"\d+ of \d+ services (is|are) down", title) is not None) == lost, title
        assert ("if approved now" in page) == lost
        assert ('id="impact"' in page) == lost
        assert "Services restored" not in (await client.get(f"/runs/{RUN}")).text

    play(story, MemoryStore())


def test_the_form_that_makes_a_run_says_what_is_given_up_and_that_the_site_works() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await ready(office)
        page = (await client.get(f"/plans/{made().digest}/carry-out")).text
        assert verdict_of(made().digest, made().plan).words in page
        assert f"{LOST} is not watched according to the witnesses" in page
        sites = tuple(replace(s, state="healthy") if s.id == LOST else s for s in office.situation.sites)
        office.situation = replace(office.situation, sites=sites)
        page = (await client.get(f"/plans/{made().digest}/carry-out")).text
        assert f"{LOST.capitalize()} answers: this plan treats a working site as lost" in page
        sites = tuple(replace(s, state="lost") if s.id == LOST else s for s in sites)
        office.situation = replace(office.situation, sites=sites)
        page = (await client.get(f"/plans/{made().digest}/carry-out")).text
        assert f"<b>{LOST} is lost</b>" in page, "like every page, it says what is lost"

    play(story, MemoryStore())


def test_two_primaries_are_the_first_thing_on_the_page_and_it_says_what_to_do() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        rivals = (Rivals("carts", ("north", "south"), 1),)
        await observed(office, Observation(1, rivals=rivals, effects=Effects()))
        page = (await client.get("/now")).text
        verdict = page[page.index('class="verdict bad"') :]
        assert "carts has 2 writable primaries: north, south" in verdict[:400]
        assert "Stop writes to the old one now" in verdict[:400]
        await observed(office, Observation(2, rivals=rivals, effects=Effects((LostNow("south", "lost"),))))
        page = (await client.get("/now")).text
        assert "Stop writes to the one in south now" in page
        assert "evac plan ESTATE --restore south" in page

    play(story, MemoryStore())


def test_a_primary_that_does_not_answer_is_the_first_thing_on_the_page_while_its_site_lives() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        silent = (Silent("carts", "north", "north/hall-1", 1, 2, 3_000_000, True),)
        await observed(office, Observation(1, silent=silent, effects=Effects()))
        page = (await client.get("/now")).text
        verdict = page[page.index('class="verdict bad"') :][:600]
        assert "The primary of carts in north does not answer, although north does" in verdict
        assert "2 services cannot serve, 3 million users" in verdict
        assert "evac plan ESTATE --lose north/hall-1" in verdict
        await observed(office, Observation(2, effects=Effects()))
        assert "does not answer, although" not in (await client.get("/now")).text

    play(story, MemoryStore())


def test_what_runs_away_from_home_is_listed_with_its_cause() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await office.reckon()
        assert office.facts is not None
        cause = Cause("run", "fire-1", "start:cart", office.clock.now_ms() - 60_000)
        away = Away("cart", (("north", 8),), (("south", 12),), (), cause)
        office.facts = replace(office.facts, services_away=(away,))
        page = (await client.get("/now")).text
        assert "cart runs in south (12) since" in page
        assert "run fire-1; home: north (8)" in page
        assert "all data is at its home site" not in page
        assert "Plan the way home" not in page
        way = "evac plan ESTATE --observe --failback north"
        office.facts = replace(office.facts, way_home=way, services_away=(away,), plans=("another",))
        assert f"Plan the way home: <code>{way}</code>" in unwrapped((await client.get("/now")).text)

    play(story, MemoryStore())


def test_servers_that_may_be_full_make_what_is_in_use_a_bound_and_hide_nothing_else() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await office.reckon()
        assert office.facts is not None
        for unclear, bound in (((0,) * 4, False), ((300_000, None, 0, 0), True)):
            hill, north, *others = office.facts.sites
            north = replace(north, unclear_servers=1 if bound else 0, unclear=unclear)
            office.facts = replace(office.facts, sites=(hill, north, *others), plans=(str(bound),))
            page = unwrapped((await client.get("/now")).text)
            words = f"% of cpu used at {north.id}"
            (used,) = re.findall(rf'aria-label="(.*) {words}"', page)
            cpu = north.headroom[0]
            most = 100 - 100 * cpu.free // (cpu.total + 300_000)
            assert used == (f"up to {most}" if bound else "74")
            assert most > 74
            assert (f"% of memory used at {north.id}" in page) is not bound
            assert (f"Unknown how full: 1 of {north.servers:,} servers" in page) is bound
            assert f"% of memory used at {others[0].id}" in page

    play(story, MemoryStore())


def test_where_users_are_sent_is_said_with_its_source_although_nothing_is_away() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        sent = TrafficSeen("cart", ("south",), "haproxy")
        await observed(office, Observation(1, effects=Effects(), traffic=(sent,)))
        page = (await client.get("/now")).text
        assert "users of cart are sent only to south, as haproxy reports" in page
        assert "it also runs in north" in page
        assert "Away from home" not in page
        await observed(office, Observation(2, effects=Effects()))
        assert "users of cart are sent" not in (await client.get("/now")).text

    play(story, MemoryStore())


@pytest.mark.browser
def test_the_form_to_clear_a_site_fits_and_axe_finds_nothing(
    browser: Browser, served: tuple[str, str]
) -> None:
    page = opened(browser, f"{served[0]}/sites/clear?domain=north", 1440, "dark")
    assert Axe().run(page).response["violations"] == []
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()
