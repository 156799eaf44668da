"""The probe of a site's member of etcd, against a real one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evac.drivers.capabilities import AnswersProbe
from evac.drivers.etcd.driver import EtcdDriver
from evac.drivers.port import Action
from tests.contract.capabilities import questions
from tests.contract.drivers.ports import free_port
from tests.contract.drivers.suite import covers
from tests.contract.store.members import Members, etcd_program

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def ask(url: str) -> Action:
    return Action("verify", "pangyo", "etcd", "pangyo", {"url": url})


@covers("etcd", AnswersProbe)
def test_probe(server_folder: Path) -> None:
    if etcd_program() is None:
        pytest.skip("etcd is not installed")
    members = Members(server_folder, 1)
    members.start()

    async def silence() -> None:
        members.hang(0)

    async def told() -> None:
        driver = EtcdDriver()
        try:
            gone = ask(f"http://127.0.0.1:{free_port()}")
            await questions.answers_probe(driver, ask(members.endpoints[0]), silence, gone)
        finally:
            await driver.close()

    try:
        asyncio.run(told())
    finally:
        members.stop()
