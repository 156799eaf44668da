"""Print a page as PDF with WeasyPrint, in a separate process with limits on time and memory."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import subprocess
import sys
import threading
from typing import Any, Final

from evac.app.own_python import OWN_PYTHON
from evac.model.errors import EvacError, InvalidInput
from evac.model.extras import is_installed, needs
from evac.views.svg import CURVE_HEIGHT, CURVE_WIDTH

PAGE_BYTES_MOST: Final = 4 << 20
"""A runbook of 5,000 steps has 3.4 million bytes."""
SECONDS_MOST: Final = 600
MEMORY_BYTES_MOST: Final = 4 << 30
AT_ONCE: Final = 1
"""A runbook of 5,000 steps takes 2.4 GB."""

_SLOTS: Final = threading.BoundedSemaphore(AT_ONCE)
_LIGHT: Final = re.compile(r"light-dark\(([^,()]+),[^()]*\)")
_CHART: Final = re.compile(
    r'<svg [^>]*class="chart (\w+)" style="--rows:(\d+)">(.*?</svg>(?:</svg>)?)', re.DOTALL
)
_SIZES: Final = {"gantt": (270, 26, 392, 20), "shares": (90, 96, 146, 27), "curve": (52, 16, 264, 110)}
"""Kind of chart -> gutter, edge, inner width and row height in pixels, as on a printed page."""
_AXIS: Final = 30
_PAINT: Final = frozenset({"fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "text-anchor"})
_ALONG: Final = frozenset({"x", "x1", "x2", "width"})


def pdf(page: str) -> bytes:
    """The PDF of a page of `evac.views`; reads no file and no network. Same page, same bytes.

    Raises InvalidInput for a page that is too long and if the extra is missing, EvacError if no PDF was made
    within SECONDS_MOST and MEMORY_BYTES_MOST, and while another one is being made.
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
        command = [*OWN_PYTHON, "-m", __name__]
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


def with_charts(page: str) -> str:
    """The page with self-contained charts. WeasyPrint applies no page style sheet to SVG, where charts have
    their colours and positions.
    """
    if not _CHART.search(page):
        return page
    sheet = page.partition("<style>")[2].partition("</style>")[0].partition("@media (max-width")[0]
    colours = dict(re.findall(r"(--[\w-]+): *(#\w+)", sheet.partition("}")[0]))
    rules = []
    for names, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet):
        paint = [line.strip() for line in body.split(";") if line.partition(":")[0].strip() in _PAINT]
        if paint:
            rules.append(f"{names.strip()} {{ {'; '.join(paint)} }}")
    style = re.sub(r"var\((--[\w-]+)\)", lambda one: colours.get(one[1], "#000000"), "\n".join(rules))
    return _CHART.sub(lambda found: _chart(found[1], int(found[2]), found[3], style), page)


def _chart(kind: str, rows: int, inside: str, style: str) -> str:
    """One chart in pixels instead of shares of its width, with inline colours."""
    gutter, edge, inner, pitch = _SIZES.get(kind, _SIZES["gantt"])
    tall = rows * pitch

    def in_pixels(found: re.Match[str]) -> str:
        return f'{found[1]}="{float(found[2]) * (inner if found[1] in _ALONG else tall) / 100:.2f}"'

    def scaled(found: re.Match[str]) -> str:
        x, y = inner / CURVE_WIDTH, tall / CURVE_HEIGHT
        point = re.sub(r"M([\d.]+) ", lambda one: f"M{float(one[1]) * x:.2f} ", found[0])
        point = re.sub(r"(?<=[\d.] )([\d.]+)", lambda one: f"{float(one[1]) * y:.2f}", point)
        point = re.sub(r"H([\d.]+)", lambda one: f"H{float(one[1]) * x:.2f}", point)
        return re.sub(r"V([\d.]+)", lambda one: f"V{float(one[1]) * y:.2f}", point)

    body = re.sub(r"<(title|desc)\b[^>]*>.*?</\1>", "", inside.removesuffix("</svg>"), flags=re.DOTALL)
    body = re.sub(r"<svg [^>]*preserveAspectRatio[^>]*>", "<g>", body).replace("</svg>", "</g>")
    body = re.sub(r'\b(x|x1|x2|width|y|y1|y2|height)="([\d.]+)%"', in_pixels, body)
    body = re.sub(r'(?<= d=")[^"]+', scaled, body)
    body = re.sub(
        r'style="--n:(\d+)"', lambda one: f'transform="translate(0 {int(one[1]) * pitch})"', body
    ).replace('<text class="label', '<text x="-10" class="label')
    wide, high = gutter + inner + edge, tall + _AXIS
    return (
        f'<svg viewBox="{-gutter} -8 {wide} {high + 8}" width="{wide}" height="{high + 8}">'
        f'<style>{style}</style><g class="chart {kind}" font-family="sans-serif" font-size="11">'
        f"{body}</g></svg>"
    )


def main() -> None:
    """Convert a page on stdin to its PDF on stdout."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MOST, MEMORY_BYTES_MOST))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_MOST, SECONDS_MOST))
    data = sys.stdin.buffer.read(PAGE_BYTES_MOST + 1)
    try:
        from weasyprint import CSS, HTML
        from weasyprint.urls import URLFetcher
    except OSError:
        sys.exit("WeasyPrint cannot load Pango; install it (Debian: apt install libpangoft2-1.0-0)")

    class Refusing(URLFetcher):  # type: ignore[misc]
        """Refuses every fetch: files, network, and data within the page."""

        def fetch(self, url: str, headers: Any = None) -> Any:
            raise ValueError(f"a PDF must not load {url[:80]}")

    page = _LIGHT.sub(r"\1", data.decode())
    drawn = HTML(string=with_charts(page), url_fetcher=Refusing())
    whole = CSS(string=".collapsed { display: none !important; }")  # a PDF shows every list expanded
    made = drawn.write_pdf(stylesheets=[whole], pdf_identifier=hashlib.sha256(data).digest()[:16])
    sys.stdout.buffer.write(made)


if __name__ == "__main__":
    main()
