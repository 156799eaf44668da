"""Resolves references of secrets in access files: those that drivers know, and `command:`.

A command is a program with arguments, never a shell; the first line that it prints is the secret. Whatever
goes wrong is told without a word of its output.
"""

from __future__ import annotations

import shlex
import subprocess
from typing import Final

from evac.actions.secrets import MAX_SECRET_BYTES, Secret, resolve
from evac.model.errors import Permanent

COMMAND: Final = "command:"
COMMAND_S: Final = 10.0


def secret_of(reference: str, whole: bool = False) -> Secret:
    """The secret that a reference names; may wait for a program. whole: all that a program prints, such as a
    key of several lines. Raises `Permanent`.
    """
    if not reference.startswith(COMMAND):
        return resolve(reference)
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
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Permanent("secret-missing", f"{program} did not answer in {COMMAND_S:g} s") from None
    except OSError as error:
        raise Permanent("secret-missing", f"{program} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise Permanent("secret-missing", f"{program} ended with {done.returncode}")
    if len(done.stdout) > MAX_SECRET_BYTES:
        raise Permanent("secret-too-large", f"{program} says more than {MAX_SECRET_BYTES} bytes")
    try:
        text = done.stdout.decode("utf-8")
    except UnicodeDecodeError:
        raise Permanent("secret-unreadable", f"{program} does not say text in UTF-8") from None
    text = text if whole else text.partition("\n")[0].removesuffix("\r")
    if not text:
        raise Permanent("secret-missing", f"{program} says nothing")
    return text
