"""Archives what only an old primary has, before it is rewound: its log from the fork on, the list of
transactions that exist nowhere else, and the rows they wrote in tables that the plan names.

An archive is complete when it has a manifest; it is made under a temporary name next to its place and
renamed.

PostgreSQL's own programs run here for a member whose data folder is on this machine: never through a shell,
as the folder's user, with a time limit, and with the password only in the environment of the program that
needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import asyncpg

from evac.drivers.archives import MANIFEST, complete, free_name
from evac.drivers.parameters import many, text
from evac.drivers.places import everything_below
from evac.drivers.port import Action
from evac.drivers.postgres.facts import Commit, Control, parse_commit, parse_control
from evac.drivers.postgres.link import FAILURES, Member, PostgresConnection, member_of, translate
from evac.drivers.postgres.own_files import keep
from evac.drivers.postgres_log import lsn_text, segment_at
from evac.model.errors import OutcomeUnknown, Permanent
from evac.model.records import dataclass
from evac.net.secrets import scrub

OUTPUT_BYTES = 65_536
STOP_S = 20
SAID = re.compile(r"\b[A-Z]{3,10}:\s+(.+)$")
"""The message in a server log line, after time and process."""


@dataclass(frozen=True, slots=True)
class Place:
    """Paths of a member: its data folder, the folder of its programs, and the system user that owns it."""

    data: Path
    bin: Path
    user: str

    @property
    def account(self) -> pwd.struct_passwd | None:
        """The user to become; None if we are that user, or may not change."""
        return pwd.getpwnam(self.user) if self.user and os.geteuid() == 0 else None

    def give(self, *paths: Path) -> None:
        """Make the user the owner of files and whole folders."""
        account = self.account
        if account is None:
            return
        for top in paths:
            os.chown(top, account.pw_uid, account.pw_gid, follow_symlinks=False)
            for path, _ in everything_below(top) if stat.S_ISDIR(top.lstat().st_mode) else ():
                os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def place_of(action: Action) -> Place | None:
    """From the settings `data`, `bin`, `system_user`; None if we do not manage the member's files."""
    data = text(action.settings, "data", "")
    if not data:
        return None
    user = text(action.settings, "system_user", "postgres")
    return Place(Path(data), Path(text(action.settings, "bin")), user)


async def program(
    place: Place,
    *argv: str,
    timeout_s: float,
    password: Member | None = None,
    output: Path | None = None,
    allowed: tuple[int, ...] = (0,),
) -> str:
    """Run one of the programs; return its output, at most `OUTPUT_BYTES`. output: a file for it instead.
    Raises `Permanent` for an exit code that is not allowed, `OutcomeUnknown` on timeout.
    """
    secret = password.secret() if password else None
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", **({"PGPASSWORD": secret.reveal()} if secret else {})}
    with contextlib.ExitStack() as stack:
        target: Any = stack.enter_context(output.open("wb")) if output else asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            str(place.bin / argv[0]),
            *argv[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=target,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            cwd="/",
            start_new_session=True,
            **_identity(place),
        )
        try:
            async with asyncio.timeout(max(0.1, timeout_s)):
                said = await process.stdout.read(OUTPUT_BYTES) if process.stdout else b""
                while process.stdout and await process.stdout.read(OUTPUT_BYTES):
                    pass  # Output above the limit is read, so that the program can end, and dropped.
                code = await process.wait()
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if isinstance(error, TimeoutError):
                raise OutcomeUnknown(
                    "program-slow", f"{argv[0]} took longer than {timeout_s:.0f} s"
                ) from error
            raise
    words = scrub(said.decode("utf-8", "replace"), [secret] if secret else [])
    if code not in allowed:
        raise Permanent("program-failed", f"{argv[0]} ended with {code}: {words.strip()[-600:]}")
    return words


def _identity(place: Place) -> Mapping[str, Any]:
    account = place.account
    if account is None:
        return {}
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


async def control(place: Place, timeout_s: float = 10) -> Control:
    """Content of the stopped or running member's control file."""
    return parse_control(await program(place, "pg_controldata", "-D", str(place.data), timeout_s=timeout_s))


async def runs(place: Place) -> bool:
    """Whether a server runs on the data folder. `pg_ctl` exits with 3 if none does, with 4 without a folder.
    Raises as `program` does.
    """
    said = await program(place, "pg_ctl", "-D", str(place.data), "status", timeout_s=10, allowed=(0, 3, 4))
    return "server is running" in said


