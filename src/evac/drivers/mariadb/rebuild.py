"""Rebuild a server that has transactions its new primary lacks, after keeping them.

Nothing is discarded. Before its data is replaced, an archive is complete: the server's binary logs since the
two parted, a list of the transactions that only it has, and a dump of all its databases. The new primary is
dumped to a file first, so if it fails meanwhile, the old data is as it was.

The server keeps running. It is read-only, follows no one, and is marked as incomplete until the new data has
its position. It is never promoted with that mark, and a rejoin that was interrupted loads the data again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from evac.drivers.archives import complete, free_name
from evac.drivers.mariadb.link import (
    MariadbFacts,
    MariadbLink,
    MariadbMember,
    end_writes,
    linked,
    obey,
    positions,
    read_facts,
    stop_receiving,
)
from evac.drivers.parameters import text
from evac.drivers.places import LOCKED, RestorePlace
from evac.drivers.port import Action, Evidence, Order
from evac.drivers.programs import environment
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.model.records import dataclass
from evac.net.secrets import resolve, scrub

OWN: Final = ("evac", "sys")
"""Databases that are not copied: a server's orders, and the views that its own version made."""
SYSTEM: Final = ("information_schema", "mysql", "performance_schema", *OWN)
HEAD_BYTES: Final = 65_536
"""The beginning of a dump, which says where its primary's log was."""
SAID_BYTES: Final = 4_096
PATIENT_S: Final = 86_400
"""How long a server keeps a connection that waits for a program."""
STATEMENT_S: Final = 60.0
"""For statements that read or remove many files."""
LISTED_MOST: Final = 1_000_000
"""Transactions that are listed one by one; the logs have all of them."""
_POSITION: Final = re.compile(
    rb"^-- CHANGE MASTER TO MASTER_LOG_FILE='([^'\\]{1,512})', MASTER_LOG_POS=(\d{1,19});", re.MULTILINE
)
_GTID: Final = re.compile(rb"^#.{0,120}\tGTID (\d{1,10})-(\d{1,10})-(\d{1,20})\b")
_PLAIN: Final = (
    "SELECT CONCAT(table_schema, '.', table_name) AS name FROM information_schema.tables "
    "WHERE table_type = 'BASE TABLE' AND engine <> 'InnoDB' AND table_schema NOT IN ({}) ORDER BY 1 LIMIT 1"
).format(", ".join(f"'{name}'" for name in SYSTEM))
_TABLES: Final = (
    "SELECT COUNT(*) AS tables FROM information_schema.innodb_sys_tables "
    "WHERE name LIKE '%/%' AND SUBSTRING_INDEX(name, '/', 1) NOT IN ({})"
).format(", ".join(f"'{name}'" for name in SYSTEM))
_BYTES: Final = "SELECT COALESCE(SUM(data_length + index_length), 0) AS bytes FROM information_schema.tables"
SEES: Final = (
    "BINLOG MONITOR",
    "EVENT",
    "LOCK TABLES",
    "PROCESS",
    "RELOAD",
    "SELECT",
    "SHOW DATABASES",
    "SHOW VIEW",
    "TRIGGER",
)
"""What an account needs to see everything. With less, a dump lacks the rest, and nothing says so."""
REPLACES: Final = (
    "ALTER",
    "ALTER ROUTINE",
    "BINLOG ADMIN",
    "CREATE",
    "CREATE ROUTINE",
    "CREATE VIEW",
    "DELETE",
    "DROP",
    "INDEX",
    "INSERT",
    "READ_ONLY ADMIN",
    "REFERENCES",
    "REPLICATION SLAVE",
    "SET USER",
    "SUPER",
    "UPDATE",
)
"""What it also needs to read the log of a server and to replace its data."""
_BY_HAND: Final = "copy what you need from it, rebuild it with mariadb-backup, then retry this step"
_LOG: Final = re.compile(r"[A-Za-z0-9_.\-]{1,255}")


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a rebuild uses on the machine of the agent. bin: folder of MariaDB's programs. user, password: an
    account that may read and replace all data, on both servers.
    """

    archive: Path
    bin: Path
    user: str
    password: str
    lock: int | None = None
    """An open file that programs inherit: no other rebuild begins while any part of them lives."""

    def on(self, member: MariadbMember) -> MariadbMember:
        return replace(member, user=self.user, password=self.password)


def workshop_of(action: Action, member: MariadbMember) -> Workshop | None:
    """None if the endpoint does not say where to keep what only an old primary had. Raises `Permanent`."""
    top = text(action.settings, "archive", "").removeprefix("file:")
    if not top or text(action.parameters, "how", "") == "follow":
        return None
    if not top.startswith("/"):
        raise Permanent("setting-wrong", "archive must be an absolute path", "set archive on the endpoint")
    return Workshop(
        Path(top),
        Path(text(action.settings, "bin")),
        text(action.settings, "rebuild_user", member.user),
        text(action.settings, "rebuild_password", member.password),
    )


def problems_of(shop: Workshop) -> list[str]:
    """What is missing on this machine."""
    found = []
    for name in ("mariadb", "mariadb-dump", "mariadb-binlog"):
        if not (shop.bin / name).is_file():
            found.append(f"{name} is not in {shop.bin}")
        elif not os.access(shop.bin / name, os.X_OK):
            found.append(f"evac has no permission to run {shop.bin / name}")
    if shutil.which("gzip") is None:
        found.append("gzip is not installed on this machine")
    if not shop.archive.is_dir():
        found.append(f"{shop.archive} is not a folder on this machine")
    return found


def only_here(ours: MariadbFacts, theirs: MariadbFacts) -> dict[tuple[int, int], tuple[int, int]]:
    """By domain and server: the first and last GTID number that the other server does not have."""
    written = positions(theirs.written)
    mine = positions(f"{ours.written},{ours.held}")
    return {
        key: (written.get(key, 0) + 1, number)
        for key, number in sorted(mine.items())
        if number > written.get(key, 0)
    }


async def has_data_without_position(member: MariadbMember, facts: MariadbFacts, order: Order) -> bool:
    """Whether a server has tables although its position is that of an empty one: following would replicate
    from the beginning of the primary's log, into data that is already there.
    """
    if facts.held or facts.written:
        return False
    async with linked(member, order.timeout_s) as link:
        (row,) = await link.rows(_TABLES)
    return int(row["tables"]) > 0


def range_words(errant: dict[tuple[int, int], tuple[int, int]]) -> str:
    """The GTIDs, such as `0-1-57 to 0-1-59`. Of a server that the other one never heard of, only the last."""
    words = []
    for (domain, server), (first, last) in errant.items():
        begin = f"{domain}-{server}-{first} to " if 1 < first < last else ""
        words.append(f"{begin}{'up to ' if first == 1 < last else ''}{domain}-{server}-{last}")
    return ", ".join(words)[:300]


async def rebuild(
    link: MariadbLink, shop: Workshop, primary: MariadbMember, action: Action, order: Order
) -> Evidence:
    """Keep what only this server has, then replace its data by the primary's. It is read-only, and follows no
    one afterwards. Raises `Permanent`, `Retryable`, `OutcomeUnknown`.
    """
    if problems := problems_of(shop):
        raise Permanent("rebuild-impossible", problems[0], "fix it on the machine of the site's agent")
    before, link.call_s = link.call_s, STATEMENT_S
    try:
        await end_writes(link)  # also those of a program that an ended agent left running
        with _alone(shop, action) as lock:
            shop = replace(shop, lock=lock)
            async with (
                linked(shop.on(link.member), order.timeout_s) as own,
                linked(shop.on(primary), order.timeout_s) as upstream,
            ):
                for one in (link, own, upstream):
                    one.call_s = STATEMENT_S
                    await one.rows(f"SET SESSION wait_timeout = {PATIENT_S}")
                return await _rebuilt(link, own, upstream, shop, action, order)
    except OSError as error:
        words = f"the archive in {shop.archive} could not be written: {error.strerror or error}"
        raise Permanent("files-refused", words, "make space, or correct its permissions") from error
    finally:
        link.call_s = before


@contextmanager
def _alone(shop: Workshop, action: Action) -> Iterator[int]:
    """Lock the rebuild of one server on this machine; yields the open lock. Raises `Retryable`, OSError."""
    try:
        with RestorePlace(shop.archive / _name(action)).held() as lock:
            yield lock
    except Retryable as error:
        if error.code != LOCKED:
            raise
        words = f"another rebuild, or a program that it left running, is using {shop.archive}"
        raise error.said_as("rebuild-under-way", words) from error


async def _rebuilt(
    link: MariadbLink,
    own: MariadbLink,
    upstream: MariadbLink,
    shop: Workshop,
    action: Action,
    order: Order,
) -> Evidence:
    """link: as evac, with the lock of this server. own, upstream: as the account for rebuilds."""
    await _refuse_narrow(own, (*SEES, *REPLACES))
    await _refuse_narrow(upstream, SEES)
    if rows := await upstream.rows(_PLAIN):
        words = f"{upstream.member.address} has tables that are not InnoDB, such as {rows[0]['name']}"
        raise Permanent("rebuild-impossible", words, "rebuild it with mariadb-backup, then retry this step")
    facts, theirs = await read_facts(link), await read_facts(upstream)
    if series(facts.version) != series(theirs.version):
        words = f"{link.member.address} is MariaDB {facts.version[:40]}, its primary {theirs.version[:40]}"
        raise Permanent("rebuild-impossible", words, "upgrade one of them, then retry this step")
    incoming_bytes = int((await upstream.rows(_BYTES))[0]["bytes"])
    _refuse_full(shop, incoming_bytes)
    evidence: dict[str, str | int | bool] = {"how": "rebuild"}
    if facts.upstream:
        await stop_receiving(link, "STOP SLAVE")
        await link.change("RESET SLAVE ALL")
    seen = facts.seen
    if seen.rebuilding:
        evidence["archive"] = seen.rebuilding
    elif (errant := only_here(facts, theirs)) or await has_data_without_position(link.member, facts, order):
        folder, kept = await _keep(own, shop, action, facts, theirs, incoming_bytes)
        evidence["archive"] = str(folder)
        if errant:
            evidence |= {"gtids": range_words(errant), "diverged_transactions": kept}
    incoming = shop.archive / f".{_name(action)}.incoming.sql.gz"
    databases = await own.rows("SELECT schema_name AS name FROM information_schema.schemata")
    position = await _received(upstream, shop, incoming)
    seen = await obey(link, seen, order, rebuilding=str(evidence.get("archive", shop.archive)))
    try:
        async with _without_events(own):
            await _replace(own, shop, [str(row["name"]) for row in databases], incoming)
    except ActionError as error:
        words = f"{error.message}; the dump of {upstream.member.address} is kept: {incoming}"
        raise error.said_as(error.code, words) from error
    await link.change("RESET MASTER")
    await link.change("SET GLOBAL gtid_binlog_state = %s", _history(theirs.written, position))
    await link.change("SET GLOBAL gtid_slave_pos = %s", position)
    await obey(link, seen, order, rebuilding="")
    incoming.unlink()
    return evidence


async def _received(upstream: MariadbLink, shop: Workshop, into: Path) -> str:
    """Dump the primary to a file; return the GTIDs in it. An earlier dump is kept until this one is complete:
    once data was replaced, it may be the only copy.
    """
    new = into.with_name(f"{into.name}.new")
    try:
        await _dump(upstream, shop, new)
        position = await _position(upstream, new)
        new.replace(into)
    finally:
        new.unlink(missing_ok=True)
    return position


def series(version: str) -> tuple[str, ...]:
    """Major and minor version: the system tables of another one are not loaded into a server."""
    return tuple(version.split(".")[:2])


def _refuse_full(shop: Workshop, needed: int) -> None:
    if shutil.disk_usage(shop.archive).free < needed:
        words = f"{shop.archive} has less than the {needed} bytes that the archive and the dumps may need"
        raise Permanent("archive-full", words, "make space there, then retry this step")


async def _refuse_narrow(link: MariadbLink, needed: Sequence[str]) -> None:
    """Raise `Permanent` if an account lacks a privilege on all databases. A role's do not count."""
    (row,) = await link.rows("SELECT CURRENT_USER() AS me")
    user, _, host = str(row["me"]).rpartition("@")
    asked = "SELECT privilege_type AS name FROM information_schema.user_privileges WHERE grantee = %s"
    has = {str(found["name"]).upper() for found in await link.rows(asked, f"'{user}'@'{host}'")}
    if missing := sorted(set(needed) - has):
        words = f"{user}@{host} lacks on {link.member.address}: {', '.join(missing)}"
        raise Permanent("rebuild-impossible", words, "grant it all privileges ON *.* on every member")


