"""Driver for programs that keep backups and respond in JSON, for engines without a driver of their own.

A program runs with its arguments, never through a shell, and receives the request in EVAC_ variables. It
prints one object. Missing fields are unknown; fields of another type are refused.

list     {"repository", "copies": [COPY...], "tool", "version", "locked", "deletable"}
take     {"copy": COPY, "bytes_read", "bytes_stored", "missing": [...]}
prove    {"outcome", "bytes_read", "share_read", "code", "detail"}; EVAC_LEVEL, EVAC_PART, EVAC_OF
restore  {"bytes", "reached_at", "facts": {...}}; EVAC_COPY, EVAC_PLACE, EVAC_UNTIL
COPY     {"id", "taken_at", "bytes", "files", "paths", "source", "original", "tree", "failed"}
A tree that begins with `sha256:` is compared with the digest of the restored manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from evac.drivers import backups, capabilities
from evac.drivers.parameters import many, text
from evac.drivers.places import manifest_of
from evac.drivers.port import Action
from evac.drivers.programs import given
from evac.model.errors import ActionError, OutcomeUnknown, Permanent

FACTS_MOST: Final = 100


class BackupCommandDriver(backups.BackupDriver, capabilities.TakesBackups, capabilities.RestoresData):
    """Runs `list_argv`, `take_argv`, `prove_argv` and `restore_argv` of the settings."""

    name = "backup_command"

    async def _list(self, action: Action, timeout_s: float) -> capabilities.Listing:
        found = await _ask(action, "list_argv", backups.Stopwatch(timeout_s))
        repository, pinned = _word(found, "repository"), text(action.settings, "repository_id", "")
        if pinned and repository != pinned:
            words = f"this is the repository {repository[:80]}, but {pinned[:80]} was expected"
            raise Permanent("backup-other-repository", words, "check `list_argv` and `repository_id`")
        copies = sorted(
            map(_copy, backups.objects(found.get("copies"), "list_argv")), key=lambda it: it.taken_at
        )
        deletable = found.get("deletable")
        return capabilities.Listing(
            repository,
            tuple(copies),
            _word(found, "tool") or self.name,
            _word(found, "version"),
            found.get("locked") is True,
            deletable if isinstance(deletable, bool) else None,
        )

    async def take(self, action: Action, timeout_s: float) -> capabilities.Taken:
        watch = backups.Stopwatch(timeout_s)
        found = await _ask(action, "take_argv", watch, changes=True)
        try:
            copy = _copy(_object(found.get("copy"), "take_argv"))
            read, stored = (_number(found, key) for key in ("bytes_read", "bytes_stored"))
            missing = _words(found, "missing")
        except Permanent as error:
            words = f"a backup may have been taken: {error.message}"
            raise OutcomeUnknown("backup-unknown", words, "list the backups") from error
        return capabilities.Taken(copy, read, stored, watch.took_ms, missing)

    async def prove(
        self, action: Action, timeout_s: float, level: int, part: int, of: int
    ) -> capabilities.Proof:
        if level not in (capabilities.STRUCTURE, capabilities.READ) or not 1 <= part <= of:
            raise Permanent("proof-unknown", f"no program can prove level {level}, part {part} of {of}")
        watch = backups.Stopwatch(timeout_s)

        def said(
            outcome: capabilities.ProofOutcome, read: int, share: int, code: str, detail: str, of_id: str = ""
        ) -> capabilities.Proof:
            facts = (watch.took_ms, action.at, self.name, "", code[:80], detail[:600])
            return capabilities.Proof("", level, outcome, read, share, *facts, repository=of_id)

        asked = {"EVAC_LEVEL": str(level), "EVAC_PART": str(part), "EVAC_OF": str(of)}
        try:
            found = await _ask(action, "prove_argv", watch, asked)
            outcome, read, share = found.get("outcome"), *(_number(found, key) for key in _READ)
            code, detail, id_ = (_word(found, key) for key in ("code", "detail", "repository"))
        except ActionError as error:
            return said("could-not-run", 0, 0, error.code, error.words)
        if outcome not in get_args(capabilities.ProofOutcome) or share > capabilities.PARTS_PER_MILLION:
            return said("could-not-run", 0, 0, "backup-output", "prove_argv did not report a known outcome")
        if outcome == "passed" and level >= capabilities.READ and not read:
            return said("could-not-run", 0, 0, "nothing-read", "the program reports that it read nothing")
        return said(outcome, read, share, code, detail, id_)  # type: ignore[arg-type]

    async def _fill(self, into: backups.Filling) -> backups.Filled:
        """The program's report on a restore counts only together with the content of the folder."""
        copy, folder, watch = into.copy, into.folder, into.watch
        asked = {"EVAC_COPY": copy.id, "EVAC_PLACE": str(folder), "EVAC_UNTIL": str(into.until or "")}
        found = await _ask(into.action, "restore_argv", watch, asked, into.lock)
        seen = await backups.in_time(lambda: manifest_of(folder), watch, "reading the restored data")
        said = backups.number(found["bytes"], "restore_argv") if "bytes" in found else seen.bytes
        wanted = seen.bytes if copy.bytes is None else copy.bytes
        files = seen.files if copy.files is None else copy.files
        if not seen.files or (said, seen.bytes, seen.files) != (wanted, wanted, files):
            words = f"{seen.files} of {files} files and {seen.bytes} of {wanted} bytes were restored"
            raise Permanent("restore-incomplete", words, "prove the backup, or restore an older one")
        if copy.tree.startswith("sha256:") and copy.tree != seen.digest:
            words = "the restored files differ from the backup: their digest does not match"
            raise Permanent("restore-incomplete", words, "prove the backup, or restore an older one")
        facts: dict[str, str | int] = {"files": seen.files, "bytes": seen.bytes, "manifest": seen.digest}
        for name, value in list(_object(found.get("facts", {}), "restore_argv").items())[:FACTS_MOST]:
            if isinstance(value, str | int) and not isinstance(value, bool):
                facts.setdefault(name[:80], value if isinstance(value, int) else value[:200])
        reached = found.get("reached_at")
        return backups.Filled(
            seen.bytes, copy.taken_at if reached is None else _number(found, "reached_at"), facts
        )


