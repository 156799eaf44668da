"""Driver for Borg 1.2 and later.

Borg's reports need extra checks. An archive lists the requested paths, even one that did not exist, so the
top level of the archive is compared. `check` without `--verify-data` reads the structure and misses a flipped
byte. An extraction with a warning may contain files full of zeros, which a repair puts in place of lost data:
it does not count as a restore.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from evac.drivers.backups import (
    BackupDriver,
    Filled,
    Filling,
    Stopwatch,
    Tool,
    document,
    in_time,
    number,
    objects,
    unread,
    unreadable,
    word,
)
from evac.drivers.bandwidth import UPLOAD, limit
from evac.drivers.borg.log import run, run_json
from evac.drivers.capabilities import (
    PARTS_PER_MILLION,
    READ,
    STRUCTURE,
    CopyReport,
    Listing,
    Proof,
    RestoresData,
    Taken,
    TakesBackups,
)
from evac.drivers.parameters import many, text
from evac.drivers.places import SourceWitness, facts_of, manifest_of
from evac.drivers.port import Action
from evac.drivers.programs import given
from evac.model.errors import ActionError, OutcomeUnknown, Permanent
from evac.net import secrets

ARCHIVES_MOST: Final = 200
"""Newest archives to list: Borg reads each of them for it."""
LOOKED_INTO: Final = 5
"""Newest archives whose paths are compared until one is complete."""
WHOLE: Final = (0, 100)
"""100: a file changed while being read; the copy is as complete as any of files in use."""
MADE: Final = (1, *range(100, 108))
"""Exit codes of warnings, general and by kind: the copy exists, and is incomplete unless it is 100."""
GENERAL: Final = 1
"""A program that should start Borg may also end with it."""
DAMAGED: Final = (0, 1)


class BorgDriver(BackupDriver, TakesBackups, RestoresData):
    """Each endpoint is one repository."""

    name = "borg"

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}
        self._source = SourceWitness()

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        asked = self._version(_tool(action), Stopwatch(timeout_s))
        version, listing = await asyncio.gather(asked, self._list(action, timeout_s))
        return replace(listing, version=version)

    async def _list(self, action: Action, timeout_s: float) -> Listing:
        """The copies, without Borg's version."""
        watch, tool = Stopwatch(timeout_s), _tool(action)
        found = await self._info(action, tool, watch)
        wanted = tuple(many(action.settings, "paths"))
        copies = [(_copy(one), _moment(one)) for one in objects(found.get("archives"), self.name)]
        copies.sort(key=lambda row: (row[1], row[0].id))  # several may start within one second
        ours = [one for one, _ in copies if not wanted or not set(one.paths).isdisjoint(wanted)]
        for place in range(len(ours) - 1, max(len(ours) - 1 - LOOKED_INTO, -1), -1):
            held = await self._held(tool, ours[place].id, wanted, watch)
            ours[place] = replace(ours[place], failed=held != wanted)
            if not ours[place].failed:
                break
        repository = _repository(found)
        where = text(action.settings, "repository")
        deletable = os.access(where, os.W_OK) if where.startswith("/") else None
        return Listing(repository, tuple(ours), self.name, "", deletable=deletable)

    async def take(self, action: Action, timeout_s: float) -> Taken:
        watch, tool, paths = Stopwatch(timeout_s), _tool(action), tuple(many(action.settings, "paths"))
        if not paths or not all(path.startswith("/") for path in paths):
            raise Permanent("setting-missing", "paths must list the absolute paths to back up")
        if text(action.settings, "repository_id", ""):
            await self._info(action, tool, watch)
        name = datetime.now(UTC).strftime("evac-%Y%m%dT%H%M%S.%fZ")
        upload = limit(action.settings, UPLOAD)
        bounds = ("--upload-ratelimit", str(upload)) if upload else ()
        argv = ("create", "--json", *bounds, f"::{name}", "--", *paths)
        ended, log = await run(tool, *argv, timeout_s=watch.left_s, allowed=(0, *MADE), changes=True)
        try:
            made = document(ended.output, self.name)
            stored = number(made["archive"]["stats"]["deduplicated_size"], self.name)
            listed = await run_json(tool, "info", "--json", f"::{name}", timeout_s=watch.left_s)
            (copy,) = (_copy(one) for one in objects(listed["archives"], self.name))
            held = await self._held(tool, name, paths, watch)
        except (ActionError, KeyError, TypeError, ValueError) as error:
            words = "a backup may have been taken, but its state is unknown"
            if ended.code == GENERAL and not ended.output.strip():
                words = f"{words}: {log.error(tool, argv[0], ended).message}"
            elif ended.code not in WHOLE:  # later listings show it as if it were complete
                lacking = CopyReport(name, int(time.time()), failed=True)
                return Taken(lacking, 0, 0, watch.took_ms, unread(log.unread))
            raise OutcomeUnknown("backup-unknown", words, "list the backups") from error
        missing = tuple(path for path in paths if path not in held)
        if ended.code not in WHOLE and not missing:
            missing = unread(log.unread)
        return Taken(replace(copy, failed=bool(missing)), copy.bytes or 0, stored, watch.took_ms, missing)

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        """The manifest of a single folder; a copy of several is restored under full paths and has a different
        one.
        """
        paths, watch = many(action.settings, "paths"), Stopwatch(timeout_s)
        found: Mapping[str, str | int] = await in_time(
            lambda: self._source.facts(paths), watch, "reading the source"
        )
        return found

    async def prove(self, action: Action, timeout_s: float, level: int, part: int, of: int) -> Proof:
        """Level 2 reads everything, whichever part is requested: Borg cannot check part of the data."""
        if level not in (STRUCTURE, READ) or not 1 <= part <= of:
            raise Permanent("proof-unknown", f"Borg cannot prove level {level}, part {part} of {of}")
        watch, tool = Stopwatch(timeout_s), _tool(action)
        try:
            version, found = await self._version(tool, watch), await self._info(action, tool, watch)
            stats = found.get("cache", {}).get("stats", {})
            size = number(stats.get("unique_csize"), self.name)
            how = "--verify-data" if level == READ else "--archives-only"
            argv = ("check", how)
            ended, log = await run(tool, *argv, timeout_s=watch.left_s, allowed=DAMAGED)
        except ActionError as error:
            return self._unproven(action, watch, level, error)
        said = partial(self._proof, action, watch, level, version=version, repository=_repository(found))
        if ended.code:
            words = log.cause or "Borg's check reports errors"
            detail = f"{words}; to see all errors, run: borg check {how}"
            return said("damaged", code="backup-corrupt", detail=detail)
        if level == STRUCTURE:
            return said("passed")
        if not size:
            words = "the repository contains no data"
            return said("could-not-run", code="nothing-read", detail=words)
        return said("passed", read=size, share=PARTS_PER_MILLION)

    async def _fill(self, into: Filling) -> Filled:
        """The content of a copy's only folder, its only file, or all of its folders under full paths."""
        copy, watch = into.copy, into.watch
        strip = len(Path(copy.paths[0]).parts) - 1 if len(copy.paths) == 1 else 0
        if strip and copy.files == 1:
            argv = ("list", "--format", "{type}{NL}", f"::{copy.id}")
            ended, _ = await run(_tool(into.action), *argv, timeout_s=watch.left_s)
            kinds = ended.output.split()
            strip -= kinds == ["-"]  # a single backed-up file has no folder in the archive
        tool = replace(_tool(into.action), cwd=str(into.folder))
        argv = ("extract", "--strip-components", str(strip), f"::{copy.id}")
        ended, log = await run(tool, *argv, timeout_s=watch.left_s, allowed=(0, *MADE), keeps=(into.lock,))
        found = await in_time(lambda: manifest_of(into.folder), watch, "reading the restored data")
        if ended.code or (found.files, found.bytes) != (copy.files, copy.bytes):
            words = (
                f"{found.files} of {copy.files} files and {found.bytes} of {copy.bytes} bytes were restored"
            )
            said = (log.cause or "; ".join(log.unread))[:300]
            words = f"{words}; Borg reports: {said}" if said else words
            raise Permanent("restore-incomplete", words, "prove the backup, or restore an older one")
        return Filled(found.bytes, copy.taken_at, facts_of(found))

    async def _held(
        self, tool: Tool, name: str, wanted: tuple[str, ...], watch: Stopwatch
    ) -> tuple[str, ...]:
        """Which of these paths are in an archive."""
        if not wanted:
            return ()
        patterns = [part for path in wanted for part in ("--pattern", f"+pf:{path.lstrip('/')}")]
        argv = ("list", "--short", *patterns, "--pattern", "-re:.*", f"::{name}")
        found = (await run(tool, *argv, timeout_s=watch.left_s))[0].output.splitlines()
        return tuple(path for path in wanted if path.strip("/") in found)

    async def _version(self, tool: Tool, watch: Stopwatch) -> str:
        if tool.program not in self._versions:
            said = (await tool.run("--version", timeout_s=watch.left_s)).output.split()
            if len(said) < 2 or said[0] != "borg":
                raise unreadable(self.name, "no version")
            self._versions[tool.program] = said[1][:40]
        return self._versions[tool.program]

    async def _info(self, action: Action, tool: Tool, watch: Stopwatch) -> Mapping[str, Any]:
        """The newest archives and the repository. Raises `Permanent` if another one was pinned."""
        argv = ("info", "--json", "--last", str(ARCHIVES_MOST))
        found = await run_json(tool, *argv, timeout_s=watch.left_s)
        if (
            not isinstance(found, dict)
            or not isinstance(cache := found.get("cache", {}), dict)
            or not isinstance(cache.get("stats", {}), dict)
        ):
            raise unreadable(self.name, "no object")
        id_, pinned = _repository(found), text(action.settings, "repository_id", "")
        if pinned and id_ != pinned:
            words = f"this is the repository {id_[:8]}, but {pinned[:8]} was expected"
            raise Permanent("backup-other-repository", words, "check `repository` and `repository_id`")
        return found