def _name(action: Action) -> str:
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", text(action.settings, "name", "member"))[:100]


async def _keep(
    own: MariadbLink,
    shop: Workshop,
    action: Action,
    facts: MariadbFacts,
    theirs: MariadbFacts,
    incoming_bytes: int,
) -> tuple[Path, int]:
    """The archive of this server, and how many transactions only it has. incoming_bytes: what the dump of the
    primary needs in addition.
    """
    size = int((await own.rows(_BYTES))[0]["bytes"])
    logs = [
        (str(row["Log_name"]), int(row["File_size"]))
        for row in await own.rows("SHOW BINARY LOGS")
        if _LOG.fullmatch(str(row["Log_name"]))
    ]
    first = await _first_log(own, [name for name, _ in logs], theirs)
    size += sum(bytes_ for name, bytes_ in logs if name >= first)
    _refuse_full(shop, 2 * size + incoming_bytes)
    errant = only_here(facts, theirs)
    (number, (domain, server)) = max(((last, key) for key, (_, last) in errant.items()), default=(0, (0, 0)))
    last = f"{domain}-{server}-{number}" if errant else "no-gtid"
    folder = free_name(shop.archive / f"{_name(action)}-{last}")
    partial = folder.with_name(f"{folder.name}.partial")
    await asyncio.to_thread(shutil.rmtree, partial, True)
    (partial / "log").mkdir(parents=True)
    partial.chmod(0o700)
    raw = ("--read-from-remote-server", "--raw", "--to-last-log", f"--result-file={partial}/log/", first)
    await _run(shop, own, [_program(shop, own, "mariadb-binlog", *raw)])
    files = sorted(str(path) for path in (partial / "log").iterdir())
    listing = partial / "log.sql"
    decode = (str(shop.bin / "mariadb-binlog"), "--no-defaults", "--verbose", *files)
    await _run(shop, own, [decode], into=listing)
    kept = await asyncio.to_thread(_listed, listing, partial / "transactions.txt", errant)
    await _dump(own, shop, partial / "databases.sql.gz")
    about = {"gtids": range_words(errant), "held": facts.held, "transactions": kept}
    await asyncio.to_thread(complete, partial, folder, about)
    return folder, kept


