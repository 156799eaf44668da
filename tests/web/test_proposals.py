"""A plan that is handed over to be looked at leaves the store again; a proposal may be left waiting."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx2
import orjson

from evac.app.applying import Rehearser
from evac.engine.plans.library import digest_of, get_plan
from evac.engine.runs.proposals import answered, refused
from evac.estate.codecs import plan as plan_codec
from evac.model.errors import StalePlan
from evac.office.office import Office
from tests.web.burning import LOST, made
from tests.web.rooms import ESTATE, play

PLAN = "/v1/plans/"
JSON = {"content-type": "application/json"}
KEY = {"Idempotency-Key": "k-1"}


async def left_waiting(client: httpx2.AsyncClient, office: Office) -> tuple[dict[str, Any], dict[str, Any]]:
    """A proposal that nobody has answered: what was asked, and what was told."""
    office.rehearser = Rehearser(ESTATE)
    data = made().data
    digest = digest_of(data)
    await client.put(PLAN + digest, content=data, headers=JSON)
    body = {"plan": digest, "incident": "fire-1", "reason": "fire", "typed": [LOST]}
    return body, (await client.post("/v1/runs?wait_s=0", json=body, headers=KEY)).json()


def test_a_plan_that_is_only_looked_at_lies_there_for_a_day() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        data = made().data
        digest = digest_of(data)
        for _ in range(2):
            given = await client.put(PLAN + digest, content=data, headers=JSON)
            assert (given.status_code, given.json()) == (201, {"plan": digest})
        assert await get_plan(office.store, digest) == data
        assert await office.store.list("plan-kept/") == [], "nobody uses it yet"
        (mark,) = await office.store.list("plan-left/")
        assert mark.key.endswith(digest)
        assert abs(orjson.loads(mark.value)["at_ms"] - office.clock.now_ms()) < 3_600_000

    play(story)


def test_a_proposal_that_is_not_waited_for_waits_for_a_leader() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        body, told = await left_waiting(client, office)
        assert (told["state"], told["run"]) == ("waiting", "")
        (entry,) = await office.store.list("proposal/")
        assert entry.key.endswith(told["proposal"])
        again = (await client.post("/v1/runs?wait_s=1", json=body, headers=KEY)).json()
        assert (again["state"], again["proposal"]) == ("untaken", told["proposal"])
        assert await office.store.list("proposal/") == []

    play(story)


def test_a_refusal_says_which_kind_of_error_it_is_so_that_whoever_asked_ends_as_beside_the_leader() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        body, told = await left_waiting(client, office)
        (entry,) = await office.store.list("proposal/")
        answer = refused(StalePlan("plan-stale", "of another estate", "evac plan"))
        permit = answered(entry, answer)
        await office.store.transact(permit.compares, permit.changes)
        again = (await client.post("/v1/runs?wait_s=1", json=body, headers=KEY)).json()
        assert again["proposal"] == told["proposal"]
        assert {name: again[name] for name in ("state", "code", "why", "kind", "hint")} == {
            "state": "refused",
            "code": "plan-stale",
            "why": "of another estate",
            "kind": "stale-plan",
            "hint": "evac plan",
        }

    play(story)


def test_a_form_has_a_run_made_of_a_plan_when_the_names_are_typed() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        office.rehearser = Rehearser(ESTATE)
        digest = digest_of(made().data)
        path = f"/plans/{digest}/carry-out"
        assert (await client.get(path)).status_code == 404, "no such plan is kept"
        await client.put(PLAN + digest, content=made().data, headers=JSON)
        assert f"Type <strong>{LOST}</strong> to confirm" in (await client.get(path)).text
        whole = {"incident": "fire-1", "reason": "it burns", "typed": LOST, "who": "kim", "key": "k1"}
        for wrong, said in (
            ({"typed": "nowhere"}, f"Type {LOST} to confirm (nothing was requested)"),
            ({"reason": " "}, "Give a reason; it is recorded in the journal"),
            ({"incident": "../x"}, "That is not a valid incident name"),
        ):
            refused_form = await client.post(path, data=whole | wrong)
            assert refused_form.status_code == 422
            assert said in refused_form.text.partition('role="alert"')[2]
            assert await office.store.list("proposal/") == []
        sent = asyncio.create_task(client.post(path, data=whole))
        while not (waiting := await office.store.list("proposal/")):
            await asyncio.sleep(0.01)
        permit = answered(waiting[0], {"run": "fire-1-abc"})
        await office.store.transact(permit.compares, permit.changes)
        done = await sent
        assert (done.status_code, done.headers["location"]) == (303, "/runs/fire-1-abc?done=created")
        again = asyncio.create_task(client.post(path, data=whole | {"key": "k2"}))
        while not (waiting := await office.store.list("proposal/")):
            await asyncio.sleep(0.01)
        permit = answered(waiting[0], refused(StalePlan("plan-stale", "of another estate", "evac plan")))
        await office.store.transact(permit.compares, permit.changes)
        assert "Refused: of another estate (evac plan)." in (await again).text
        foreign = {"Origin": "http://evil.example"}
        assert (await client.post(path, data=whole, headers=foreign)).status_code == 403

    play(story)


def test_a_plan_that_the_checker_refuses_is_not_even_proposed() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        office.rehearser = Rehearser(ESTATE)
        plan = made().plan
        data = plan_codec.encode(replace(plan, objective=plan.objective - 1))
        digest = digest_of(data)
        assert (await client.put(PLAN + digest, content=data, headers=JSON)).status_code == 201
        body = {"plan": digest, "incident": "fire-1", "reason": "fire", "typed": [LOST]}
        for path, asked in ((f"{PLAN}{digest}/dry-run", {}), ("/v1/runs?wait_s=0", body)):
            answer = await client.post(path, json=asked)
            told = answer.json()
            assert (answer.status_code, told["code"], told["kind"]) == (422, "plan-wrong", "unsafe-plan")
            assert "the checker does not accept this plan: F19" in told["detail"]
        assert await office.store.list("proposal/") == []

    play(story)
