"""A replica set that speaks the wire protocol of MongoDB, as far as roles and elections go."""

from __future__ import annotations

import contextlib
import socketserver
import struct
from threading import Thread
from typing import Any

import bson
from bson.timestamp import Timestamp

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013


class Refused(Exception):
    """A command that fails. Arguments: code, name of the code, words."""


class ReplicaSet:
    """Members with one vote each. down: hosts that close every connection. forbidden: nobody has rights."""

    def __init__(self, *sites: str) -> None:
        self.servers = [self._server(number) for number, _ in enumerate(sites)]
        self.hosts = [f"127.0.0.1:{server.server_address[1]}" for server in self.servers]
        self.setting = ",".join(f"{site}={host}" for site, host in zip(sites, self.hosts, strict=True))
        self.down: set[str] = set()
        self.forbidden = False
        members = [{"_id": n, "host": h, "votes": 1, "priority": 1} for n, h in enumerate(self.hosts)]
        self.config: dict[str, Any] = {"_id": "rs0", "version": 1, "members": members}
        self.primary: str | None = self.hosts[0]
        self.forced = 0
        for server in self.servers:
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def lose(self, *hosts: str) -> None:
        self.down |= set(hosts)
        if self.primary in self.down or not self._quorate():
            self.primary = None
            self._elect()

    def find(self, *hosts: str) -> None:
        self.down -= set(hosts)

    def votes(self) -> dict[str, int]:
        return {one["host"]: one["votes"] for one in self.config["members"]}

    def _quorate(self) -> bool:
        votes = self.votes()
        return 2 * sum(votes[host] for host in votes if host not in self.down) > sum(votes.values())

    def _elect(self, without: str = "") -> None:
        rows = [
            (-one["priority"], one["_id"], one["host"])
            for one in self.config["members"]
            if one["priority"] and one["host"] not in self.down | {without}
        ]
        self.primary = min(rows)[2] if rows and self._quorate() else None

    def command(self, me: str, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        if name in ("hello", "isMaster", "ismaster"):
            return {
                "setName": "rs0",
                "me": me,
                "isWritablePrimary": me == self.primary,
                "ismaster": me == self.primary,
                "secondary": me != self.primary,
                "minWireVersion": 0,
                "maxWireVersion": 21,
                "helloOk": True,
            }
        if name == "endSessions":
            return {}
        if self.forbidden:
            raise Refused(13, "Unauthorized", "not authorized on admin")
        if name == "replSetGetStatus":
            return {"set": "rs0", "members": [self._status(host, me) for host in self.hosts]}
        if name == "replSetGetConfig":
            return {"config": self.config}
        if name == "replSetReconfig":
            return self._reconfigure(me, asked[name], bool(asked.get("force")))
        if name == "replSetStepDown" and me == self.primary:
            self._elect(without=me)
            return {}
        if name == "replSetStepUp" and self._quorate():
            self.primary = me
            return {}
        raise Refused(125, "CommandFailed", f"{name} failed")

    def _status(self, host: str, me: str) -> dict[str, Any]:
        if host in self.down:
            return {"name": host, "state": 8}
        source = "" if host == self.primary or self.primary is None else self.primary
        return {
            "name": host,
            "state": 1 if host == self.primary else 2,
            "self": host == me,
            "syncSourceHost": source,
            "optime": {"ts": Timestamp(1_700_000_000, 3), "t": 4},
        }

    def _reconfigure(self, me: str, wanted: dict[str, Any], force: bool) -> dict[str, Any]:
        votes = self.votes()
        changed = [one["host"] for one in wanted["members"] if one["votes"] != votes[one["host"]]]
        if not force and (
            me != self.primary or len(changed) > 1 or wanted["version"] <= self.config["version"]
        ):
            raise Refused(103, "NewReplicaSetConfigurationIncompatible", "not so")
        self.config, self.forced = wanted, self.forced + force
        if self.primary is None:
            self._elect()
        return {}

    def _server(self, number: int) -> socketserver.ThreadingTCPServer:
        replica_set = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, EOFError):
                    while True:
                        replica_set.serve(self.request, replica_set.hosts[number])

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        return Server(("127.0.0.1", 0), Connection)

    def serve(self, line: Any, me: str) -> None:
        """One request, and its answer."""
        length, request, _, code = struct.unpack("<iiii", _exactly(line, 16))
        rest = _exactly(line, length - 16)
        if me in self.down:
            raise EOFError
        if code == OP_QUERY:
            at = rest.index(b"\0", 4) + 1 + 8
        elif rest[4] == 0:
            at = 5
        else:
            raise EOFError
        asked = bson.decode(rest[at : at + struct.unpack_from("<i", rest, at)[0]])
        try:
            said = self.command(me, next(iter(asked)), asked) | {"ok": 1.0}
        except Refused as error:
            number, name, words = error.args
            said = {"ok": 0.0, "code": number, "codeName": name, "errmsg": words}
        body = bson.encode(said)
        head = struct.pack("<iqii", 8, 0, 0, 1) if code == OP_QUERY else struct.pack("<iB", 0, 0)
        kind = OP_REPLY if code == OP_QUERY else OP_MSG
        line.sendall(struct.pack("<iiii", 16 + len(head) + len(body), 0, request, kind) + head + body)


def _exactly(line: Any, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = line.recv(count - len(found))
        if not part:
            raise EOFError
        found += part
    return found
