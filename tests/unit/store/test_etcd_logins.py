"""How evac logs in to etcd: once for all calls, and again where etcd holds calls with an old token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from evac.model.errors import Unavailable
from evac.net.etcd_gateway import LOGIN, SILENT_MOST, Gateway, NotSent
from evac.net.secrets import OPENED, name_of
from evac.store.port import StoreError

pytestmark = pytest.mark.enable_socket
READ = "/v3/kv/range"


class Member:
    """Believes the newest token that it gave out. holds: it lets calls with another one wait, as one that was
    restored from a snapshot does. login_s: how long a login takes.
    """

    def __init__(self) -> None:
        self.holds, self.login_s = False, 0.05
        self.logins, self.restarts = 0, 0
        self.url = ""

    @property
    def token(self) -> str:
        return f"token{self.restarts}.{self.logins}"

    async def log_in(self, request: web.Request) -> web.Response:
        self.logins += 1
        token = self.token
        await asyncio.sleep(self.login_s)
        return web.json_response({"token": token})

    async def read(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") == self.token:
            return web.json_response({})
        if self.holds:
            await asyncio.sleep(60)
        return web.json_response({"code": 16, "message": "etcdserver: invalid auth token"}, status=401)


@asynccontextmanager
async def locked(
    monkeypatch: pytest.MonkeyPatch, attempt_s: float = 0.1, password: str = "env:EVAC_TEST_ETCD"
) -> AsyncIterator[tuple[Member, Gateway]]:
    monkeypatch.setenv("EVAC_TEST_ETCD", "secret" * 4)
    member, application = Member(), web.Application()
    application.add_routes([web.post(LOGIN, member.log_in), web.post(READ, member.read)])
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    gateway = Gateway(
        [f"http://127.0.0.1:{runner.addresses[0][1]}"],
        user="evac",
        password=password,
        attempt_s=attempt_s,
    )
    try:
        yield member, gateway
    finally:
        await gateway.close()
        await runner.cleanup()


def test_many_calls_that_need_a_login_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with locked(monkeypatch, attempt_s=1.0) as (member, gateway):
            for restarts in range(2):
                member.restarts = restarts
                await asyncio.gather(*(gateway.call(READ, {}) for _ in range(20)))
                assert member.logins == restarts + 1

    asyncio.run(story())


def test_a_login_may_take_longer_than_another_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with locked(monkeypatch) as (member, gateway):
            member.login_s = 0.3
            assert await gateway.call(READ, {}) == {}
            member.login_s, member.restarts = 9.0, 1
            with pytest.raises(NotSent, match="did not log in evac in time"):
                await gateway.call_once(READ, {}, time.monotonic() + 0.2)

    asyncio.run(story())


def test_a_member_that_holds_calls_with_an_old_token_is_logged_in_to_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with locked(monkeypatch) as (member, gateway):
            await gateway.call(READ, {})
            member.holds, member.restarts = True, 1
            for _ in range(SILENT_MOST):
                with pytest.raises(Unavailable, match="did not answer"):
                    await gateway.call_once(READ, {}, time.monotonic() + 1)
            assert await gateway.call(READ, {}) == {}
            assert member.logins == 2

    asyncio.run(story())


def test_its_password_is_read_as_every_secret_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that others can read is none, and what a bundle brought along counts first."""
    file = tmp_path / "password"
    file.write_text("secret" * 4)
    file.chmod(0o644)

    async def story() -> None:
        async with locked(monkeypatch, 1.0, f"file:{file}") as (member, gateway):
            with pytest.raises(StoreError) as caught:
                await gateway.call(READ, {})
            assert (caught.value.code, member.logins) == ("store-secret", 0)
            opened = tmp_path / name_of(f"file:{file}")
            opened.write_text("secret" * 4)
            opened.chmod(0o600)
            monkeypatch.setenv(OPENED, str(tmp_path))
            assert await gateway.call(READ, {}) == {}

    asyncio.run(story())
