"""Draws how a run and a step move, from the transition tables themselves, as pictures for the documentation.

`python scripts/run_diagram.py` needs the program `dot`; `--check` only compares the tables with what the
pictures were drawn from, and needs nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from evac.run.table import RUN_TABLE, STEP_TABLE
from evac.run.values import ENDED

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "explanation"
TABLES: Mapping[str, Mapping[tuple[str, str], str]] = {"run": RUN_TABLE, "step": STEP_TABLE}
_LAST = {"run": ENDED, "step": frozenset({"succeeded", "skipped", "undone"})}
_STYLE = (
    'rankdir=TB; bgcolor="#ffffff"; pad=0.2; nodesep=0.35; ranksep=0.45;\n'
    'node [shape=box, style="rounded,filled", fillcolor="#eef2f7", color="#51606f", fontcolor="#1b2733",'
    ' fontname="DejaVu Sans", fontsize=11];\n'
    'edge [color="#51606f", fontcolor="#51606f", fontname="DejaVu Sans", fontsize=9];\n'
)


def drawing(name: str) -> str:
    """The text that `dot` draws: one arrow a pair of states, with all that leads from one to the other."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (phase, trigger), then in TABLES[name].items():
        if phase != then:
            arrows.setdefault((phase, then), []).append(_words(trigger))
    states = sorted({state for pair in arrows for state in pair})
    lines = [f"digraph {name} {{", _STYLE]
    lines.append("{rank=source; pending}")
    for state in states:
        shape = ', penwidth=2, fillcolor="#dfe9dd"' if state in _LAST[name] else ""
        lines.append(f'{state} [label="{_words(state)}"{shape}];')
    for (a, b), whens in sorted(arrows.items()):
        label = "\\n".join(sorted(whens))
        lines.append(f'{a} -> {b} [label="{label}"];')
    return "\n".join([*lines, "}"]) + "\n"


def _words(name: str) -> str:
    if name.startswith("run_ended:"):
        return "ended"
    return name.replace("step_", "").replace("_", " ").replace(":", " ")


def mark(name: str) -> str:
    """What a picture was drawn from."""
    return f"<!-- drawn from {hashlib.sha256(drawing(name).encode()).hexdigest()} -->"


def main(check: bool) -> int:
    stale = []
    for name in TABLES:
        path = FOLDER / f"{name}-states.svg"
        if check:
            if not path.is_file() or mark(name) not in path.read_text(encoding="utf-8"):
                stale.append(path.name)
            continue
        done = subprocess.run(
            ["dot", "-Tsvg"], input=drawing(name), capture_output=True, text=True, check=True
        )
        body = done.stdout[done.stdout.index("<svg") :]
        title = f'role="img" aria-label="How a {name} moves from state to state" '
        path.write_text(mark(name) + "\n" + body.replace("<svg ", "<svg " + title, 1), encoding="utf-8")
    if stale:
        print(
            f"{', '.join(stale)}: drawn from other tables; run python scripts/run_diagram.py", file=sys.stderr
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
