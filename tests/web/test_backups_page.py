"""The page Backups: which data could be restored, what proves it, and one data set; in a browser also the
page Doctor, which needs the same room.
"""

import asyncio
from dataclasses import replace

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from evac.backup.evidence import Evidence
from evac.model.backup import BackupEvent, BackupFacts, CopySeen, ProofRecord
from evac.office.office import BACKUPS_MS, Office
from evac.store.port import MemoryStore
from evac.views.backup_view import BackupsDocument, CopyRow, DataRow, DigitRow, ProofRow
from evac.web.pages.backups import EVENTS_MOST, answer_of, figures, row_of
from tests.web.rooms import play
from tests.web.test_now_page import opened

COPY = CopyRow(
    "far", "sejong", True, True, False, "disk", 3_600_000, 9, None, None, 0, None, None, None, None, "x"
)
ROW = DataRow(
    "files", "volume", "missed", "", (DigitRow("copies", "missed", 3, 2, 2),), None, None, None, (COPY,)
)


def document(*rows: DataRow) -> BackupsDocument:
    counts = dict.fromkeys(("missed", "unknown", "undecided", "met", "waived"), 0)
    for row in rows:
        counts[row.state] += 1
    return BackupsDocument(1, "company", "2026-11-29T00:00:00Z", counts, rows, ())


def test_the_answer_names_what_is_missing_and_unknown_is_never_good() -> None:
    words, more, look = answer_of(document(ROW, replace(ROW, data_set="mail", state="met", digits=())))
    assert (words, more, look) == (
        "2 data sets: 1 misses its policy.",
        "Missing: files (copies).",
        "bad",
    )
    assert answer_of(document(replace(ROW, state="unknown")))[2] == "warn"
    assert answer_of(document(replace(ROW, state="met")))[2] == "good"
    assert answer_of(document())[2] == "warn"


def test_figures_count_what_is_proven_and_leave_out_what_needs_no_backup() -> None:
    waived = replace(ROW, data_set="cache", state="waived", waived="rebuilt", copies=())
    outside, proven, oldest, slowest = figures(document(ROW, waived))
    assert (outside.value, proven.value, proven.state) == ("1 of 1", "0 of 1", "warn")
    assert (oldest.value, slowest.value) == ("none", "not known")
    restored = replace(COPY, level=3, restore_ms=60_000)
    assert figures(document(replace(ROW, copies=(restored,))))[1].value == "1 of 1"
    proof = ProofRow(
        3, "restored", "passed", "2026-11-28T00:00:00Z", 86_400_000, 9, 1, 5, "x", "restic", "1", "s", "", ""
    )
    dated, undated = (replace(restored, proof=one) for one in (proof, replace(proof, age_ms=None)))
    expired = replace(dated, proof=None, last_proof=replace(proof, age_ms=111 * 86_400_000))
    assert figures(document(replace(ROW, copies=(expired, dated))))[2].value == "111 d"
    mail = replace(ROW, data_set="mail", copies=(undated,))
    oldest, slowest = figures(document(replace(ROW, copies=(dated,)), mail, replace(ROW, data_set="x")))[2:]
    assert (oldest.value, oldest.more) == ("24 h", "files; unknown for mail")
    assert slowest.more.endswith("; unknown for 1 more")
    assert figures(document(mail))[2].value == "not known"
    assert row_of(waived)["state"] == "waived: rebuilt"
    assert (row_of(ROW)["newest"], row_of(waived)["newest"]) == ("1 h", "-")


def test_the_pages_show_what_is_known_and_what_happened() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        known = await office.backups()
        name = known.data_sets[0].data_set
        evidence, now_ms = Evidence(office.store), office.clock.now_ms()
        seen = CopySeen(name, "near", now_ms, 3, now_ms - 60_000, 2, 1, False, "restic", "0.18.0", "r1")
        proof = ProofRecord(
            name, "near", 2, "damaged", now_ms, 1_000, tool="restic", detail="pack 17 differs"
        )
        for event in (
            BackupEvent("listed", now_ms, name, "near", "park", seen=seen),
            BackupEvent("proven", now_ms + 1, name, "near", proof=proof, detail=proof.detail),
        ):
            await evidence.add(event)
        page = (await client.get("/backups")).text
        assert f'href="/backups/{name}"' in page
        assert '<a href="/backups" aria-current="page">' in page
        text = (await client.get(f"/backups/{name}")).text
        assert "pack 17 differs" in text
        assert "park" in text
        assert (await client.get("/backups/no-such-data")).status_code == 404
        while True:  # until both are asked within one moment
            moment = office.clock.now_ms() // BACKUPS_MS
            one, two = await office.backups(), await office.backups()
            if office.clock.now_ms() // BACKUPS_MS == moment:
                break
        assert one is two, "not worked out again within the same moment"
        assert await evidence.facts() != BackupFacts()

    play(story, MemoryStore())