def _tool(action: Action) -> Tool:
    """Borg, with the repository and its passphrase in the environment. Raises `Permanent`."""
    env, hidden = given(action.settings)
    where = text(action.settings, "repository")
    env |= {"BORG_REPO": where, "BORG_EXIT_CODES": "modern", "TZ": "UTC"}
    if text(action.settings, "repository_id", ""):  # we compare it, so Borg need not ask
        env |= dict.fromkeys(_QUESTIONS, "yes")
    if base := text(action.settings, "base", ""):
        env["BORG_BASE_DIR"] = base
    if reference := text(action.settings, "passphrase", ""):
        passphrase = secrets.resolve(reference)
        env["BORG_PASSPHRASE"] = passphrase.reveal()
        hidden = (*hidden, passphrase)
    return Tool(text(action.settings, "program", "borg"), env, hidden)


_QUESTIONS: Final = ("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "BORG_RELOCATED_REPO_ACCESS_IS_OK")


def _repository(found: Mapping[str, Any]) -> str:
    about = found.get("repository")
    if not isinstance(about, dict):
        raise unreadable("borg", "no repository")
    return word(about.get("id"), "borg")


def _moment(entry: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(word(entry.get("start"), "borg")).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError) as error:
        raise unreadable("borg", "no time") from error


def _copy(entry: Mapping[str, Any]) -> CopyReport:
    """One archive, as `borg info --json` lists it; times are UTC because Borg ran in that zone."""
    stats, argv = entry.get("stats"), entry.get("command_line")
    if not isinstance(stats, dict) or not isinstance(argv, list):
        raise unreadable("borg", "an archive in an unexpected format")
    name = word(entry.get("name"), "borg")
    asked = [word(one, "borg") for one in argv]
    places = [place for place, one in enumerate(asked) if one.endswith(f"::{name}")]
    after = asked[places[0] + 1 :] if places else asked
    return CopyReport(
        name,
        int(_moment(entry)),
        number(stats.get("original_size"), "borg"),
        number(stats.get("nfiles"), "borg"),
        tuple(one.rstrip("/") for one in after if one.startswith("/")),
        word(entry.get("hostname", ""), "borg"),
    )