async def stop(place: Place) -> None:
    """Stop the server of the data folder, if one runs: fast, or immediately if that takes too long."""
    data = str(place.data)
    for mode in ("fast", "immediate"):
        argv = ("pg_ctl", "-D", data, "-m", mode, "-w", "-t", str(STOP_S), "stop")
        await program(place, *argv, timeout_s=STOP_S + 5, allowed=(0, 1))
        if not await runs(place):
            return
    raise Permanent("not-stopped", "the member's server does not stop", "stop it by hand")


async def start(place: Place, timeout_s: float, options: str = "") -> None:
    """Start the server and wait until it accepts connections. options: more `-c` settings. Raises `Permanent`
    with the server's messages if it does not start.
    """
    log = place.data / "evac_start.log"
    before = log.stat().st_size if log.exists() else 0
    argv = ("pg_ctl", "-D", str(place.data), "-w", "-t", str(max(1, int(timeout_s))), "-l", str(log), "-s")
    # The server inherits our output and never closes it, so reading a pipe would block while it runs.
    sink = Path(os.devnull)
    more = ("-o", options) if options else ()
    try:
        await program(place, *argv, *more, "start", timeout_s=timeout_s + 5, output=sink)
    except Permanent as error:
        why = await asyncio.to_thread(_why_not_started, log, before)
        raise Permanent(
            "not-started",
            f"the member's server does not start: {why or error.message}",
            f"see {log}; start it by hand, or fix the problem it reports and retry",
        ) from error


def _why_not_started(log: Path, begin: int) -> str:
    """The last lines of a server's log after an offset, without their times."""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, log.stat().st_size - OUTPUT_BYTES))
            lines = file.read(OUTPUT_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "; ".join(match[1] if (match := SAID.search(line)) else line for line in lines[-4:])[:600]


@asynccontextmanager
async def shut_in(place: Place, action: Action, timeout_s: float) -> AsyncIterator[Member]:
    """Run the member for us only: read-only, through a socket in a private folder. It recovers from a crash,
    and is stopped cleanly at the end.
    """
    folder = Path(mkdtemp(prefix="evac-"))
    try:
        (folder / "hba").write_text("local all all trust\n")
        place.give(folder)
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={folder} -c hba_file={folder}/hba -c ssl=off "
            "-c default_transaction_read_only=on -c synchronous_standby_names='' -c autovacuum=off "
            "-c archive_mode=off"
        )
        await start(place, timeout_s, options)
        own = member_of(action)
        yield Member(str(folder), own.port, own.user, "", own.dbname, own.name)
    finally:
        await stop(place)
        shutil.rmtree(folder, ignore_errors=True)


BATCH = 500


@dataclass(frozen=True, slots=True)
class Archived:
    """folder: the archive. transactions: committed only there. rows: by table, what they left."""

    folder: Path
    transactions: int
    rows: dict[str, int]
    fork: str

    def evidence(self) -> dict[str, str | int | bool]:
        tables = " ".join(f"{table}={count}" for table, count in self.rows.items())
        return {
            "archive": str(self.folder),
            "fork": self.fork,
            "diverged_transactions": self.transactions,
            "diverged_rows": sum(self.rows.values()),
            "rows_by_table": tables[:900],
        }


def archive_folder(action: Action, timeline: int, lsn: int) -> Path:
    """One folder for each member and fork. Raises `Permanent` if no location was given."""
    given = text(action.parameters, "archive", text(action.settings, "archive", ""))
    top = given.removeprefix("file:")
    if not top.startswith("/"):
        raise Permanent(
            "archive-missing",
            "no folder is set for data that only the old primary had",
            "set archive on the endpoint or the step",
        )
    name = text(action.settings, "name", "member").replace("/", "_")
    return Path(top) / f"{name}-{timeline:08X}-{lsn_text(lsn).replace('/', '-')}"


def read_archive(folder: Path) -> Archived | None:
    """An archive that was completed before."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    return Archived(folder, manifest["transactions"], manifest["rows"], manifest["fork"])


async def archive(
    place: Place, action: Action, found: Control, fork: tuple[int, int], timeout_s: float
) -> Archived:
    """Make the archive. The member's server is stopped before and after. An earlier archive of the same fork
    is kept, because the member may have written more since.
    """
    timeline, lsn = fork
    folder = archive_folder(action, timeline, lsn)
    folder = await asyncio.to_thread(free_name, folder)
    partial = folder.with_name(folder.name + ".partial")
    await asyncio.to_thread(_copy_files, place, partial, found, fork)
    commits = await _commits(place, partial, fork, timeout_s)
    tables = many(action.parameters, "archive_rows") or many(action.settings, "archive_rows")
    rows: dict[str, int] = {}
    if tables and commits and not found.was_standby:
        async with shut_in(place, action, timeout_s) as member:
            rows = await _dump_rows(member, partial, tables, commits)
    about = {"fork": lsn_text(lsn), "transactions": len(commits), "rows": rows}
    await asyncio.to_thread(complete, partial, folder, about)
    return Archived(folder, len(commits), rows, lsn_text(lsn))


def holds_log_after(place: Place, found: Control, fork: tuple[int, int]) -> bool:
    """Whether the member has any log at or after the fork; a standby that lagged behind it has none."""
    return bool(_segments_from(place, segment_at(*fork, found.segment_bytes)))


def _segments_from(place: Place, first: str) -> list[Path]:
    """Segments of the fork's timeline or a later one, from `first` on."""
    return sorted(
        path
        for path in (place.data / "pg_wal").iterdir()
        if len(path.name) == 24 and path.name[8:] >= first[8:] and path.name[:8] >= first[:8]
    )


