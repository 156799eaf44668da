"""A real member of etcd for the suites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evac.drivers.capabilities import AnswersProbe
from evac.drivers.etcd import DRIVER
from evac.drivers.etcd.driver import EtcdDriver
from evac.drivers.port import Action
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import until_stopped
from tests.contract.capabilities.suites import Adapter, Asked, AskedProbe
from tests.contract.ports import free_port
from tests.contract.store.members import Members, etcd_program


def _ask(url: str) -> Action:
    return Action("verify", "pangyo", "etcd", "pangyo", {"url": url})


@contextmanager
def _probe(folder: Path) -> Iterator[Asked]:
    if etcd_program() is None:
        pytest.skip("etcd is not installed")
    members = Members(folder, 1)
    members.start()

    async def silence() -> None:
        members.hang(0)
        await until_stopped(members.processes[0].pid)

    try:
        url = members.endpoints[0]
        host, _, port = url.removeprefix("http://").partition(":")
        wire = TcpWire(host, int(port), "http", with_settings(url="http://{host}:{port}"))
        gone = _ask(f"http://127.0.0.1:{free_port()}")
        yield AskedProbe(EtcdDriver(), _ask(url), silence, wires=(wire,), gone=gone)
    finally:
        members.stop()


ADAPTER = Adapter(DRIVER, acts={}, asks={AnswersProbe: _probe})
