"""Driver for snapshots of etcd 3.5 and later.

A snapshot is restored with a higher revision than any client has seen, and with everything before marked as
compacted, so that clients that watch, or cache by revision, do not mistake old data for new. It comes back as
a cluster of one member. A witness reads keys, because `snapshot status` counts revisions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from evac.drivers.backups import Filled, Filling, Stopwatch, Tool, number, objects, unreadable
from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.copy_folder import CONTENT, CopyFolderDriver, Dumped, Kept, copy_folder
from evac.drivers.parameters import many, text, whole
from evac.drivers.port import Action
from evac.drivers.programs import given
from evac.drivers.restored_server import RestoredServer, account_of, answered, unused_port
from evac.model.errors import ActionError, Permanent, Retryable

FILE: Final = "snapshot.db"
BUMP: Final = 1_000_000_000
CLIENT_URL: Final = "http://127.0.0.1:2379"
PEER_URL: Final = "http://127.0.0.1:2380"
_ALONE: Final = ("--heartbeat-interval", "10", "--election-timeout", "100")
"""A single member need not wait for others to elect it."""
_COUNT: Final = ("get", "", "--from-key", "--count-only", "-w", "fields")
_FIELD: Final = re.compile(r'^"(Count|Revision)" : (\d+)$', re.MULTILINE)
_SILENT: Final = Retryable("backup-silent", "etcd does not answer", "check `url`, and that it has a leader")
_FULL: Final = Permanent("backup-full", "no space is left", "free some space in the repository")
_DAMAGED: Final = Permanent("backup-corrupt", "the snapshot is damaged", "restore an older one")
_REASONS: Final = (
    ("authentication failed", Permanent("backup-password", "etcd rejects this user", "check `env`")),
    ("user name is empty", Permanent("backup-password", "etcd requires a user", "set ETCDCTL_USER in `env`")),
    ("permission denied", Permanent("backup-forbidden", "this user has no permission", "grant it root")),
    ("certificate", Permanent("backup-password", "the certificates do not match", "check `env`")),
    ("no space left", _FULL),
    ("checksum mismatch", _DAMAGED),
    ("sha256", _DAMAGED),
    ("invalid database", _DAMAGED),
    ("deadline exceeded", _SILENT),
    ("connection refused", _SILENT),
    ("no leader", _SILENT),
    ("Unavailable", _SILENT),
)


class EtcdSnapshotDriver(CopyFolderDriver, TakesBackups, RestoresData):
    """Each endpoint is one folder."""

    name = "etcd_snapshot"
    program = "etcdctl"
    asks_version = "version"

    async def witness(self, action: Action, timeout_s: float) -> Mapping[str, str | int]:
        return await _facts(_client(action), action, Stopwatch(timeout_s))

    async def _dump(self, action: Action, content: Path, watch: Stopwatch, lock: int) -> Dumped:
        tool, file = _client(action), content / FILE
        await _counted(tool, watch)  # saving from an unresponsive member would never end
        await tool.run("snapshot", "save", str(file), timeout_s=watch.left_s, keeps=(lock,))
        revision = await _revision(action, file, watch)
        return Dumped(f"revision {revision}")

    async def _look_inside(self, action: Action, copies: Sequence[Kept], watch: Stopwatch) -> list[str]:
        wrong = []
        for one in copies:
            try:
                await _revision(action, one.content / FILE, watch)
            except ActionError as error:
                if error.code != _DAMAGED.code:
                    raise
                wrong.append(f"{one.report.id}: {error.message}")
        return wrong

    async def _bring(self, into: Filling, kept: Kept) -> None:
        """etcdutl writes the data of a member of a new cluster, and verifies the digest in the snapshot."""
        await self._compare(into, kept)
        settings, file = into.action.settings, kept.content / FILE
        bump = whole(settings, "bump", BUMP)
        name, peer = text(settings, "member", "default"), text(settings, "peer_url", PEER_URL)
        argv = [
            *("snapshot", "restore", str(file), "--data-dir", str(into.folder), "--name", name),
            *("--initial-cluster", f"{name}={peer}", "--initial-advertise-peer-urls", peer),
            *("--initial-cluster-token", f"evac-{kept.report.id}"),
        ]
        if bump:
            argv += ["--bump-revision", str(bump), "--mark-compacted"]
        await _restorer(into.action).run(*argv, timeout_s=into.watch.left_s, keeps=(into.lock,))

    async def _recover(self, into: Filling) -> Filled:
        action, server = into.action, _server(into.action, into.folder)
        server.own()
        client, peer = (f"http://127.0.0.1:{unused_port()}" for _ in range(2))
        tool = _at(client, action)
        before = await _revision(action, copy_folder(action).path / into.copy.id / CONTENT / FILE, into.watch)
        async with server.private() as place:
            argv = (*_argv(action, into.folder, client, peer), *_ALONE)
            await server.start(*argv, answers=lambda: _answers(tool), watch=into.watch, log=place / "log")
            _, revision = await _counted(tool, into.watch)
            facts = await _facts(tool, action, into.watch)
        wanted = before + whole(action.settings, "bump", BUMP)
        if revision < wanted:
            words = f"the revision after the restore is {revision:,}, but must be at least {wanted:,}"
            raise Permanent(
                "restore-incomplete", words, "check the version of etcdutl: it is 3.5.12 or later"
            )
        return Filled(into.copy.bytes or 0, into.copy.taken_at, facts | {"revision": revision})

    async def _start(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        client, peer = (
            text(action.settings, "client_url", CLIENT_URL),
            text(action.settings, "peer_url", PEER_URL),
        )
        argv, tool = _argv(action, folder, client, peer), _at(client, action)
        await _server(action, folder).start(*argv, answers=lambda: _answers(tool), watch=watch)

    async def _stop(self, action: Action, folder: Path, watch: Stopwatch) -> None:
        await _server(action, folder).stop()

    async def _runs(self, action: Action, folder: Path, watch: Stopwatch) -> bool:
        tool = _at(text(action.settings, "client_url", CLIENT_URL), action)
        return _server(action, folder).pid() is not None and await _answers(tool)


def _client(action: Action) -> Tool:
    return _at(text(action.settings, "url"), action)


def _at(url: str, action: Action) -> Tool:
    """etcdctl for one member. Raises `Permanent`."""
    env, hidden = given(action.settings)
    return Tool(
        text(action.settings, "program", EtcdSnapshotDriver.program),
        {**env, "ETCDCTL_API": "3"},
        hidden,
        _REASONS,
        first=("--endpoints", url),
    )


def _restorer(action: Action) -> Tool:
    return Tool(text(action.settings, "restore_program", "etcdutl"), {}, (), _REASONS)


def _server(action: Action, folder: Path) -> RestoredServer:
    return RestoredServer(folder, account_of(action.settings, "etcd"))


def _argv(action: Action, folder: Path, client: str, peer: str) -> tuple[str, ...]:
    """With its membership as the restore wrote it; only its listen address differs while it is private."""
    return (
        text(action.settings, "server_program", "etcd"),
        *("--name", text(action.settings, "member", "default"), "--data-dir", str(folder)),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--log-level", "warn"),
    )


async def _answers(tool: Tool) -> bool:
    """Whether it has a leader, which is itself."""
    return await answered(tool, *_COUNT, expects="Revision")


async def _counted(tool: Tool, watch: Stopwatch) -> tuple[int, int]:
    """Number of keys, and the revision. Raises `ActionError`."""
    said = (await tool.run(*_COUNT, timeout_s=watch.left_s)).output
    found = {name: int(value) for name, value in _FIELD.findall(said)}
    if not {"Count", "Revision"} <= found.keys():
        raise unreadable("etcdctl", "the response has no key count")
    return found["Count"], found["Revision"]


async def _facts(tool: Tool, action: Action, watch: Stopwatch) -> dict[str, str | int]:
    """Number of keys, and a digest of the keys and values below each prefix in the settings."""
    keys, _ = await _counted(tool, watch)
    found: dict[str, str | int] = {"keys": keys}
    for entry in many(action.settings, "facts"):
        name, separator, prefix = entry.partition("=")
        if not separator or not name.isidentifier() or not prefix:
            raise Permanent("setting-wrong", "facts must be a list of name=PREFIX")
        said = await tool.json("get", prefix, "--prefix", "-w", "json", timeout_s=watch.left_s)
        pairs = objects(said.get("kvs", []) if isinstance(said, dict) else None, "etcdctl")
        content = [[one.get("key"), one.get("value")] for one in pairs]
        found[name] = f"sha256:{hashlib.sha256(orjson.dumps(content)).hexdigest()}"
    return found


async def _revision(action: Action, file: Path, watch: Stopwatch) -> int:
    """The revision of a snapshot. Raises `ActionError` for a damaged one."""
    argv = ("snapshot", "status", str(file), "-w", "json")
    found = await _restorer(action).json(*argv, timeout_s=watch.left_s)
    return number(found.get("revision") if isinstance(found, dict) else None, "etcdutl")