async def _first_log(own: MariadbLink, logs: Sequence[str], theirs: MariadbFacts) -> str:
    """The last log before whose beginning the other server has everything. Numbers of different servers say
    nothing about each other: a successor's may be higher. Raises `Permanent` if there is none.
    """
    if not logs:
        raise Permanent("rebuild-impossible", f"{own.member.address} has no binary log", "set log_bin")
    written = positions(theirs.written)
    for name in reversed(logs):
        before = await _before(own, name)
        if before is not None and all(number <= written.get(key, 0) for key, number in before.items()):
            return name
    words = f"{own.member.address} no longer has all of its log since the two parted: {logs[0]} is the oldest"
    raise Permanent("rebuild-impossible", words, _BY_HAND)


async def _before(own: MariadbLink, log: str) -> dict[tuple[int, int], int] | None:
    """The last GTID number of each domain and server before a log begins, as it says itself; None if not."""
    for row in await own.rows("SHOW BINLOG EVENTS IN %s LIMIT 5", log):
        if row["Event_type"] == "Gtid_list":
            try:
                return positions(str(row["Info"]).strip("[] "))
            except ValueError:
                return None
    return None


def _listed(listing: Path, into: Path, errant: Mapping[tuple[int, int], tuple[int, int]]) -> int:
    """Write the GTIDs in a decoded log that the other server does not have; return how many. Raises
    `Permanent` if the last of any domain and server is not among them.
    """
    found, newest = 0, dict.fromkeys(errant, 0)
    with listing.open("rb") as lines, into.open("w", encoding="ascii") as file:
        for line in lines:
            if (match := _GTID.match(line)) is None:
                continue
            domain, server, number = (int(part) for part in match.groups())
            first, _ = errant.get((domain, server), (number + 1, 0))
            if number >= first:
                found += 1
                newest[domain, server] = max(number, newest[domain, server])
                if found <= LISTED_MOST:
                    file.write(f"{domain}-{server}-{number}\n")
    for (domain, server), (_, last) in errant.items():
        if newest[domain, server] < last:
            words = f"{domain}-{server}-{last} is not in the binary log of the server that has it"
            raise Permanent("rebuild-impossible", words, _BY_HAND)
    return found


