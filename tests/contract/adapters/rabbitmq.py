"""Two management APIs of RabbitMQ for the suites, played by small servers of ours: RabbitMQ itself is not
installed where these tests run. They answer what the HTTP API reference of RabbitMQ 4 says: basic
authentication, 404 for plugins that are not enabled, and the documents of a federation or of shovels.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evac.drivers.capabilities import ReportsRole
from evac.drivers.port import Action, Value
from evac.drivers.rabbitmq import DRIVER
from evac.drivers.rabbitmq.driver import RabbitmqDriver
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import until_stopped
from tests.contract.capabilities.suites import Adapter, AskedRole
from tests.contract.ports import free_port

PASSWORD, VARIABLE = "rabbits-of-the-harbour-12", "EVAC_TEST_RABBITMQ"
QUEUE = "federation: orders -> downstream"
SERVER = """
import base64, json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

port, path, password = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
SIGNED = "Basic " + base64.b64encode(f"evac:{password}".encode()).decode()

class Api(BaseHTTPRequestHandler):
    def do_GET(self):
        found = json.loads(path.read_text())
        known = self.headers.get("Authorization") == SIGNED
        name = self.path.partition("?")[0].removeprefix("/api/")
        status = 401 if not known else 200 if name in found else 404
        wrong = {"error": "not_authorized"} if status == 401 else {"error": "Object Not Found"}
        body = json.dumps(found[name] if status == 200 else wrong).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        return

ThreadingHTTPServer(("127.0.0.1", port), Api).serve_forever()
"""


@dataclass
class Served:
    """One API that a small server of ours answers for."""

    folder: Path
    name: str
    port: int = field(default_factory=free_port)
    process: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, documents: dict[str, Any]) -> None:
        """documents: path, below `/api/` where it begins with no slash -> what is there from now on."""
        new = self.folder / f"{self.name}.new"
        new.write_text(json.dumps(documents))
        new.replace(self.folder / f"{self.name}.json")

    def start(self) -> None:
        argv = (
            sys.executable,
            "-c",
            SERVER,
            str(self.port),
            str(self.folder / f"{self.name}.json"),
            PASSWORD,
        )
        self.process = subprocess.Popen(argv)
        while True:
            assert self.process.poll() is None
            try:
                urllib.request.urlopen(f"{self.url}/api/overview")
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.01)


class Cluster(Served):
    """The management API of one cluster."""

    def say(self, plugins: Any = ("rabbitmq_management",), **documents: Any) -> None:
        overview = {"cluster_name": self.name, "rabbitmq_version": "4.0.5", "product_name": "RabbitMQ"}
        found: dict[str, Any] = {f"{key.replace('_', '-')}/%2F": value for key, value in documents.items()}
        found["overview"] = overview
        found["nodes"] = [{"name": f"rabbit@{self.name}"}]
        if plugins is not None:
            found["nodes"][0]["enabled_plugins"] = list(plugins)
        self.answer(found)


def link(status: str = "running") -> dict[str, Any]:
    return {"exchange": "orders", "type": "exchange", "upstream": "up", "status": status, "vhost": "/"}


def shovel(state: str = "running", queue: str = "mail") -> dict[str, Any]:
    return {"name": "s", "vhost": "/", "type": "dynamic", "state": state, "src_queue": queue}


@dataclass
class Pair:
    """`upstream` takes messages in; `downstream` gets them by a federation."""

    upstream: Cluster
    downstream: Cluster

    def action(self, cluster: Cluster, **more: Value) -> Action:
        password = f"env:{VARIABLE}"
        settings: dict[str, Value] = {"url": cluster.url, "user": "evac", "password": password, **more}
        return Action("verify", "store-orders", "rabbitmq", "ansan", settings)

    def replica(self, **more: Value) -> Action:
        return self.action(self.downstream, source=self.upstream.url, **more)


@contextmanager
def serving(variable: str, *apis: Served) -> Iterator[None]:
    """The servers run, and their password is in the variable."""
    os.environ[variable] = PASSWORD
    try:
        for one in apis:
            one.start()
        yield
    finally:
        for one in apis:
            if one.process is not None:
                one.process.send_signal(signal.SIGCONT)
                one.process.kill()
                one.process.wait()
        del os.environ[variable]


@contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    found = Pair(Cluster(folder, "upstream"), Cluster(folder, "downstream"))
    found.upstream.say(queues=[{"name": QUEUE, "messages": 0}, {"name": "mail", "messages": 9}])
    found.downstream.say(federation_links=[link()])
    with serving(VARIABLE, found.upstream, found.downstream):
        yield found


@contextmanager
def _roles(folder: Path) -> Iterator[AskedRole]:
    with pair(folder) as world:

        async def silence() -> None:
            world.upstream.process.send_signal(signal.SIGSTOP)
            await until_stopped(world.upstream.process.pid)

        async def speak() -> None:
            world.upstream.process.send_signal(signal.SIGCONT)

        through = with_settings(url="http://{host}:{port}")
        yield AskedRole(
            RabbitmqDriver(),
            world.action(world.upstream),
            silence,
            speak,
            (PASSWORD,),
            (TcpWire("127.0.0.1", world.upstream.port, "http", through),),
            replica=world.replica(),
        )


ADAPTER = Adapter(DRIVER, acts={}, asks={ReportsRole: _roles})
