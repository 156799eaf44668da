"""Someone who has every key of a company, which replaces them, one after another, while a run waits for its
approval, as `docs/how-to/rotate-a-key.md` says it. Real controllers, a real agent, a locked etcd.

The worst they can do afterwards: nothing. The old keys are refused, and the run ends with the new ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from evac.app import runs
from evac.app.anchoring import strange_entries
from evac.cli import console
from evac.cli.main import run as command
from evac.drivers.process.client import AgentAt, AgentClient, peer_of
from evac.drivers.process.driver import PATH
from evac.engine.runs.signatures import new_key
from evac.model.errors import ActionError, EvacError
from evac.store.opening import open_store
from evac.store.port import Store, all_entries
from evac_lab import authorities
from evac_lab.process import Process
from evac_lab.servers import etcd
from evac_lab.state import Site, Topology
from tests.contract.ports import free_port
from tests.security.test_attacker_on_the_network import ORDER
from tests.unit.store.locked_etcd import Ground, ground

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed"),
]
MOST_S = 120.0
"""Only so that a test that waits for ever ends."""
SITES = ("east", "south")
"""Where a controller runs; west is what the plan loses."""
ESTATE = """evac: 1
sites: {{west: {{}}, east: {{}}, south: {{role: witness}}}}
pools:
  w: {{site: west, cpu: 8 cores, memory: 8 GiB, starts: 100 per minute}}
  e: {{site: east, cpu: 8 cores, memory: 8 GiB, starts: 100 per minute}}
services:
  web: {{tier: 1, people: 1 K, rto: 1 h, demand: {{cpu: 1 cores, memory: 1 GiB}}, replicas: {{w: 1}},
        start: 1 s, verify: 1 s, traffic: {{kind: none}}}}
endpoints:
  web-east: {{for: web, at: east, driver: process,
             settings: {{agent: 'https://{host}:{port}', secret: 'file:{key}', unit: web}}}}
