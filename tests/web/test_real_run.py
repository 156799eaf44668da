"""A room beside a real controller that plays a real run: what it shows, streams and asks is what happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_socket

from tests.e2e.test_embedded_run import World, apply, world
from tests.web.conftest import START_S, free_port, until_ready
from tests.web.rooms import PATIENCE_S, until

__all__ = ["world"]
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture
def room(world: World) -> Iterator[tuple[httpx2.Client, str]]:
    """(client of a room on the store of a run that waits to be approved, the run)."""
    run = apply(world)
    listen = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "evac.web.serving", str(world.folder / "estate")]
    command += ["--store", world.store, "--listen", listen]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=world.env)
    try:
        until_ready(f"http://{listen}/readyz", process)
        with httpx2.Client(base_url=f"http://{listen}", timeout=PATIENCE_S) as client:
            yield client, run
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def ask(client: httpx2.Client, run: str, verb: str, key: str = "", match: str = "", **more: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    headers |= {"If-Match": match} if match else {}
    body = {"verb": verb, "reason": "fire", "who": "kim", **more}
    return client.post(f"/v1/runs/{run}/requests?wait_s=20", json=body, headers=headers)


def shown(client: httpx2.Client, run: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/runs/{run}").json()
    return found


def steps(client: httpx2.Client, run: str) -> dict[str, str]:
    rows = client.get(f"/v1/runs/{run}/steps", params={"limit": 1000}).json()["items"]
    return {row["id"]: row["state"] for row in rows}


def walked(client: httpx2.Client, run: str, limit: int) -> list[dict[str, Any]]:
    """All events, page by page."""
    rows, after = [], "0"
    while after is not None:
        page = client.get(f"/v1/runs/{run}/events", params={"after": after, "limit": limit}).json()
        assert len(page["items"]) <= limit
        rows += page["items"]
        after = page["next"]
    return rows


@contextlib.contextmanager
def listening(client: httpx2.Client, run: str, last: int = 0) -> Iterator[Iterator[tuple[int, str, Any]]]:
    """(id, event, data) of a stream, resumed after a number."""
    headers = {"Last-Event-ID": str(last)} if last else {}
    with client.stream("GET", f"/v1/runs/{run}/stream", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        def messages() -> Iterator[tuple[int, str, Any]]:
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "data" in fields:
                    yield int(fields.get("id", "0")), fields["event"], json.loads(fields["data"])
                    fields = {}

        yield messages()


def test_a_run_is_followed_asked_and_ended_through_the_room(
    world: World, room: tuple[httpx2.Client, str]
) -> None:
    client, run = room
    until(lambda: shown(client, run)["state"] == "awaiting_approval", "it waits to be approved")
    assert [row["run"] for row in client.get("/v1/runs").json()["items"] if row["open"]] == [run]
    assert shown(client, "inc-1")["run"] == run, "the name of its incident will do"
    assert client.get("/v1/runs/nothing").status_code == 404

    first = ask(client, run, "approve", "key-1")
    assert (first.status_code, first.json()["state"]) == (202, "taken"), first.text
    again = ask(client, run, "approve", "key-1")
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["request"] == first.json()["request"]
    assert ask(client, run, "cancel", "key-1").status_code == 409
    until(lambda: steps(client, run).get("fence:db") == "running", "the fence begins")
    approvals = [row for row in walked(client, run, 3) if row["kind"] == "approved"]
    assert len(approvals) == 1, "asked twice, taken once"

    with listening(client, run) as messages:
        seen = [next(messages) for _ in range(4)]
    assert [number for number, _, _ in seen] == [1, 2, 3, 4]
    with listening(client, run, 4) as messages:
        assert next(messages)[0] == 5, "it goes on after the last that was read"

    pause_and_resume(client, run)
    events_to_the_end(client, world, run)


def pause_and_resume(client: httpx2.Client, run: str) -> None:
    """Of the state that was seen, once for a key."""
    stale = client.get(f"/v1/runs/{run}").headers["etag"]
    paused = ask(client, run, "pause", "key-2", stale, for_ms=600_000)
    assert (paused.status_code, paused.json()["state"]) == (202, "taken"), paused.text
    until(lambda: shown(client, run)["state"] == "paused", "it is paused")
    again = ask(client, run, "pause", "key-2", stale, for_ms=600_000)
    assert (again.status_code, again.json()["request"]) == (202, paused.json()["request"]), again.text
    refused = ask(client, run, "resume", "key-3", stale)
    assert (refused.status_code, refused.json()["code"]) == (412, "changed-meanwhile")
    assert shown(client, run)["state"] == "paused"
    now = client.get(f"/v1/runs/{run}").headers["etag"]
    assert ask(client, run, "resume", "key-4", now).json()["state"] == "taken"
    until(lambda: shown(client, run)["state"] == "running", "it goes on")


def events_to_the_end(client: httpx2.Client, world: World, run: str) -> None:
    """Everything is vouched for by a person; the stream tells of each, and of the end."""
    before = shown(client, run)["events"]
    with listening(client, run, before) as messages:
        vouched = set()
        deadline = time.monotonic() + PATIENCE_S
        numbers, kind = [], ""
        for step in [step for step, state in steps(client, run).items() if state == "running"]:
            vouched.add(step)
            assert ask(client, run, "attest", step=step).status_code == 202
        for number, kind, data in messages:
            assert time.monotonic() < deadline
            if kind == "end":
                break
            numbers.append(number)
            if data["kind"] == "step_started" and data["step"] not in vouched:
                vouched.add(data["step"])
                assert ask(client, run, "attest", step=data["step"]).status_code == 202
    assert kind == "end"
    whole = world.evac("run", "events", run).splitlines()
    assert numbers == list(range(before + 1, len(whole) + 1)), "nothing missed, nothing twice"
    assert [row["number"] for row in walked(client, run, 5)] == list(range(1, len(whole) + 1))
    until(lambda: not client.get("/v1/runs").json()["items"][0]["open"], "it is among those that ended")
    assert shown(client, run)["state"] == "succeeded"
    late = ask(client, run, "pause")
    assert (late.status_code, late.json()["code"]) == (409, "run-over")


def rooms_of(parent: int) -> list[int]:
    """Processes of war rooms that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            status = (entry / "stat").read_text().rpartition(") ")[2].split()
            if int(status[1]) == parent and status[0] != "Z" and b"evac.web.serving" in words:
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_room_is_started_again_and_ends_with_a_killed_controller(world: World) -> None:
    port = free_port()
    command = [sys.executable, "-m", "evac", "serve", str(world.folder / "estate"), "--site", "local"]
    command += ["--no-watch", "--store", world.store, "--listen", f"127.0.0.1:{port}"]
    Path(world.store.removeprefix("sqlite:")).parent.mkdir(parents=True, exist_ok=True)
    controller = subprocess.Popen(command, env=world.env, stdin=subprocess.DEVNULL)
    try:
        until_ready(f"http://127.0.0.1:{port}/healthz", controller)
        (first,) = rooms_of(controller.pid)
        os.kill(first, signal.SIGKILL)
        (second,) = until(lambda: [p for p in rooms_of(controller.pid) if p != first], "it starts again")
        until_ready(f"http://127.0.0.1:{port}/healthz", controller)
        assert controller.poll() is None
        controller.kill()
        controller.wait(30)
        until(lambda: not alive(second), "it ends with its controller")
    finally:
        controller.kill()
        controller.wait(START_S)
