"""Driver for mariadb-backup 10.6 and later.

Its output is not consistent until prepared: a server that starts from it unprepared may start with wrong
rows. A backup is kept as taken, prepared in its target folder, and then queried for its rows. Both steps must
report completion, because a help text also exits with 0. A server that starts removes every temporary table
in its folder for them, also those of other servers: each restored server has a folder of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from evac.drivers.backups import Filled, Filling, Stopwatch, Tool
from evac.drivers.bandwidth import UPLOAD, Pace, limit, passed_on
from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.copy_folder import CopyFolderDriver, Dumped
from evac.drivers.parameters import many, text, whole
from evac.drivers.places import place_at
from evac.drivers.port import Action
from evac.drivers.programs import Ended
from evac.drivers.restored_server import RestoredServer, account_of, answered
from evac.model.errors import Permanent, Retryable
from evac.net import secrets

COMPLETE: Final = "completed OK!"
HOST: Final = "127.0.0.1"
PORT: Final = 3306
OWN_CONFIGURATION: Final = "backup-my.cnf"
"""In every backup: the configuration that its files were written with."""
_PASSWORD: Final = Permanent("backup-password", "MariaDB rejects this user", "check `user` and `password`")
_REASONS: Final = (
    ("Access denied for user", _PASSWORD),
    (
        "Access denied; you need",
        Permanent("backup-forbidden", "this user lacks a permission in MariaDB", "see the driver reference"),
    ),
    (
        "missing required privilege",
        Permanent("backup-forbidden", "this user lacks a permission in MariaDB", "see the driver reference"),
    ),
    (
        "SSL is required",
        Permanent(
            "setting-wrong",
            "mariadb-backup requires TLS, which this MariaDB does not offer",
            "write `skip-ssl` below `[mariadb-backup]` in the file that `defaults` names",
        ),
    ),
    ("no space left", Permanent("backup-full", "no space is left", "free some space in the repository")),
    ("Can't connect", Retryable("backup-silent", "MariaDB does not answer", "start it")),
    ("Failed to connect", Retryable("backup-silent", "MariaDB does not answer", "start it")),
    ("corrupt", Permanent("backup-corrupt", "the backup is damaged", "restore an older one")),
)
_WRITABLE: Final = "SELECT IF(CONCAT(@@read_only) IN ('0', 'OFF'), 'writable', 'read only')"
"""Later versions return a word."""
_ALONE: Final = ("--skip-slave-start", "--event-scheduler=OFF")
"""A restored server follows no one and starts no jobs of its own."""


class MariabackupDriver(CopyFolderDriver, TakesBackups, RestoresData):
    """Each endpoint is one folder."""

    name = "mariabackup"
    program = "mariadb-backup"

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        if not many(action.settings, "facts"):
            return {}
        where = (text(action.settings, "host", HOST), whole(action.settings, "port", PORT))
        return await _facts(_client(action, *where), action, Stopwatch(timeout_s))

    async def _dump(self, action: Action, content: Path, watch: Stopwatch, lock: int) -> Dumped:
        host, port = text(action.settings, "host", HOST), whole(action.settings, "port", PORT)
        defaults = text(action.settings, "defaults", "")
        password = secrets.resolve(text(action.settings, "password"))
        argv = (
            *((f"--defaults-file={defaults}",) if defaults else ()),
            *("--backup", f"--target-dir={content}", f"--host={host}", f"--port={port}", "--protocol=tcp"),
            f"--user={text(action.settings, 'user', 'evac')}",
        )
        env = {"MYSQL_PWD": password.reveal()}
        tool = Tool(text(action.settings, "program", self.program), env, (password,), _REASONS)
        if limit(action.settings, UPLOAD):
            ended = await _unpacked(action, tool, (*argv, "--stream=xbstream"), content, watch, lock)
        else:
            ended = await tool.run(*argv, timeout_s=watch.left_s, keeps=(lock,))
        if COMPLETE not in ended.errors[-2_000:]:
            words = "mariadb-backup succeeded, but did not report that the backup is complete"
            raise Permanent("backup-incomplete", words, "check the log of MariaDB, and take another backup")
        return Dumped(f"{host}:{port}")

    async def _recover(self, into: Filling) -> Filled:
        action, folder, watch = into.action, into.folder, into.watch
        tool = Tool(text(action.settings, "program", self.program), {}, (), _REASONS)
        prepare = ("--prepare", f"--target-dir={folder}")
        ended = await tool.run(*prepare, timeout_s=watch.left_s, keeps=(into.lock,))
        if COMPLETE not in ended.errors[-2_000:]:
            words = "mariadb-backup did not finish preparing the backup"
            raise Permanent("restore-incomplete", words, "prove the backup, or restore an older one")
        server = _server(action, folder)
        server.own()
        async with server.private() as place:
            socket, temporary = place / "socket", place / "tmp"
            server.folder_for_account(temporary)
            argv = (
                *_argv(action, folder, str(folder / OWN_CONFIGURATION)),
                f"--tmpdir={temporary}",
                *("--skip-networking", "--skip-grant-tables", "--skip-log-bin", f"--socket={socket}"),
                "--skip-ssl",  # no one connects from outside; MariaDB would make an RSA key at every start
            )
            client = Tool(
                text(action.settings, "client_program", "mariadb"),
                {},
                (),
                _REASONS,
                first=("--no-defaults", f"--socket={socket}", "--skip-ssl", "--batch", "--skip-column-names"),
            )
            await server.start(*argv, answers=lambda: _answers(client), watch=watch, log=place / "log")
            facts = await _facts(client, action, watch)
        return Filled(into.copy.bytes or 0, into.copy.taken_at, facts or {"files": into.copy.files or 0})

    async def _start(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        host, port = _served(action)
        configuration = text(action.settings, "configuration", str(folder / OWN_CONFIGURATION))
        argv = (
            *_argv(action, folder, configuration),
            *(f"--bind-address={host}", f"--port={port}", f"--socket={folder}/mariadb.sock"),
        )
        client, server = _client(action, host, port), _server(action, folder)
        temporary = place_at(str(folder)).temporary
        server.folder_for_account(temporary)
        # As a variable: `tmpdir` in the configuration counts more.
        server = replace(server, env={"TMPDIR": str(temporary)})
        await server.serve(*argv, answers=lambda: _answers(client), watch=watch)

    async def _stop(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        await _server(action, folder).stop()

    async def _runs(self, action: Action, folder: Path, watch: Stopwatch) -> bool:
        client = _client(action, *_served(action))
        return _server(action, folder).pid() is not None and await _answers(client)


async def _unpacked(
    action: Action, tool: Tool, argv: tuple[str, ...], content: Path, watch: Stopwatch, lock: int
) -> Ended:
    """Take a backup at a limited rate: evac passes it on to the program that unpacks it. Raises
    `ActionError`.
    """
    unpack = Tool(text(action.settings, "unpack_program", "mbstream"), {}, (), _REASONS)
    reads, writes = os.pipe()
    unpacking = asyncio.ensure_future(
        unpack.run("-x", "-C", str(content), timeout_s=watch.left_s, keeps=(lock,), reads=reads)
    )
    unpacking.add_done_callback(lambda _: os.close(reads))  # then nothing can be written to it any more

    async def send(out: int) -> Ended:
        return await tool.run(*argv, timeout_s=watch.left_s, keeps=(lock,), writes=out)

    try:
        with Pace(limit(action.settings, UPLOAD)) as pace:
            try:
                ended = await passed_on(send, writes, pace)
            finally:
                os.close(writes)
    except BrokenPipeError as error:  # the one that unpacks has ended, and says why
        await unpacking
        words = "mbstream ended before the end of the backup"
        raise Permanent("backup-incomplete", words, "check the version of mbstream") from error
    except BaseException:
        unpacking.cancel()
        await asyncio.gather(unpacking, return_exceptions=True)
        raise
    await unpacking
    return ended


def _served(action: Action) -> tuple[str, int]:
    return text(action.settings, "served_host", HOST), whole(action.settings, "served_port", PORT)


def _server(action: Action, folder: Path) -> RestoredServer:
    return RestoredServer(folder, account_of(action.settings, "mysql"))


def _argv(action: Action, folder: Path, configuration: str) -> tuple[str, ...]:
    """Overrides paths in the configuration, so that the server uses the restored data and accepts writes."""
    return (
        text(action.settings, "server_program", "mariadbd"),
        f"--defaults-file={configuration}",
        *(f"--datadir={folder}", f"--pid-file={folder}/mariadb.pid", "--read-only=OFF", *_ALONE),
    )


def _client(action: Action, host: str, port: int) -> Tool:
    """The client, with its password in the environment. Raises `Permanent`."""
    password = secrets.resolve(text(action.settings, "password"))
    where = (f"--host={host}", f"--port={port}", "--protocol=tcp")
    return Tool(
        text(action.settings, "client_program", "mariadb"),
        {"MYSQL_PWD": password.reveal()},
        (password,),
        _REASONS,
        first=(
            "--no-defaults",
            *where,
            f"--user={text(action.settings, 'user', 'evac')}",
            "--skip-ssl",
            "--batch",
            "--skip-column-names",
        ),
    )


async def _answers(client: Tool) -> bool:
    """Whether it accepts writes."""
    return await answered(client, f"--execute={_WRITABLE}", expects="writable")


async def _facts(client: Tool, action: Action, watch: Stopwatch) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for entry in many(action.settings, "facts"):
        name, separator, statement = entry.partition("=")
        if not separator or not name.isidentifier():
            raise Permanent("setting-wrong", "facts must be a list of name=SELECT ...")
        said = await client.run(f"--execute={statement}", timeout_s=watch.left_s)
        value = said.output.strip()[:200]
        found[name] = int(value) if value.isascii() and value.isdigit() and len(value) < 16 else value
    return found
