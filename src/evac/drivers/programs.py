"""Run programs on this machine with limits on time and output, ending with their whole process group.

A program gets an argument list, never a shell, and a small environment of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evac.drivers.parameters import many
from evac.drivers.port import Value
from evac.model.errors import Permanent
from evac.model.records import dataclass
from evac.net import secrets
from evac.net.secrets import Secret

MAX_OUTPUT_BYTES: Final = 65_536
REAP_S: Final = 1.0
INTERRUPTED_S: Final = 10.0
"""How long an interrupted program may clean up."""
_LONGEST_WORDS: Final = 200
_LINE_BYTES: Final = 65_536
"""Longest part of a line of output that is passed on while a program runs."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "TZ", "HOME")
"""The only variables of our own environment that a program gets without being named."""


Takes = Callable[[bytes], bool]
"""Given a line of output without its end: whether it is dealt with."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int | None
    """Its exit status, below 0 for a signal; None on timeout."""
    output: str
    """The first bytes of its output, up to the limit."""
    whole: bool
    """Whether that is all of it."""
    errors: str = ""
    """The last bytes of its standard error, if kept separate: they say why it ended."""
    raw: bytes = b""
    """`output` as bytes: a program may return a file."""
    lost: bool = False
    """Whether it was interrupted because it could no longer succeed."""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """A small environment: the variables always passed on, and `extra`."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**passed, **extra}


def given(settings: Mapping[str, Value]) -> tuple[dict[str, str], tuple[Secret, ...]]:
    """The variables in the setting `env`, a list of `NAME=value` or `NAME=reference`, and the secrets among
    them. Raises `Permanent`.
    """
    found: dict[str, str] = {}
    hidden: list[Secret] = []
    for entry in many(settings, "env"):
        name, separator, value = entry.partition("=")
        if not separator or not _NAME.fullmatch(name):
            raise Permanent("setting-wrong", "env must be a list of NAME=value or NAME=reference")
        if value.startswith(("env:", "file:")):
            secret = secrets.resolve(value)
            hidden.append(secret)
            value = secret.reveal()
        found[name] = value
    return found, tuple(hidden)


async def run_program(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout_s: float,
    cwd: str = "",
    most: int = MAX_OUTPUT_BYTES,
    apart: bool = False,
    account: pwd.struct_passwd | None = None,
    keeps: Sequence[int] = (),
    hopeless: Sequence[str] = (),
    takes: Takes | None = None,
    hears: Callable[[bytes], None] | None = None,
    reads: int = asyncio.subprocess.DEVNULL,
    writes: int = asyncio.subprocess.PIPE,
) -> Ended:
    """Run it to its end or its time limit; then nothing of its group is left. Raises `Permanent` if it cannot
    be started.

    most: bytes of output to keep. apart: keep standard error separate, and end a program that writes more
    than `most`. account: user to run as. keeps: open files that it inherits, such as a lock that must be held
    while any part of it lives. hopeless: lower-case texts on its standard error that make it pointless to
    continue: it is interrupted, because it would retry for a long time. takes: gets each line of output at
    once, a long one in pieces of equal length; what it takes is not kept. hears: gets the lines of a separate
    standard error in the same way; only its last bytes are kept.
    """
    if not argv or not all(argv[:1]):
        raise Permanent("command-missing", "no command is given")
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=reads,
            stdout=writes,
            stderr=asyncio.subprocess.PIPE if apart else asyncio.subprocess.STDOUT,
            env=dict(env),
            cwd=cwd or None,
            start_new_session=True,
            pass_fds=tuple(keeps),
            **_identity(account),
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "an argument contains a null character"
        raise Permanent("command-not-started", f"{Path(argv[0]).name} cannot be started: {why}") from error
    kept, errors, full, lost = bytearray(), bytearray(), asyncio.Event(), asyncio.Event()
    reading: list[asyncio.Future[None]] = []
    if process.stdout is not None:
        over = full if apart else None
        reading.append(asyncio.ensure_future(_drain(process.stdout, kept, most, over, takes)))
    if apart:
        reading.append(asyncio.ensure_future(_listen(process.stderr, errors, hopeless, lost, hears)))
    code: int | None = None
    try:
        async with asyncio.timeout(timeout_s):
            code = await _exit_code(process, full, lost)
        if code is None and lost.is_set():
            os.killpg(process.pid, signal.SIGINT)
            async with asyncio.timeout(INTERRUPTED_S):
                code = await _exit_code(process, full)
    except (TimeoutError, ProcessLookupError):
        pass
    finally:
        # Also after a normal exit: a leftover child would keep running unattended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await _settle(process, reading)
    raw = bytes(kept[:most])
    said = bytes(errors).decode("utf-8", "replace")
    return Ended(code, raw.decode("utf-8", "replace"), len(kept) <= most, said, raw, lost.is_set())


