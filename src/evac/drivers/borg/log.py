"""Borg's log, as `--log-json` writes it: which error ended it, and what it could not read.

Borg's own ids say what an error means. Its first error is the cause; others follow from it, sometimes
thousands. An exception that Borg does not expect has no id of its own, and its traceback comes after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from evac.drivers.backups import UNREAD_MOST, WORDS_MOST, Tool, document
from evac.drivers.programs import Ended
from evac.model.errors import ActionError, Permanent, Retryable
from evac.net import secrets

TRACEBACK_MOST: Final = 20_000
"""Characters of one message."""
_FRAME: Final = (" ", "Traceback ")
"""How lines of a traceback begin before the exception that caused it."""
_EVERY_CODE: Final = tuple(range(256))
_UNEXPECTED: Final = "Exception"
_PASSWORD: Final = Permanent("backup-password", "wrong passphrase", "check `passphrase`")
_NO_REPOSITORY: Final = Permanent("backup-no-repository", "the repository does not exist", "create it")
_LOCKED: Final = Retryable("backup-locked", "another program is using the repository", "", 60_000)
_SILENT: Final = Retryable(
    "backup-silent", "the repository does not answer", "start its server, and check `BORG_RSH`"
)
_FORBIDDEN: Final = Permanent("backup-forbidden", "evac may not use the repository", "give it permission")
_CORRUPT: Final = Permanent("backup-corrupt", "data is damaged", "run: borg check --verify-data")
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
    **dict.fromkeys(("Repository.InsufficientFreeSpaceError", "Repository.StorageQuotaExceeded"), _FULL),
}
_SYSTEM: Final = (("[errno 28]", _FULL), ("[errno 122]", _FULL), ("[errno 13]", _FORBIDDEN))
"""Errors of the operating system in the line that begins a traceback."""


class BorgLog:
    """Hears Borg's log."""

    def __init__(self) -> None:
        self._errors: list[tuple[str, str]] = []
        self.unread: list[str] = []
        """Paths that it could not read, and why, of the first ones."""

    def hear(self, line: bytes) -> None:
        if len(self._errors) > 1 and len(self.unread) >= UNREAD_MOST:
            return
        with suppress(orjson.JSONDecodeError):
            said = orjson.loads(line)
            if not isinstance(said, dict) or said.get("type") != "log_message":
                return
            words, level = str(said.get("message", ""))[:TRACEBACK_MOST], said.get("levelname")
            if level in ("ERROR", "CRITICAL"):
                self._errors = [*self._errors, (str(said.get("msgid", "")), words)][:2]
            elif level == "WARNING" and len(self.unread) < UNREAD_MOST:
                self.unread.append(words[:WORDS_MOST])

    @property
    def cause(self) -> str:
        """What the first error says; of an exception, what kind it is."""
        if not self._errors:
            return ""
        id_, words = self._errors[0]
        if id_ == _UNEXPECTED and len(self._errors) > 1:
            lines = self._errors[1][1].splitlines()
            words = next((one for one in lines if one and not one.startswith(_FRAME)), words)
        return " ".join(words.split())[:WORDS_MOST]

    def error(self, tool: Tool, what: str, code: int | None) -> ActionError:
        """The error that ended Borg, with its own words."""
        words = secrets.scrub(self.cause, tool.hidden)
        name = Path(tool.program).name
        id_ = self._errors[0][0] if self._errors else ""
        found = ERRORS.get(id_)
        if found is None and id_ == _UNEXPECTED:
            found = next((error for part, error in _SYSTEM if part in words.lower()), None)
        if found is None:
            return Permanent("backup-refused", f"{name} {what} ended with {code}: {words}"[:WORDS_MOST])
        return found.said_as(found.code, f"{name}: {found.message}: {words}"[:WORDS_MOST])


async def run(
    tool: Tool,
    *argv: str,
    timeout_s: float,
    allowed: Sequence[int] = (0,),
    changes: bool = False,
    keeps: Sequence[int] = (),
) -> tuple[Ended, BorgLog]:
    """Run Borg. Raises `ActionError` with the cause, if its exit code is not allowed."""
    log = BorgLog()
    asked = ("--log-json", *argv)
    ended = await tool.run(
        *asked, timeout_s=timeout_s, allowed=_EVERY_CODE, changes=changes, keeps=keeps, hears=log.hear
    )
    if ended.code not in allowed:
        raise log.error(tool, argv[0], ended.code)
    return ended, log


async def run_json(tool: Tool, *argv: str, timeout_s: float) -> Any:
    """The JSON document that Borg prints. Raises the errors of `run`."""
    ended, _ = await run(tool, *argv, timeout_s=timeout_s)
    return document(ended.output, Path(tool.program).name)
