"""Driver for pgBackRest 2.50 and later. pgBackRest itself writes to each of its repositories; an endpoint is
one.

By default `verify` prints nothing and exits with 0 whatever it finds, so text output is requested: its counts
are read, and a set that it does not mention was not checked. It passes a catalogue if one of its two files is
sound, so both are compared; and a gap in the log, so its segments are listed. A backup whose `error` is true
has pages with wrong checksums, although the command exited with 0. A restored database is queried once its
recovery has ended. Whether the source can delete a repository follows from its type; a bucket's locks are
queried.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from configparser import Error as ConfigError
from configparser import RawConfigParser
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from evac.drivers import restored_postgres
from evac.drivers.backups import (
    BackupDriver,
    Filled,
    Filling,
    Stopwatch,
    Tool,
    in_time,
    number,
    objects,
    unreadable,
    word,
)
from evac.drivers.capabilities import (
    PARTS_PER_MILLION,
    READ,
    CopyReport,
    Listing,
    Proof,
    RestoresData,
    Taken,
    TakesBackups,
)
from evac.drivers.object_store import Asked, Bucket, Deletable, Passes
from evac.drivers.parameters import text, whole
from evac.drivers.pgbackrest.archive import Start, missing_log
from evac.drivers.port import Action
from evac.drivers.postgres_log import AFTER_TIMELINE
from evac.drivers.programs import Ended, given
from evac.drivers.repository_server import refuse_silent_server
from evac.drivers.restored_server import account_of, give, refuse_closed
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass

SEGMENTS_MOST: Final = 64
"""Newest log segments searched for the last transaction."""
SEGMENT_BYTES: Final = 256 << 20
_SEGMENT: Final = re.compile(r"[0-9A-F]{24}-[0-9a-f]{40}(\.[a-z0-9]{2,4})?")
CATALOGUE_TRIES: Final = 5
CATALOGUE_PAUSE_S: Final = 1.0
"""A backup that ends writes both files of a catalogue, one after the other."""
_SHELF: Final = 16
"""An archive folder is named after this many leading characters of its segments."""
_DAMAGED: Final = (29, 95)
"""Exit statuses for a file with a wrong format, and one that cannot be decrypted: with a wrong passphrase
nothing could be listed. Source: pgBackRest's `error.yaml`.
"""
TLS_PORT: Final = "8432"
"""Of a repository server, unless the configuration states another."""
PORT_MOST: Final = 65_535
CONFIG_MOST: Final = 1_000_000
"""Maximum characters of a configuration."""
GLOBAL: Final = "global"
OF_COMMANDS: Final = "of commands"
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
NO_BACKUPS: Final = 2
"""Status of a repository that has none yet."""
UNREADABLE: Final = 99
"""Status if its catalogue could not be read."""
_REASONS: Final = (
    (
        "do not match stanza",
        Permanent("backup-other-repository", "the repository is of another database", "check `stanza`"),
    ),
    (
        "unable to find primary cluster",
        Retryable("source-silent", "PostgreSQL does not answer as a primary", "start it; check pg1-path"),
    ),
    ("clock skew", Permanent("backup-clock", "the clock is behind the newest backup", "correct the clock")),
    (
        "unable to acquire lock",
        Retryable("backup-locked", "another backup is running", "wait for it to finish", 60_000),
    ),
    ("no space left", Permanent("backup-full", "the repository has no space left", "free some space in it")),
    (
        "was not archived before the",
        Retryable(
            "archive-late",
            "PostgreSQL did not archive its log in time",
            "the log of PostgreSQL says why `archive_command` fails; a repository may be full",
        ),
    ),
    (
        "because it contains files",
        Permanent("place-not-empty", "the target folder contains files", "choose an empty one"),
    ),
    ("unable to open missing file", Permanent("backup-no-repository", "a file is missing", "check `config`")),
    ("zlib threw error", Permanent("backup-corrupt", "the backup is damaged", "restore an older one")),
    ("checksum", Permanent("backup-corrupt", "the backup is damaged", "restore an older one")),
    ("FormatError", Permanent("backup-corrupt", "the backup is damaged", "restore an older one")),
    ("CryptoError", Permanent("backup-password", "wrong cipher passphrase", "check `env`")),
    ("unable to connect", Retryable("backup-silent", "the repository does not answer", "start its server")),
    ("HostConnectError", Retryable("backup-silent", "the repository does not answer", "start its server")),
    ("permission denied", Permanent("backup-forbidden", "a file cannot be read or written", "check owners")),
    ("input/output error", Permanent("backup-refused", "a disk fails", "to find the reason, run: dmesg")),
    (
        "unable to load info file",
        Permanent("backup-corrupt", "the list of backups is damaged", "use another repository"),
    ),
    # A partial write to a full disk has no error message.
    (
        "unable to write",
        Permanent("backup-full", "the repository has no space left", "free some space in it"),
    ),
    ("[032]", Permanent("backup-no-repository", "the configuration is wrong", "check `config`")),
)
_SET: Final = re.compile(
    r"^\s*backup: (\S+), status: (\S+?), total files checked: (\d+), total valid files: (\d+)", re.MULTILINE
)
_WAL: Final = re.compile(r"total WAL checked: (\d+), total valid WAL: (\d+)")
_STATUS: Final = re.compile(r"^status: (\w+)", re.MULTILINE)


_LOG: Final = re.compile(r"[0-9A-F]{24}[-.]")


@dataclass(frozen=True, slots=True)
class Set:
    """One backup set."""

    copy: CopyReport
    read: int
    stored: int
    """Bytes that it alone added to the repository."""
    cluster: int
    """pgBackRest's number of its cluster."""
    log: Start
    """Where the log begins that a restore needs."""


