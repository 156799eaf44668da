"""A store that refuses us is not one that is silent: said so, with what to do, and never the password."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evac.cli import console
from evac.cli.main import run
from tests.contract.ports import free_port

pytestmark = [
    pytest.mark.servers,
    pytest.mark.enable_socket,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
HOST = "127.0.0.1"
WRONG = "not-what-it-is"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    found = free_port()
    words = ["redis-server", "--bind", HOST, "--port", str(found), "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen([*words, "--requirepass", "right"], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((HOST, found), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield found
    finally:
        server.kill()
        server.wait(5)


def estate_of(tmp_path: Path, port: int, password: str) -> str:
    (tmp_path / "password").write_text(password)
    (tmp_path / "password").chmod(0o600)
    folder = tmp_path / "estate"
    folder.mkdir()
    ends = "".join(
        f"  db-{site}: {{for: db, at: {site}, driver: redis, settings: "
        f"{{host: {HOST}, port: {there}, password: 'file:{tmp_path}/password'}}}}\n"
        for site, there in (("a", port), ("b", free_port()))
    )
    (folder / "estate.yaml").write_text(
        "evac: 1\nsites: {a: {}, b: {}}\nservices: {}\n"
        "stores: {db: {engine: redis, members: [{at: a, mode: primary}, {at: b, mode: async}]}}\n"
        f"endpoints:\n{ends}"
    )
    return str(folder)


def test_a_wrong_password_is_said_and_a_silent_copy_is_an_answer(
    tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    estate = estate_of(tmp_path, port, WRONG)
    assert run(["observe", estate]) == console.UNKNOWN
    out, error = capsys.readouterr()
    assert [line.split()[:3] for line in out.splitlines()[1:3]] == [
        ["db", "a", "refused"],
        ["db", "b", "unreachable"],
    ]
    assert f"error: db at a: {HOST}:{port}: " in error
    assert "[redis-refused]" in error
    assert "next: check the password and permissions of the endpoint" in error
    assert "db at b" not in error
    assert run(["observe", estate, "--output", "json"]) == console.UNKNOWN
    out, error = capsys.readouterr()
    refused, silent = json.loads(out)["members"]
    assert (refused["role"], refused["error"]["code"]) == ("unreachable", "redis-refused")
    assert silent["error"] is None
    assert WRONG not in out + error


def test_the_right_password_is_all_it_takes(
    tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["observe", estate_of(tmp_path, port, "right")]) == console.DONE
    out, error = capsys.readouterr()
    assert ["db", "a", "primary", "0", "ms"] in [line.split() for line in out.splitlines()]
    assert "error" not in error
