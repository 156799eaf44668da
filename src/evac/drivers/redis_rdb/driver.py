"""Driver for RDB files of Redis 6 and later.

Redis's reports need extra checks. `redis-check-rdb` finds a truncated or damaged file. A server configured
for an append-only file starts empty if it finds only an RDB file, so the RDB file is loaded first, and the
append-only file is written from memory. Expiring keys are gone by the time of a restore: a witness counts the
others.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from evac.drivers.backups import Filled, Filling, Stopwatch, Tool
from evac.drivers.bandwidth import UPLOAD, Pace, limit, passed_on
from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.copy_folder import CopyFolderDriver, Dumped, Kept
from evac.drivers.parameters import many, text, whole
from evac.drivers.port import Action
from evac.drivers.programs import Ended
from evac.drivers.restored_server import RestoredServer, account_of, answered
from evac.model.errors import Permanent, Retryable
from evac.net import secrets

FILE: Final = "dump.rdb"
HOST: Final = "127.0.0.1"
PORT: Final = 6379
FOUND_WRONG: Final = 1
MARK_BYTES: Final = 40
_OFFSET: Final = re.compile(r"^\[offset (\d+)\]", re.MULTILINE)
_KEYSPACE: Final = re.compile(r"^db\d+:keys=(\d+),expires=(\d+)", re.MULTILINE)
_PASSWORD: Final = Permanent("backup-password", "Redis rejects this password", "check `user` and `password`")
_RIGHTS: Final = Permanent(
    "backup-forbidden", "this user lacks a permission in Redis", "grant it +psync +sync +replconf +info"
)
_FULL: Final = Permanent("backup-full", "the repository has no space left", "free some space in it")
_REASONS: Final = (
    ("WRONGPASS", _PASSWORD),
    ("NOAUTH", _PASSWORD),
    ("AUTH failed", _PASSWORD),
    ("NOPERM", _RIGHTS),
    ("no space left", _FULL),
    ("short write", _FULL),  # redis-cli's only message for a full disk
    ("could not connect", Retryable("backup-silent", "Redis does not answer", "start it")),
    ("LOADING", Retryable("backup-silent", "Redis is still loading its data", "wait for it")),
)
_ALONE: Final = (
    *("--daemonize", "no", "--supervised", "no", "--appendonly", "no", "--replicaof", "no", "one"),
    *("--dbfilename", FILE, "--logfile", ""),
)
"""Overrides the configuration: it loads the RDB file, follows no one, and is our process."""
_PRIVATE: Final = (
    "--port",
    "0",
    "--tls-port",
    "0",
    "--requirepass",
    "",
    "--save",
    "",
    "--unixsocketperm",
    "700",
)


class RedisRdbDriver(CopyFolderDriver, TakesBackups, RestoresData):
    """Each endpoint is one folder."""

    name = "redis_rdb"
    program = "redis-cli"

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        watch = Stopwatch(timeout_s)
        return await _facts(_client(action), action, watch)

    async def _dump(self, action: Action, content: Path, watch: Stopwatch, lock: int) -> Dumped:
        tool = _client(action)
        await _ask(tool, watch, "PING")  # redis-cli continues without its password and reports another error
        file = content / FILE
        if most := limit(action.settings, UPLOAD):
            await _limited(replace(tool, cwd=str(content)), file, most, watch, lock)
        else:
            await tool.run("--rdb", str(file), timeout_s=watch.left_s, keeps=(lock,))
        if wrong := await _checked(file, watch):
            raise Permanent("backup-incomplete", f"Redis sent an incomplete RDB file: {wrong}", "try again")
        return Dumped(":".join(_source(action)))

    async def _look_inside(self, action: Action, copies: Sequence[Kept], watch: Stopwatch) -> list[str]:
        found = [(one.report.id, await _checked(one.content / FILE, watch)) for one in copies]
        return [f"{id_}: {wrong}" for id_, wrong in found if wrong]

    async def _recover(self, into: Filling) -> Filled:
        server, action = _server(into.action, into.folder), into.action
        server.own()
        async with server.private() as place:
            tool = Tool(_program(action), {}, first=("-s", str(place / "socket")))
            argv = (*_argv(action, into.folder), *_PRIVATE, "--unixsocket", str(place / "socket"))
            try:
                await server.start(*argv, answers=lambda: _answers(tool), watch=into.watch, log=place / "log")
            except Permanent:
                await _refuse_configuration(action, server, place, into.watch)
                raise
            facts = await _facts(tool, action, into.watch)
        return Filled((into.folder / FILE).stat().st_size, into.copy.taken_at, facts)

    async def _start(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        """Enable the append-only file once the data is in memory, if the configuration has one."""
        port = whole(action.settings, "served_port", 0)
        where = ("--bind", text(action.settings, "served_host", HOST))
        argv = (*_argv(action, folder), *where, *(("--port", str(port)) if port else ()))
        server, tool = _server(action, folder), _served(action)
        await server.serve(*argv, answers=lambda: _answers(tool), watch=watch)
        if _wants_log(text(action.settings, "configuration", "")):
            await _ask(tool, watch, "CONFIG", "SET", "appendonly", "yes")

    async def _stop(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        await _server(action, folder).stop()

    async def _runs(self, action: Action, folder: Path, watch: Stopwatch) -> bool:
        return _server(action, folder).pid() is not None and await _answers(_served(action))


async def _refuse_configuration(
    action: Action, restored: RestoredServer, place: Path, watch: Stopwatch
) -> None:
    """Raise `Permanent` if Redis does not start without data either: then the data is not the reason."""
    server, log = RestoredServer(place / "empty", restored.account), place / "empty-log"
    server.folder_for_account(server.data)
    tool = Tool(_program(action), {}, first=("-s", str(place / "empty-socket")))
    argv = (*_argv(action, server.data), *_PRIVATE, "--unixsocket", str(place / "empty-socket"))
    try:
        await server.start(*argv, answers=lambda: _answers(tool), watch=watch, log=log)
    except Permanent as error:
        words = f"without any data as well, {error.message.replace(' from the restored data', '')}"
        raise Permanent("setting-wrong", words, "correct `configuration` or `server_program`") from error
    finally:
        await server.stop()


async def _limited(tool: Tool, file: Path, most: int, watch: Stopwatch, lock: int) -> None:
    """Write an RDB file at a limited rate, through evac. Raises `ActionError`, OSError."""

    async def send(out: int) -> Ended:
        return await tool.run("--rdb", "-", timeout_s=watch.left_s, keeps=(lock,), writes=out)

    with file.open("xb") as target, Pace(most) as pace:
        await passed_on(send, target.fileno(), pace)
    # redis-cli passes on the mark with which Redis may end what it sends; only from files it removes it.
    ended = await _check(file, watch)
    end = max((int(one) for one in _OFFSET.findall(ended.output)), default=0)
    if ended.code == 0 and file.stat().st_size == end + MARK_BYTES:
        os.truncate(file, end)


def _program(action: Action) -> str:
    return text(action.settings, "program", RedisRdbDriver.program)


def _client(action: Action) -> Tool:
    """redis-cli for the source, with its password in the environment. Raises `Permanent`."""
    return _signed(action, *_source(action))


def _source(action: Action) -> tuple[str, str]:
    return text(action.settings, "host", HOST), str(whole(action.settings, "port", PORT))


def _served(action: Action) -> Tool:
    """redis-cli for a restored server."""
    port = whole(action.settings, "served_port", PORT)
    return _signed(action, text(action.settings, "served_host", HOST), str(port))


def _signed(action: Action, host: str, port: str) -> Tool:
    user = text(action.settings, "user", "")
    where = ("-h", host, "-p", port, *(("--user", user) if user else ()))
    reference = text(action.settings, "password", "")
    if not reference:
        return Tool(_program(action), {}, (), _REASONS, first=where)
    password = secrets.resolve(reference)
    env = {"REDISCLI_AUTH": password.reveal()}
    return Tool(_program(action), env, (password,), _REASONS, first=where)


def _server(action: Action, folder: Path) -> RestoredServer:
    return RestoredServer(folder, account_of(action.settings, "redis"))


def _argv(action: Action, folder: Path) -> tuple[str, ...]:
    configuration = text(action.settings, "configuration", "")
    server = text(action.settings, "server_program", "redis-server")
    return (server, *((configuration,) if configuration else ()), "--dir", str(folder), *_ALONE)


def _wants_log(configuration: str) -> bool:
    """Whether the last setting for the append-only file in a configuration is yes."""
    if not configuration:
        return False
    try:
        lines = Path(configuration).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        words = f"{configuration} cannot be read: {error.strerror}"
        raise Permanent("setting-wrong", words, "correct `configuration`") from error
    said = [words[1].lower() for words in map(str.split, lines) if words[:1] == ["appendonly"] and words[1:]]
    return said[-1:] == ["yes"]


async def _answers(tool: Tool) -> bool:
    """Whether it accepts writes, with its data loaded."""
    return await answered(tool, "PING", expects="PONG") and await answered(tool, "ROLE", expects="master")


async def _ask(tool: Tool, watch: Stopwatch, *command: str) -> str:
    """One response. redis-cli exits with 0 even if the server returns an error. Raises `ActionError`."""
    return (await tool.run("-e", *command, timeout_s=watch.left_s)).output.strip()


async def _facts(tool: Tool, action: Action, watch: Stopwatch) -> dict[str, str | int]:
    spaces = _KEYSPACE.findall(await _ask(tool, watch, "INFO", "keyspace"))
    found: dict[str, str | int] = {"lasting_keys": sum(int(keys) - int(expires) for keys, expires in spaces)}
    for entry in many(action.settings, "facts"):
        name, separator, command = entry.partition("=")
        if not separator or not name.isidentifier() or not command.strip():
            raise Permanent("setting-wrong", "facts must be a list of name=COMMAND ARGUMENT...")
        found[name] = (await _ask(tool, watch, *shlex.split(command)))[:200]
    return found


async def _check(file: Path, watch: Stopwatch) -> Ended:
    return await Tool("redis-check-rdb", {}).run(str(file), timeout_s=watch.left_s, allowed=(0, FOUND_WRONG))


async def _checked(file: Path, watch: Stopwatch) -> str:
    """Problems that redis-check-rdb finds in a file; empty if there are none."""
    ended = await _check(file, watch)
    if ended.code == 0 and "RDB looks OK" in ended.output:
        return ""
    return " ".join(ended.output.split())[-200:] or "redis-check-rdb reports nothing"