class PgbackrestDriver(restored_postgres.RestoredPostgres, BackupDriver, TakesBackups, RestoresData):
    """Each endpoint is one repository of one stanza."""

    name = "pgbackrest"

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
        """Repository in a bucket -> its objects that no one can delete, and until when."""
        self._starts: dict[tuple[str, ...], Mapping[str, Start]] = {}
        """Repository -> where the log of each backup begins, as last listed."""

    async def list_copies(self, action: Action, timeout_s: float) -> Listing:
        watch = Stopwatch(timeout_s)
        await _refuse_silent(action, watch)
        listing, sets = await self._sets(action, watch)
        found: Deletable = await in_time(
            lambda: self._can_delete(action, sets), watch, "asking whether the repository can be deleted"
        )
        version = await self._version(action, watch)
        return replace(listing, version=version, deletable=found.verdict, deletable_why=found.why)

    async def _list(self, action: Action, timeout_s: float) -> Listing:
        listing, _ = await self._sets(action, Stopwatch(timeout_s))
        return listing

    async def take(self, action: Action, timeout_s: float) -> Taken:
        watch = Stopwatch(timeout_s)
        _, before = await self._sets(action, watch)
        kind = text(action.settings, "type", "incr")
        argv = ("--log-level-console=error", f"--type={kind}", "backup")
        await _tool(action).run(*_where(action), *argv, timeout_s=watch.left_s, changes=True)
        try:
            _, after = await self._sets(action, watch)
        except ActionError as error:
            words = f"a backup was taken, but cannot be listed: {error.message}"
            raise OutcomeUnknown("backup-unknown", words, "list the backups") from error
        known = {one.copy.id for one in before}
        new = [one for one in after if one.copy.id not in known]
        if not new:
            raise OutcomeUnknown("backup-unknown", "pgBackRest succeeded, but no new backup is listed")
        found = new[-1]
        missing = ("pages with correct checksums",) if found.copy.failed else ()
        return Taken(found.copy, found.read, found.stored, watch.took_ms, missing)

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        return await restored_postgres.source_facts(action.settings, Stopwatch(timeout_s))

    async def prove(self, action: Action, timeout_s: float, level: int, part: int, of: int) -> Proof:
        """Level 2: every file of the sets in one part, and the log that each needs for consistency. The last
        part checks the whole repository, because later log belongs to no set.
        """
        if level != READ or not 1 <= part <= of:
            raise Permanent("proof-unknown", f"pgBackRest cannot prove level {level}, part {part} of {of}")
        watch = Stopwatch(timeout_s)

        try:
            await _refuse_silent(action, watch)
            listing, sets = await self._sets(action, watch)
            version = await self._version(action, watch)
            mine = [one for place, one in enumerate(sets) if place % of == part - 1]
            problems: list[str] = []
            if part == of and sets:
                problems = await self._verify(action, [one.copy.id for one in sets], watch, whole_log=True)
            else:
                for one in mine:
                    problems += await self._verify(action, [one.copy.id], watch)
            try:
                problems += await self._unequal(action, mine, part == of, watch)
                good = [one for one in sets if one.log.segment and not one.copy.failed]
                for one in good[-1:] if part == of else []:
                    problems += await missing_log(_tool(action), _where(action), one.log, watch)
            except ActionError:
                if not problems:  # damage that was found stays damage
                    raise
        except ActionError as error:
            return self._unproven(action, watch, level, error)
        said = partial(self._proof, action, watch, level, version=version, repository=listing.repository)
        if problems:
            return said("damaged", code="backup-corrupt", detail="; ".join(problems))
        own, total = (sum(one.stored for one in some) for some in (mine, sets))
        read = total if part == of else own
        if not read:
            words = f"part {part} of {of} contains no backup"
            return said("could-not-run", code="nothing-read", detail=words)
        # Bytes of the other parts are not counted again: a rotation covers everything once.
        share = own * PARTS_PER_MILLION // total
        return said("passed", read=read, share=share)

    async def _verify(
        self, action: Action, labels: Sequence[str], watch: Stopwatch, whole_log: bool = False
    ) -> list[str]:
        """Problems of these sets. whole_log: they are all there are, and the whole archive is checked. Raises
        `Permanent` if no file of the set was checked.
        """
        named = () if whole_log else (f"--set={labels[0]}",)
        argv = ("--output=text", "--verbose", *named, "verify")
        said = (await _tool(action).run(*_where(action), *argv, timeout_s=watch.left_s)).output
        found = {one[1]: one for one in _SET.finditer(said)}
        problems: list[str] = []
        for label in labels:
            if label not in found or int(found[label][3]) == 0:
                raise Permanent("nothing-read", f"pgBackRest checked no files of {label}")
            _, status, checked, valid = found[label].groups()
            if status != "valid" or checked != valid:
                problems.append(f"{label}: {status}, {valid} of {checked} files are valid")
        for log in _WAL.finditer(said):
            if log[1] != log[2]:
                problems.append(f"{log[2]} of {log[1]} WAL segments are valid")
        state = _STATUS.search(said)
        if not problems and (state is None or state[1] != "ok"):
            problems.append("pgBackRest reports an error in the stanza")
        return problems

    async def _unequal(
        self, action: Action, sets: Sequence[Set], whole_stanza: bool, watch: Stopwatch
    ) -> list[str]:
        """Files of the catalogue that differ from their copies or are damaged. pgBackRest uses the sound one,
        and reports nothing. Raises `ActionError` if that cannot be determined.
        """
        stanza, problems = text(action.settings, "stanza"), []
        names = [f"backup/{stanza}/{one.copy.id}/backup.manifest" for one in sets]
        if whole_stanza:
            names += [f"archive/{stanza}/archive.info", f"backup/{stanza}/backup.info"]
        for name in names:
            for past in range(CATALOGUE_TRIES):
                if past:
                    await asyncio.sleep(CATALOGUE_PAUSE_S)
                one = await self._digest(action, name, watch)
                if one == await self._digest(action, f"{name}.copy", watch) != "":
                    break
            else:
                problems.append(f"{name} and its copy differ, or cannot be read")
        return problems

    async def _digest(self, action: Action, name: str, watch: Stopwatch) -> str:
        """Digest of a file of the repository; `missing` if it expired, empty if it is damaged. Raises
        `ActionError` if it cannot be read for another reason, such as a repository that does not answer.
        """
        digest = hashlib.sha256()

        def takes(line: bytes) -> bool:
            digest.update(line + b"\n")
            return True

        # By default, messages are written among the content.
        quiet = ("--log-level-console=off", "--log-level-stderr=error")
        argv = (*_where(action), *quiet, "--ignore-missing", "repo-get", name)
        ended = await _tool(action).run(*argv, timeout_s=watch.left_s, allowed=(0, 1, *_DAMAGED), takes=takes)
        if ended.code in _DAMAGED:
            return ""
        digest.update(ended.raw)
        return "missing" if ended.code else digest.hexdigest()

    async def _sets(self, action: Action, watch: Stopwatch) -> tuple[Listing, list[Set]]:
        """The repository, without pgBackRest's version, and every set of it, oldest first. Raises
        `ActionError`.
        """
        stanza, repo = text(action.settings, "stanza"), whole(action.settings, "repo", 1)
        tool = _tool(action)
        argv = (*_where(action), "info", "--output=json")
        found = objects(await tool.json(*argv, timeout_s=watch.left_s), self.name)
        one = next((one for one in found if one.get("name") == stanza), {})
        status = next((s.get("status") for s in _many(one, "repo") if s.get("key") == repo), None)
        state, why = _at(status, "code"), str(_at(status, "message") or "")
        if state == UNREADABLE:
            error = tool.reason(Ended(1, why, True))
            raise error or Permanent("backup-refused", f"pgBackRest cannot read the repository: {why[:300]}")
        if state not in (0, NO_BACKUPS):
            words = f"the stanza {stanza} is not in repository {repo}"
            raise Permanent("backup-no-repository", words, "run: pgbackrest stanza-create")
        ids = [entry for entry in _many(one, "db") if entry.get("repo-key") == repo]
        system = str(number(ids[-1].get("system-id"), self.name)) if ids else ""
        pinned = text(action.settings, "system_id", "")
        if pinned and system != pinned:
            words = f"these are backups of the system {system}, but {pinned} was expected"
            raise Permanent("backup-other-repository", words, "check `stanza` and `system_id`")
        held = _at(one, "status", "lock", "backup", "held") is True
        entries = [entry for entry in _many(one, "backup") if _at(entry, "database", "repo-key") == repo]
        logs = [log for log in _many(one, "archive") if _at(log, "database", "repo-key") == repo]
        archives = {
            number(_at(log, "database", "id"), self.name): word(log.get("id"), self.name) for log in logs
        }
        sets = sorted((_set(entry, stanza, archives) for entry in entries), key=lambda it: it.copy.id)
        self._starts[_where(action)] = {one.copy.id: one.log for one in sets}
        id_ = f"{stanza}/{system}" if system else ""
        return Listing(id_, tuple(s.copy for s in sets), self.name, "", held), sets

    async def _version(self, action: Action, watch: Stopwatch) -> str:
        said = (await _tool(action).run("version", timeout_s=watch.left_s)).output.split()
        return said[1][:40] if len(said) > 1 else ""

    def _can_delete(self, action: Action, sets: Sequence[Set]) -> Deletable:
        """Whether the source, whose configuration this is, can delete the repository. A repository server may
        use an account of its own, about which nothing is known.
        """
        try:
            options = _options(action)
            kind = options.get("type", "posix")
            if "host" in options:
                return Deletable(None, "")
            if kind in ("posix", "cifs"):
                path = options.get("path", "/var/lib/pgbackrest")
                return Deletable(os.access(path, os.W_OK) or None, "")
            if kind != "s3":
                return Deletable(None, "")
            bucket = _bucket(options)
            held = self._held.setdefault((bucket.name, bucket.prefix), {})
            return Asked(bucket, held).deletable(_comes_and_goes(text(action.settings, "stanza"), sets))
        except Permanent as error:  # the backups can still be listed
            return Deletable(None, error.message)

    async def _fill(self, into: Filling) -> Filled:
        """Restore the set and recover it with the log after it; up to a restore point, or to the end of the
        archive.
        """
        action, folder, watch = into.action, into.folder, into.watch
        account = account_of(action.settings, restored_postgres.OWNER)
        refuse_closed(account, folder.parent)
        give(account, folder)
        target = ["--type=default"]
        if into.until is not None:
            moment = datetime.fromtimestamp(into.until, UTC).strftime("%Y-%m-%d %H:%M:%S+00")
            target = ["--type=time", f"--target={moment}", "--target-action=promote"]
        argv = (
            "--log-level-console=error",
            f"--set={into.copy.id}",
            f"--pg1-path={folder}",
            *target,
            "restore",
        )
        looking = asyncio.create_task(self._refuse_gap(into), name="log of a backup")
        try:
            await _tool(action).run(*_where(action), *argv, timeout_s=watch.left_s, keeps=(into.lock,))
            await looking
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        found = await restored_postgres.Engine(folder, action.settings).recover(watch)
        return Filled(found.bytes, found.reached_at, found.facts)

    async def _refuse_gap(self, into: Filling) -> None:
        """Raise `Permanent` if log after the set is missing. A restore point after a gap fails by itself."""
        if into.until is not None:
            return
        where, id_ = _where(into.action), into.copy.id
        if (log := self._starts.get(where, {}).get(id_)) is None:
            raise Permanent("copy-unknown", f"{id_} was removed meanwhile", "restore a newer backup")
        if log.segment:
            missing = await missing_log(_tool(into.action), where, log, into.watch)
            restored_postgres.refuse_damaged_log(missing)

    async def _refuse_uncovered(self, action: Action, until: int, watch: Stopwatch) -> None:
        """PostgreSQL stops at a restore point only if it finds a transaction that ended after it. Writes
        after the last archived segment are lost with the primary.
        """
        restored_postgres.refuse_beyond(await self._log_end(action, watch), until)

    async def _log_end(self, action: Action, watch: Stopwatch) -> float:
        """When the last transaction in the archived log ended, in seconds since 1970. Raises `Permanent` if
        none of the newest segments contains one.
        """
        tool, stanza, repo = _tool(action), text(action.settings, "stanza"), whole(action.settings, "repo", 1)
        argv = (*_where(action), "info", "--output=json")
        found = objects(await tool.json(*argv, timeout_s=watch.left_s), self.name)
        one = next((one for one in found if one.get("name") == stanza), {})
        logs = [log for log in _many(one, "archive") if _at(log, "database", "repo-key") == repo]
        last = [(word(log.get("id"), self.name), log.get("max")) for log in logs if log.get("max")][-1:]
        for id_, segment in last:
            folder = f"archive/{stanza}/{id_}/{word(segment, self.name)[:_SHELF]}"
            listed = await tool.json(
                *_where(action), "repo-ls", folder, "--output=json", timeout_s=watch.left_s
            )
            names = (name for name in listed if _SEGMENT.fullmatch(name)) if isinstance(listed, dict) else ()
            for name in sorted(names, reverse=True)[:SEGMENTS_MOST]:
                get = (*_where(action), "repo-get", f"{folder}/{name}")
                got = await tool.run(*get, timeout_s=watch.left_s, most=SEGMENT_BYTES)
                if (
                    end := await restored_postgres.last_commit(name, got.raw, action.settings, watch)
                ) is not None:
                    return end
        raise restored_postgres.NO_TRANSACTION


