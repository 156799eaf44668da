"""Pages as PDF, made by the real library and read back by poppler."""

from __future__ import annotations

import re
import socket
import subprocess
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from evac import views as view_texts
from evac.app import pdf as pdfs
from evac.app.pdf import pdf
from evac.audit import audit
from evac.cli import console
from evac.cli.main import run
from evac.estate import load
from evac.incident.runbook import Runbook, runbook
from evac.model.errors import EvacError, InvalidInput
from evac.views import svg
from evac.views.incident_view import runbook_page
from evac.views.svg import Bar, Part, Row, Series, Shares
from tests.unit.incident.stories import plan_of, step


def book_of(count: int) -> Runbook:
    """A plan of so many steps; what a step says is of different length."""
    steps = [replace(step("start", f"web-{n}"), precheck="look twice " * (n % 7 * 6)) for n in range(count)]
    return runbook(plan_of(steps=steps), "sha256:" + "a" * 64)


def sheets(made: bytes, tmp_path: Path) -> list[str]:
    """The words of each sheet."""
    file = tmp_path / "made.pdf"
    file.write_bytes(made)
    done = subprocess.run(["pdftotext", "-layout", file, "-"], capture_output=True, text=True, check=True)
    return done.stdout.split("\f")[:-1]


def test_a_runbook_is_numbered_whole_and_never_splits_a_step(tmp_path: Path) -> None:
    book = book_of(12)
    made = pdf(runbook_page(book))
    assert made == pdf(runbook_page(book)), "the same page gives the same bytes"
    found = sheets(made, tmp_path)
    for number, words in enumerate(found, 1):
        assert f"Page {number} of {len(found)}" in words
        ids = re.findall(r"start:web-\d+", words)
        assert len(ids) == words.count("Initials") == words.count("Roll back"), "a step is on one sheet"
    assert "Contacts" in found[0]
    assert "Plan date: not stated" in found[0]
    assert sorted(set(re.findall(r"start:web-\d+", "".join(found)))) == sorted(
        one.id for part in book.parts for one in part.steps
    )


def test_an_audit_as_pdf_has_every_finding_and_loss(tmp_path: Path) -> None:
    estate, file = Path(__file__).parents[2] / "fixtures" / "estates" / "small", tmp_path / "audit.pdf"
    assert run(["audit", str(estate), "--output", "pdf", "-o", str(file), "--fail-on", "never"]) == 0
    found = sheets(file.read_bytes(), tmp_path)
    words = " ".join(" ".join(found).split())
    report = audit(load(estate))
    assert report.findings
    assert {one.code for one in report.findings if one.code not in words} == set()
    assert {row.domain for row in report.rows if row.domain not in words} == set()
    assert f"Page {len(found)} of {len(found)}" in found[-1]
    assert "collapsed" not in words, "every list is open"


def test_the_foot_of_a_report_is_never_alone_on_a_sheet(tmp_path: Path) -> None:
    css = resources.files("evac.views").joinpath("templates/report.css").read_text(encoding="utf-8")
    finding = '<div class="finding note"><h4>a finding</h4><p>what to do</p></div>'
    reports = "".join(
        f'<main style="break-before: page"><section style="padding-top: {n * 4}mm">{finding * 9}</section>'
        "</main><footer><p>the foot</p></footer>"
        for n in range(24)
    )
    found = sheets(pdf(f"<html><head><style>{css}</style></head><body>{reports}</body></html>"), tmp_path)
    ends = [words for words in found if "the foot" in words]
    assert len(ends) == 24
    assert len(found) > 24, "some of them need a second sheet"
    assert [words for words in ends if "a finding" not in words] == []


@pytest.mark.enable_socket
def test_nothing_is_read_while_a_pdf_is_made(tmp_path: Path) -> None:
    """Neither files nor the network, whatever the page asks for; the rest of the page is drawn."""
    secret = tmp_path / "secret.css"
    secret.write_text('p::after { content: "VISIBLE" }')
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"http://127.0.0.1:{server.getsockname()[1]}"
        links = "".join(
            f'<link rel="stylesheet" href="{url}"><link rel="attachment" href="{url}">'
            for url in (secret.as_uri(), there)
        )
        page = f'<html><head>{links}</head><body><p>words</p><img src="{there}" alt=""></body></html>'
        made = pdf(page)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert sheets(made, tmp_path)[0].split() == ["words"]
    assert b"EmbeddedFile" not in made


