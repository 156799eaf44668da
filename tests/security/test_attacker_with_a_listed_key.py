"""Someone whose own key is in the access file: signs what they like, but acts only as themselves."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from evac.model.access import GlassUse
from evac.office.office import Office
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
