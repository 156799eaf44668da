"""Someone who reads, changes, holds back and repeats what goes over the network, and has no key.

The worst they can do: keep a controller from reaching an agent, which then fences what it was permitted to
run. They start, stop, read and change nothing. Floods are in `tests/unit/agent/test_agent_starved.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from evac.agent.config import AgentConfig
from evac.drivers.process.client import SIGNATURE, SITE, TIMESTAMP, AgentClient
from evac.drivers.process.driver import PATH
from evac.model.errors import ActionError, OutcomeUnknown
from evac.net.http_calls import Answer, Caller
from tests.unit.engine import agents

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

ORDER = {
    "what": "execute",
    "verb": "scale",
    "unit": "sleeper",
    "replicas": 0,
    "order": {
        "run": "r",
        "step": "s",
        "attempt": 1,
        "token": 5,
        "epoch": 1,
        "reason": "test",
        "timeout_ms": 3_000,
        "key": "r/s",
        "ticket": "",
        "dry_run": False,
    },
}
Seen = tuple[str, bytes, dict[str, str]]


def agent_of(folder: Path, site: str) -> AgentConfig:
    (folder / site).mkdir()
    return replace(agents.config(folder / site, agents.sleeper()), site=site)


async def overheard(made: AgentConfig, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Path, body and headers of an order that its agent obeyed, as they went over the wire."""
    seen: list[Seen] = []
    call = Caller.call

    async def tapped(self: Caller, method: str, url: str, **more: Any) -> Answer:
        seen.append((PATH, more["body"], dict(more["headers"])))
        return await call(self, method, url, **more)

    monkeypatch.setattr(Caller, "call", tapped)
    client = AgentClient()
    assert (await client.send(agents.at(made), PATH, ORDER, 5.0))["outcome"] == "done"
    await client.close()
    monkeypatch.undo()
    return seen[-1]


async def sent(url: str, seen: Seen) -> tuple[int, str]:
    """(status, code) of what the attacker sends."""
    path, body, headers = seen
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + path, data=body, headers=headers) as answer,
    ):
        told = orjson.loads(await answer.read())
        return answer.status, told.get("error", {}).get("code", "")


def test_a_recorded_order_is_obeyed_nowhere_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its agent, nor by one with the same key, nor after a restart."""
    pangyo, anyang = agent_of(tmp_path, "pangyo"), agent_of(tmp_path, "anyang")

    async def story() -> None:
        async with agents.running(pangyo) as one, agents.running(anyang) as two:
            seen = await overheard(pangyo, monkeypatch)
            assert await sent(one.url, seen) == (409, "order-repeated")
            assert await sent(two.url, seen) == (409, "order-elsewhere")
            renamed = (seen[0], seen[1], {**seen[2], SITE: "anyang"})
            assert await sent(two.url, renamed) == (401, "not-signed")
            assert two._ledger.highest == 0
        async with agents.running(pangyo) as again:
            assert await sent(again.url, seen) == (503, "agent-just-started")

    asyncio.run(story())


def test_an_order_is_not_changed_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = agent_of(tmp_path, "pangyo")

    async def story() -> None:
        async with agents.running(made) as agent:
            path, body, headers = await overheard(made, monkeypatch)
            later = str(int(headers[TIMESTAMP]) + 1)
            for changed in (
                (path, body.replace(b'"replicas":0', b'"replicas":4'), headers),
                (path, body, {**headers, TIMESTAMP: later}),
                (path, body, {**headers, SIGNATURE: headers[SIGNATURE].replace("v2=", "v1=")}),
                ("/v1/act", body, headers),
            ):
                assert await sent(agent.url, changed) == (401, "not-signed")

    asyncio.run(story())


def test_no_answer_is_put_in_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that gets the answer to another order, or its own changed, calls the outcome unknown."""
    made, answers = agent_of(tmp_path, "pangyo"), list[Answer]()
    call = Caller.call

    async def tapped(self: Caller, method: str, url: str, **more: Any) -> Answer:
        answers.append(await call(self, method, url, **more))
        return answers[0]

    async def story() -> None:
        async with agents.running(made):
            monkeypatch.setattr(Caller, "call", tapped)
            client = AgentClient()
            await client.send(agents.at(made), PATH, ORDER, 5.0)
            with pytest.raises(ActionError) as caught:
                await client.send(agents.at(made), PATH, ORDER, 5.0)
            assert isinstance(caught.value, OutcomeUnknown)
            assert caught.value.code == "agent-answer"
            await client.close()

    asyncio.run(story())


def test_without_a_key_an_agent_tells_nothing(tmp_path: Path) -> None:
    made = agent_of(tmp_path, "pangyo")

    async def story() -> None:
        async with agents.running(made) as agent, aiohttp.ClientSession() as session:
            async with session.get(agent.url + "/v1/health") as answer:
                assert await answer.read() == b'{"answer":"evac agent"}'
            for path in agent._routes:
                async with session.post(agent.url + path, data=orjson.dumps(ORDER)) as answer:
                    assert (answer.status, await answer.read()) == (401, b'{"error": {"code": "not-signed"}}')

    asyncio.run(story())


HEAD = b"POST /v1/unit HTTP/1.1\r\nHost: 127.0.0.1\r\n"
HIDDEN = b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
NO_REQUESTS = {
    "two lengths": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a length twice": HEAD + b"Content-Length: 0\r\nContent-Length: 50\r\n\r\n" + HIDDEN,
    "another coding": HEAD + b"Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a length with a sign": HEAD + b"Content-Length: +5\r\n\r\nabcde",
    "a chunk below zero": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n",
    "a folded header": b"GET /v1/health HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "a zero byte": b"GET /v1/health HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
    "two hosts": b"GET /v1/health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "lines without CR": b"GET /v1/health HTTP/1.1\nHost: x\n\n",
    "a long line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "many headers": HIDDEN[:-2] + b"".join(b"A%d: b\r\n" % n for n in range(20_000)) + b"\r\n",
    "not what it says": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
}


def test_what_is_no_request_is_refused_and_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that is hidden in the body of another request is answered."""
    made = agent_of(tmp_path, "pangyo")

    async def answered(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(made.host, made.port)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def story() -> dict[str, bytes]:
        async with agents.running(made):
            return {name: await answered(data) for name, data in NO_REQUESTS.items()}

    found = asyncio.run(story())
    assert {name for name, one in found.items() if one.split(b" ")[1:2] not in ([b"400"], [])} == set()
    assert not any(b"evac agent" in one for one in found.values())
    assert "Traceback" not in caplog.text
    assert len([one for one in caplog.records if one.name == "evac.agent.http"]) <= 1


def test_whoever_hangs_up_in_the_middle_of_a_body_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = agent_of(tmp_path, "pangyo")

    async def story() -> None:
        async with agents.running(made):
            lines = [await asyncio.open_connection(made.host, made.port) for _ in range(20)]
            for _, writer in lines:
                writer.write(HEAD + b"Content-Length: 50\r\n\r\n{")
            while (await asyncio.to_thread(agents.health, made))["connections"]["open"] <= len(lines):
                await asyncio.sleep(0.01)
            for _, writer in lines:
                writer.transport.abort()
            while (await asyncio.to_thread(agents.health, made))["connections"]["open"] > 1:
                await asyncio.sleep(0.01)

    asyncio.run(story())
    assert not [one for one in caplog.records if one.name == "evac.agent.http"]
