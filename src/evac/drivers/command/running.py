"""Runs one program: an argument list, never a shell; bounded; its whole group ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evac.model.errors import Permanent

MAX_OUTPUT_BYTES: Final = 65_536
REAP_S: Final = 1.0
PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "TZ", "HOME")
"""The only variables of our own environment that a program gets without being named."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. code: its exit status, below 0 by a signal, None when its time was over. output:
    the first `MAX_OUTPUT_BYTES` of what it wrote; whole: whether that is all.
    """

    code: int | None
    output: str
    whole: bool


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """A small environment: what is always passed on, and `extra`."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**passed, **extra}


async def run_program(
    argv: Sequence[str], *, env: Mapping[str, str], timeout_s: float, cwd: str = ""
) -> Ended:
    """Runs it to its end, or until its time is over; then nothing of its group is left. Raises `Permanent`
    when it cannot be started at all.
    """
    if not argv or not all(argv[:1]):
        raise Permanent("command-missing", "no command is given")
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(env),
            cwd=cwd or None,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "an argument holds a null character"
        raise Permanent("command-not-started", f"{Path(argv[0]).name} cannot be started: {why}") from error
    kept = bytearray()
    reading = asyncio.ensure_future(_drain(process, kept))
    code: int | None = None
    try:
        async with asyncio.timeout(timeout_s):
            code = await _exit_code(process)
    except TimeoutError:
        pass
    finally:
        # Also after an ordinary end: a child that stays behind would go on acting for nobody.
        _kill_group(process.pid)
        await _settle(process, reading)
    output = bytes(kept[:MAX_OUTPUT_BYTES]).decode("utf-8", "replace")
    return Ended(code, output, len(kept) <= MAX_OUTPUT_BYTES)


async def _exit_code(process: asyncio.subprocess.Process) -> int:
    """The exit status as soon as there is one. `Process.wait` also waits for whoever holds the output."""
    pause = 0.001
    while process.returncode is None:
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.02)
    return process.returncode


async def _drain(process: asyncio.subprocess.Process, kept: bytearray) -> None:
    """Reads all it writes, so that it never blocks, and keeps the first part."""
    assert process.stdout is not None
    while part := await process.stdout.read(65_536):
        kept += part[: MAX_OUTPUT_BYTES + 1 - len(kept)]


async def _settle(process: asyncio.subprocess.Process, reading: asyncio.Future[None]) -> None:
    """Waits shortly for process and output; a grandchild in a session of its own may keep the pipe."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_S):
            await _exit_code(process)
            await asyncio.shield(reading)
    if not reading.done():
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
