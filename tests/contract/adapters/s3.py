"""Two buckets on a real S3 server (moto) for the suites. It keeps rules of replication and replicates
nothing: what has arrived is written by the tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.session import get_session

from evac.drivers.capabilities import ReportsRole
from evac.drivers.port import Action, Value
from evac.drivers.s3 import DRIVER
from evac.drivers.s3.driver import S3Driver
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import until_stopped
from tests.contract.capabilities.suites import Adapter, AskedRole
from tests.contract.ports import free_port

SECRET, VARIABLE = "tides-of-the-warehouse-77", "EVAC_TEST_S3"
RULE = {
    "ID": "all",
    "Status": "Enabled",
    "Priority": 1,
    "Filter": {"Prefix": ""},
    "DeleteMarkerReplication": {"Status": "Disabled"},
    "Destination": {"Bucket": "arn:aws:s3:::west"},
}


@dataclass
class Buckets:
    port: int
    process: Any
    s3: Any

    def action(self, bucket: str, **more: Value) -> Action:
        settings: dict[str, Value] = {
            "url": f"http://127.0.0.1:{self.port}",
            "bucket": bucket,
            "key": "testing",
            "secret": f"env:{VARIABLE}",
            **more,
        }
        return Action("verify", "store-media", "s3", "ansan", settings)

    def replica(self, source: str = "east") -> Action:
        return self.action("west", source=source)

    def replicate(self, **changed: Any) -> None:
        rules = {"Role": "arn:aws:iam::1:role/r", "Rules": [{**RULE, **changed}]}
        self.s3.put_bucket_replication(Bucket="east", ReplicationConfiguration=rules)

    def put(self, bucket: str, **objects: str) -> None:
        for key, body in objects.items():
            self.s3.put_object(Bucket=bucket, Key=key, Body=body.encode())


@contextmanager
def buckets(folder: Path) -> Iterator[Buckets]:
    """`east` is replicated into `west`; all has arrived."""
    port = free_port()
    os.environ[VARIABLE] = SECRET
    argv = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"{url}/moto-api/data.json").close()
                break
            except OSError:
                time.sleep(0.05)
        s3 = get_session().create_client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key=SECRET,
        )
        found = Buckets(port, process, s3)
        for name in ("east", "west"):
            s3.create_bucket(Bucket=name)
            s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
            found.put(name, a="one", b="two")
        found.replicate()
        yield found
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        del os.environ[VARIABLE]


@contextmanager
def _roles(folder: Path) -> Iterator[AskedRole]:
    with buckets(folder) as world:

        async def silence() -> None:
            world.process.send_signal(signal.SIGSTOP)
            await until_stopped(world.process.pid)

        async def speak() -> None:
            world.process.send_signal(signal.SIGCONT)

        through = with_settings(url="http://{host}:{port}")
        yield AskedRole(
            S3Driver(),
            world.action("east"),
            silence,
            speak,
            (SECRET,),
            # botocore reads each answer to its end
            (TcpWire("127.0.0.1", world.port, "http", through, bounded=False),),
            replica=world.replica(),
        )


ADAPTER = Adapter(DRIVER, acts={}, asks={ReportsRole: _roles})
