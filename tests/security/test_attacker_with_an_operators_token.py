"""Someone who has the token of a program with the role of an operator.

The worst they can do: stop things. They hold everything, pause and cancel runs, skip and retry steps, roll
back what may be rolled back (never a store), propose runs that people then approve, open incidents, and write
notes and drafts, all under the name of the program. They approve and attest nothing, so they promote nothing
and vouch for no fence; they end no hold and clear no mark of a site, which wait until a person has looked;
they publish nothing, end no incident and decide no claim; and no name but their own is in a journal.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import get_args
from urllib.parse import urlencode

import httpx2
import pytest
from pydantic import BaseModel

from evac.app.access import digest_of
from evac.engine.runs import requests
from evac.engine.runs.proving import OF_HOLD, Asked, Provers, prove, room_in
from evac.engine.runs.requests import VERBS, Request
from evac.model.access import AccessRules, Person, Proven, Token
from evac.model.errors import NotAllowed
from evac.model.run_policy import RunPolicy
from evac.office.office import Office
from evac.web.access.people import People
from evac.web.access.port import OPEN_PATHS
from evac.web.api.incidents import BY_PEOPLE as PUBLIC
from evac.web.api.incidents import NoteBody
from tests.web.burning import RUN
from tests.web.logins import HandClock
from tests.web.rooms import play
from tests.web.test_access_routes import CHANGES, OWN, READS, routes
from tests.web.test_incidents import with_fire

TOKEN = "evac_" + "o" * 43
FORM = {"content-type": "application/x-www-form-urlencoded"}
UNAIMED = {"who": "kim", "text": "why", "key": "", "kind": "note", "typed": "pangyo"}
CLEAR = {"domain": "pangyo", "reason": "why"}
MAY = {
    ("POST", "/doctor"),
    ("POST", "/hold"),
    ("POST", "/incidents/new"),
    ("POST", "/plans/{digest}/carry-out"),
    ("POST", "/runs/{run}/ask"),
    ("POST", "/v1/doctor"),
    ("POST", "/v1/hold"),
    ("POST", "/v1/incidents"),
    ("POST", "/v1/runs"),
    ("POST", "/v1/runs/{run}/requests"),
    ("POST", "/incidents/{incident}/write"),
    ("POST", "/v1/incidents/{incident}/notes"),
    ("POST", "/v1/plans/{digest}/dry-run"),
    ("PUT", "/v1/plans/{digest}"),
}
"""Changes that the token of a program may make: each stops something, or waits for a person. The tests below
say which verbs and which kinds of notes."""
BY_PEOPLE = ("approve", "attest")


def access() -> People:
    tokens = {"ci": Token("ci", "operator", digest_of(TOKEN))}
    return People(
        AccessRules(people={"kim": Person("kim", "admin")}, tokens=tokens), HandClock(), secure=False
    )


def by() -> dict[str, str]:
    return {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize("verb", BY_PEOPLE)
def test_they_vouch_for_nothing(verb: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        for step in ("", "fence:db", "promote:db"):
            body = {"verb": verb, "reason": "why", "who": "kim", "step": step}
            told = await client.post(f"/v1/runs/{RUN}/requests", json=body, headers=by())
            assert (told.status_code, told.json()["code"]) in ((403, "program"), (422, "request-invalid"))
        assert await office.store.list("request/") == []

    play(story, access=access())


def test_every_other_change_is_refused_to_them() -> None:
    """A route that is new here is refused, or is looked at and listed."""

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        await client.post("/v1/hold", json={"reason": "why"}, headers=by())
        found = {(method, route.path) for route in routes() for method in route.methods & CHANGES}
        own = {(method, path) for method, path in found if path in (*READS, *OWN, *OPEN_PATHS)}
        closed = found - MAY - own
        assert found > MAY
        for method, path in sorted(closed):
            where = re.sub(r"\{[^}]*\}", "x", path)
            if path.startswith("/v1"):
                where += "?reason=why" if method == "DELETE" else ""
                told = await client.request(method, where, json=CLEAR, headers=by())
            else:
                fields = urlencode(UNAIMED | CLEAR)
                told = await client.request(method, where, content=fields, headers=by() | FORM)
            assert told.status_code in (403, 404, 422), f"{method} {path}: {told.status_code}"
            assert "is a program" in told.text or '"role"' in told.text, f"{method} {path}: {told.text}"
        assert (await client.get("/v1/hold", headers=by())).status_code == 200

    play(story, access=access())


@pytest.mark.parametrize("kind", [*get_args(get_args(NoteBody)[0])])
def test_they_write_for_people_inside_and_nothing_that_counts_outside(kind: type[BaseModel]) -> None:
    """By the API, and by the page, which also writes by it."""
    told = {"text": "over", "name": "Web shop", "value": "fire-1"}
    values = {"state": "operational", "update": "resolved", "draft": "resolved"}

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        for one in get_args(kind.model_fields["kind"].annotation):
            body = {name: told[name] for name in told if name in kind.model_fields}
            body |= {"kind": one, "value": values.get(one, "fire-1")} if "value" in body else {"kind": one}
            given = await client.post("/v1/incidents/fire-1/notes", json=body, headers=by())
            code = (given.status_code, given.json().get("code"))
            if one in PUBLIC:
                assert code == (403, "program"), body
            else:
                assert code[1] != "program", body

    play(story, access=access())


def test_what_they_ask_has_their_name_whatever_they_say() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        body = {"verb": "pause", "reason": "why", "who": "kim", "signature": "x"}
        told = await client.post(f"/v1/runs/{RUN}/requests", json=body, headers=by())
        assert (told.status_code, told.json()["who"]) == (202, "ci")
        (entry,) = await office.store.list(requests.prefix_of(RUN))
        asked = requests.decode(entry.key, entry.value)
        assert (asked.who, asked.proof.kind, asked.proof.program) == ("ci", "token", True)

    play(story, access=access())


def test_they_end_no_hold_and_clear_no_site() -> None:
    """Both wait until a person has looked at the real systems."""

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert (await client.post("/v1/hold", json={"reason": "why"}, headers=by())).status_code == 201
        cleared = {"domain": "pangyo", "reason": "why", "who": "kim"}
        for told in (
            await client.delete("/v1/hold?reason=why&who=kim", headers=by()),
            await client.post("/v1/sites/clear", json=cleared, headers=by()),
        ):
            assert (told.status_code, told.json()["code"]) == (403, "program")
        assert (await client.get("/v1/hold", headers=by())).status_code == 200

    play(story, access=access())


@pytest.mark.parametrize("verb", VERBS)
def test_a_leader_refuses_them_too_where_a_room_did_not(verb: str) -> None:
    """A war room with an error in it writes down what a program may not ask."""
    from evac.engine.runs.proving import RoomKey
    from evac.store.port import MemoryStore

    room, store = RoomKey(), MemoryStore()
    request = Request("1", verb, "ci", "why", "fence:db", proof=Proven("token", program=True))  # type: ignore[arg-type]
    asked = asyncio.run(room.seen(store, RUN, request))
    asked = replace(asked, content=requests.content_of(asked))
    known = Provers(True, rooms={room.id: asyncio.run(room_in(store, room.id))})
    if verb in BY_PEOPLE:
        with pytest.raises(NotAllowed) as caught:
            prove(Asked(RUN), asked, RunPolicy(), known, 0)
        assert caught.value.code == "program"
    else:
        with pytest.raises(NotAllowed):
            prove(Asked(OF_HOLD), asked, RunPolicy(), known, 0)
        assert prove(Asked(RUN), asked, RunPolicy(), known, 0).program


def test_they_neither_read_the_log_of_access_nor_end_logins() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert (await client.get("/v1/access-log", headers=by())).status_code == 403
        assert (await client.delete("/v1/logins?name=kim", headers=by())).status_code == 403

    play(story, access=access())