"""
AGENT = """site = "east"
host = "{host}"
port = {port}
state = "state"
secret = {keys}
[tls]
cert = "file:{tls}/agent-a.pem"
key = "file:{tls}/agent-a.key"
ca = "file:{tls}/ca.pem"
[[units]]
name = "web"
argv = ["/bin/sh", "-c", "exec sleep 3600"]
"""


T = TypeVar("T")
TOPOLOGY = Topology("loopback", 0, (Site("a", 1, "127.0.0"),), "127.0.0.1")
HOST = TOPOLOGY.sites[0].host("agent")


async def strange(store: Store) -> list[str]:
    await all_entries(store, "")
    return list(strange_entries(store))


def secret(path: Path, text: str) -> str:
    """The reference of a file that only we can read."""
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.rename(path)
    return f"file:{path}"


class Company:
    """Two controllers and an agent over one etcd."""

    def __init__(self, made: Ground, folder: Path) -> None:
        self.made, self.folder, self.starts = made, folder, 0
        self.tls, self.port = made.certificates, free_port(HOST)
        self.user, self.seal = "evac", f"file:{made.secrets / 'seal'}"
        self.agents = {name: secret(folder / f"agent-{name}", name * 16) for name in ("old1", "new1")}
        secret(folder / "agent-key", "old1" * 16)
        (folder / "estate").mkdir()
        text = ESTATE.format(host=HOST, port=self.port, key=folder / "agent-key")
        (folder / "estate" / "estate.yaml").write_text(text)
        self.heads = {site: [new_key(folder / f"head-{site}")] for site in SITES}
        self.head_files = {site: folder / f"head-{site}" for site in SITES}
        self.approver = new_key(folder / "approver")
        self.write_policy()
        (folder / "agent").mkdir()
        self.write_agent("old1")
        argv = (sys.executable, "-m", "evac", "agent", str(folder / "agent" / "agent.toml"))
        self.agent = Process("agent", argv, folder / "agent.log")
        self.controllers: dict[str, Process] = {}

    @property
    def url(self) -> str:
        return self.url_with()

    def url_with(self, user: str = "", seal: str = "", tls: Path | None = None) -> str:
        shown = replace(self.made, certificates=tls or self.tls)
        return shown.url(**shown.users(user or self.user), seal=seal or self.seal)

    @property
    def estate(self) -> Path:
        return self.folder / "estate"

    def write_policy(self) -> None:
        keys = json.dumps(self.heads)
        text = f"mode: hold\napprovers: {{{runs.who_am_i()}: {self.approver}}}\ncontrollers: {keys}\n"
        new = self.folder / "policy.new"
        new.write_text(text)
        new.rename(self.estate / "policy.yaml")

    def write_agent(self, *keys: str) -> None:
        named = json.dumps([self.agents[key] for key in keys])
        text = AGENT.format(host=HOST, port=self.port, keys=named, tls=self.tls)
        (self.folder / "agent" / "agent.toml").write_text(text)

    def reload_agent(self, said: str = "certificates were reloaded") -> None:
        before = self.agent.log.read_text().count(said)
        self.agent.signal(signal.SIGHUP)
        self.agent.wait_until(lambda: self.agent.log.read_text().count(said) > before, MOST_S)

    def start(self, site: str) -> None:
        self.starts += 1
        argv = [sys.executable, "-m", "evac", "serve", str(self.estate), "--site", site, "--store", self.url]
        head = ("--no-watch", "--head-key", f"file:{self.head_files[site]}")
        log = self.folder / f"{site}-{self.starts}.log"
        made = Process(site, (*argv, *head), log, env=authorities.environment(self.tls, "a"))
        self.controllers[site] = made
        made.start()
        made.wait_until(lambda: self.leads(log), MOST_S)

    def restart(self) -> None:
        """One controller after another."""
        for site in SITES:
            self.controllers[site].stop()
            self.start(site)

    def read(self, what: Callable[[Store], Awaitable[T]], **other: Any) -> T:
        async def story() -> T:
            store = open_store(self.url_with(**other))
            try:
                return await what(store)
            finally:
                await store.close()

        return asyncio.run(story())

    def leads(self, log: Path) -> bool:
        """Whether someone leads, and this controller has begun."""
        up = log.exists() and "is running" in log.read_text()
        return up and self.read(lambda store: store.holder("leader")) is not None

    def phase(self) -> str:
        return self.read(lambda store: runs.view_of(store, self.run)).phase

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + MOST_S
        while not what():
            assert time.monotonic() < deadline, [one.last_lines() for one in self.controllers.values()]
            time.sleep(0.1)

    def evac(self, *words: str) -> int:
        return command([*words, "--store", self.url])

    def close(self) -> None:
        for one in (*self.controllers.values(), self.agent):
            one.stop()

    def order(self, key: str) -> str:
        """The code that the agent refuses an order with."""

        async def sent() -> str:
            client = AgentClient(peer_of(os.environ))
            try:
                await client.send(AgentAt("east", f"https://{HOST}:{self.port}", key), PATH, ORDER, MOST_S)
                return ""
            except ActionError as error:
                return error.code
            finally:
                await client.close()

        return asyncio.run(sent())

    def propose(self) -> None:
        plan = str(self.folder / "plan.json")
        assert command(["plan", str(self.estate), "--lose", "west", "-o", plan, "-q"]) == 0
        why = ("--reason", "drill", "--incident", "drill", "--confirm", "west", "--detach", "-q")
        key = ("--key", str(self.folder / "approver"))
        assert self.evac("apply", plan, str(self.estate), "--execute", *why, *key) == console.PAUSED
        (opened,) = self.read(lambda store: store.list("open/"))
        self.run = opened.key.removeprefix("open/")

    def approve(self, key: str) -> int:
        return self.evac("approve", self.run, "--reason", "drill", "-q", "--key", str(self.folder / key))

    # Each way of replacing a key, as the guide says it. What accepts changes before what signs.

    def replace_agents_key(self) -> None:
        self.write_agent("new1", "old1")
        self.reload_agent("the keys of this agent were reloaded: 2 accepted")
        secret(self.folder / "agent-key", "new1" * 16)
        self.write_agent("new1")
        self.reload_agent("the keys of this agent were reloaded: 1 accepted")

    def replace_seal(self) -> None:
        old, new = self.seal, secret(self.made.secrets / "seal-2", "seal-2" * 8)
        for self.seal in (f"{old},{new}", f"{new},{old}"):
            self.restart()
        assert self.evac("store", "seal") == 0
        self.seal = new
        self.restart()

    def replace_certificates(self) -> None:
        """First both sides believe the new authority, then they show what it signed, then it counts alone."""
        new = self.folder / "authority"
        authorities.make(new, TOPOLOGY)
        own, old = self.tls / "ca.pem", (self.tls / "ca.pem").read_bytes()
        own.write_bytes(old + (new / "ca.pem").read_bytes())
        self.reload_both()
        for path in sorted((*new.glob("*.key"), *new.glob("*-*.pem"), new / f"{authorities.OPERATOR}.pem")):
            secret(self.tls / path.name, path.read_text())
        own.write_bytes((new / "ca.pem").read_bytes())
        self.reload_both()

    def reload_both(self) -> None:
        self.reload_agent()
        self.made.member.stop()
        self.made.member.start()
        etcd.wait_for_all([self.made.member])
        self.until(lambda: self.read(lambda store: store.holder("leader")) is not None)

    def replace_user(self) -> None:
        password = "evac-2" * 8
        secret(self.made.secrets / "evac2", password)
        self.made.do(lambda root: etcd.add_user(root, "evac2", password, "evac/"), "root")
        self.user = "evac2"
        self.restart()
        self.made.do(lambda root: root.call("/v3/auth/user/delete", {"name": "evac"}), "root")

    def replace_approvers_key(self) -> None:
        self.approver = new_key(self.folder / "approver-2")
        self.write_policy()
        for one in self.controllers.values():
            self.until(lambda one=one: "the policy changed (approvers)" in one.log.read_text())

    def replace_head_keys(self) -> None:
        for site in SITES:
            self.heads[site].insert(0, new_key(self.folder / f"head-{site}-2"))
        self.write_policy()
        for site in SITES:
            self.head_files[site] = self.folder / f"head-{site}-2"
        self.restart()


REPLACED = (
    Company.replace_agents_key,
    Company.replace_seal,
    Company.replace_certificates,
    Company.replace_user,
    Company.replace_approvers_key,
    Company.replace_head_keys,
)


def test_a_run_waits_while_every_key_is_replaced_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ground() as made:
        made.lock()
        company = Company(made, tmp_path)
        for name, value in authorities.environment(company.tls).items():
            monkeypatch.setenv(name, value)
        try:
            company.agent.start()
            for site in SITES:
                company.start(site)
            company.propose()
            shutil.copytree(company.tls, tmp_path / "old-tls")
            for replace_key in REPLACED:
                replace_key(company)
                assert company.phase() == "awaiting_approval", replace_key.__name__
            for lost in (
                {"user": "evac"},
                {"seal": f"file:{made.secrets / 'seal'}"},
                {"tls": tmp_path / "old-tls"},
            ):
                with pytest.raises(EvacError):
                    company.read(lambda store: runs.view_of(store, company.run), **lost)
            assert company.order(company.agents["old1"]) == "agent-refused"
            assert company.approve("approver") != 0, "the old key of the approver"
            assert company.phase() == "awaiting_approval"
            assert company.approve("approver-2") == 0
            company.until(lambda: company.phase() == "succeeded")
            assert company.read(strange) == []
            verify = ("run", "verify", company.run, "--estate", str(company.estate))
            capsys.readouterr()
            assert company.evac(*verify) == 0, capsys.readouterr()
            assert "that controllers signed" in capsys.readouterr().out
        finally:
            company.close()
