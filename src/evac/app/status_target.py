"""Where the public status page goes: a folder, and from there wherever a command takes it.

Each file is written beside its place and renamed into it, the page last, so that whoever reads meanwhile sees
a whole file, and never a page without its feed. The command is a list of arguments and no shell ever sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evac.drivers.command.driver import run_program
from evac.model.errors import EvacError, InvalidInput, Permanent

FOLDER: Final = "{folder}"
PUSH_S: Final = 120.0
SAID_MOST: Final = 300
ARGUMENTS_MOST: Final = 64
BESIDE: Final = ".new"
LEFT_S: Final = 600.0


class ExportFailed(EvacError):
    """The page could not be put where it belongs; what is there is the last one that could."""

    def __init__(self, why: str) -> None:
        super().__init__("status-page-unwritten", why, "it is tried again; see to the target meanwhile")


@dataclass(frozen=True, slots=True)
class Target:
    """push: arguments of a command that takes the folder elsewhere; `{folder}` stands for its path. Empty:
    the folder is the place.
    """

    folder: Path
    push: tuple[str, ...] = ()

    async def put(self, files: Mapping[str, bytes]) -> None:
        """All of them, in this order. Raises ExportFailed."""
        try:
            await asyncio.to_thread(_write, self.folder, files)
        except OSError as error:
            words = error.strerror or type(error).__name__
            raise ExportFailed(f"{self.folder} cannot be written: {words}") from error
        if self.push:
            await _run([part.replace(FOLDER, str(self.folder)) for part in self.push])


def target_of(folder: Path, push: str = "") -> Target:
    """push: words as a shell would part them; none is asked. Raises InvalidInput."""
    try:
        words = tuple(shlex.split(push))
    except ValueError as error:
        raise InvalidInput("status-push", f"'{push[:60]}' has an open quote", "close it") from error
    if words and not any(FOLDER in word for word in words):
        raise InvalidInput(
            "status-push",
            "the command does not say where the folder goes",
            "write {folder} where its path belongs: rsync -a {folder}/ status.example:/srv/status/",
        )
    if len(words) > ARGUMENTS_MOST:
        raise InvalidInput(
            "status-push", f"a command has {ARGUMENTS_MOST} arguments at most", "write a script, and name it"
        )
    return Target(folder, words)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    for name, body in files.items():
        mine = secrets.token_hex(8)  # a controller elsewhere may write here too, under the same process id
        beside = folder / f".{name}.{mine}{BESIDE}"
        try:
            with beside.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            beside.chmod(0o644)  # a page for everybody, whatever the mask of this process
            beside.replace(folder / name)
        finally:
            beside.unlink(missing_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # else a rename may be forgotten when the power goes
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    """Removes what a process that was killed in the middle of writing left behind."""
    for left in folder.glob(f".*{BESIDE}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_S:
                left.unlink()


async def _run(arguments: list[str]) -> None:
    """Raises ExportFailed with the last words of the command. Nothing of its group stays behind."""
    name = Path(arguments[0]).name
    try:
        ended = await run_program(arguments, env=os.environ, timeout_s=PUSH_S)
    except Permanent as error:
        raise ExportFailed(error.message) from error
    if ended.code is None:
        raise ExportFailed(f"{name} did not end within {PUSH_S:.0f} s")
    if ended.code:
        plain = "".join(letter if letter.isprintable() else " " for letter in ended.output)
        words = " ".join(plain.split())[-SAID_MOST:]
        raise ExportFailed(f"{name} ended with {ended.code}" + (f": {words}" if words else ""))
