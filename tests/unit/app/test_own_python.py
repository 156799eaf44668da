"""Parts of evac that are processes of their own never run a module from the current folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLANTED = ("evac", "multiprocessing", "concurrent", "click", "numpy", "json", "asyncio", "weasyprint")
"""Modules that evac or its workers import, each of which leaves a mark if it runs."""

WORKER = """
import asyncio, os
from evac.app.side_process import Apart

async def main():
    apart = Apart()
    assert await apart.ask(os.getpid) != os.getpid()
    apart.close()

if __name__ == "__main__":
    asyncio.run(main())
"""

KEPT = """
import asyncio
from evac.app import side_process

async def main():
    ended = asyncio.Event()
    task = asyncio.create_task(side_process.keep(["--version"], lambda words: ended.set(), module="evac"))
    await ended.wait()
    task.cancel()

asyncio.run(main())
"""

PAGE = """
from evac.app.pdf import pdf
assert pdf("<p>a page</p>").startswith(b"%PDF-")
"""

BACKGROUND = """
import subprocess
from evac.app.own_python import OWN_PYTHON
subprocess.run([*OWN_PYTHON, "-m", "evac", "--version"], check=True)
"""


@pytest.mark.parametrize(
    "program", [WORKER, KEPT, PAGE, BACKGROUND], ids=["worker", "kept", "pdf", "background"]
)
def test_a_part_of_evac_runs_no_module_of_the_current_folder(program: str, tmp_path: Path) -> None:
    here, mark, script = tmp_path / "estate", tmp_path / "ran", tmp_path / "program" / "evac-like.py"
    for name in PLANTED:
        (here / name).mkdir(parents=True)
        (here / name / "__init__.py").write_text(f"open({str(mark)!r}, 'a').write({name!r} + '\\n')\n")
    script.parent.mkdir()
    script.write_text(program)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not mark.exists(), mark.read_text()
    assert done.returncode == 0, done.stderr