def _tool(action: Action) -> Tool:
    """pgBackRest as the owner of the data, with its secrets in the environment."""
    env, hidden = given(action.settings)
    program = text(action.settings, "program", "pgbackrest")
    if account := account_of(action.settings, restored_postgres.OWNER):
        env.setdefault("HOME", account.pw_dir)
    return Tool(program, {"TZ": "UTC", **env}, hidden, _REASONS, account=account)


def _config(action: Action) -> str:
    return text(action.settings, "config", "/etc/pgbackrest/pgbackrest.conf")


def _options(action: Action) -> dict[str, str]:
    """Options of the repository as pgBackRest finds them: environment, stanza, global. `OF_COMMANDS` is set
    if single commands have others. Raises `Permanent` if the configuration is unreadable or too long.
    """
    parser = RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    config, stanza = _config(action), text(action.settings, "stanza")
    try:
        with Path(config).open(encoding="utf-8") as file:
            words = file.read(CONFIG_MOST + 1)
        if len(words) > CONFIG_MOST:
            raise Permanent(
                "setting-wrong",
                f"it is unknown whether the backups can be deleted: {config} is longer than {CONFIG_MOST:,} "
                "characters",
                "shorten it, or name another file in `config`",
            )
        parser.read_string(words)
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        words = f"it is unknown whether the backups can be deleted: evac cannot read {config}"
        raise Permanent("setting-wrong", words, "give evac's account read permission") from error
    begins = f"repo{whole(action.settings, 'repo', 1)}-"
    found: dict[str, str] = {}
    if any(name.startswith((f"{GLOBAL}:", f"{stanza}:")) for name in parser.sections()):
        found[OF_COMMANDS] = "yes"
    for section in (GLOBAL, stanza):
        if parser.has_section(section):
            items = parser.items(section)
            found |= {key.removeprefix(begins): value for key, value in items if key.startswith(begins)}
    env, _ = given(action.settings)
    named = {key.removeprefix("PGBACKREST_").lower().replace("_", "-"): value for key, value in env.items()}
    return found | {key.removeprefix(begins): one for key, one in named.items() if key.startswith(begins)}


