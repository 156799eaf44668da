"""A management controller that a test makes as odd as it likes: resources, single answers, resets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from evac.drivers.port import Action, Value

SYSTEMS = "/redfish/v1/Systems"
SYSTEM = f"{SYSTEMS}/Self"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"
Reply = bytes | None


def http(status: int, body: object = None, *headers: str) -> bytes:
    """An answer as it goes over the wire."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


@dataclass(slots=True)
class OddBmc:
    """odd: (method, path) -> answer instead of the ordinary one. up_with: what a system shows once on."""

    resources: dict[str, Any] = field(default_factory=dict)
    odd: dict[tuple[str, str], Callable[[], Reply] | Reply] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    resets: list[str] = field(default_factory=list)
    patches: list[tuple[str, Any]] = field(default_factory=list)
    up_with: dict[str, Any] = field(default_factory=dict)
    port: int = 0

    def __post_init__(self) -> None:
        self.resources = {
            SYSTEMS: {"Members": [{"@odata.id": SYSTEM}]},
            SYSTEM: {
                "PowerState": "Off",
                "SerialNumber": "S1",
                "Status": {"Health": "OK"},
                "BootProgress": {"LastState": "None"},
                "Actions": {
                    "#ComputerSystem.Reset": {
                        "target": RESET,
                        "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown"],
                    }
                },
            },
        } | self.resources
        self.up_with = self.up_with or {"BootProgress": {"LastState": "OSRunning"}}

    @property
    def system(self) -> dict[str, Any]:
        found: dict[str, Any] = self.resources[SYSTEM]
        return found

    def allow(self, *types: str) -> None:
        self.system["Actions"]["#ComputerSystem.Reset"]["ResetType@Redfish.AllowableValues"] = list(types)

    def answer(self, method: str, path: str, body: bytes) -> Reply:
        odd = self.odd.get((method, path), False)
        if odd is not False:
            return odd() if callable(odd) else odd  # type: ignore[return-value]
        if method == "GET":
            found = self.resources.get(path)
            return http(404, {"error": {}}) if found is None else http(200, found)
        if method == "PATCH":
            self.patches.append((path, json.loads(body)))
            return http(204)
        if path == RESET:
            return self._reset(json.loads(body)["ResetType"])
        return http(405)

    def _reset(self, how: str) -> Reply:
        self.resets.append(how)
        on = how in ("On", "ForceOn") or (how == "PushPowerButton" and self.system["PowerState"] == "Off")
        self.system.update({"PowerState": "On", **self.up_with} if on else {"PowerState": "Off"})
        return http(204)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.asked.append((method, path))
                self.headers.append(headers)
                reply = self.answer(method, path, body)
                if reply is None:
                    return
                writer.write(reply)
                await writer.drain()
                if headers.get("connection") == "close" or b"Content-Length" not in reply:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def action(self, settings: dict[str, Value] | None = None, **more: Value) -> Action:
        given: dict[str, Value] = {
            "user": "evac",
            "password": "env:ODD_PASSWORD",
            "scheme": "http",
            "answer_s": 2,
        }
        told: dict[str, Value] = {
            "server": "web-1",
            "address": f"127.0.0.1:{self.port}",
            "serial": "S1",
            "network": "hall",
            "boot_ms": 200,
            **more,
        }
        return Action("boot", "web-1", "redfish", "pangyo", {**given, **(settings or {})}, told)


@asynccontextmanager
async def serving(bmc: OddBmc) -> AsyncIterator[OddBmc]:
    server = await asyncio.start_server(bmc.serve, "127.0.0.1", 0)
    bmc.port = server.sockets[0].getsockname()[1]
    try:
        yield bmc
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.02)