_READ: Final = ("bytes_read", "share_read")


async def _ask(
    action: Action,
    key: str,
    watch: backups.Stopwatch,
    more: Mapping[str, str] | None = None,
    lock: int | None = None,
    changes: bool = False,
) -> Mapping[str, Any]:
    """The object that one of the programs prints. Raises `ActionError`."""
    argv = many(action.settings, key)
    if not argv:
        raise Permanent("setting-missing", f"{key} is not set", f"set the program: {key}")
    env, hidden = given(action.settings)
    env |= {"EVAC_TARGET": action.target, "EVAC_SITE": action.at, **(more or {})}
    keeps = () if lock is None else (lock,)
    ended = await backups.Tool(argv[0], env, hidden).run(
        *argv[1:], timeout_s=watch.left_s, changes=changes, keeps=keeps
    )
    return _object(backups.document(ended.output, key), key)


def _object(found: object, name: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise backups.unreadable(name, "no object")
    return found


def _copy(found: Mapping[str, Any]) -> capabilities.CopyReport:
    size, files = (
        backups.number(found[key], "a copy") if key in found else None for key in ("bytes", "files")
    )
    id_ = backups.word(found.get("id"), "a copy")
    if not id_:
        raise backups.unreadable("a copy", "no id")
    return capabilities.CopyReport(
        id_,
        backups.number(found.get("taken_at"), "a copy"),
        size,
        files,
        _words(found, "paths"),
        _word(found, "source"),
        _word(found, "original"),
        _word(found, "tree"),
        found.get("failed", False) is not False,
    )


def _word(found: Mapping[str, Any], key: str) -> str:
    return backups.word(found.get(key, ""), key)


def _number(found: Mapping[str, Any], key: str) -> int:
    return backups.number(found.get(key, 0), key)


def _words(found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = found.get(key, [])
    if not isinstance(values, list):
        raise backups.unreadable(key, "no list")
    return tuple(backups.word(value, key) for value in values)