def _identity(account: pwd.struct_passwd | None) -> dict[str, Any]:
    if account is None:
        return {}
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


async def _exit_code(process: asyncio.subprocess.Process, *over: asyncio.Event) -> int | None:
    """The exit status as soon as there is one, or None if it ended for another reason, such as too much
    output. `Process.wait` also waits for other processes that hold the output.
    """
    pause = 0.001
    while process.returncode is None and not any(one.is_set() for one in over):
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.02)
    return process.returncode


async def _drain(
    stream: asyncio.StreamReader,
    kept: bytearray,
    most: int,
    full: asyncio.Event | None = None,
    takes: Takes | None = None,
) -> None:
    """Read all output, so that it never blocks, and keep the first part. full: is set after that."""
    begun = b""
    while part := await stream.read(65_536):
        if takes is not None:
            pieces, begun = _lines(begun + part)
            part = b"".join(piece for piece in pieces if not takes(piece.removesuffix(b"\n")))
        kept += part[: most + 1 - len(kept)]
        if full is not None and len(kept) > most:
            full.set()
    kept += begun[: most + 1 - len(kept)]


def _lines(said: bytes) -> tuple[list[bytes], bytes]:
    """The lines in it, long ones in pieces, and what may continue."""
    *lines, begun = said.split(b"\n")
    *long, begun = _pieces(begun)
    return [piece for line in lines for piece in _pieces(line, b"\n")] + long, begun


def _pieces(line: bytes, end: bytes = b"") -> list[bytes]:
    """A line in pieces, wherever the pipe cut it: all have the greatest length but the last, with the end."""
    cuts = range(_LINE_BYTES, len(line), _LINE_BYTES)
    return [line[at - _LINE_BYTES : at] for at in cuts] + [line[len(cuts) * _LINE_BYTES :] + end]


async def _listen(
    stream: asyncio.StreamReader | None,
    kept: bytearray,
    hopeless: Sequence[str],
    lost: asyncio.Event,
    hears: Callable[[bytes], None] | None,
) -> None:
    """Read all output, and keep the last part. lost: is set once it contains one of these texts."""
    assert stream is not None
    begun = b""
    while part := await stream.read(65_536):
        new = (kept[-_LONGEST_WORDS:] + part).lower()
        kept += part
        del kept[:-MAX_OUTPUT_BYTES]
        if any(words.encode() in new for words in hopeless):
            lost.set()
        if hears is not None:
            lines, begun = _lines(begun + part)
            for line in lines:
                hears(line.removesuffix(b"\n"))
    if hears is not None and begun:
        hears(begun)


async def _settle(process: asyncio.subprocess.Process, reading: Sequence[asyncio.Future[None]]) -> None:
    """Wait briefly for process and output; a grandchild in its own session may keep the pipe open."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_S):
            await _exit_code(process)
            await asyncio.shield(asyncio.gather(*reading))
    for one in reading:
        if not one.done():
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
