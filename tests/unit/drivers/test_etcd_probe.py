"""A member of etcd that takes no one without a certificate is asked with one; it needs no user."""

from __future__ import annotations

import asyncio
import shutil

import aiohttp
import pytest

from evac.drivers.etcd.driver import EtcdDriver
from evac.drivers.port import Action, Value
from evac.model.errors import Permanent
from tests.unit.store.locked_etcd import ground

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed"),
]


def test_a_locked_member_answers_who_shows_a_certificate() -> None:
    with ground() as made:
        made.lock()
        ca, cert, key = (f"file:{path}" for path in made.shown)
        url = made.member.url

        async def asked(settings: dict[str, Value]) -> bool:
            driver = EtcdDriver()
            try:
                action = Action("verify", "a", "etcd", "a", {"url": url, **settings})
                return (await driver.probe(action, 1.0)).up
            finally:
                await driver.close()

        assert asyncio.run(asked({"ca": ca, "cert": cert, "key": key}))
        with pytest.raises((aiohttp.ClientError, OSError)):
            asyncio.run(asked({"ca": ca}))
        with pytest.raises(Permanent):
            asyncio.run(asked({"ca": "file:/nowhere/ca.pem"}))
