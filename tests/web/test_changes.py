"""What people ask through the room: once for each key, only of the state that they saw, and with a name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx2
from fastapi import APIRouter
from starlette.requests import HTTPConnection

from evac.office.office import Office
from evac.store.port import MemoryStore
from evac.web.access.port import Actor
from tests.web.rooms import play


class Named:
    """Access where a header names the person and the role; as a login would."""

    authenticates = True

    async def who(self, connection: HTTPConnection) -> Actor | None:
        name = connection.headers.get("x-name")
        return None if name is None else Actor(name, connection.headers["x-role"])  # type: ignore[arg-type]

    def routers(self) -> Sequence[APIRouter]:
        return ()


def test_a_hold_is_made_once_for_a_key_and_ends_only_as_it_was_seen() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        key = {"Idempotency-Key": "k-1"}
        first = await client.post("/v1/hold", json={"reason": "smoke", "who": "ann"}, headers=key)
        again = await client.post("/v1/hold", json={"reason": "smoke", "who": "ann"}, headers=key)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json()
        assert again.headers["idempotency-replayed"] == "true"
        other = await client.post("/v1/hold", json={"reason": "fire", "who": "ann"}, headers=key)
        assert (other.status_code, other.json()["code"]) == (409, "idempotency-reused")
        assert (await client.post("/v1/hold", json={"reason": "fire"})).status_code == 409
        held = await client.get("/v1/hold")
        assert held.json()["who"] == "ann"
        assert (await client.get("/v1/situation")).json()["hold"]["reason"] == "smoke"
        stale = await client.delete("/v1/hold?reason=over", headers={"If-Match": '"hold-0"'})
        assert (stale.status_code, stale.json()["code"]) == (412, "changed-meanwhile")
        ended = await client.delete("/v1/hold?reason=over", headers={"If-Match": held.headers["etag"]})
        assert ended.json()["released"] is True
        assert (await client.get("/v1/situation")).json()["hold"] is None

    play(story)


def test_two_who_ask_the_same_at_once_make_one_hold() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        asked = [
            client.post("/v1/hold", json={"reason": "smoke"}, headers={"Idempotency-Key": "same"})
            for _ in range(8)
        ]
        found = await asyncio.gather(*asked)
        assert [one.status_code for one in found] == [201] * 8
        assert len({one.content for one in found}) == 1

    play(story, MemoryStore())


def test_every_change_says_why() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for body in ({}, {"reason": ""}, {"reason": "   "}, {"reason": 7}, {"reason": "x", "more": 1}):
            assert (await client.post("/v1/hold", json=body)).status_code == 422
        assert (await client.delete("/v1/hold")).status_code == 422
        assert await office.standing_hold() is None

    play(story)


def test_a_login_says_who_and_what_that_person_may() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert (await client.get("/v1/situation")).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
        viewer = {"X-Name": "vi", "X-Role": "viewer"}
        assert (await client.get("/v1/situation", headers=viewer)).status_code == 200
        refused = await client.post("/v1/hold", json={"reason": "x"}, headers=viewer)
        assert (refused.status_code, refused.json()["code"]) == (403, "role")
        operator = {"X-Name": "olga", "X-Role": "operator"}
        await client.post("/v1/hold", json={"reason": "x", "who": "somebody else"}, headers=operator)
        standing = await office.standing_hold()
        assert standing is not None
        assert standing.who == "olga"

    play(story, access=Named())


def test_what_if_answers_for_one_and_for_several_and_refuses_what_is_not_there() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert office.facts is not None
        sites = [site.id for site in office.facts.sites]
        one = (await client.post("/v1/what-if", json={"domains": [sites[0]]})).json()
        row = next(loss for loss in office.facts.losses if loss.domain == sites[0])
        assert one["loss"]["down"] == row.down
        assert len(one["services"]) >= row.down
        both = (await client.post("/v1/what-if", json={"domains": sites[:2]})).json()
        assert both["loss"]["down"] >= one["loss"]["down"]
        unknown = await client.post("/v1/what-if", json={"domains": ["atlantis"]})
        assert unknown.status_code in (404, 422)
        assert unknown.json()["code"] == "unknown-domain"
        several = (await client.post("/v1/what-if", json={"domains": ["atlantis", "lemuria"]})).json()
        assert (several["code"], several["detail"]) == (
            "unknown-domain",
            "no fault domains 'atlantis', 'lemuria' in the estate",
        )

    play(story)
