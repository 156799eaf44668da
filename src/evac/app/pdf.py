"""A printable page as PDF, drawn by WeasyPrint in a process of its own with bounds of time and memory."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import subprocess
import sys
import threading
from typing import Any, Final

from evac.model.errors import EvacError, InvalidInput
from evac.model.extras import is_installed, needs

PAGE_BYTES_MOST: Final = 4 << 20
"""A runbook of 5,000 steps has 3.4 million bytes."""
SECONDS_MOST: Final = 600
MEMORY_BYTES_MOST: Final = 4 << 30
AT_ONCE: Final = 1
"""A runbook of 5,000 steps takes 2.4 GB."""

_SLOTS: Final = threading.BoundedSemaphore(AT_ONCE)
_LIGHT: Final = re.compile(r"light-dark\(([^,()]+),[^()]*\)")
_NO_CHARTS: Final = """<style>svg.chart, .legend { display: none; }
body:has(svg.chart) .lead::after { content: " The charts are in the HTML report."; }</style></head>"""
"""WeasyPrint does not apply the style sheet of a page to SVG, and charts have colours and places there."""


def pdf(page: str) -> bytes:
    """The PDF of a page of `evac.views`: it reads no file and no network. Same page, same bytes.

    Raises InvalidInput for a page that is too long and where the extra is missing, EvacError where no PDF
    was made within SECONDS_MOST and MEMORY_BYTES_MOST, and where another one is being made.
    """
    if not is_installed("pdf"):
        raise needs("pdf", "a PDF")
    data = page.encode()
    if len(data) > PAGE_BYTES_MOST:
        raise InvalidInput(
            "pdf-size", f"a page of {len(data):,} bytes is too long for a PDF", "use the HTML page instead"
        )
    if not _SLOTS.acquire(blocking=False):
        raise EvacError("pdf-busy", "another PDF is being made", "try again in a minute")
    try:
        settled = {**os.environ, "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": "0"}
        command = [sys.executable, "-m", __name__]
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=SECONDS_MOST, env=settled, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"no PDF was made within {SECONDS_MOST} seconds"
        raise EvacError("pdf-not-made", message, "use the HTML page instead") from error
    finally:
        _SLOTS.release()
    if done.returncode != 0 or not done.stdout.startswith(b"%PDF-"):
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
        message = f"no PDF was made: {last or f'the process ended with {done.returncode}'}"
        raise EvacError("pdf-not-made", message, "use the HTML page instead")
    return done.stdout


def main() -> None:
    """A page on stdin to its PDF on stdout."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MOST, MEMORY_BYTES_MOST))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_MOST, SECONDS_MOST))
    data = sys.stdin.buffer.read(PAGE_BYTES_MOST + 1)
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except OSError:
        sys.exit("WeasyPrint cannot load Pango; install it (Debian: apt install libpangoft2-1.0-0)")

    class Refusing(URLFetcher):  # type: ignore[misc]
        """Reads nothing: neither a file, nor the network, nor data within the page."""

        def fetch(self, url: str, headers: Any = None) -> Any:
            raise ValueError(f"a PDF is made without reading {url[:80]}")

    page = _LIGHT.sub(r"\1", data.decode()).replace("</head>", _NO_CHARTS, 1)
    drawn = HTML(string=page, url_fetcher=Refusing())
    sys.stdout.buffer.write(drawn.write_pdf(pdf_identifier=hashlib.sha256(data).digest()[:16]))


if __name__ == "__main__":
    main()
