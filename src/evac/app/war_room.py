"""The process of the war room beside a controller: started, started again when it ends, ended with it.

A page must never cost a leader its lease, so pages are served by a process of their own. The controller does
not wait for it and lives without it. It knows by the end of its standard input that its parent is gone. The
export of the public status page is kept in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Final

import orjson

from evac.model import extras

MODULE: Final = "evac.web.serving"
EXPORT: Final = "evac.app.status_export"
NOTICES: Final = "evac.office.notices.process"
TRACES: Final = "evac.app.traces_process"
LIBRARIES: Final = ("fast_sugiyama", "fastapi", "joserfc", "multipart", "prometheus_client", "uvicorn")
FIRST_S: Final = 0.5
MOST_S: Final = 30.0
WELL_S: Final = 60.0
"""Whatever ran for so long ran well: the next start is not held back."""
STOP_S: Final = 8.0
LINE_S: Final = 1.0
NEITHER: Final = "neither"


def controller_line(leads: bool, neither: str) -> bytes:
    """What a controller says of itself to the room beside it. neither: why it can neither lead nor follow."""
    state = "leads" if leads else NEITHER if neither else "follows"
    return orjson.dumps({"state": state, "why": neither})


def check_libraries() -> None:
    """Raises InvalidInput with the one command to type, where the extra `serve` is not installed."""
    if any(importlib.util.find_spec(name) is None for name in LIBRARIES):
        raise extras.needs("serve", "evac serve")


async def keep(
    arguments: Sequence[str],
    tell: Callable[[str], None],
    program: str = sys.executable,
    module: str = MODULE,
    name: str = "the war room",
    handed: Sequence[int] = (),
    line: Callable[[], bytes] | None = None,
) -> None:
    """Runs the process for ever, with a growing pause between ends; ends it when cancelled.

    arguments: of the module; tell: is told in words, by that name, when it ended; handed: numbers of open
    files that it may use as well; line: what it gets every second through its standard input, which needs
    neither store nor disk.
    """
    pause_s = FIRST_S
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            code = await _once(program, module, arguments, handed, line)
        except OSError as error:
            code = error.errno or -1
        if loop.time() - began >= WELL_S:
            pause_s = FIRST_S
        tell(f"{name} ended with {code}; it starts again in {pause_s:g} s")
        await asyncio.sleep(pause_s)
        pause_s = min(MOST_S, pause_s * 2)


async def _once(
    program: str,
    module: str,
    arguments: Sequence[str],
    handed: Sequence[int],
    line: Callable[[], bytes] | None,
) -> int:
    """One life of the process; its exit code."""
    process = await asyncio.create_subprocess_exec(
        program,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,
        pass_fds=handed,
    )
    telling = None if line is None else asyncio.create_task(_tell_lines(process.stdin, line))
    try:
        return await process.wait()
    finally:
        if telling is not None:
            telling.cancel()
        if process.returncode is None:
            await _end(process)


async def _tell_lines(pipe: asyncio.StreamWriter | None, line: Callable[[], bytes]) -> None:
    """Whoever does not read is not waited for, and finds the newest line later."""
    while pipe is not None and not pipe.is_closing():
        if not pipe.transport.get_write_buffer_size() and (words := line()):
            pipe.write(words + b"\n")
        await asyncio.sleep(LINE_S)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