async def _refuse_silent(action: Action, watch: Stopwatch) -> None:
    """Raise `Retryable` if the repository has a TLS server that accepts no connection: pgBackRest would retry
    for minutes. It is left to pgBackRest if evac cannot be sure which server that is. An SSH host may be an
    alias that only SSH knows.
    """
    try:
        options = await in_time(lambda: _options(action), watch, "reading the configuration")
    except Permanent:  # pgBackRest runs as another account, which may read its configuration
        return
    host, port = options.get("host", ""), options.get("host-port", TLS_PORT)
    is_clear = not options.get(OF_COMMANDS) and host.isprintable()
    if (
        host
        and is_clear
        and options.get("host-type") == "tls"
        and _PORT.fullmatch(port)
        and int(port) <= PORT_MOST
    ):
        wrong = Permanent("setting-wrong", "the host of the repository is not valid", "check `config`")
        await refuse_silent_server("pgbackrest", host, int(port), watch, wrong)


def _bucket(options: Mapping[str, str]) -> Bucket:
    """The bucket. Raises `Permanent` if the options name none."""
    missing = [name for name in ("s3-bucket", "s3-endpoint") if not options.get(name)]
    if missing:
        raise Permanent("setting-wrong", f"the configuration of pgBackRest does not set {missing[0]}")
    host, port = options.get("storage-host") or options["s3-endpoint"], options.get("storage-port", "")
    prefix = options.get("path", "/var/lib/pgbackrest").strip("/")
    return Bucket(
        options["s3-bucket"],
        f"{prefix}/" if prefix else "",
        f"https://{host.removeprefix('https://')}{f':{port}' if port else ''}",
        options.get("s3-region", ""),
        options.get("s3-key", ""),
        options.get("s3-key-secret", ""),
        options.get("s3-token", ""),
        options.get("storage-ca-file", ""),
        options.get("storage-verify-tls", "y") != "n",
    )


