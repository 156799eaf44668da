"""A real member of etcd whose snapshots are kept, for the suites."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from evac.drivers.etcd_snapshot import DRIVER
from evac.drivers.etcd_snapshot.driver import EtcdSnapshotDriver
from evac.drivers.port import Value
from tests.contract.adapters.copy_folder import Source, adapter
from tests.contract.ports import free_port
from tests.contract.store.members import Members, etcd_program


class EtcdSource(Source):
    """Keys with several revisions each."""

    spec = DRIVER
    driver = EtcdSnapshotDriver
    program = "etcdctl"
    members: Members

    def begin(self) -> None:
        if etcd_program() is None:
            pytest.skip("etcd is not installed")
        self.members = Members(self.folder, 1)
        self.members.start()
        puts = [f'put config/{number} "value {number}"' for number in range(20)]
        for _ in range(3):
            self.say(self.url, "txn", input="\n" + "\n".join(puts) + "\n\n\n")

    @property
    def url(self) -> str:
        return self.members.endpoints[0]

    def kill(self) -> None:
        self.members.stop()

    def change(self) -> None:
        self.say(self.url, "put", "config/7", f"changed at {time.time_ns()}")

    def settings(self, served: int) -> dict[str, Value]:
        return {
            "url": self.url,
            "facts": ("config=config/",),
            "client_url": f"http://127.0.0.1:{served}",
            "peer_url": f"http://127.0.0.1:{free_port()}",
            "system_user": "nobody",
        }

    def holds(self, place: Path, served: int) -> bool:
        """Asked of its server; without one, its data is complete once the driver has moved it here."""
        if (place / "evac.pid").exists():
            url = f"http://127.0.0.1:{served}"
            return self.say(url, "get", "config/", "--prefix", "--keys-only").count("config/") == 20
        return (place / "member" / "snap" / "db").is_file()

    def say(self, url: str, *argv: str, input: str = "") -> str:
        """One command, past every driver."""
        done = subprocess.run(
            ("etcdctl", "--endpoints", url, *argv),
            env={"PATH": os.environ["PATH"]},
            input=input,
            capture_output=True,
            text=True,
            check=True,
            timeout=20.0,
        )
        return done.stdout


ADAPTER = adapter(EtcdSource)
