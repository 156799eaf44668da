"""Resolves references to secrets (`env:NAME`, `file:/path`), as late as possible, into values that are never
shown.

Owns the reading and the `Secret` type. A reference may be shown; its value may not.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import select
import shlex
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from evac.model.errors import Permanent

MAX_SECRET_BYTES: Final = 65_536
HIDDEN: Final = "(secret)"
OPENED: Final = "EVAC_SECRETS"
"""Names the folder with break-glass material that k people opened: it takes precedence over every
reference.
"""
HEAD_KEY: Final = "EVAC_HEAD_KEY"
"""The variable that refers to the key with which a controller signs journal heads: ed25519 as PEM."""
ROOM_KEY: Final = "EVAC_ROOM_KEY"
"""The same for a war room, which signs proofs of logins with it."""
_FOR_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH


class Secret:
    """A secret in memory. `str`, `repr` and formatting show its reference only; `reveal` gives the text."""

    __slots__ = ("_text", "reference")

    def __init__(self, text: str, reference: str = "") -> None:
        self._text = text
        self.reference = reference

    def reveal(self) -> str:
        """The secret text: only for the call that needs it."""
        return self._text

    def reveal_bytes(self) -> bytes:
        return self._text.encode("utf-8")

    def __repr__(self) -> str:
        return f"Secret({self.reference or HIDDEN})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.reveal_bytes(), other.reveal_bytes())

    def __hash__(self) -> int:
        return hash(self.reference)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret must never be written anywhere")


def resolve(reference: str, environ: Mapping[str, str] | None = None) -> Secret:
    """The secret for a reference. Raises `Permanent`, never with the text of an invalid reference."""
    variables = os.environ if environ is None else environ
    if (found := opened(reference, variables)) is not None:
        return found
    kind, _, name = reference.partition(":")
    if kind == "env" and name:
        return Secret(_from_environment(name, variables), reference)
    if kind == "file" and name.startswith("/"):
        return Secret(_from_file(Path(name)), reference)
    raise Permanent(
        "secret-reference",
        "a secret must be given by reference",
        "write env:NAME or file:/path in the estate, never the secret itself",
    )


def opened(reference: str, environ: Mapping[str, str]) -> Secret | None:
    """The secret of a reference from a bundle's break-glass material; None if missing."""
    folder = environ.get(OPENED, "")
    path = Path(folder) / name_of(reference)
    return Secret(_from_file(path), reference) if folder and path.is_file() else None


def path_of(reference: str, environ: Mapping[str, str] | None = None) -> str:
    """The path in `file:/path`, for libraries that need one; empty without a reference."""
    variables = os.environ if environ is None else environ
    folder = variables.get(OPENED, "")
    inside = Path(folder) / name_of(reference)
    return str(inside) if reference and folder and inside.is_file() else reference.removeprefix("file:")


def name_of(reference: str) -> str:
    """File name of a reference in opened material: it does not reveal the original place."""
    return hashlib.sha256(reference.encode("utf-8", "surrogatepass")).hexdigest()


def is_one_word(text: str) -> bool:
    """Whether a text can be a token in a header: visible ASCII characters. `http.client` quotes any other
    text in its error.
    """
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def scrub(text: str, secrets: Iterable[Secret]) -> str:
    """The text with all secrets masked: for output of other programs."""
    for secret in secrets:
        if secret.reveal():
            text = text.replace(secret.reveal(), HIDDEN)
    return text


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    text = environ.get(name, "")
    if not text:
        raise Permanent("secret-missing", f"the environment variable {name} is not set", f"set {name}")
    if len(text) > MAX_SECRET_BYTES:
        raise Permanent("secret-too-large", f"{name} contains more than {MAX_SECRET_BYTES} bytes")
    return text


def _from_file(path: Path) -> str:
    """The file without its last newline. Opened once, so that what is checked is what is read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unread(path, error) from error
    try:
        _refuse_unsafe(path, os.fstat(handle))
        data = _read_all(handle)
    except OSError as error:
        raise _unread(path, error) from error
    finally:
        os.close(handle)
    if len(data) > MAX_SECRET_BYTES:
        raise Permanent("secret-too-large", f"{path} contains more than {MAX_SECRET_BYTES} bytes")
    try:
        text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # The cause would carry bytes of the secret.
        raise Permanent("secret-unreadable", f"{path} is not UTF-8 text") from None
    if not text:
        raise Permanent("secret-missing", f"{path} is empty", "write the secret to it")
    return text


def _unread(path: Path, error: OSError) -> Permanent:
    hint = "create it, and let only evac's account read it; or correct its reference"
    return Permanent("secret-missing", f"{path} cannot be read: {error.strerror}", hint)


def is_open(path: Path) -> bool:
    """Whether everyone can read or write a secret's file. False if it cannot be checked."""
    try:
        return bool(path.stat().st_mode & _FOR_OTHERS)
    except OSError:
        return False


def _refuse_unsafe(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Permanent("secret-unreadable", f"{path} is not a file")
    if found.st_mode & _FOR_OTHERS:
        raise Permanent(
            "secret-open", f"{path} can be read or written by everyone", f"run: chmod o-rw {path}"
        )
    if found.st_size > MAX_SECRET_BYTES:
        raise Permanent("secret-too-large", f"{path} contains more than {MAX_SECRET_BYTES} bytes")


def _read_all(handle: int) -> bytes:
    parts: list[bytes] = []
    left = MAX_SECRET_BYTES + 1
    while left > 0 and (part := os.read(handle, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


COMMAND: Final = "command:"
COMMAND_S: Final = 10.0


def secret_of(reference: str, whole: bool = False) -> Secret:
    """The secret that a reference names; may wait for a program. whole: use all output of a program, such as
    a key of several lines. Raises `Permanent`.
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
        raise Permanent(
            "secret-reference", "the command of a secret must start with /", "write command:/path"
        )
    try:
        said, code = output_of(words, COMMAND_S)
    except (TimeoutError, subprocess.TimeoutExpired):
        raise Permanent("secret-missing", f"{program} did not answer within {COMMAND_S:g} s") from None
    except OSError as error:
        raise Permanent("secret-missing", f"{program} cannot be run: {error.strerror}") from None
    if len(said) > MAX_SECRET_BYTES:
        raise Permanent("secret-too-large", f"{program} printed more than {MAX_SECRET_BYTES} bytes")
    if code:
        raise Permanent("secret-missing", f"{program} ended with {code}")
    try:
        text = said.decode("utf-8")
    except UnicodeDecodeError:
        raise Permanent("secret-unreadable", f"{program} did not print UTF-8 text") from None
    text = text if whole else text.partition("\n")[0].removesuffix("\r")
    if not text:
        raise Permanent("secret-missing", f"{program} printed nothing")
    return text


def output_of(
    words: list[str], limit_s: float, environ: Mapping[str, str] | None = None
) -> tuple[bytes, int]:
    """(output of a program, its exit code); reads at most one byte more than a secret may have. The program
    has ended afterwards. Without `environ` it gets ours. Raises OSError, TimeoutError and TimeoutExpired.
    """
    end_s = time.monotonic() + limit_s
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
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
