"""All sites are gone: what was backed up comes back from a bundle, on a machine that has no network."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from evac.bundle import contents
from evac.cli import console
from evac.cli.main import run
from evac.drivers.places import manifest_of
from tests.contract.adapters import restic

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket]

ESTATE = """\
evac: 1
name: tools
sites: {{north: {{}}, south: {{}}}}
services:
  git: {{people: 10, replicas: 1, sites: [north]}}
data_sets:
  code:
    kind: repository
    at: north
    used_by: [git]
    backups: [{{at: south, endpoint: code-disk}}]
endpoints:
  code-disk:
    for: code
    at: south
    driver: restic
    settings: {{repository: {repository}, password: "env:EVAC_TEST_RESTIC", paths: [{data}]}}
  north-agent:
    for: git
    at: north
    driver: process
    settings: {{agent: "http://127.0.0.1:9/", secret: "env:EVAC_TEST_AGENT", unit: git}}
"""
APART = ("unshare", "--net", "--map-root-user")
"""No network at all, not even of this machine."""


@pytest.fixture
def company(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A company whose code is backed up to a disk that someone carries away."""
    if shutil.which("restic") is None:
        pytest.skip("restic is not installed")
    monkeypatch.setenv(restic.VARIABLE, restic.PASSWORD)
    monkeypatch.setenv("EVAC_TEST_AGENT", "a key that the agent knows, too: 0123456789")
    monkeypatch.delenv("EVAC_STORE", raising=False)
    restic.write_files(server_folder / "data")
    disk = server_folder / "disk"
    restic.restic("init", repository=disk)
    restic.restic("backup", "--quiet", str(server_folder / "data"), repository=disk)
    (server_folder / "estate").mkdir()
    text = ESTATE.format(repository=disk, data=server_folder / "data")
    (server_folder / "estate" / "estate.yaml").write_text(text)
    (server_folder / "people").mkdir()
    return server_folder


def bundle_of(company: Path, *more: str) -> Path:
    argv = ["bundle", str(company / "estate"), "-o", str(company / "pocket.bundle"), *more]
    shares = ["--share", "2/3", "--shares-to", str(company / "people")]
    assert run([*argv, *shares, "--quiet"]) == console.DONE
    return company / "pocket.bundle"


def apart(
    company: Path, argv: Sequence[str], env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs evac where there is no network and no program but those of the bundle."""
    told = {"PATH": "/nowhere", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", **(env or {})}
    whole = (shutil.which("unshare") or "", *APART[1:], sys.executable, "-m", "evac", *argv)
    return subprocess.run(whole, env=told, cwd=company, capture_output=True, text=True, check=False)


def served(company: Path, people: int) -> subprocess.CompletedProcess[str]:
    """What people type who have the bundle and their shares in one folder; it ends once nothing is to do."""
    shares = [str(path.relative_to(company)) for path in sorted((company / "people").iterdir())[:people]]
    given = [word for share in shares for word in ("--share", share)]
    lost = ["--confirm", "north", "--confirm", "south", "--reason", "every site is gone"]
    argv = ["serve", "--bundle", "pocket.bundle", "--into", "laptop", *given, *lost, "--until-idle", "1s"]
    return apart(company, argv)


def needs_apart() -> None:
    if shutil.which("unshare") is None or subprocess.run((*APART, "true"), check=False).returncode:
        pytest.skip("no network of its own can be had here")


@pytest.mark.parametrize("more", [(), ("--encrypt",)])
def test_what_is_gone_comes_back_from_a_bundle_without_a_network(
    company: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    needs_apart()
    bundle_of(company, "--tool", str(shutil.which("restic")), *more)
    monkeypatch.delenv(restic.VARIABLE)
    kept = manifest_of(company / "data")
    shutil.rmtree(company / "data")  # every site is gone, and with them what evac ran on
    shutil.rmtree(company / "estate")

    few = served(company, 1)
    assert few.returncode == console.USAGE, few.stderr
    assert "share-missing" in few.stderr
    assert not (company / "laptop").exists(), "one of three people opens nothing"

    done = served(company, 2)
    assert done.returncode == console.DONE, done.stdout + done.stderr
    (line,) = re.findall(r"another terminal first: export (.*)", done.stdout + done.stderr)
    env = dict(word.partition("=")[::2] for word in shlex.split(line))
    asked = ["backup", "restore", "laptop/estate", "code", "--into", str(company / "restored")]
    asked += ["--store", "sqlite:laptop/evac.sqlite", "--who", "kim"]
    without = apart(company, asked, {**env, "PATH": "/nowhere"})
    assert without.returncode != 0, "the machine itself has no program that could restore it"
    assert "restic is not installed" in without.stdout + without.stderr
    assert not (company / "restored").exists()
    restored = apart(company, asked, env)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert manifest_of(company / "restored") == kept

    again = served(company, 0)
    assert again.returncode == console.DONE, again.stdout + again.stderr
    assert "generation 1 continues in laptop" in again.stdout + again.stderr
    events = apart(company, ["backup", "history", "code", *asked[6:8], "--output", "json"])
    assert [row["outcome"] for row in json.loads(events.stdout)["events"]] == ["done", "failed"]


def test_a_bundle_says_which_programs_of_restores_it_lacks(company: Path) -> None:
    bundle = bundle_of(company)
    left = {row["what"]: row["why"] for row in contents.look(bundle, 0)["left_out"]}
    assert "restores of code use it" in left["the program restic"]
    assert "--tool" in left["the program restic"]
    (company / "pocket.bundle").unlink()
    shutil.rmtree(company / "people")
    (company / "people").mkdir()
    whole = bundle_of(company, "--tool", str(shutil.which("restic")))
    assert "the program restic" not in {row["what"] for row in contents.look(whole, 0)["left_out"]}


@pytest.mark.parametrize("wrong", ["no program", "twice"])
def test_a_tool_that_cannot_be_carried_is_refused(
    company: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = company / "other" / "restic"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o644 if wrong == "no program" else 0o755)
    argv = ["bundle", str(company / "estate"), "-o", str(company / "pocket.bundle"), "--tool", str(other)]
    assert run([*argv, "--tool", str(shutil.which("restic"))]) == 2
    assert {"no program": "tool-unusable", "twice": "tool-twice"}[wrong] in capsys.readouterr().err
    assert not (company / "pocket.bundle").exists()
