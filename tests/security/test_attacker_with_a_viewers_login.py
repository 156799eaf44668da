"""Someone who has the login of a viewer.

The worst they can do: read the estate, plans, runs, incidents and journals of runs, from as many streams as
the access file lets one person have. They change nothing, ask nothing of a run, see nobody else's logins, do
not read the log of access, and what they try is in it.
"""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx2
import orjson
import pytest

from evac.app import runs
from evac.app.access import digest_of
from evac.app.access_log import JOURNALS
from evac.engine.runs.requests import VERBS
from evac.model.access import AccessRules, Person, Token
from evac.model.errors import Conflict
from evac.office.office import Office
from evac.store.journal import Journal
from evac.web.access.people import People
from evac.web.access.port import OPEN_PATHS
from tests.web.burning import RUN
from tests.web.logins import HandClock
from tests.web.rooms import play
from tests.web.test_access_routes import CHANGES, OWN, READS, routes
from tests.web.test_incidents import with_fire

VIEWER, OPERATOR = "evac_" + "v" * 43, "evac_" + "o" * 43


def access() -> People:
    people = {"vi": Person("vi", "viewer"), "kim": Person("kim", "admin")}
    tokens = {
        "laptop": Token("laptop", "admin", digest_of(VIEWER), "vi"),
        "ci": Token("ci", "operator", digest_of(OPERATOR)),
    }
    return People(AccessRules(people=people, tokens=tokens), HandClock(), secure=False)


def by(token: str = VIEWER) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_they_change_nothing_whatever_they_send() -> None:
    made = access()

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        before = {entry.key: entry.value for entry in await office.store.list("")}
        for route in routes():
            path = re.sub(r"\{run\}", RUN, route.path)
            path = re.sub(r"\{[^}]*\}", "x", path)
            for method in route.methods & CHANGES:
                if route.path in (*READS, *OWN, *OPEN_PATHS):
                    continue
                for body in ({}, {"reason": "why", "who": "kim"}, {"reason": "why", "verb": "approve"}):
                    told = await client.request(method, path, json=body, headers=by())
                    assert told.status_code in (403, 404, 422), f"{method} {path}: {told.status_code}"
        after = {entry.key: entry.value for entry in await office.store.list("")}
        assert after == before
        rows = [one for one in made.seen._waiting if one.kind == "refused"]
        assert {one.who for one in rows} == {"vi"}, "what they tried is in the log of access"

    play(story, access=made)


@pytest.mark.parametrize("verb", VERBS)
def test_they_ask_nothing_of_a_run(verb: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        body = {"verb": verb, "reason": "why", "who": "kim", "step": "fence:db"}
        told = await client.post(f"/v1/runs/{RUN}/requests", json=body, headers=by())
        assert told.status_code == 403
        assert await office.store.list("request/") == []

    play(story, access=access())


def test_they_see_no_login_but_their_own_and_no_log_of_access() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert (await client.get("/v1/access-log", headers=by())).status_code == 403
        assert (await client.get("/v1/logins", headers=by())).json()["items"] == []
        assert (await client.delete("/v1/logins?name=kim", headers=by())).status_code == 403

    play(story, access=access())


@pytest.mark.parametrize("journal", [*JOURNALS, "access-2026-11"])
def test_the_name_of_a_journal_is_no_run_and_no_incident(journal: str) -> None:
    """Each page and call that takes the name of one, also where an incident is called like a journal."""
    record = orjson.dumps({"at_ms": 1, "kind": "sign-in", "who": "kim-of-the-log"})

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        with suppress(Conflict):  # the room has it already
            await Journal.create(office.store, journal, None, records=(record,))
        asked = {"incident": journal, "text": "hm"}
        for opened in (False, True):
            if opened:
                told = await client.post("/v1/incidents", json=asked, headers=by(OPERATOR))
                assert told.status_code == 201, told.text
            for route in routes():
                if "GET" in route.methods and "{" in route.path and "stream" not in route.path:
                    path = re.sub(r"\{[^}]*\}", journal, route.path)
                    told = await client.get(path, headers=by())
                    assert told.status_code < 500, f"{path}: {told.text}"
                    assert "kim-of-the-log" not in told.text
            there = await client.get(f"/v1/incidents/{journal}", headers=by())
            assert there.status_code == (200 if opened else 404)

    play(story, access=access())


def test_they_keep_no_operator_from_an_incident_by_asking_for_proofs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pages are made on the thread that reads journals: they wait for one proof of each person at most."""
    go, begun = threading.Event(), list[str]()

    async def verify(_: object, journal: str, __: object) -> runs.Proof:
        begun.append(journal)
        await asyncio.to_thread(go.wait)
        return runs.Proof(journal, 0, 0, 0, (), ())

    monkeypatch.setattr(runs, "verify", verify)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        ask = partial(client.post, "/v1/journals/watch/proof", json={"heads": []}, headers=by())
        asked = [asyncio.create_task(ask()) for _ in range(5)]
        while not begun:
            await asyncio.sleep(0.01)
        page = asyncio.create_task(office.incidents.apart(lambda: len(begun)))
        await asyncio.sleep(0)
        go.set()
        assert await page == 1
        assert [(await one).status_code for one in asked] == [200] * 5

    play(story, access=access())


def test_a_token_does_not_go_beyond_its_person(tmp_path: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        me = (await client.get("/v1/me", headers=by())).json()
        assert (me["name"], me["role"]) == ("vi", "viewer"), "the token says admin, its person is a viewer"

    play(story, access=access())