def test_a_pdf_is_bounded_in_size_time_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="too long for a PDF"):
        pdf("x" * (pdfs.PAGE_BYTES_MOST + 1))
    monkeypatch.setattr(pdfs, "SECONDS_MOST", 0)
    for _ in range(pdfs.AT_ONCE + 1):  # each gives its slot back
        with pytest.raises(EvacError, match="no PDF was made within 0 seconds"):
            pdf("<p>words</p>")
    for _ in range(pdfs.AT_ONCE):
        pdfs._SLOTS.acquire()
    try:
        with pytest.raises(EvacError) as busy:
            pdf("<p>words</p>")
        assert busy.value.code == "pdf-busy"
    finally:
        pdfs._SLOTS.release(pdfs.AT_ONCE)


def painted(made: bytes, tmp_path: Path) -> dict[str, tuple[int, int]]:
    """Colour -> how far its pixels reach from left to right on the first sheet."""
    file = tmp_path / "made.pdf"
    file.write_bytes(made)
    command = ["pdftoppm", "-r", "72", "-l", "1", "-aa", "no", "-aaVector", "no", file]
    drawn = subprocess.run(command, capture_output=True, check=True).stdout
    _, size, _, pixels = drawn.split(b"\n", 3)
    wide = int(size.split()[0])
    found: dict[str, tuple[int, int]] = {}
    for place in range(0, len(pixels), 3):
        colour, x = f"#{pixels[place : place + 3].hex()}", place // 3 % wide
        least, most = found.get(colour, (x, x))
        found[colour] = min(least, x), max(most, x)
    return found


def test_charts_are_drawn_with_their_colours_places_and_words(tmp_path: Path) -> None:
    bars = (Bar(0, 300, "start", "one"), Bar(300, 600, "verify", "two"))
    rows = [Row("first row", bars), Row("second row", (Bar(0, 600, "fence", "three"),), limit=600)]
    share = Shares("cpu", ((Part(0.5, "gone", "lost"),), (Part(1, "dark", "off"),)), "50 % lost")
    steps = Series("people", "line", ((0, 8e6), (300, 4e6)))
    charts = (
        svg.gantt("g", "Work", "words", rows, 600),
        svg.shares("s", "Capacity", "words", [share]),
        svg.curves("c", "Outage", "words", [steps], 600, 8e6),
    )
    style = Path(view_texts.__file__).parent.joinpath("templates", "report.css").read_text("utf-8")
    page = "<html><head><style>{}</style></head><body>{}</body></html>"
    made = pdf(page.format(style, "".join(f"<figure>{chart}</figure>" for chart in charts)))
    words = " ".join(" ".join(sheets(made, tmp_path)).split())
    for one in ("first row", "second row", "4 min", "8 min", "cpu", "50 % lost"):
        assert one in words
    assert "Work" not in words, "what a chart says to people who do not see it is not printed on it"
    found = painted(made, tmp_path)
    start, verify, fence = (found[colour] for colour in ("#2f75b8", "#3f9163", "#a8322b"))
    assert abs(start[1] - verify[0]) <= 2, "one begins where the other ends"
    assert start[0] == fence[0]
    assert abs(verify[1] - fence[1]) <= 1, "and together they are as long as the one below"
    half, whole = found["#d9837c"], found["#b9b2dd"]
    assert abs(2 * (half[1] - half[0]) - (whole[1] - whole[0])) <= 3
    assert "#1f62a5" in found, "the line of the curve"


def test_a_wide_table_stays_on_the_sheet_and_breaks_no_name_into_letters(tmp_path: Path) -> None:
    style = Path(view_texts.__file__).parent.joinpath("templates", "report.css").read_text("utf-8")
    cells = "".join(f'<td class="n">{n},000 accelerators</td>' for n in range(8))
    rows = f"<tr><th>bundang</th>{cells}</tr>"
    page = f"<html><head><style>{style}</style></head><body><table>{rows}</table></body></html>"
    words = " ".join(sheets(pdf(page), tmp_path)).split()
    assert "bundang" in words
    assert "7,000" in words


def test_without_the_extra_it_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdfs, "is_installed", lambda extra: False)
    with pytest.raises(InvalidInput, match=r"a PDF needs extra packages: pip install 'evac\[pdf\]'"):
        pdf("<p>words</p>")


def test_without_the_extra_a_plan_is_not_half_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "is_installed", lambda extra: False)
    target, report = tmp_path / "p.json", tmp_path / "p.pdf"
    estate = "tests/fixtures/estates/small"
    code = run(["plan", estate, "--lose", "north", "-o", str(target), "--report", str(report)])
    assert code == console.USAGE
    assert "pip install 'evac[pdf]'" in capsys.readouterr().err
    assert not target.exists()
    assert not report.exists()
