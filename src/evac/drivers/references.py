"""Resolves references of secrets in files of settings: those that drivers know, and `command:`.

A command is a program with arguments, never a shell; the first line that it prints is the secret. Whatever
goes wrong is told without a word of its output.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import time
from typing import Final

from evac.model.errors import Permanent
from evac.net.secrets import MAX_SECRET_BYTES, Secret, opened, resolve

COMMAND: Final = "command:"
COMMAND_S: Final = 10.0


def secret_of(reference: str, whole: bool = False) -> Secret:
    """The secret that a reference names; may wait for a program. whole: all that a program prints, such as a
    key of several lines. Raises `Permanent`.
    """
    if not reference.startswith(COMMAND):
        return resolve(reference)
    if (found := opened(reference, os.environ)) is not None:
        return found
    return Secret(_from_command(reference.removeprefix(COMMAND), whole), reference)


def _from_command(line: str, whole: bool) -> str:
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    program = words[0] if words else ""
    if not program.startswith("/"):
        raise Permanent("secret-reference", "a command of a secret begins with /", "write command:/path")
    try:
        said, code = _run(words)
    except (TimeoutError, subprocess.TimeoutExpired):
        raise Permanent("secret-missing", f"{program} did not answer in {COMMAND_S:g} s") from None
    except OSError as error:
        raise Permanent("secret-missing", f"{program} cannot be run: {error.strerror}") from None
    if len(said) > MAX_SECRET_BYTES:
        raise Permanent("secret-too-large", f"{program} says more than {MAX_SECRET_BYTES} bytes")
    if code:
        raise Permanent("secret-missing", f"{program} ended with {code}")
    try:
        text = said.decode("utf-8")
    except UnicodeDecodeError:
        raise Permanent("secret-unreadable", f"{program} does not say text in UTF-8") from None
    text = text if whole else text.partition("\n")[0].removesuffix("\r")
    if not text:
        raise Permanent("secret-missing", f"{program} says nothing")
    return text


def _run(words: list[str]) -> tuple[bytes, int]:
    """(what a program says, its exit code); no more is read than a secret may have and one byte. It has ended
    afterwards. Raises OSError, TimeoutError and TimeoutExpired.
    """
    end_s = time.monotonic() + COMMAND_S
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        try:
            assert process.stdout is not None
            said = _read(process.stdout.fileno(), end_s)
            code = 0 if len(said) > MAX_SECRET_BYTES else process.wait(max(0.0, end_s - time.monotonic()))
        finally:
            process.kill()
    return said, code


def _read(handle: int, end_s: float) -> bytes:
    """Raises TimeoutError."""
    poller, said = select.poll(), bytearray()
    poller.register(handle, select.POLLIN)
    while len(said) <= MAX_SECRET_BYTES:
        if not poller.poll(max(0.0, end_s - time.monotonic()) * 1_000):
            raise TimeoutError
        part = os.read(handle, MAX_SECRET_BYTES + 1 - len(said))
        if not part:
            break
        said += part
    return bytes(said)
