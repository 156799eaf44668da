"""A worker process: answers, is started again when it died, and never outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from evac.app.side_process import Apart

PARENT = """
import asyncio, os, signal, sys, time
from evac.app.side_process import Apart

async def main():
    apart = Apart()
    print(await apart.ask(os.getpid), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _lives(pid)


def test_a_worker_that_died_is_started_again_and_closing_ends_it() -> None:
    async def story() -> int:
        apart = Apart()
        first = await apart.ask(os.getpid)
        with pytest.raises(BrokenProcessPool):
            await apart.ask(os.kill, first, signal.SIGKILL)
        second = await apart.ask(os.getpid)
        assert second not in (first, os.getpid())
        apart.close()
        return second

    assert _gone(asyncio.run(story()))


def test_closing_ends_a_worker_in_the_middle_of_its_work() -> None:
    async def story() -> int:
        apart = Apart()
        pid = await apart.ask(os.getpid)
        work = asyncio.ensure_future(apart.ask(time.sleep, 600))
        await asyncio.sleep(0.1)
        apart.close()
        with pytest.raises(BrokenProcessPool):
            await work
        return pid

    assert _gone(asyncio.run(story()))


def test_a_worker_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert _lives(worker)
        parent.kill()
    assert _gone(worker)