async def _dump(source: MariadbLink, shop: Workshop, into: Path) -> None:
    """All databases of a server at one position of its log, in a file that only we read."""
    into.unlink(missing_ok=True)
    os.close(os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    argv = _program(
        shop,
        source,
        "mariadb-dump",
        *("--all-databases", *(f"--ignore-database={name}" for name in OWN)),
        *("--ignore-table=mysql.gtid_slave_pos", "--single-transaction", "--master-data=2"),
        *("--routines", "--events", "--triggers", "--hex-blob", "--flush-privileges"),
    )
    await _run(shop, source, [argv, ("gzip", "-1")], into=into)


async def _position(upstream: MariadbLink, dump: Path) -> str:
    """The GTIDs that a dump contains. Raises `Permanent` if it does not say."""

    def head() -> bytes:
        with gzip.open(dump) as file:
            return file.read(HEAD_BYTES)

    match = _POSITION.search(await asyncio.to_thread(head))
    if match is None:
        words = f"the dump of {upstream.member.address} does not say where its log was"
        raise Permanent("rebuild-impossible", words, "rebuild it with mariadb-backup, then retry this step")
    asked = "SELECT BINLOG_GTID_POS(%s, %s) AS at"
    (row,) = await upstream.rows(asked, match[1].decode("ascii", "replace"), int(match[2]))
    if row["at"] is None:
        words = f"{upstream.member.address} no longer has the log that its dump began with"
        raise OutcomeUnknown("rebuild-late", words)
    return str(row["at"])


def _history(written: str, position: str) -> str:
    """What a server's log must say that it has had, so that no other one counts that as its own: all that the
    primary's did before its dump, and the position of the dump, as the newest of each domain.
    """
    known = positions(written)
    newest = positions(position)
    older = {key: number for key, number in known.items() if key not in newest}
    return ",".join(
        f"{domain}-{server}-{number}"
        for part in (older, newest)
        for (domain, server), number in sorted(part.items())
    )


async def _replace(own: MariadbLink, shop: Workshop, databases: Sequence[str], dump: Path) -> None:
    """Drop every database of this server and load a dump, outside its log."""
    dropped = [f"DROP DATABASE IF EXISTS {_quoted(name)}" for name in databases if name not in SYSTEM]
    unlogged = "SET SESSION sql_log_bin = 0, foreign_key_checks = 0"
    for statement in dropped:
        await _run(shop, own, [_program(shop, own, "mariadb", f"--execute={unlogged}; {statement}")])
    load = _program(shop, own, "mariadb", f"--init-command={unlogged}", "--max-allowed-packet=1G")
    await _run(shop, own, [("gzip", "-dc", str(dump)), load])


def _quoted(name: str) -> str:
    doubled = name.replace("`", "``")
    return f"`{doubled}`"


@asynccontextmanager
async def _without_events(own: MariadbLink) -> AsyncIterator[None]:
    """No event runs meanwhile; afterwards none is enabled, whether the data is complete or not."""
    (found,) = await own.rows("SELECT @@GLOBAL.event_scheduler AS now")
    runs = str(found["now"]) == "ON"
    if runs:
        await own.change("SET GLOBAL event_scheduler = OFF")
    try:
        yield
    except BaseException:
        with contextlib.suppress(ActionError):  # this connection may be lost, and its time be over
            async with linked(own.member, STATEMENT_S) as after:
                with contextlib.suppress(ActionError):
                    await _settle_events(after)
                await _run_events(after, runs)
        raise
    await _settle_events(own)
    await _run_events(own, runs)


async def _run_events(own: MariadbLink, runs: bool) -> None:
    if runs:
        await own.change("SET GLOBAL event_scheduler = ON")


async def _settle_events(own: MariadbLink) -> None:
    """Events run on the primary only."""
    await own.change("SET SESSION sql_log_bin = 0")
    asked = "SELECT event_schema AS place, event_name AS name FROM information_schema.events "
    for row in await own.rows(f"{asked}WHERE status = 'ENABLED' ORDER BY 1, 2"):
        event = f"{_quoted(str(row['place']))}.{_quoted(str(row['name']))}"
        await own.change(f"ALTER EVENT {event} DISABLE ON SLAVE")


def _program(shop: Workshop, link: MariadbLink, name: str, *argv: str) -> tuple[str, ...]:
    """The command of a program that connects to a server."""
    member = link.member
    secured = (f"--ssl-ca={member.ca}", "--ssl-verify-server-cert") if member.ca else ("--skip-ssl",)
    where = (f"--host={member.host}", f"--port={member.port}", "--protocol=tcp", f"--user={member.user}")
    return (str(shop.bin / name), "--no-defaults", *where, *secured, *argv)


async def _run(
    shop: Workshop, link: MariadbLink, chain: Sequence[Sequence[str]], into: Path | None = None
) -> None:
    """Run programs, each reading what the one before writes, with the password of a link in their
    environment. into: gets the output of the last. Raises `Permanent` if any fails, `OutcomeUnknown` if they
    take too long.
    """
    secret = resolve(link.member.password) if link.member.password else None
    env = environment({"MYSQL_PWD": secret.reveal()} if secret is not None else {})
    begun: list[asyncio.subprocess.Process] = []
    with contextlib.ExitStack() as stack:
        words = [stack.enter_context(tempfile.TemporaryFile()) for _ in chain]
        reads: int = asyncio.subprocess.DEVNULL
        try:
            for number, argv in enumerate(chain):
                is_last = number == len(chain) - 1
                further, writes = (-1, asyncio.subprocess.DEVNULL) if is_last else os.pipe()
                if is_last and into is not None:
                    writes = stack.enter_context(into.open("wb")).fileno()
                try:
                    made = await asyncio.create_subprocess_exec(
                        *argv,
                        stdin=reads,
                        stdout=writes,
                        stderr=words[number],
                        env=env,
                        cwd="/",
                        start_new_session=True,
                        pass_fds=() if shop.lock is None else (shop.lock,),
                    )
                    begun.append(made)
                finally:
                    for handle in (reads, *(() if is_last else (writes,))):
                        if handle >= 0:
                            os.close(handle)
                    reads = further
            async with asyncio.timeout(max(0.1, link.left_s())):
                codes = [await one.wait() for one in begun]
        except TimeoutError as error:
            name = Path(chain[0][0]).name
            raise OutcomeUnknown("rebuild-slow", f"{name} did not finish in time") from error
        finally:
            if reads >= 0:
                os.close(reads)
            for one in begun:
                if one.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(one.pid, signal.SIGKILL)
                    await one.wait()
        # The last one first: those before it end too once no one reads what they write.
        for argv, code, file in reversed(list(zip(chain, codes, words, strict=True))):
            if code:
                file.seek(0)
                said = file.read(SAID_BYTES).decode("utf-8", "replace")
                shown = " ".join(scrub(said, link.secrets).split())[-600:]
                raise Permanent("rebuild-failed", f"{Path(argv[0]).name} ended with {code}: {shown}")
