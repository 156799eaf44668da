"""What pages of incidents say of the public status page outside."""

from __future__ import annotations

from evac.office.values import ExportSeen
from evac.web.pages.incident_view import LATE_MS, exported

NOW = 1_800_000_000_000


def test_a_page_that_nobody_writes_any_more_is_not_said_to_be_well() -> None:
    rows = exported(
        [
            ExportSeen("a", NOW - LATE_MS, 0, ""),
            ExportSeen("b", NOW - LATE_MS - 1, 0, ""),
            ExportSeen("c", NOW - 9, NOW - 5, "no space"),
        ],
        NOW,
    )
    assert [(row["one"].site, row["state"], row["at_ms"]) for row in rows] == [
        ("a", "written", NOW - LATE_MS),
        ("b", "late", NOW - LATE_MS - 1),
        ("c", "failed", NOW - 5),
    ]