def _copy_files(place: Place, partial: Path, found: Control, fork: tuple[int, int]) -> None:
    """Log segments from the fork on, and the member's own settings."""
    first = segment_at(*fork, found.segment_bytes)
    segments = _segments_from(place, first)
    if not any(path.name[8:] == first[8:] for path in segments):
        raise Permanent(
            "log-gone",
            f"the WAL from the fork onwards no longer exists ({first})",
            "keep a copy of the data folder by hand, then rejoin with a fresh copy",
        )
    need = sum(path.stat().st_size for path in segments)
    partial.mkdir(parents=True, exist_ok=True)
    partial.chmod(0o700)
    if shutil.disk_usage(partial).free < 2 * need:
        raise Permanent(
            "archive-full", f"the archive needs {need} bytes, but its disk has less than twice that"
        )
    for name in ("wal", "settings", "rows"):
        (partial / name).mkdir(exist_ok=True)
    for path in segments:
        shutil.copy2(path, partial / "wal" / path.name)
    keep(place.data, partial / "settings")
    place.give(partial)


async def _commits(place: Place, partial: Path, fork: tuple[int, int], timeout_s: float) -> list[Commit]:
    """Transactions in the copied log after the fork. At the end of the log, pg_waldump exits with an
    error.
    """
    timeline, lsn = fork
    listing = partial / "transactions.txt"
    argv = (
        "pg_waldump",
        "-p",
        str(partial / "wal"),
        "-t",
        str(timeline),
        "-s",
        lsn_text(lsn),
        "-r",
        "Transaction",
    )
    await program(place, *argv, timeout_s=timeout_s, output=listing, allowed=(0, 1))

    def read() -> list[Commit]:
        with listing.open(encoding="utf-8", errors="replace") as lines:
            return [commit for line in lines if (commit := parse_commit(line))]

    return await asyncio.to_thread(read)


async def _dump_rows(
    member: Member, partial: Path, tables: tuple[str, ...], commits: list[Commit]
) -> dict[str, int]:
    """Rows last written by one of the transactions: one JSON object a line, one file a table."""
    xids = sorted({str(xid) for commit in commits for xid in commit.xids})
    try:
        connection = await asyncpg.connect(
            host=member.host,
            port=member.port,
            user=member.user,
            database=member.dbname,
            timeout=10,
            statement_cache_size=0,
            connection_class=PostgresConnection,
        )
        try:
            names = await _tables(connection, tables)
            return {
                name: await _dump_table(connection, name, partial / "rows" / f"{number:04d}.jsonl", xids)
                for number, name in enumerate(names)
            }
        finally:
            await connection.close(timeout=5)
    except (TimeoutError, *FAILURES) as error:
        raise translate(member, error, changes=False) from error


async def _tables(connection: asyncpg.Connection, tables: tuple[str, ...]) -> list[str]:
    """The named tables, quoted by the server; `*` means every ordinary user table."""
    if tables == ("*",):
        rows = await connection.fetch(
            "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r' AND relpersistence = 'p' "
            "AND relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_' "
            "OR nspname = 'information_schema') ORDER BY 1"
        )
        return [row["name"] for row in rows]
    found = {table: await connection.fetchval("SELECT to_regclass($1)::text", table) for table in tables}
    if missing := sorted(table for table, name in found.items() if name is None):
        raise Permanent("table-unknown", f"the old primary has no table {missing[0]}")
    return [str(name) for name in found.values()]


async def _dump_table(connection: asyncpg.Connection, name: str, path: Path, xids: list[str]) -> int:
    query = f"SELECT row_to_json(t)::text AS row FROM ONLY {name} t WHERE xmin = ANY($1::text[]::xid[])"
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"table": name}) + "\n")
        async with connection.transaction(readonly=True):
            async for row in connection.cursor(query, xids, prefetch=BATCH):
                file.write(row["row"].replace("\n", "\\n") + "\n")
                count += 1
    return count
