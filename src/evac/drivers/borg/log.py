"""Borg's log, as `--log-json` writes it: which error ended it, and what it could not read.

Borg's own ids say what an error means. Its first error is the cause; others follow from it, sometimes
thousands. An exception that Borg does not expect has no id of its own, and its traceback comes after it; one
of a Borg server has its class as its id, and its traceback as its message. It says something about the
repository only if it passed through Borg's code for repositories: it may be about a cache on this machine.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from evac.drivers.backups import UNREAD_MOST, WORDS_MOST, Tool, document
from evac.drivers.programs import MAX_OUTPUT_BYTES, Ended
from evac.model.errors import ActionError, Permanent, Retryable
from evac.net import secrets
from evac.net.secrets import Secret

TRACEBACK_MOST: Final = 20_000
"""Characters of one message."""
_FRAME: Final = (" ", "Traceback ")
"""How lines of a traceback begin before the exception that caused it."""
_EVERY_CODE: Final = tuple(range(256))
_UNEXPECTED: Final = "Exception"
_PASSWORD: Final = Permanent("backup-password", "wrong passphrase", "check `passphrase`")
_NO_REPOSITORY: Final = Permanent("backup-no-repository", "the repository does not exist", "create it")
_LOCKED: Final = Retryable(
    "backup-locked",
    "another program is using the repository",
    "wait for it to finish; if it ran on another machine and is gone, run: borg break-lock",
    60_000,
)
_SILENT: Final = Retryable(
    "backup-silent", "the repository does not answer", "start its server, and check `BORG_RSH`"
)
_FORBIDDEN: Final = Permanent("backup-forbidden", "evac may not use the repository", "give it permission")
_CORRUPT: Final = Permanent("backup-corrupt", "data is damaged", "run: borg check --verify-data")
_UNAUTHENTIC: Final = Permanent(
    "backup-corrupt",
    "data cannot be authenticated: it is damaged, or someone changed it",
    "compare it with another copy of it; after an upgrade of Borg, see its upgrade notes",
)
_FULL: Final = Permanent("backup-full", "the repository has no space left", "free some space in it")
_OTHER: Final = "backup-other-repository"
ERRORS: Final[Mapping[str, ActionError]] = {
    **dict.fromkeys(("PassphraseWrong", "PasswordRetriesExceeded", "NoPassphraseFailure"), _PASSWORD),
    **dict.fromkeys(
        ("Repository.DoesNotExist", "Repository.InvalidRepository", "Repository.ParentPathDoesNotExist"),
        _NO_REPOSITORY,
    ),
    "Archive.DoesNotExist": Permanent("copy-unknown", "the archive does not exist", "list the backups"),
    "Cache.CacheInitAbortedError": Permanent(_OTHER, "the repository is unknown", "set `repository_id`"),
    "Cache.RepositoryAccessAborted": Permanent(_OTHER, "the repository was moved", "set `repository_id`"),
    "Cache.EncryptionMethodMismatch": Permanent(
        _OTHER, "the repository is encrypted in another way than before", "check `repository`"
    ),
    # Borg ignores what follows the last transaction that it can read.
    **dict.fromkeys(
        ("Cache.RepositoryReplay", "Cache.RepositoryIDNotUnique"),
        Permanent(
            "backup-corrupt",
            "the repository is in an older state than before: its newest data is damaged, or it was replaced",
            "compare it with another copy of it",
        ),
    ),
    **dict.fromkeys(("LockTimeout", "LockError", "LockErrorT"), _LOCKED),
    **dict.fromkeys(("ConnectionClosed", "ConnectionClosedWithHint", "ConnectionBrokenWithHint"), _SILENT),
    **dict.fromkeys(("LockFailed", "Repository.PathPermissionDenied", "PathNotAllowed"), _FORBIDDEN),
    **dict.fromkeys(
        (
            *("IntegrityError", "FileIntegrityError", "DecompressionError", "NoManifestError"),
            *("Repository.CheckNeeded", "Repository.ObjectNotFound"),
        ),
        _CORRUPT,
    ),
    **dict.fromkeys(
        (
            *("TAMInvalid", "TAMRequiredError", "TAMUnsupportedSuiteError"),
            *("ArchiveTAMInvalid", "ArchiveTAMRequiredError"),
        ),
        _UNAUTHENTIC,
    ),
    **dict.fromkeys(("Repository.InsufficientFreeSpaceError", "Repository.StorageQuotaExceeded"), _FULL),
}
_OF_SERVERS: Final[Mapping[str, ActionError]] = {
    id_.removeprefix("Repository."): error for id_, error in ERRORS.items() if id_.startswith("Repository.")
}
"""A server names errors of the repository without the class that they belong to."""
_SYSTEM: Final[Mapping[int, ActionError]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _FORBIDDEN,
}
"""What errors of the operating system mean in the code for repositories."""
_ERRNO: Final = re.compile(r"\w*Error: \[Errno (\d+)\] ")
_IN_REPOSITORY: Final = re.compile(r'^  File "[^"\n]*/borg/repository\.py", line \d+', re.MULTILINE)


class BorgLog:
    """Hears Borg's log. hidden: secrets that are removed from it, before anything is cut or joined."""

    def __init__(self, hidden: Sequence[Secret] = ()) -> None:
        self._hidden = hidden
        self._errors: list[tuple[str, str]] = []
        self.unread: list[str] = []
        """Paths that it could not read, and why, of the first ones."""

    def hear(self, line: bytes) -> None:
        if len(self._errors) > 1 and len(self.unread) >= UNREAD_MOST:
            return
        said = _object(line)
        if said is None or said.get("type") != "log_message":
            return
        words = secrets.scrub(str(said.get("message", "")), self._hidden)[:TRACEBACK_MOST]
        level = said.get("levelname")
        if level in ("ERROR", "CRITICAL"):
            self._errors = [*self._errors, (str(said.get("msgid", "")), words)][:2]
        elif level == "WARNING" and len(self.unread) < UNREAD_MOST:
            self.unread.append(words[:WORDS_MOST])

    @property
    def cause(self) -> str:
        """What the first error says; of an exception, what kind it is."""
        return " ".join(self._cause.split())[:WORDS_MOST]

    @property
    def _id(self) -> str:
        return self._errors[0][0] if self._errors else ""

    @property
    def _traceback(self) -> str:
        """The traceback of the first error; if there is none, what it says."""
        if not self._errors:
            return ""
        return self._errors[1 if self._id == _UNEXPECTED and len(self._errors) > 1 else 0][1]

    @property
    def _cause(self) -> str:
        lines = self._traceback.splitlines()
        if self._id != _UNEXPECTED and not any(line.startswith(_FRAME[1]) for line in lines):
            return self._traceback
        return next((line for line in lines if line and not line.startswith(_FRAME)), self._traceback)

    def error(self, tool: Tool, what: str, ended: Ended) -> ActionError:
        """The error that ended Borg, with its own words."""
        name, words = Path(tool.program).name, self.cause
        found = ERRORS.get(self._id) or _OF_SERVERS.get(self._id)
        if found is None and _IN_REPOSITORY.search(self._traceback):
            number = _ERRNO.match(self._cause)
            found = _SYSTEM.get(int(number[1])) if number else None
        if found is None:
            said = (f"{name} {what} ended with {ended.code}", words or self._plain(ended))
            return Permanent("backup-refused", ": ".join(part for part in said if part))
        return found.said_as(found.code, f"{name}: {found.message}: {words}"[:WORDS_MOST])

    def _plain(self, ended: Ended) -> str:
        """The end of what was written to standard error outside the log: programs that start Borg, and Borg
        before it has read its options, do so.
        """
        whole = ended.errors
        if len(whole.encode()) >= MAX_OUTPUT_BYTES:  # its first line may begin in the middle of a secret
            whole = whole.partition("\n")[2]
        lines = secrets.scrub(whole, self._hidden).splitlines()
        return " ".join(" ".join(line for line in lines if _object(line) is None).split())[-WORDS_MOST:]


def _object(line: bytes | str) -> Mapping[str, Any] | None:
    """The JSON object that a line is, if it is one."""
    with suppress(orjson.JSONDecodeError):
        said = orjson.loads(line)
        return said if isinstance(said, dict) else None
    return None


async def run(
    tool: Tool,
    *argv: str,
    timeout_s: float,
    allowed: Sequence[int] = (0,),
    changes: bool = False,
    keeps: Sequence[int] = (),
) -> tuple[Ended, BorgLog]:
    """Run Borg. Raises `ActionError` with the cause, if its exit code is not allowed."""
    log = BorgLog(tool.hidden)
    asked = ("--log-json", *argv)
    ended = await tool.run(
        *asked, timeout_s=timeout_s, allowed=_EVERY_CODE, changes=changes, keeps=keeps, hears=log.hear
    )
    if ended.code not in allowed:
        raise log.error(tool, argv[0], ended)
    return ended, log


async def run_json(tool: Tool, *argv: str, timeout_s: float) -> Any:
    """The JSON document that Borg prints. Raises the errors of `run`."""
    ended, _ = await run(tool, *argv, timeout_s=timeout_s)
    return document(ended.output, Path(tool.program).name)