def test_a_damaged_backup_is_red_and_the_newest_events_are_shown() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        row = next(one for one in (await office.backups()).data_sets if one.copies)
        name, copy = row.data_set, row.copies[0].copy
        evidence, now_ms = Evidence(office.store), office.clock.now_ms()
        assert 'class="bad">Damaged' not in (await client.get("/backups")).text
        for number in range(EVENTS_MOST + 5):
            proof = ProofRecord(
                name, copy, 2, "damaged", now_ms + number, 1_000, detail=f"pack {number} differs"
            )
            event = BackupEvent("proven", proof.at_ms, name, copy, proof=proof, detail=proof.detail)
            await evidence.add(event)
        while "Damaged: pack" not in (page := (await client.get("/backups")).text):
            await asyncio.sleep(0.05)
        assert 'class="bad">Damaged: pack' in page
        text = (await client.get(f"/backups/{name}")).text
        assert '<span class="bad">damaged</span>' in text
        shown = [number for number in range(EVENTS_MOST + 5) if f">pack {number} differs<" in text]
        assert shown == list(range(5, EVENTS_MOST + 5))

    play(story, MemoryStore())


def test_the_pages_show_sudden_changes_and_no_listing_that_found_nothing() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        evidence, now_ms = Evidence(office.store), office.clock.now_ms()
        seen = CopySeen("orders", "near", now_ms, 3, 2, 9)
        gone = replace(seen, at_ms=now_ms + 1, taken_at_ms=None, count=0)
        for event in (
            BackupEvent("listed", now_ms, "orders", "near", tool="a-quiet-tool", seen=seen),
            BackupEvent("listed", now_ms + 1, "orders", "near", tool="a-quiet-tool", seen=gone),
        ):
            await evidence.add(event)
        page = (await client.get("/backups")).text
        assert "orders at near" in page
        assert "all 9 backups are gone" in page
        name = (await office.backups()).data_sets[0].data_set
        for index in range(2):
            event = BackupEvent("listed", now_ms + 2 + index, name, "near", tool="a-quiet-tool")
            await evidence.add(replace(event, outcome=("done", "failed")[index], detail="it is locked"))
        text = (await client.get(f"/backups/{name}")).text
        assert text.count("a-quiet-tool") == 1
        assert "it is locked" in text

    play(story, MemoryStore())


@pytest.mark.browser
def test_the_pages_fit_and_axe_finds_nothing(browser: Browser, served: tuple[str, str]) -> None:
    for width, scheme in ((390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")):
        page = opened(browser, f"{served[0]}/backups", width, scheme)
        link = page.locator("#backups a[href^='/backups/']").first
        link.wait_for(timeout=60_000)
        for _ in range(2):
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert Axe().run(page).response["violations"] == []
            if page.url.endswith("/backups"):
                page.goto(str(link.evaluate("one => one.href")))


@pytest.mark.browser
def test_the_page_doctor_shows_the_answer_when_it_is_there_and_axe_finds_nothing(
    browser: Browser, served: tuple[str, str]
) -> None:
    page = opened(browser, f"{served[0]}/doctor", 1440, "light")
    page.get_by_role("button", name="Ask all systems").click()
    page.get_by_role("button", name="Ask all systems again").wait_for()
    for width, scheme in ((390, "dark"), (1440, "light")):
        page = opened(browser, f"{served[0]}/doctor", width, scheme)
        assert page.locator("#doctor table tbody tr").count() > 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert Axe().run(page).response["violations"] == []
