"""Pages of plans: the drawer with what is wrong first, and one plan with its objectives and proof."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import httpx2
import orjson
import pytest

from evac import __version__
from evac.engine.plans.library import put_plan
from evac.model.reason import Reason
from evac.office.office import Office
from evac.office.status_summary import NOT_JUDGED, plan_lines
from evac.office.values import Situation
from evac.store.port import MemoryStore, Put
from evac.views.words import percent
from evac.web.pages.plan_view import GROUPS, STORES, _cards, _folded, _services, plan_context
from tests.web.burning import LOST, RUN, burn, followed, made
from tests.web.rooms import play, unwrapped


def test_the_drawer_shows_what_has_no_plan_first() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burn(office.store, office.clock.now_ms())
        await office.look()
        office.refresh()
        text = (await client.get("/plans")).text
        assert "No site is left" in text
        assert text.index("north and south") < text.index(f"/plans/{made().digest}")
        assert "north and south" not in text.partition("<details><summary><span>")[2], "no plan: never folded"

    play(story, MemoryStore())


def test_a_plan_shows_every_service_against_its_rto_and_its_proof() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        digest = await burn(office.store, office.clock.now_ms())
        await office.look()
        office.refresh()
        text = (await client.get(f"/plans/{digest}")).text
        for outcome in made().plan.outcomes:
            assert f'<th scope="row">{outcome.service}</th>' in text
        table = text.partition('id="h-services"')[2].partition("</section>")[0]
        shown, _, folded = table.partition("<details>")
        for outcome in made().plan.outcomes:
            calm = outcome.state in ("restored", "running", "degraded") and outcome.recovery_ms is not None
            calm = calm and (outcome.meets_rto is True or outcome.rto_ms is None)
            assert f'<th scope="row">{outcome.service}</th>' in (folded if calm else shown), outcome.service
        assert percent(made().plan.gap_permille) in text
        assert digest in text
        assert ' style="' not in text
        assert re.search(rf"{LOST} CPU: \d+ % before, lost after", text)
        assert re.search(r"south CPU: \d+ % before, \d+ % after", text)
        assert (await followed(office)).events > 0
        text = (await client.get(f"/plans/{digest}?steps=1")).text
        assert f"{RUN}</a> executes it" in text
        assert "carry-out" not in text
        last = (await client.get(f"/plans/{digest}?steps=1000000&services=1000000")).text
        final = max(made().plan.steps, key=lambda step: (step.start_ms, step.id))
        assert f'<th scope="row" class="id">{final.id}</th>' in last

    play(story, MemoryStore())


def test_a_service_whose_time_or_objective_is_unknown_is_not_folded() -> None:
    plan = made().plan
    through = (replace(o, congested=False) for o in plan.outcomes if o.state == "restored")
    one = next(o for o in through if o.meets_rto)
    rest = [o for o in plan.outcomes if o.service != one.service]
    for rto_ms in (one.rto_ms, None):
        unclear = replace(one, recovery_ms=None, rto_ms=rto_ms)
        shown = _services(replace(plan, outcomes=(*rest, unclear)), 0)
        assert one.service in [row["service"] for row in shown["rows"]]
        assert one.service not in [row["service"] for _, rows in shown["folded"] for row in rows]


def test_plans_that_are_not_ready_are_folded_apart_and_say_so() -> None:
    states = [("ok", "ready")] * 2 + [("unknown", "not compared yet")] * 37 + [("warning", "out of date")]
    hall = SimpleNamespace(kind="hall")
    rows = [{"plan": hall, "state": state, "words": words} for state, words in states]
    rows.append({"plan": hall, "state": "error", "words": "none"})
    told = [(words, len(mine)) for words, mine in _folded(rows, "")]
    assert told == [("37 halls not compared yet", 37), ("1 hall out of date", 1), ("2 halls, all ready", 2)]


def test_all_databases_without_data_loss_are_counted() -> None:
    plan = made().plan
    one = next(s for s in plan.stores if s.primary_ms is not None)
    stores = tuple(replace(one, store=f"s{n:03}", loss_ms=0) for n in range(STORES + 5))
    now = SimpleNamespace(drawer=(), open_runs=(), ended_runs=(), sites=(), estate="")
    found = plan_context(replace(plan, stores=stores), "d", cast(Situation, now), 0, 0)
    assert found["safe_words"] == f"{STORES + 5} databases without data loss; the first {STORES} are listed"
    assert len(found["safe"]) == STORES


@pytest.mark.parametrize("past", [-1, 0, 1, 1_000])
def test_databases_that_lose_data_and_are_not_listed_are_counted(past: int) -> None:
    plan = made().plan
    one = next(s for s in plan.stores if s.primary_ms is not None)
    stores = tuple(replace(one, store=f"s{n:04}", loss_ms=1_000 + n) for n in range(STORES + past))
    now = SimpleNamespace(drawer=(), open_runs=(), ended_runs=(), sites=(), estate="")
    found = plan_context(replace(plan, stores=stores), "d", cast(Situation, now), 0, 0)
    listed = [row[0] for row in found["stores"]]
    assert listed == [s.store for s in reversed(stores)][:STORES], "the largest losses"
    assert found["stores_rest"] == {1: "1", 1_000: "1,000"}.get(past, "")


@pytest.mark.parametrize("reasons", [GROUPS, GROUPS + 3])
def test_services_given_up_for_reasons_that_are_not_listed_are_counted(reasons: int) -> None:
    plan = made().plan
    outcomes = tuple(
        replace(
            plan.outcomes[0],
            service=f"s{n:02}",
            state="unplaced",
            why=Reason("text", text=f"reason {n // 2}"),
        )
        for n in range(2 * reasons)
    )
    now = SimpleNamespace(drawer=(), open_runs=(), ended_runs=(), sites=(), estate="")
    found = plan_context(replace(plan, outcomes=outcomes), "d", cast(Situation, now), 0, 0)
    assert len(found["given_up"]) == GROUPS
    assert found["given_up_rest"] == ("" if reasons == GROUPS else "6 more services")


def test_data_that_does_not_come_back_is_never_shown_as_no_loss() -> None:
    plan = made().plan
    (whole,) = (card for card in _cards(plan, "d") if card.name == "Maximum data loss")
    stores = tuple(replace(one, primary_ms=None, loss_ms=0) for one in plan.stores[:2])
    (card,) = (c for c in _cards(replace(plan, stores=stores), "d") if c.name == "Maximum data loss")
    assert (card.value, card.state) == ("2 stores not restored", "error")
    assert whole.state == ""


def test_a_plan_that_lies_ready_says_how_it_is_carried_out() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        digest = await put_plan(office.store, made().data)
        typed = f"<code>evac apply {digest[:19]} ESTATE --execute --confirm {LOST} --reason WHY<"
        assert typed not in unwrapped((await client.get(f"/plans/{digest}")).text), (
            "it does not lie in the drawer"
        )
        assert office.facts is not None
        told = {"plan": digest, "estate": office.facts.digest, "at_ms": 2_000, "took_ms": 1, "problem": ""}
        for judged, offered in ((__version__, True), ("0.0.1", False)):
            row = orjson.dumps(told | {"judged": judged})
            await office.store.transact((), (Put(f"drawer/{LOST}", row),))
            await office.look()
            office.refresh()
            assert (typed in unwrapped((await client.get(f"/plans/{digest}")).text)) is offered

    play(story, MemoryStore())


def test_a_plan_that_the_checker_of_this_version_has_not_judged_is_shown_as_none_that_is_ready() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert office.facts is not None
        told = {
            "plan": "sha256:" + "0" * 64,
            "estate": office.facts.digest,
            "at_ms": 2_000,
            "took_ms": 1,
            "problem": "",
            "judged": "0.0.1",
        }
        waits = "1 is not assessed yet. The leading controller is checking them again."
        for words, ready in (("Not assessed yet", waits), ("Ready", "The plan is ready")):
            await office.store.transact((), (Put("drawer/south", orjson.dumps(told)),))
            await office.look()
            office.refresh()
            text = (await client.get("/plans")).text
            assert ready in text
            assert f">{words}<" in text
            told["judged"] = __version__
        (row,) = await plan_lines(office.store)
        assert row.problem == ""
        await office.store.transact((), (Put("drawer/south", orjson.dumps(told | {"judged": ""})),))
        (row,) = await plan_lines(office.store)
        assert row.problem == NOT_JUDGED

    play(story, MemoryStore())


def test_the_page_of_a_plan_says_that_it_is_not_judged_and_not_that_it_is_stale() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        digest = await burn(office.store, 3_000)
        for judged, words in (("0.0.1", "has not checked this plan yet"), (__version__, "")):
            entry = await office.store.get("drawer/north")
            assert entry is not None
            told = {**orjson.loads(entry.value), "judged": judged}
            await office.store.transact((), (Put("drawer/north", orjson.dumps(told)),))
            await office.look()
            office.refresh()
            text = (await client.get(f"/plans/{digest}")).text
            assert ("has not checked this plan yet" in text) == bool(words)
            assert "estate has changed" not in text

    play(story, MemoryStore())


def test_hundreds_of_plans_are_listed_by_kind_and_page_by_page() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert office.facts is not None
        rows = [("feed", f"south/feed-{n:03}", n) for n in range(240)] + [("site", "south", 9)]
        for kind, lost, people in rows:
            told = {
                "plan": "sha256:" + "0" * 64,
                "estate": office.facts.digest,
                "at_ms": 2_000,
                "took_ms": 1,
                "problem": "",
                "basis": "x",
                "kind": kind,
                "people": people,
                "searched": kind == "site",
                "made_ms": 1_000,
                "judged": __version__,
            }
            await office.store.transact((), (Put(f"drawer/{lost}", orjson.dumps(told)),))
        await office.look()
        office.refresh()
        text = (await client.get("/plans")).text
        assert "All 241 plans are ready" in text
        assert "240 are being improved." in text
        assert text.count('<th scope="row">') == 100
        assert text.index(">south<") < text.index(
            "<details><summary><span>99 power feeds on this page, all ready"
        )
        assert text.index("all ready") < text.index("feed-239") < text.index("feed-200")
        assert ">240 power feeds<" in text
        last = (await client.get("/plans?kind=feed&begin=200")).text
        assert "<details><summary><span>" not in last.partition('id="plans"')[2]
        assert last.count('<th scope="row">') == 40
        assert "1 site" not in (await client.get("/plans?kind=site")).text.partition("<tbody>")[2]
        assert (await client.get("/plans?kind=cellar")).status_code == 422
        told = (await client.get("/v1/plans?limit=1")).json()["items"][0]
        assert told["kind"] in ("site", "feed")

    play(story, MemoryStore())


def test_a_plan_that_is_not_kept_is_a_problem() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert (await client.get("/plans/sha256:" + "0" * 64)).status_code == 404
        nonsense = await client.get("/plans/nonsense", headers={"Accept": "text/html"})
        assert nonsense.status_code == 422
        assert "Page not found" in nonsense.text
        assert "pattern" not in nonsense.text
        lost = await client.get("/plans?begin=-5", headers={"Accept": "text/html"})
        assert lost.status_code == 422
        assert "The URL has an invalid value for begin" in lost.text

    play(story)