def _comes_and_goes(stanza: str, sets: Sequence[Set]) -> Passes:
    """Whether an object is needed by no restore of these sets: of other stanzas, or expired by pgBackRest. A
    hidden object that a set needs does not count: someone deleted it.
    """
    labels, first = {one.copy.id for one in sets}, dict[str, str]()
    for one in sets:
        begins, cluster = one.log.segment[AFTER_TIMELINE], str(one.cluster)
        first[cluster] = min(begins, first.get(cluster, begins))

    def passes(key: str, hidden: bool) -> bool:
        kind, _, rest = key.partition("/")
        name, _, rest = rest.partition("/")
        if kind not in ("archive", "backup") or name != stanza:
            return True
        part, _, rest = rest.partition("/")
        if not hidden or not rest:
            return False
        if kind == "backup":
            return part not in labels
        segment, cluster = rest.rpartition("/")[2], part.rpartition("-")[2]
        if not _LOG.match(segment):
            return False
        return cluster not in first or segment[AFTER_TIMELINE] < first[cluster]

    return passes


def _where(action: Action) -> tuple[str, ...]:
    stanza, repo = text(action.settings, "stanza"), whole(action.settings, "repo", 1)
    return (f"--config={_config(action)}", f"--stanza={stanza}", f"--repo={repo}")


def _set(entry: Mapping[str, Any], stanza: str, archives: Mapping[int, str]) -> Set:
    """One backup set. archives: those of each cluster."""
    name = "pgbackrest"
    read = number(_at(entry, "info", "delta"), name)
    stored = number(_at(entry, "info", "repository", "delta"), name)
    copy = CopyReport(
        word(entry.get("label"), name),
        number(_at(entry, "timestamp", "start"), name),
        number(_at(entry, "info", "size"), name),
        source=stanza,
        failed=entry.get("error") is not False,
        consistent_at=number(_at(entry, "timestamp", "stop"), name) + 1,  # reported in whole seconds
        added=None if entry.get("type") == "full" else read,
        packed=stored,
    )
    cluster = number(_at(entry, "database", "id"), name)
    start = Start(
        f"archive/{stanza}/{archives.get(cluster, '')}",
        word(_at(entry, "archive", "start") or "", name),
        word(_at(entry, "lsn", "start") or "", name),
    )
    return Set(copy, read, stored, cluster, start)


def _at(found: object, *path: str) -> Any:
    """The value at a path of names; None if any of them is missing."""
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _many(found: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    values = found.get(key, [])
    if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
        raise unreadable("pgbackrest", f"{key} is not a list")
    return values
