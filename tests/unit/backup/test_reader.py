"""What is known of backups reaches the audits of the war room and of alerts."""

import asyncio
from pathlib import Path

from evac.backup.evidence import NO_BACKUPS, BackupsReader, BackupsSeen, Evidence
from evac.engine.clock import SystemClock
from evac.model.backup import BackupEvent, BackupFacts, CopySeen, ProofRecord
from evac.model.observation import Observation
from evac.office.notices.looking import NoticeReckoner
from evac.store.port import MemoryStore


def test_what_is_known_of_backups_is_in_the_audit_that_alerts(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nhorizon: 1 h\nsites: {fra: {}, muc: {}}\nservices: {wiki: {replicas: {fra: 1}}}\n"
        "data_sets:\n  files:\n    {kind: volume, at: fra, used_by: [wiki], backups: [{at: muc}], "
        "backup_policy: {rpo: 24 h}}\n"
    )
    day_ms, now_ms = 86_400_000, 1_800_000_000_000
    reckoner = NoticeReckoner(tmp_path, apart=False)

    def codes(seen: BackupsSeen) -> set[str]:
        facts = asyncio.run(reckoner.reckon(Observation(0), seen))
        return {code for _, code, _, _ in facts.errors}

    damaged = ProofRecord("files", "muc", 2, "damaged", now_ms - day_ms, 1_000, tool="restic")
    fresh = CopySeen("files", "muc", now_ms, 1, now_ms, 2, 1, True, "restic", "0.18.0", "r1")
    before = codes(BackupsSeen())
    after = codes(BackupsSeen(BackupFacts((fresh,), (damaged,)), now_ms))
    assert "EV138" in after - before, "a damaged backup is an error as soon as it is known"
    later = codes(BackupsSeen(BackupFacts((fresh,), ()), now_ms + 3 * day_ms))
    assert ("EV138" in later, "EV140" in later) == (False, True), "time alone makes a backup too old"


def test_nothing_known_is_worked_out_once_and_what_is_known_by_the_hour() -> None:
    async def story() -> None:
        store = MemoryStore()
        reader = BackupsReader(store, SystemClock())
        assert await reader.read() == NO_BACKUPS
        event = BackupEvent("listed", 5, "files", "muc", seen=CopySeen("files", "muc", 5, 1, 4, 2, 1, True))
        await Evidence(store).add(event)
        assert await reader.read() == NO_BACKUPS, "the store is not asked again within seconds"
        known = await BackupsReader(store, SystemClock()).read()
        assert known.facts.copies
        assert known.at_ms is not None
        assert known.at_ms % 3_600_000 == 0

    asyncio.run(story())
