"""Alerts of the demonstration: an alerts file with one signed webhook that prints to the terminal. The
process that `evac serve` starts for alerts makes and sends them, whichever controller leads.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from secrets import token_bytes
from textwrap import shorten
from typing import Final

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from evac.app import side_process
from evac.engine.lead.leadership import LEADER
from evac.store.port import Store, owner_in

FILE: Final = "notices.yaml"
LOOK_S: Final = 1.0
WORDS_MOST: Final = 160
HOST: Final = "127.0.0.1"


async def send_alerts(company: Path, room: str, store: Store, url: str, say: Callable[[str], None]) -> None:
    """Send alerts until cancelled. company: folder of the estate; room: address of the war room; url: of the
    store.
    """
    key = f"whsec_{b64encode(token_bytes(32)).decode()}"
    signed = Webhook(key)

    async def receive(request: web.Request) -> web.Response:
        try:
            data = signed.verify(await request.read(), dict(request.headers))["data"]
        except WebhookVerificationError:
            return web.Response(status=401)
        how = "over" if data["state"] == "over" else data["severity"]
        say(f"Alert to on-call ({how}): {shorten(data['words'], WORDS_MOST)}")
        return web.Response(status=204)

    runner = web.AppRunner(web.Application(), access_log=None)
    runner.app.router.add_post("/alerts", receive)
    await runner.setup()
    sender: asyncio.Task[None] | None = None
    try:
        await (site := web.TCPSite(runner, HOST, 0)).start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        for name, secret in (("url", f"http://{HOST}:{port}/alerts"), ("key", key)):
            path = company.parent / f"on-call.{name}"
            path.touch(0o600)
            path.write_text(secret, encoding="utf-8")
        where = company.parent / "on-call"
        channel = f'{{webhook: "file:{where}.url", secret: "file:{where}.key", least: info}}'
        file = company / FILE
        file.write_text(f"room: {room}\nchannels:\n  on-call: {channel}\n", encoding="utf-8")
        leader = ""
        while True:
            lease = await store.holder(LEADER)
            now = "" if lease is None else owner_in(lease.owner).site
            if now and now != leader:
                if sender is not None:
                    sender.cancel()
                    await asyncio.gather(sender, return_exceptions=True)
                leader = now
                told = [str(company), "--store", url, "--notices", str(file), "--site", leader]
                keep = side_process.keep(told, say, module=side_process.NOTICES, name="the alerts process")
                sender = asyncio.create_task(keep)
            await asyncio.sleep(LOOK_S)
    finally:
        if sender is not None:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        await runner.cleanup()
