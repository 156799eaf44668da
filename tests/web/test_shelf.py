"""What is kept from one read to the next: the same answer as the first time, for whoever may see it."""

from __future__ import annotations

import httpx2
import pytest

from evac.office.office import Office
from evac.web import room
from tests.web.rooms import play
from tests.web.test_changes import Named

PATHS = ("/v1/situation", "/v1/estate", "/v1/services?limit=2", "/v1/audit/losses?kind=site", "/v1/plans")
OWN = ("x-request-id", "date")


def plain(answer: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in OWN}


def test_the_second_answer_is_the_first_one_without_its_route(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        first = {path: await client.get(path) for path in PATHS}
        same = {
            path: await client.get(path, headers={"If-None-Match": first[path].headers["etag"]})
            for path in PATHS[:1]
        }
        monkeypatch.setattr(room.Shelf, "answer", None)  # no route can answer any more
        for path in PATHS:
            again = await client.get(path)
            assert (again.status_code, again.content) == (200, first[path].content)
            assert plain(again) == plain(first[path])
            tag = {"If-None-Match": f'"other", W/{first[path].headers["etag"]}'}
            known = await client.get(path, headers=tag)
            assert (known.status_code, known.content) == (304, b"")
            if path in same:
                assert plain(known) == plain(same[path])
        assert b'route="/v1/situation",status="304"' in (await client.get("/metrics")).content

    play(story)


def test_a_change_is_seen_at_once() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for _ in range(2):
            before = (await client.get("/v1/situation")).json()
        assert (await client.post("/v1/hold", json={"reason": "smoke"})).status_code == 201
        after = (await client.get("/v1/situation")).json()
        assert after["version"] > before["version"]
        assert after["hold"]["reason"] == "smoke"

    play(story)


def test_what_one_may_read_is_not_kept_for_another() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        viewer = {"X-Name": "vi", "X-Role": "viewer"}
        for _ in range(2):
            assert (await client.get("/v1/estate", headers=viewer)).status_code == 200
        nobody = await client.get("/v1/estate")
        assert (nobody.status_code, nobody.json()["code"]) == (401, "not-authenticated")
        foreign = await client.get("/v1/estate", headers={**viewer, "Host": "evil.example"})
        assert (foreign.status_code, foreign.json()["code"]) == (421, "host-unknown")
        assert (await client.head("/v1/estate", headers=viewer)).status_code == 405

    play(story, access=Named())


def test_questions_and_bodies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "QUESTIONS_MOST", 4)
    monkeypatch.setattr(room, "KEPT_MOST", 3)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        kept = client._transport.app.state.room.shelf  # type: ignore[attr-defined]
        for limit in range(1, 11):
            assert (await client.get(f"/v1/services?limit={limit}")).status_code == 200
        long = "&".join(["limit=1"] * 200)
        assert (await client.get(f"/v1/services?{long}")).status_code == 200
        assert len(kept._questions) == 4
        assert len(kept._kept) == 3
        assert kept._bytes == sum(len(one.body) for one in kept._kept.values())
        for limit in range(1, 11):
            assert len((await client.get(f"/v1/services?limit={limit}")).json()["items"]) <= limit

    play(story)
