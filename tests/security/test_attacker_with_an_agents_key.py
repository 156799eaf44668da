"""Someone who has the key of one agent, and reaches its port.

The worst they can do: what that agent's file allows, at its site: move its units, with a token as high as
they like, and so keep its controllers from it until they are stopped. They get no secret and no program
that the file does not list, and nothing at another agent.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.agent.allowed import Allowed
from evac.drivers.port import Action, Order
from evac.drivers.process.client import AgentAt
from evac.drivers.process.driver import ProcessDriver, RemoteDriver
from evac.drivers.registry import DRIVERS
from evac.model.errors import Permanent
from tests.unit.engine import agents

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]

CANARY = "CANARY_TOPSECRET_OTHER_FILE_42"


def order(token: int) -> Order:
    return Order("r", "s", 1, token, 1, "mine now", 3.0, "r/s")


class Listener:
    """A server of the attacker. heard: all that was sent to it."""

    def __init__(self) -> None:
        self.heard, self.port, self._server = b"", 0, None  # type: tuple[bytes, int, Any]
        self.heard = b""

    async def __aenter__(self) -> Listener:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.heard += await reader.read(4_096)
            writer.close()

        self._server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


@pytest.mark.parametrize("driver", ["redis", "patroni", "postgres"])
def test_no_file_of_the_agent_is_sent_to_them(tmp_path: Path, driver: str) -> None:
    secret = tmp_path / "other"
    secret.write_text(CANARY)
    secret.chmod(0o600)
    made = agents.config(tmp_path, allow=Allowed(hosts=("10.1.0.9",), secrets=("file:/etc/evac/pg",)))

    async def story() -> None:
        async with agents.running(made), Listener() as evil:
            reach = {"host": "127.0.0.1", "port": evil.port, "password": f"file:{secret}"}
            settings: dict[str, dict[str, Any]] = {
                "redis": reach,
                "postgres": reach,
                "patroni": {
                    "url": f"http://127.0.0.1:{evil.port}",
                    "etcd": f"http://127.0.0.1:{evil.port}",
                    "scope": "s",
                    "name": "n",
                    "rest_password": f"file:{secret}",
                },
            }
            hand = RemoteDriver(driver, frozenset({"promote"}), agents.at(made))
            action = Action("promote", "db", driver, "pangyo", settings[driver])
            for token in (0, 1, 2**40):
                checked = await hand.check(action, order(token))
                assert "does not allow orders of" in checked.problems[0]
                with pytest.raises(Permanent) as caught:
                    await hand.execute(action, order(token))
                assert caught.value.code == "order-not-allowed"
            assert evil.heard == b""
            await hand.close()

    asyncio.run(story())


def test_no_program_runs_that_the_file_does_not_list(tmp_path: Path) -> None:
    made = agents.config(tmp_path, drivers=("command", "postgres"), allow=Allowed(bin=("/usr/sbin/fence",)))
    ran = tmp_path / "ran"
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "pg_controldata").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (programs / "pg_controldata").chmod(0o755)

    async def story() -> None:
        async with agents.running(made):
            for name, settings in (
                ("command", {"argv": ("/bin/sh", "-c", f"touch {ran}")}),
                ("postgres", {"host": "127.0.0.1", "bin": str(programs), "data": "/srv", "archive": "/srv"}),
            ):
                hand = RemoteDriver(name, frozenset({"rejoin"}), agents.at(made))
                action = Action("rejoin", "db", name, "pangyo", settings, {"primary_host": "127.0.0.1"})
                with pytest.raises(Permanent, match="does not allow orders of"):
                    await hand.execute(action, order(9))
                await hand.check(action, order(9))
                await hand.observe(action, order(9))
                await hand.close()
            assert not ran.exists()

    asyncio.run(story())


def test_no_backup_is_read_from_them_and_no_query_of_theirs_is_asked(tmp_path: Path) -> None:
    """Where the file lists backup drivers. A user of a repository signs in where the order says, and a query
    is a program: `\\! COMMAND` of psql, `system COMMAND` of mariadb, `CONFIG SET dir` of Redis.
    """
    password, place = tmp_path / "password", tmp_path / "place"
    password.write_text(CANARY)
    password.chmod(0o600)
    reference, ran = f"file:{password}", tmp_path / "ran"
    allow = Allowed(secrets=(reference,), bin=("restic", "pgbackrest", "/usr/bin"), data=(str(tmp_path),))
    asking = sorted(
        name for name, spec in DRIVERS.items() if any(one.key == "facts" for one in spec.settings)
    )
    made = agents.config(tmp_path, drivers=("restic", "borg", *asking), allow=allow)

    async def story() -> None:
        async with agents.running(made), Listener() as evil:
            url = f"rest:http://127.0.0.1:{evil.port}/"
            signed = {"repository": url, "password": reference, "user": "me", "user_password": reference}
            asked = {"facts": (f"x=\\\\! touch {ran}",)}
            orders = {"restic": signed, "borg": {"repository": f"ssh://127.0.0.1:{evil.port}/x"}}
            for name, settings in {**orders, **dict.fromkeys(asking, asked)}.items():
                hand = RemoteDriver(name, frozenset({"restore"}), agents.at(made))
                action = Action("restore", "db", name, "pangyo", {**settings, "place": str(place)})
                for do in (hand.execute, hand.undo):
                    with pytest.raises(Permanent) as caught:
                        await do(action, order(9))
                    assert caught.value.code == "order-not-allowed", name
                assert not (await hand.check(action, order(9))).ready
                await hand.observe(action, order(9))
                await hand.close()
            assert evil.heard == b""
            assert not ran.exists()
            assert not place.exists()

    asyncio.run(story())


def test_a_question_needs_a_token_too(tmp_path: Path) -> None:
    made = agents.config(tmp_path, agents.sleeper())

    async def story() -> None:
        async with agents.running(made):
            settings = {"agent": agents.at(made).url, "secret": agents.REFERENCE, "unit": "sleeper"}
            action, units = Action("verify", "s", "process", "pangyo", settings), ProcessDriver()
            assert not (await units.check(action, order(0))).ready
            assert (await units.observe(action, order(0))).outcome == "unclear"
            assert (await units.check(action, order(1))).ready
            await units.close()

    asyncio.run(story())


def test_it_opens_nothing_at_another_agent(tmp_path: Path) -> None:
    """Also where somebody gave both the same key."""
    (tmp_path / "anyang").mkdir()
    made = replace(agents.config(tmp_path / "anyang", agents.sleeper()), site="anyang")

    async def story() -> None:
        async with agents.running(made) as agent:
            units = ProcessDriver()
            for site in ("pangyo", "ansan"):
                settings = {"agent": agent.url, "secret": agents.REFERENCE, "unit": "sleeper"}
                action = Action("scale", "s", "process", site, settings, {"replicas": 1})
                with pytest.raises(Permanent) as caught:
                    await units.execute(action, order(9))
                assert caught.value.code == "order-elsewhere"
            hand = RemoteDriver("noop", frozenset({"run"}), AgentAt("pangyo", agent.url, agents.REFERENCE))
            with pytest.raises(Permanent, match="for the agent of pangyo"):
                await hand.execute(Action("run", "s", "noop", "pangyo"), order(9))
            assert agent._ledger.highest == 0
            await units.close()
            await hand.close()

    asyncio.run(story())
