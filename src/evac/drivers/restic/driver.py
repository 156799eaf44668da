"""Driver for restic, with the exit codes and messages of restic 0.17 and later.

restic's reports need extra checks: a backup with a missing path exits with 0 and does not mention it, so the
paths are compared; a check of a part may have read no pack, so the packs it read are counted and their sizes
added; a copy in another repository is compared by its original and its tree; a restore is counted, and all of
its files are read.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from evac.drivers.backups import (
    BackupDriver,
    Filled,
    Filling,
    Stopwatch,
    Tool,
    document,
    in_time,
    newest,
    number,
    objects,
    unread,
    unreadable,
    word,
)
from evac.drivers.bandwidth import DOWNLOAD, UPLOAD, limit
from evac.drivers.capabilities import (
    PARTS_PER_MILLION,
    READ,
    STRUCTURE,
    Begins,
    CopyReport,
    Listing,
    Proof,
    ProofOutcome,
    RestoresData,
    Taken,
    TakesBackups,
)
from evac.drivers.object_store import Asked, Deletable, bucket_of
from evac.drivers.parameters import many, text
from evac.drivers.places import EarlyDigests, SourceWitness, facts_of, manifest_of
from evac.drivers.port import Action
from evac.drivers.programs import Ended, given
from evac.drivers.restic.repository import (
    NAME,
    at_most,
    is_proxied,
    names_of,
    packs_of,
    refuse_silent,
    sealed_config,
    session_for,
    where_of,
)
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net import secrets

PART_OK: Final = (0, 3)
"""3: some files could not be read; the backup exists, and says so."""
DAMAGED: Final = (0, 1)
KNOWN_S: Final = 60.0
"""How long an answer about a repository is used again. A repository that shows its names and configuration
must also show the same ones.
"""
SEEN_MOST: Final = 1_000
"""Repositories whose answers are kept."""
LOCKS_MOST: Final = 20
LOG_BYTES: Final = 64 << 20
NO_PACK: Final = "0" * 64
_DELETE: Final = re.compile(rb'"DELETE (\S+) [^"\n]*" 40[13] ')
_FULL: Final = Permanent(
    "backup-full", "the repository has no space left", "free some space in it, or prune it"
)
_FULL_WORDS: Final = (
    "no space left",
    "disk quota exceeded",
    "insufficient storage",
    "413 request entity too large",
)
"""restic would retry for a quarter of an hour."""
_INDEX: Final = Permanent(
    "backup-corrupt", "the index is damaged", "run: restic repair index; then prove the backup"
)
_REASONS: Final = (
    ("wrong password or no key found", Permanent("backup-password", "wrong password", "check `password`")),
    ("401 unauthorized", Permanent("backup-password", "wrong user name or password", "check `user`")),
    (
        "repository does not exist",
        Permanent("backup-no-repository", "the repository does not exist", "create it"),
    ),
    (
        "unable to open config file",
        Permanent("backup-no-repository", "the repository does not exist", "create it"),
    ),
    *((words, _FULL) for words in _FULL_WORDS),
    (
        "already locked",
        Retryable(
            "backup-locked",
            "another program is using the repository",
            "wait for it to finish; to see its lock, run: restic list locks, restic cat lock ID",
            60_000,
        ),
    ),
    ("connection refused", Retryable("backup-silent", "the repository does not answer", "start its server")),
    ("connection reset", Retryable("backup-silent", "the repository does not answer", "start its server")),
    ("i/o timeout", Retryable("backup-silent", "the repository does not answer", "start its server")),
    (
        "no such host",
        Retryable("backup-silent", "the repository's host name cannot be resolved", "check DNS"),
    ),
    ("403 forbidden", Permanent("backup-forbidden", "the server forbids it", "it may be append-only")),
    *((words, _INDEX) for words in ("load index", "loadindex", "(<index/", r"(\u003cindex/")),
    ("ciphertext verification failed", Permanent("backup-corrupt", "data is damaged", "run: restic check")),
    ("invalid data returned", Permanent("backup-corrupt", "data is damaged", "run: restic check")),
)
_GROUP: Final = re.compile(r"^read group #(\d+) of (\d+) data packs \(out of total (\d+) packs", re.MULTILINE)
_ORPHAN: Final = re.compile(r"^pack ([0-9a-f]{64}): not referenced in any index", re.MULTILINE)
_SLICES: Final = 256
"""restic divides packs by the first byte of their names."""


class ResticDriver(BackupDriver, TakesBackups, RestoresData):
    """Each endpoint is one repository."""

    name = "restic"

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}
        self._source = SourceWitness()
        self._known: dict[str, _Identity] = {}
        """Digest of a repository's URL and secrets -> its identity."""
        self._listed: dict[str, _Snapshots] = {}
        self._held: dict[str, dict[tuple[str, str], float]] = {}
        """Repository in a bucket -> its objects that no one can delete, and until when."""

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        watch, tool = Stopwatch(timeout_s), _tool(action)
        await refuse_silent(action, watch)
        listing, locked, deletable = await asyncio.gather(
            self._listing(action, tool, watch),
            _is_locked(action, tool, watch),
            self._can_delete(action, watch),
        )
        refused: int | None = await in_time(
            lambda: _refused(action), watch, "reading the log of the rest-server"
        )
        verdict, why = deletable.verdict, deletable.why
        return replace(listing, locked=locked, deletable=verdict, deletable_why=why, refused=refused)

    async def _list(self, action: Action, timeout_s: float) -> Listing:
        watch, tool = Stopwatch(timeout_s), _tool(action)
        await refuse_silent(action, watch)
        return await self._listing(action, tool, watch)

    async def _listing(self, action: Action, tool: Tool, watch: Stopwatch) -> Listing:
        """What restic lists. The server has already been found to take connections."""
        version, found, repository = await asyncio.gather(
            self._version(tool, watch),
            self._snapshots(action, tool, watch),
            self._refuse_another(action, tool, watch),
        )
        wanted = tuple(many(action.settings, "paths"))
        copies = [(_copy(one, wanted), _moment(one)) for one in found]
        copies.sort(key=lambda row: (row[1], row[0].id))  # several may start within one second
        ours = [one for one, _ in copies if not wanted or not set(one.paths).isdisjoint(wanted)]
        return Listing(repository, tuple(ours), self.name, version)

    async def take(self, action: Action, timeout_s: float) -> Taken:
        watch, tool, paths = Stopwatch(timeout_s), _tool(action), tuple(many(action.settings, "paths"))
        if not paths or not all(path.startswith("/") for path in paths):
            raise Permanent("setting-missing", "paths must list the absolute paths to back up")
        await refuse_silent(action, watch)
        if text(action.settings, "repository_id", ""):  # without it there is nothing to refuse
            await self._refuse_another(action, tool, watch)
        argv = ("backup", "--json", "--quiet", *_bounds(action), "--", *paths)
        ended = await _past_stale_locks(tool, *argv, watch=watch, allowed=PART_OK, changes=True)
        id_ = ""
        try:
            summary = document(ended.output.strip().rpartition("\n")[2], self.name)
            id_ = word(summary["snapshot_id"], self.name)
            read, stored = (number(summary[key], self.name) for key in _AMOUNTS)
            # At the same time, because each of them derives the key.
            copy, _ = await asyncio.gather(
                self._one(action, tool, id_, watch), self._refuse_another(action, tool, watch)
            )
        except (ActionError, KeyError, TypeError) as error:
            if id_ and ended.code:  # later listings show it as if it were complete
                lacking = CopyReport(id_, int(time.time()), failed=True)
                return Taken(lacking, 0, 0, watch.took_ms, _unread(ended, tool))
            words = "a backup may have been taken, but its state is unknown"
            raise OutcomeUnknown("backup-unknown", words, "list the backups") from error
        missing = tuple(path for path in paths if path not in copy.paths)
        if ended.code == PART_OK[1] and not missing:
            missing = _unread(ended, tool)
        return Taken(copy, read, stored, watch.took_ms, missing)

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
        if level not in (STRUCTURE, READ) or not 1 <= part <= of <= _SLICES:
            raise Permanent("proof-unknown", f"restic has no check for level {level}, part {part} of {of}")
        watch, tool = Stopwatch(timeout_s), _tool(action)
        version = await self._version(tool, watch)

        def said(outcome: ProofOutcome, read: int, share: int, code: str = "", detail: str = "") -> Proof:
            facts = {"code": code, "detail": detail, "repository": repository}
            return self._proof(action, watch, level, outcome, version, read=read, share=share, **facts)

        try:
            await refuse_silent(action, watch)
            repository = await self._refuse_another(action, tool, watch)
            reads = ("--verbose", "--read-data-subset", f"{part}/{of}") if level == READ else ()
            argv = ("check", *_limits(action), *reads)
            ended = await _past_stale_locks(tool, *argv, watch=watch, allowed=DAMAGED)
            if ended.code and "repository contains errors" not in ended.errors:
                # Failed for a reason other than damage: run it again to get that error.
                await tool.run(*argv, timeout_s=watch.left_s)
            packs = await packs_of(action, watch) if level == READ else {}
        except ActionError as error:
            return self._unproven(action, watch, level, error)
        if ended.code:
            words = secrets.scrub(ended.errors, tool.hidden)
            return said("damaged", 0, 0, "backup-corrupt", " ".join(words.split()))
        if level == STRUCTURE:
            return said("passed", 0, 0)
        group = _GROUP.search(ended.output)
        for name in _ORPHAN.findall(ended.output):  # left by a killed backup: in no snapshot, and not read
            packs.pop(name, None)
        mine = {name: size for name, size in packs.items() if int(name[:2], 16) % of == part - 1}
        if group is None or int(group[2]) != len(mine) or int(group[3]) != len(packs):
            return said("could-not-run", 0, 0, "backup-changed", "the repository changed during the check")
        if not mine:
            return said("could-not-run", 0, 0, "nothing-read", f"part {part} of {of} contains no data")
        read, total = sum(mine.values()), sum(packs.values())
        return said("passed", read, read * PARTS_PER_MILLION // total)

    async def copy_on(self, action: Action, timeout_s: float, to: Action, begins: Begins) -> Taken:
        watch, here, there = Stopwatch(timeout_s), _tool(action), _tool(to)
        await refuse_silent(to, watch)
        if text(to.settings, "repository_id", ""):  # without it there is nothing to refuse
            await self._refuse_another(to, there, watch)
        copy = newest(await self._list(action, watch.left_s), "", None)
        tool = Tool(
            there.program,
            {
                **here.env,
                **there.env,
                "RESTIC_FROM_REPOSITORY": here.env["RESTIC_REPOSITORY"],
                "RESTIC_FROM_PASSWORD": here.env["RESTIC_PASSWORD"],
            },
            (*here.hidden, *there.hidden),
            _REASONS,
            hopeless=_FULL_WORDS,
        )
        argv = ("copy", "--quiet", *_bounds(to, action), copy.id)
        before = await packs_of(to, watch)
        await begins(copy, await self._copies_of(copy, to, there, watch))
        await tool.run(*argv, timeout_s=watch.left_s, changes=True)
        found = await self._copies_of(copy, to, there, watch)
        if not found:
            words = f"the other repository has no copy of {copy.id[:8]}"
            raise Permanent("copy-differs", words, "run: restic check, in both repositories")
        # Another copy may state the same original: a rewritten snapshot does.
        made = next((one for one in reversed(found) if one.tree == copy.tree), found[-1])
        # A copy with another tree is listed like any other, so its job must name it.
        lacks = () if made.tree == copy.tree else (f"the tree of {copy.id[:8]}",)
        wrong = tuple(one for one in found if one.tree != copy.tree and one.id != made.id)
        stored = sum(size for path, size in (await packs_of(to, watch)).items() if path not in before)
        return Taken(made, copy.bytes or 0, stored, watch.took_ms, lacks, wrong)

    async def _copies_of(
        self, copy: CopyReport, to: Action, tool: Tool, watch: Stopwatch
    ) -> list[CopyReport]:
        """The backups of another repository that state this one, or its original, as their original."""
        listed = await self._snapshots(to, tool, watch)
        wanted = {copy.id, copy.original} - {""}
        return [one for one in (_copy(entry, ()) for entry in listed) if one.original in wanted]

    async def _fill(self, into: Filling) -> Filled:
        """The content of a copy's only folder, its only file, or all of its folders under full paths."""
        action, copy, folder, watch = into.action, into.copy, into.folder, into.watch
        tool, is_alone = _tool(action), len(copy.paths) == 1
        what = [f"{copy.id}:{copy.paths[0]}" if is_alone else copy.id]
        if is_alone and await self._is_file(tool, copy, watch):
            path = PurePosixPath(copy.paths[0])
            name = re.sub(r"([\[*?\\])", r"\\\1", path.name)
            what = [f"{copy.id}:{path.parent}", "--include", f"/{name}"]
        # With --verbose=2, restic names each file once its content is complete.
        argv = ("restore", "--json", "--verbose=2", "--no-lock", *_bounds(action), *what)
        asked = (*argv, "--target", str(folder))
        early = EarlyDigests(folder)
        try:
            ended = await replace(tool, env={**tool.env, **_FEW_LINES}).run(
                *asked,
                timeout_s=watch.left_s,
                allowed=DAMAGED,
                keeps=(into.lock,),
                takes=lambda line: _takes(line, early),
            )
            why = tool.reason(ended) if ended.code else None
            if why is not None and why.code != "backup-corrupt":  # an unreachable server is not damage
                raise why
            found = await in_time(lambda: manifest_of(folder, early), watch, "reading the restored data")
        finally:
            await asyncio.to_thread(early.close)
        wrong = ended.code != 0 or found.bytes != (copy.bytes if copy.bytes is not None else found.bytes)
        if wrong or (copy.files is not None and found.files != copy.files):
            words = (
                f"{found.files} of {copy.files} files and {found.bytes} of {copy.bytes} bytes were restored"
            )
            words += "" if why is None else f" ({why.message})"
            raise Permanent("restore-incomplete", words, "prove the backup, or restore an older one")
        return Filled(found.bytes, copy.taken_at, facts_of(found))

    async def _is_file(self, tool: Tool, copy: CopyReport, watch: Stopwatch) -> bool:
        """Whether the only path of a copy is a file."""
        if copy.files != 1:
            return False
        argv = ("ls", "--json", "--no-lock", copy.id, copy.paths[0])
        for line in (await tool.run(*argv, timeout_s=watch.left_s)).output.splitlines():
            node = document(line, self.name)
            if isinstance(node, dict) and node.get("path") == copy.paths[0]:
                return node.get("type") == "file"
        raise unreadable(self.name, "no entry of the path of the copy")

    async def _one(self, action: Action, tool: Tool, id_: str, watch: Stopwatch) -> CopyReport:
        entries = [one for one in await self._snapshots(action, tool, watch) if one.get("id") == id_]
        if len(entries) != 1:
            raise unreadable(self.name, f"{len(entries)} snapshots instead of one")
        return _copy(entries[0], tuple(many(action.settings, "paths")))

    async def _snapshots(self, action: Action, tool: Tool, watch: Stopwatch) -> list[Mapping[str, Any]]:
        """All snapshots as restic lists them. A recent answer is used again if the repository shows the same
        names: a name is the digest of a snapshot. Raises `ActionError`.
        """
        key, began_s = _key(tool), time.monotonic()
        names = await names_of(action, "snapshots", watch)
        last = self._listed.get(key)
        if last is not None and names == last.names and began_s - last.asked_s < KNOWN_S:
            return last.entries
        found = await tool.json("snapshots", "--json", "--no-lock", timeout_s=watch.left_s)
        entries = objects(found, self.name)
        if names is not None and names == {one.get("id") for one in entries}:
            _keep(self._listed, key, _Snapshots(began_s, names, entries))
        return entries

    async def _version(self, tool: Tool, watch: Stopwatch) -> str:
        if tool.program not in self._versions:
            said = (await tool.run("version", timeout_s=watch.left_s)).output.split()
            if len(said) < 2 or said[0] != "restic":
                raise unreadable(self.name, "no version")
            self._versions[tool.program] = said[1][:40]
        return self._versions[tool.program]

    async def _can_delete(self, action: Action, watch: Stopwatch) -> Deletable:
        """Test by deleting something that does not exist: an append-only server refuses, any other finds
        nothing. For a bucket, the locks of its content are also queried.
        """
        where = where_of(action)
        if where.startswith(("/", "local:")):
            return Deletable(os.access(where.removeprefix("local:"), os.W_OK), "")
        if where.startswith("s3:"):
            held = self._held.setdefault(where, {})
            bucket = bucket_of(where, _tool(action).env)
            try:
                found: Deletable = await in_time(
                    lambda: Asked(bucket, held).deletable(_is_lock), watch, "querying the bucket's locks"
                )
            except Permanent as error:  # the backups can still be listed
                return Deletable(None, error.message)
            return found
        if not where.startswith("rest:") or is_proxied(action):
            return Deletable(None, "")
        try:
            async with session_for(action, at_most(watch)) as session:
                url = f"{where.removeprefix('rest:').rstrip('/')}/data/{NO_PACK}"
                async with session.delete(url, allow_redirects=False) as answer:
                    return Deletable({403: False, 404: True, 200: True}.get(answer.status), "")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return Deletable(None, "")

    async def _refuse_another(self, action: Action, tool: Tool, watch: Stopwatch) -> str:
        """The id of the repository. Raises `Permanent` if another one was pinned."""
        key, began_s = _key(tool), time.monotonic()
        sealed = await sealed_config(action, watch)
        known = self._known.get(key)
        if known is None or known.sealed != sealed or not (sealed or began_s - known.asked_s < KNOWN_S):
            config = await tool.json("cat", "config", "--no-lock", timeout_s=watch.left_s)
            if not isinstance(config, dict):
                raise unreadable(self.name, "no configuration")
            known = _Identity(began_s, sealed, word(config.get("id"), self.name))
            _keep(self._known, key, known)
        pinned = text(action.settings, "repository_id", "")
        if pinned and known.id != pinned:
            words = f"this is repository {known.id[:8]}, but {pinned[:8]} was expected"
            raise Permanent("backup-other-repository", words, "check `repository` and `repository_id`")
        return known.id


@dataclass(frozen=True, slots=True)
class _Identity:
    """Id of a repository. asked_s: when restic stated it. sealed: its configuration as stored then."""

    asked_s: float
    sealed: str
    id: str


@dataclass(frozen=True, slots=True)
class _Snapshots:
    """A listing. asked_s: when it was made. names: those of the files in the repository then."""

    asked_s: float
    names: frozenset[str]
    entries: list[Mapping[str, Any]]


def _key(tool: Tool) -> str:
    """What the answers of a repository depend on, without a secret in it."""
    return hashlib.sha256(repr((tool.program, sorted(tool.env.items()))).encode()).hexdigest()


def _keep(kept: dict[str, Any], key: str, value: Any) -> None:
    """Keep an answer, instead of the oldest one if there are too many."""
    kept.pop(key, None)
    if len(kept) >= SEEN_MOST:
        del kept[next(iter(kept))]
    kept[key] = value


_FEW_LINES: Final = {"RESTIC_PROGRESS_FPS": "0.1"}
_AMOUNTS: Final = ("total_bytes_processed", "data_added_packed")


def _takes(line: bytes, early: EarlyDigests) -> bool:
    """Whether a line of a restore is about its progress: it names a file that is complete, or a share."""
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(said, dict) or said.get("message_type") not in ("verbose_status", "status"):
        return False
    name, size = said.get("item"), said.get("size")
    if said.get("action") == "restored" and isinstance(name, str) and isinstance(size, int):
        early.written(name, size)
    return True


def _unread(ended: Ended, tool: Tool) -> tuple[str, ...]:
    """The files that a backup could not read."""
    found: dict[str, None] = {}
    for line in ended.errors.splitlines():
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(said, dict) and said.get("message_type") == "error" and said.get("item"):
            found[secrets.scrub(str(said["item"]), tool.hidden)] = None
    return unread(found)


def _is_lock(key: str, hidden: bool) -> bool:
    """Whether an object is a lock, which is temporary."""
    return key.startswith("locks/")


def _tool(action: Action) -> Tool:
    """restic, with the repository and its secrets in the environment. Raises `Permanent`."""
    env, hidden = given(action.settings)
    password = secrets.resolve(text(action.settings, "password"))
    env |= {"RESTIC_REPOSITORY": where_of(action), "RESTIC_PASSWORD": password.reveal()}
    found = [*hidden, password]
    if user := text(action.settings, "user", ""):
        signed = secrets.resolve(text(action.settings, "user_password"))
        env |= {"RESTIC_REST_USERNAME": user, "RESTIC_REST_PASSWORD": signed.reveal()}
        found.append(signed)
    if cache := text(action.settings, "cache", ""):
        env["RESTIC_CACHE_DIR"] = cache
    else:
        env["RESTIC_CACHE_DIR"] = "/nonexistent"
    program = text(action.settings, "program", "restic")
    return Tool(program, env, tuple(found), _REASONS, hopeless=_FULL_WORDS)


def _limits(action: Action, source: Action | None = None) -> tuple[str, ...]:
    """Options that limit the bandwidth. source: the repository that a copy is read from."""
    down = [limit(one.settings, DOWNLOAD) for one in (action, source) if one is not None]
    found = (("upload", limit(action.settings, UPLOAD)), ("download", min(filter(None, down), default=0)))
    return tuple(f"--limit-{way}={kib}" for way, kib in found if kib)


def _bounds(action: Action, source: Action | None = None) -> tuple[str, ...]:
    """Options that limit the bandwidth, and disable the cache if none is named."""
    return (*_limits(action, source), *(() if text(action.settings, "cache", "") else ("--no-cache",)))


def _moment(entry: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(word(entry.get("time"), "restic")).timestamp()
    except (ValueError, OverflowError) as error:
        raise unreadable("restic", "no time") from error


def _copy(entry: Mapping[str, Any], wanted: tuple[str, ...]) -> CopyReport:
    """One snapshot, as `restic snapshots --json` lists it. Raises `Permanent`."""
    summary = entry.get("summary") or {}
    paths = entry.get("paths")
    if not isinstance(summary, dict) or not isinstance(paths, list):
        raise unreadable("restic", "a snapshot in an unexpected format")
    held = tuple(word(path, "restic") for path in paths)
    size, files, added, packed = (
        number(summary[key], "restic") if key in summary else None
        for key in ("total_bytes_processed", "total_files_processed", "data_added", "data_added_packed")
    )
    return CopyReport(
        word(entry.get("id"), "restic"),
        int(_moment(entry)),
        size,
        files,
        held,
        word(entry.get("hostname", ""), "restic"),
        word(entry.get("original", ""), "restic"),
        word(entry.get("tree"), "restic"),
        not set(wanted) <= set(held) and not set(wanted).isdisjoint(held),
        added=added,
        packed=packed,
    )


async def _past_stale_locks(
    tool: Tool, *argv: str, watch: Stopwatch, allowed: Sequence[int], changes: bool = False
) -> Ended:
    """Run restic, once more if a lock of a killed program blocked it: `unlock` removes only the locks of
    programs that are gone. Raises `ActionError`.
    """
    try:
        return await tool.run(*argv, timeout_s=watch.left_s, allowed=allowed, changes=changes)
    except Retryable as error:
        if error.code != "backup-locked":
            raise
    await tool.run("unlock", "--quiet", timeout_s=watch.left_s)
    return await tool.run(*argv, timeout_s=watch.left_s, allowed=allowed, changes=changes)


async def _is_locked(action: Action, tool: Tool, watch: Stopwatch) -> bool:
    """Whether a program holds an exclusive lock, such as a prune, so that nothing can be written."""
    if await names_of(action, "locks", watch) == frozenset():
        return False
    listed = await tool.run("list", "locks", "--no-lock", "--quiet", timeout_s=watch.left_s)
    for id_ in [one for one in listed.output.split() if NAME.fullmatch(one)][:LOCKS_MOST]:
        try:
            lock = await tool.json("cat", "lock", id_, "--no-lock", timeout_s=watch.left_s)
        except Permanent:
            continue  # it was released in the meantime
        if isinstance(lock, dict) and lock.get("exclusive") is True:
            return True
    return False


def _refused(action: Action) -> int | None:
    """Deletions in this repository that its rest-server refused, from the end of its log; None if no log is
    read. Our own test deletion does not count.
    """
    where, log = where_of(action), text(action.settings, "access_log", "")
    if not log or not where.startswith("rest:"):
        return None
    try:
        with Path(log).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            tried: list[bytes] = _DELETE.findall(file.read(LOG_BYTES))
    except OSError:
        return None
    begins = urlsplit(where.removeprefix("rest:")).path.rstrip("/").encode() + b"/"
    return sum(path.startswith(begins) and not path.endswith(NO_PACK.encode()) for path in tried)
