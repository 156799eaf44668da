"""A room behind a real server on loopback, for tests with a browser."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.contract.ports import free_port
from tests.web.rooms import ESTATE

START_S = 180
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, store) of a room in a process of its own; the port is one that was free a moment ago."""
    import pytest_socket

    pytest_socket.enable_socket()
    port = free_port()
    store = f"sqlite:{tmp_path_factory.mktemp('room') / 'room.sqlite'}"
    listen = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "evac.web.serving", str(ESTATE), "--store", store, "--listen", listen]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "EVAC_WHO": "tester"})
    try:
        until_ready(f"http://{listen}/readyz", process)
        yield f"http://{listen}", store
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it ends with its parent
        process.wait(60)
        pytest_socket.disable_socket(allow_unix_socket=True)


def until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the room ended"
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError("the room did not become ready")
