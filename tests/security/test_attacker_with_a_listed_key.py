"""Someone whose own key is in the access file: signs what they like, but acts only as themselves."""

from __future__ import annotations

from pathlib import Path

import httpx2
import orjson
import pytest

from evac.engine.clock import SystemClock
from evac.engine.runs import requests
from evac.engine.runs.proving import Asked, Provers, prove
from evac.model.access import GlassUse, Grant
from evac.model.errors import NotAllowed
from evac.model.run_policy import RunPolicy
from evac.office.office import Office
from evac.store.port import Put
from evac.web.access.people import SPENT_READS_MS
from tests.web.burning import RUN
from tests.web.rooms import play
from tests.web.test_access_glass import PATH, Signer, asking, by, mark_of, use_of
from tests.web.test_incidents import with_fire

HERS = "a1b2c3d4" + "0" * 24


@pytest.mark.parametrize("id", [HERS, "a1b2c3d4" + "f" * 24], ids=["the same id", "the same first digits"])
def test_they_use_up_no_credential_of_someone_else(tmp_path: Path, id: str) -> None:
    """The signer chooses the id of a credential, and logs show the ids of others."""
    signer = Signer(tmp_path)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        theirs, hers = by(signer.sign("olga", id=id)), by(signer.sign("kim", id=HERS))
        assert (await client.post(PATH, json=asking(), headers=theirs)).status_code == 202
        view = await office.register.view(RUN)
        view.marks.add(mark_of(id, 1, "olga"))  # as its journal says once a leader answered
        signer.access.used = type(signer.access.used)(
            (key, at_ms - SPENT_READS_MS) for key, at_ms in signer.access.used.items()
        )
        assert use_of(id, 1, "olga") in signer.access.used
        assert (await client.get(f"/v1/runs/{RUN}", headers=hers)).status_code == 200
        told = await client.post(PATH, json=asking(), headers=hers)
        assert told.status_code == 202, told.text
        told = await client.post(PATH, json=asking(), headers=hers)
        assert (told.status_code, told.json()["code"]) == (403, "glass-spent")

    play(story, access=signer.access)


def test_a_use_that_an_earlier_version_recorded_still_counts(tmp_path: Path) -> None:
    """Its journals have only the first digits of the id."""
    signer = Signer(tmp_path)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        use = GlassUse.from_data({"id": HERS[:8], "number": 1, "uses": 1, "signed_for": "the provider burns"})
        (await office.register.view(RUN)).marks.add(use.mark)
        told = await client.post(PATH, json=asking(), headers=by(signer.sign("kim", id=HERS)))
        assert (told.status_code, told.json()["code"]) == (403, "glass-spent")

    play(story, access=signer.access)


@pytest.mark.parametrize(
    ("record", "counts"),
    [({"who": "kim"}, True), ({"who": "olga"}, False), ({"who": 7}, True), ({}, True), (None, True)],
    ids=["of the same signer", "of another signer", "of no name", "of nobody", "unreadable"],
)
def test_a_use_that_the_store_has_from_an_earlier_version_still_counts(
    tmp_path: Path, record: dict[str, object] | None, counts: bool
) -> None:
    """Earlier versions named the record by the id alone; the journal of the run has nothing of it."""
    signer = Signer(tmp_path)
    told = b"{" if record is None else orjson.dumps({"at_ms": SystemClock().now_ms(), "run": RUN} | record)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        await office.store.transact((), (Put(f"glass/{HERS}/001", told),))
        headers = by(signer.sign("kim", id=HERS))
        asked = await client.post(PATH, json=asking(), headers=headers)
        spent = {"code": asked.json().get("code"), "status": asked.status_code}
        assert spent == ({"code": "glass-spent", "status": 403} if counts else {"code": None, "status": 202})
        two = by(signer.sign("kim", id=HERS, uses=2))  # the second use is still free
        assert (await client.post(PATH, json=asking(), headers=two)).status_code == 202

    play(story, access=signer.access)


def test_a_credential_that_an_earlier_version_used_up_reads_no_more(tmp_path: Path) -> None:
    signer = Signer(tmp_path)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        signer.access.keep_in(office.store)
        used = {"at_ms": SystemClock().now_ms() - SPENT_READS_MS, "who": "kim"}
        await office.store.transact((), (Put(f"glass/{HERS}/001", orjson.dumps(used)),))
        told = await client.get(f"/v1/runs/{RUN}", headers=by(signer.sign("kim", id=HERS)))
        assert (told.status_code, told.json()["code"]) == (401, "glass-spent")

    play(story, access=signer.access)


def test_a_leader_counts_what_an_earlier_version_wrote_in_the_journal() -> None:
    """A war room that has not read all of the journal yet sends the use again, under its new name."""
    grant = Grant(HERS, "kim", "pause", RUN, "", 1, 2)
    earlier = GlassUse.from_data({"id": HERS[:8], "number": 1, "uses": 1})
    request = requests.Request("2", "pause", "kim", "people inside", glass=grant.use(1))
    with pytest.raises(NotAllowed) as caught:
        prove(Asked(RUN, marks={earlier.mark}), request, RunPolicy(), Provers(), 0)
    assert caught.value.code == "glass-spent"
