"""A real Redis whose RDB files are kept, for the suites."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest

from evac.drivers.port import Value
from evac.drivers.redis_rdb import DRIVER
from evac.drivers.redis_rdb.driver import RedisRdbDriver
from evac_lab.process import MissingProgram
from evac_lab.servers.redis import RedisServer
from evac_lab.servers.redis import redis as redis_server
from tests.contract.adapters.copy_folder import Source, adapter
from tests.contract.ports import free_port

PASSWORD = "quiet-harbour-420"
VARIABLE = "EVAC_TEST_REDIS_RDB"
CONFIGURATION = "requirepass {}\nappendonly yes\nport 1\nreplicaof 127.0.0.1 1\nmasterauth {}\n"
"""Of a replica with an append-only file: what is restored follows no one, and holds the data anyway."""


class RedisSource(Source):
    """100 keys, and one that expires."""

    spec = DRIVER
    driver = RedisRdbDriver
    program = "redis-cli"
    secrets: ClassVar = (PASSWORD,)
    server: RedisServer

    def begin(self) -> None:
        os.environ[VARIABLE] = PASSWORD
        try:
            self.server = redis_server(
                self.folder / "server", "127.0.0.1", free_port(), "pangyo", password=PASSWORD
            )
        except MissingProgram as error:
            pytest.skip(str(error))
        self.server.start()
        (self.folder / "redis.conf").write_text(CONFIGURATION.format(PASSWORD, PASSWORD), encoding="utf-8")
        for number in range(100):
            self.say(self.server.port, "SET", f"message:{number}", f"words {number} " * 20)
        self.say(self.server.port, "SET", "session", "soon gone", "EX", "1000")
        self.say(self.server.port, "SET", "newest", "99")

    def kill(self) -> None:
        self.server.kill()

    def change(self) -> None:
        self.say(self.server.port, "SET", "another", "one")

    def settings(self, served: int) -> dict[str, Value]:
        return {
            "host": "127.0.0.1",
            "port": self.server.port,
            "password": f"env:{VARIABLE}",
            "configuration": str(self.folder / "redis.conf"),
            "served_port": served,
            "facts": ("newest=GET newest",),
        }

    def holds(self, place: Path, served: int) -> bool:
        if (place / "evac.pid").exists():
            return self.say(served, "GET", "message:7") == f"words 7 {'words 7 ' * 19}".strip()
        (first,) = (self.folder / "repository").glob("*/*/content/dump.rdb")
        return (place / "dump.rdb").read_bytes() == first.read_bytes()

    def say(self, port: int, *command: str) -> str:
        """One command, past every driver."""
        argv = ("redis-cli", "-p", str(port), "-e", *command)
        env = {"REDISCLI_AUTH": PASSWORD, "PATH": os.environ["PATH"]}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True, timeout=20.0)
        return done.stdout.strip()


ADAPTER = adapter(RedisSource)
