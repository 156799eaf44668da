"""A real controller whose estate changes, breaks and is mended while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_socket

from evac.cli.program import run as program
from tests.web.conftest import free_port, until_ready
from tests.web.rooms import until

pytestmark = pytest.mark.slow
ESTATE = """evac: 1
name: two
sites: {pangyo: {}, anyang: {}}
pools:
  p: {site: pangyo, cpu: 64 cores, memory: 1 TiB, disk: 1 TiB, accelerators: 0, starts: 100 per minute}
  a: {site: anyang, cpu: 64 cores, memory: 1 TiB, disk: 1 TiB, accelerators: 0, starts: 100 per minute}
services:
  web: {tier: 0, people: 1 K, rto: 1 h,
        demand: &d {cpu: 1 cores, memory: 1 GiB, disk: 1 GiB, accelerators: 0},
        replicas: {p: 2, a: 2}, share: 50 %, start: 20 s, traffic: {kind: none}}
"""
MAIL = """  mail: {tier: 1, people: 1 K, rto: 1 h, demand: *d, replicas: {p: 4}, start: 20 s,
         traffic: {kind: none}}
"""


class Running:
    """The controller and its room."""

    def __init__(self, folder: Path, url: str, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.url, self.process = folder, url, process

    def write(self, text: str, *, tell: bool = True) -> None:
        """As an editor does: a new file in the place of the old one. tell: also by SIGHUP."""
        new = self.folder / "estate" / ".new"
        new.write_text(text)
        new.replace(self.folder / "estate" / "estate.yaml")
        if tell:
            self.process.send_signal(signal.SIGHUP)

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return str(answer.read().decode())

    def situation(self) -> dict[str, Any]:
        return dict(json.loads(self.text("/v1/situation")))

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Notices of a kind."""
        return [one for one in self.situation()["notices"] if one["kind"] == kind]

    def standing_plan(self) -> str:
        """Of the loss of pangyo, for the estate in use; empty where there is none."""
        rows = [one for one in self.situation()["drawer"] if one["lost"] == ["pangyo"] and one["current"]]
        return str(rows[0]["plan"]) if rows else ""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    pytest_socket.enable_socket()
    (tmp_path / "estate").mkdir()
    (tmp_path / "estate" / "estate.yaml").write_text(ESTATE)
    (tmp_path / "tmp").mkdir()
    port = free_port()
    command = [sys.executable, "-m", "evac", "serve", str(tmp_path / "estate"), "--site", "pangyo"]
    command += ["--store", f"sqlite:{tmp_path / 's.sqlite'}", "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield Running(tmp_path, f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(60)
        pytest_socket.disable_socket(allow_unix_socket=True)
    assert list((tmp_path / "tmp").iterdir()) == [], "no copy is left"


def test_a_controller_takes_a_changed_estate_and_keeps_the_old_one_where_it_is_broken(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost_services() -> list[str]:
        capsys.readouterr()
        assert program(["what-if", "pangyo", "--server", running.url, "--output", "json"]) == 0
        return [row["service"] for row in json.loads(capsys.readouterr().out)["services"]]

    first = until(running.standing_plan, "no plan stands")
    assert "mail" not in lost_services()
    running.write(ESTATE + MAIL, tell=False)
    until(lambda: "mail" in lost_services(), "the room does not show the new service")
    second = until(lambda: running.standing_plan().replace(first, ""), "no other plan stands")
    assert b"start:mail" in urllib.request.urlopen(f"{running.url}/v1/plans/{second}", timeout=20).read()

    running.write(ESTATE + MAIL.replace("*d", "*e"))
    words = "The estate on disk has 1 problem, evac continues with the one from"
    until(lambda: words in running.text("/now"), "the page Now does not say it")
    assert "estate.yaml:" in running.situation()["on_disk"]["first"]
    assert "evac_estate_reload_problems 1.0" in running.text("/metrics")
    assert "mail" in lost_services()
    assert running.standing_plan() == second
    (trouble,) = until(lambda: running.told("trouble"), "the journal does not say it")
    assert trouble["data"]["problems"] == 1

    running.write(ESTATE + MAIL.replace("mail", "post"))
    until(lambda: "post" in lost_services(), "what was mended is not taken")
    until(lambda: words not in running.text("/now"), "the page Now still says it")
    until(lambda: len(running.told("estate")) == 2, "the journal does not say what was taken")
    digests = [one["data"]["estate"] for one in running.told("leader") + running.told("estate")]
    befores = [one["data"]["before"] for one in running.told("estate")]
    assert befores == digests[:2], "which estate it led by, and since when"
    until(lambda: running.situation()["estate"] == digests[2], "the room goes by another estate")


def test_a_controller_takes_a_changed_policy_and_says_what_is_wrong_with_a_broken_one(
    running: Running,
) -> None:
    def write(text: str) -> None:
        (running.folder / "estate" / "policy.yaml").write_text(text)
        running.process.send_signal(signal.SIGHUP)

    until(lambda: running.situation()["on_disk"], "nobody says how the files stand")
    first = until(lambda: running.situation()["policy"], "no policy is in use")
    write("approvals: 2\nwindow: []\n")
    until(lambda: "The policy on disk has 1 problem" in running.text("/now"), "the page Now does not say it")
    seen = running.situation()["on_disk"]
    assert (seen["policy"], seen["first"].startswith("policy.yaml:2:1: ")) == (True, True), seen
    write("approvals: 2\n")
    until(lambda: running.situation()["policy"] not in ("", first), "the room goes by the old policy")
    (told,) = until(lambda: running.told("policy"), "the journal does not say it")
    assert (told["data"]["changed"], told["data"]["before"]) == (["approvals"], first)
    assert told["data"]["policy"] == running.situation()["policy"]
    assert "evac_policy_reload_timestamp_seconds" in running.text("/metrics")
    write("watch: {profile: fast}\n")
    words = "The policy on disk cannot be loaded while evac is running, because the rules for recognising"
    until(lambda: words in running.text("/now"), "the page Now does not say what waits")
    assert "evac_estate_reload_restart 1.0" in running.text("/metrics")
