"""Backups over the API: facts and history as the store has them, the same for a command by either way."""

from __future__ import annotations

import httpx2

from evac.backup.evidence import Evidence
from evac.control.server import _read
from evac.model.backup import BackupEvent, BackupFacts, CopySeen, ProofRecord
from evac.office.office import Office
from tests.web.rooms import play


def test_facts_and_history_come_back_as_they_were_kept() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        seen = CopySeen("ledger", "near", 5, 3, 1_000, 2, 1, False, "restic", "0.18.0", "r1")
        proof = ProofRecord("ledger", "near", 4, "passed", 9, 1_000, tool="restic")
        events = [
            BackupEvent("listed", 5, "ledger", "near", "park", seen=seen),
            BackupEvent("taken", 6, "ledger", "near", facts={"rows": 7}, snapshot="c1"),
            BackupEvent("proven", 9, "ledger", "near", proof=proof),
        ]
        evidence = Evidence(office.store)
        for event in events:
            await evidence.add(event)
        answer = await client.get("/v1/backups/facts")
        assert _read(BackupFacts, answer.json(), "backups") == BackupFacts((seen,), (proof,))
        again = await client.get("/v1/backups/facts", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        rows = (await client.get("/v1/backups/history", params={"data_set": "ledger"})).json()["items"]
        assert [_read(BackupEvent, row, "event") for row in rows] == events[::-1]
        one = await client.get("/v1/backups/history", params={"data_set": "ledger", "limit": 1})
        assert len(one.json()["items"]) == 1
        assert (await client.get("/v1/backups/history")).status_code == 422

    play(story)
