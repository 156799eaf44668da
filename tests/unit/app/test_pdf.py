"""Pages as PDF, made by the real library and read back by poppler."""

from __future__ import annotations

import re
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from evac.app import pdf as pdfs
from evac.app.pdf import pdf
from evac.cli import console
from evac.cli.main import run
from evac.incident.runbook import Runbook, runbook
from evac.model.errors import EvacError, InvalidInput
from evac.views.incident_view import runbook_page
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


def test_the_charts_of_a_plan_are_left_to_its_page(tmp_path: Path) -> None:
    page = (
        '<html><head></head><body><p>words</p><svg class="chart"><text y="9">bars</text></svg></body></html>'
    )
    assert sheets(pdf(page), tmp_path)[0].split() == ["words"]


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
