"""Takes the pictures of the README and of the front page from a real run of `evac serve --demo`.

`docs/pictures/war-room.png`: the Now page while a step waits for approval (needs Chromium).
`docs/pictures/demo.svg`: the terminal during the same run, as an animation in plain SVG. Waits of more than
`LONGEST_WAIT_S` are shortened; the figure says so.
"""

from __future__ import annotations

import os
import queue
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
EVAC = Path(sys.executable).parent / "evac"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
COLUMNS, ROWS = 100, 25
LONGEST_WAIT_S = 2.0
LAST_SCREEN_S = 6.0
AT_MOST_S = 600.0
LINE_PX, LETTER_PX, EDGE_PX, BAR_PX = 19, 8.43, 16, 34
STYLE = """
text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d7dee8 }
text { white-space: pre }
.typed { fill: #7ee2a8 } .note { fill: #8b98a9 } .bad { fill: #ff8f86 }
@media (prefers-reduced-motion: reduce) { g, text { animation: none !important } }
"""


@dataclass(slots=True)
class Recording:
    """Lines of a terminal and when each appeared, in seconds of the recording."""

    lines: list[tuple[float, str, str]] = field(default_factory=list)
    clock: float = 0.0
    last: float = field(default_factory=time.monotonic)

    def add(self, text: str, look: str = "") -> None:
        """Write one line now. A long wait before it is shortened."""
        now = time.monotonic()
        self.clock += min(now - self.last, LONGEST_WAIT_S)
        self.last = now
        folded = textwrap.wrap(text, COLUMNS, replace_whitespace=False, break_on_hyphens=False) or [""]
        self.lines.extend((self.clock, part, look) for part in folded)

    def run(self, words: Sequence[str], server: str, most: int) -> None:
        """Run one command of evac and show the first `most` lines of what it prints."""
        self.add("")
        time.sleep(0.8)
        self.add("$ evac " + " ".join(f'"{word}"' if " " in word else word for word in words), "typed")
        environment = {**os.environ, "EVAC_SERVER": server, "COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
        done = subprocess.run([EVAC, *words], env=environment, capture_output=True, text=True, check=False)
        shown = (done.stdout + done.stderr).rstrip().splitlines()
        for line in shown[:most]:
            self.add(line)
        if len(shown) > most:
            self.add(f"... {len(shown) - most} more lines", "note")


def demonstrate(port: int, picture: Path) -> Recording:
    """Play the demo: approve, publish, resolve. The picture is taken while the step waits."""
    server = f"http://127.0.0.1:{port}"
    recording = Recording()
    recording.add("$ evac serve --demo", "typed")
    demo = subprocess.Popen(
        [EVAC, "serve", "--demo", "--port", str(port)],
        env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in lines_of(demo):
            recording.add(line, "bad" if " is lost" in line or " burns" in line else "")
            if "so it waits for you" in line:
                time.sleep(4)
                photograph(f"{server}/now", picture)
                recording.last = time.monotonic()
                recording.run(["run", "show", "pangyo-fire"], server, 17)
                reason = "19 s of logins are worth it"
                recording.run(
                    ["approve", "pangyo-fire", "--step", "promote:sessions", "--reason", reason], server, 4
                )
                recording.add("")
            if "The run has ended." in line:
                text = "All services but Mail work again."
                update = ["incident", "note", "pangyo-fire", text, "--kind", "update"]
                recording.run([*update, "--value", "monitoring", "--due", "30m"], server, 4)
                done = ["--reason", "only Mail is left", "--confirm", "pangyo-fire"]
                recording.run(["incident", "resolve", "pangyo-fire", *done], server, 8)
                recording.add("")
            if "To start with your own" in line:
                return recording
    finally:
        demo.terminate()
        demo.wait(30)
    raise SystemExit("the demonstration ended before its run")


def lines_of(program: subprocess.Popen[str]) -> Iterator[str]:
    """Each line as it comes; ends when the program ends or is silent for too long."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert program.stdout is not None
    output = program.stdout

    def read() -> None:
        for line in output:
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get(timeout=AT_MOST_S)) is not None:
        yield line


def photograph(address: str, path: Path) -> None:
    """The top of a page, in light colours."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("EVAC_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.goto(address, wait_until="commit")
        page.wait_for_timeout(3000)
        page.screenshot(path=path)
        browser.close()


def drawn(recording: Recording) -> str:
    """The recording as SVG that repeats for ever; without motion it shows the last screen."""
    whole = recording.clock + LAST_SCREEN_S
    width, height = round(COLUMNS * LETTER_PX + 2 * EDGE_PX), ROWS * LINE_PX + BAR_PX + EDGE_PX
    styles, texts, scrolls = [], [], ["0% { transform: translateY(0) }"]
    for number, (at, text, look) in enumerate(recording.lines):
        share = 100 * at / whole
        styles.append(f"@keyframes l{number} {{ 0% {{ opacity: 0 }} {share:.2f}%, 100% {{ opacity: 1 }} }}")
        texts.append(
            f'<text class="{look}" x="{EDGE_PX}" y="{BAR_PX + (number + 1) * LINE_PX}" '
            f'style="animation: l{number} {whole:.1f}s step-end infinite">{escape(text)}</text>'
        )
        if number >= ROWS:
            scrolls.append(f"{share:.2f}% {{ transform: translateY(-{(number + 1 - ROWS) * LINE_PX}px) }}")
    end = max(0, len(recording.lines) - ROWS) * LINE_PX
    styles.append(f"@keyframes scroll {{ {' '.join(scrolls)} 100% {{ transform: translateY(-{end}px) }} }}")
    styles.append(f"#screen {{ transform: translateY(-{end}px) }}")
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
 width="{width}" height="{height}" role="img" aria-label="A terminal during evac serve --demo: a site is lost,
 the run starts, a step is approved, services are restored">
<style>{STYLE}{chr(10).join(styles)}</style>
<clipPath id="window"><rect y="{BAR_PX}" width="{width}" height="{height - BAR_PX}"/></clipPath>
<rect width="{width}" height="{height}" rx="8" fill="#141a22"/>
<text class="note" x="{EDGE_PX}" y="22">evac serve --demo, recorded; long waits are shortened</text>
<g clip-path="url(#window)"><g id="screen" style="animation: scroll {whole:.1f}s step-end infinite">
{chr(10).join(texts)}
</g></g>
</svg>
"""


def _is_free(port: int) -> bool:
    """Whether the port that the documentation names can be used, so that the recording shows it."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


def main() -> int:
    """Play the demo once and write both pictures."""
    FOLDER.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 8400 if _is_free(8400) else 0))
        port = free.getsockname()[1]
    recording = demonstrate(port, FOLDER / "war-room.png")
    (FOLDER / "demo.svg").write_text(drawn(recording), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
