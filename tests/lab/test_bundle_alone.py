"""Every site of evac burns, with all that it had there. Left are a bundle, people with shares, and the disk
of the backups, which someone carried away.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from evac.cli import console
from evac.cli.main import run
from evac.drivers.places import manifest_of
from evac_lab import authorities, faults
from evac_lab.state import LabFolder, living, store_url
from tests.contract.adapters import restic
from tests.contract.ports import free_port
from tests.contract.test_bundle_restores import APART, needs_apart
from tests.lab.conftest import running_lab, writes

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket, pytest.mark.slow]

SITES = ("pangyo", "anyang", "ansan")
LOST = [word for site in SITES for word in ("--confirm", site)]
SERVER = "restic-rest-server"
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "bundle.md"
_LAPTOP = """
import shlex, socket, subprocess, sys, time
ip, server, host, port, *argv = sys.argv[1:]
subprocess.run((ip, "link", "set", "lo", "up"), check=True)
if server:
    repository = subprocess.Popen(shlex.split(server), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while socket.socket().connect_ex((host, int(port))):
        assert repository.poll() is None, "the repository server does not start"
        time.sleep(0.02)
try:
    sys.exit(subprocess.run((sys.executable, "-m", "evac", *argv)).returncode)
finally:
    if server:
        repository.kill()
"""
"""Starts the repository server of the bundle at the address that the estate names, then runs evac: on a
machine that reaches only itself.
"""


class Company:
    """The lab, and in its estate code with backups on a disk, which a server at the first site serves."""

    def __init__(self, lab: LabFolder, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.data, self.disk, self.people = folder / "code", folder / "disk", folder / "people"
        self.estate = folder / "estate"
        self.host, self.port = lab.need().topology.site("pangyo").host("postgres"), free_port()
        self.people.mkdir()
        self.server: subprocess.Popen[bytes] | None = None

    def backs_up(self) -> None:
        restic.write_files(self.data)
        restic.restic("init", repository=self.disk / "code")
        words = (SERVER, "--no-auth", "--append-only", "--path", str(self.disk))
        self.server = subprocess.Popen(
            (*words, "--listen", f"{self.host}:{self.port}"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        shutil.copytree(self.lab.estate, self.estate)
        ends = yaml.safe_load((self.estate / "endpoints.yaml").read_text())["endpoints"]
        where = f"rest:http://{self.host}:{self.port}/code/"
        settings = {"repository": where, "password": f"env:{restic.VARIABLE}", "paths": [str(self.data)]}
        ends["code-copies"] = {"for": "code", "at": "pangyo", "driver": "restic", "settings": settings}
        (self.estate / "endpoints.yaml").write_text(yaml.safe_dump({"endpoints": ends}))
        backups = [{"at": "pangyo", "endpoint": "code-copies"}]
        policy = {"level": 4}
        code = {"kind": "repository", "at": "pangyo", "backups": backups, "backup_policy": policy}
        (self.estate / "code.yaml").write_text(yaml.safe_dump({"data_sets": {"code": code}}))

    @property
    def store(self) -> list[str]:
        return ["--store", store_url(self.lab.need().topology), "--who", "kim"]

    def burns(self) -> None:
        """Nothing of any site is left, not even its files."""
        for site in SITES:
            faults.burn(self.lab, site)
        assert self.server is not None
        self.server.kill()
        self.server.wait()
        for gone in (*SITES, "estate", "certificates", "secrets"):
            shutil.rmtree(self.lab.path / gone)
        shutil.rmtree(self.data)
        shutil.rmtree(self.estate)
        state = self.lab.need()
        assert not any(living(state, self.lab, site) for site in SITES)

    def at_the_laptop(
        self, argv: Sequence[str], env: Mapping[str, str], server: str = ""
    ) -> subprocess.CompletedProcess[str]:
        told = {"PATH": "/nowhere", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", **env}
        where = (shutil.which("ip") or "", server, self.host, str(self.port))
        whole = (shutil.which("unshare") or "", *APART[1:], sys.executable, "-c", _LAPTOP, *where, *argv)
        return subprocess.run(
            whole, env=told, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )

    def opens(self, people: int) -> subprocess.CompletedProcess[str]:
        shares = [word for path in sorted(self.people.iterdir())[:people] for word in ("--share", str(path))]
        argv = ["serve", "--bundle", "lab.bundle", "--into", "laptop", *shares, *LOST]
        return self.at_the_laptop([*argv, "--reason", "every site burnt", "--until-idle", "1s"], {})

    def as_documented(self, server: str) -> str:
        """The command that the guide gives for the server, with this disk and this address."""
        (line,) = re.findall(
            rf"^ +FOLDER/tools/{SERVER} (.*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE
        )
        here = {"/media/disk": str(self.disk), "10.1.0.9:8000": f"{self.host}:{self.port}"}
        return shlex.join((server, *(here.pop(word, word) for word in shlex.split(line))))

    def restores(self, env: Mapping[str, str], server: str = "") -> subprocess.CompletedProcess[str]:
        into = ["--into", str(self.folder / "restored"), "--store", "sqlite:laptop/evac.sqlite"]
        argv = ["backup", "restore", "laptop/estate", "code", *into, "--who", "kim"]
        return self.at_the_laptop(argv, env, server)


@pytest.fixture
def company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Company]:
    needs_apart()
    for program in ("restic", SERVER, "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    monkeypatch.setenv(restic.VARIABLE, restic.PASSWORD)
    monkeypatch.delenv("EVAC_STORE", raising=False)
    with running_lab() as lab:
        for name, path in authorities.environment(lab.certificates).items():
            monkeypatch.setenv(name, path)
        made = Company(lab, tmp_path)
        try:
            yield made
        finally:
            if made.server is not None:
                made.server.kill()
                made.server.wait()


def test_the_repository_server_and_what_it_serves_come_back_from_a_bundle_alone(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert writes(company.lab) >= 5, "the lab does not serve"
    company.backs_up()
    estate, kept = str(company.estate), manifest_of(company.data)
    assert run(["backup", "run", estate, "code", *company.store, "-q"]) == console.DONE
    tools = [word for name in ("restic", SERVER) for word in ("--tool", str(shutil.which(name)))]
    argv = ["bundle", estate, "-o", str(company.folder / "lab.bundle"), *company.store[:2], *tools, "--quiet"]
    assert run([*argv, "--share", "2/3", "--shares-to", str(company.people)]) == console.DONE
    company.burns()
    for name in [*authorities.environment(company.lab.certificates), restic.VARIABLE]:
        monkeypatch.delenv(name)

    few = company.opens(1)
    assert few.returncode == console.USAGE, few.stderr
    assert "share-missing" in few.stderr
    assert not (company.folder / "laptop").exists(), "one of three people opens nothing"
    opened = company.opens(2)
    assert opened.returncode == console.DONE, opened.stdout + opened.stderr
    (line,) = re.findall(r"in another terminal first: export (.*)", opened.stdout + opened.stderr)
    env = dict(word.partition("=")[::2] for word in shlex.split(line))

    silent = company.restores(env)
    assert silent.returncode != console.DONE, "the repository server burnt, too"
    assert "does not answer" in silent.stdout + silent.stderr
    assert not (company.folder / "restored").exists()
    server = shutil.which(SERVER, path=env["PATH"]) or ""
    assert Path(server).is_relative_to(company.folder / "laptop")
    documented = company.as_documented(server)
    done = company.restores(env, documented)
    assert done.returncode == console.DONE, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "it matches what was recorded when the backup was taken" in said, "the bundle lacks the witness"
    assert manifest_of(company.folder / "restored") == kept
    again = company.restores(env, documented)
    assert again.returncode != console.DONE
    assert "is not empty" in " ".join((again.stdout + again.stderr).split())
    assert manifest_of(company.folder / "restored") == kept, "nothing is overwritten"
