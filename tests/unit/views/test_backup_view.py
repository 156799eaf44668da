"""What is shown of the state of a backup."""

from __future__ import annotations

from evac.model.backup import BackupFacts, CopySeen
from evac.views.backup_view import backups_document, copy_facts
from tests.unit.derive.test_backups import DAY, NOW, judged


def test_a_newest_backup_from_the_future_is_named() -> None:
    """Its age is unknown, and the reason is not."""
    seen = CopySeen("db", "ansan", NOW, NOW + DAY, 1_000, 1, NOW + DAY, tool="restic")
    (row,) = backups_document("t", (judged(copies=(seen,)),), BackupFacts((seen,)), NOW).data_sets
    shown = {copy.at: dict(copy_facts(copy))["newest"] for copy in row.copies}
    assert shown["ansan"].startswith("dated in the future: correct the clocks")
    assert shown["bundang"] == "1 h old"
