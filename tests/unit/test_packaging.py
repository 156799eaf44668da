"""Units of systemd and the recipe of an image: checked by systemd where it is there, else by reading."""

from __future__ import annotations

import http.server
import importlib.metadata
import re
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from evac.app.healthcheck import check

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
RECIPE = (PACKAGING / "container" / "Containerfile").read_text()
EXPOSED_MOST = 15
"""Tenths; systemd calls up to 2.0 safe, and 9.6 what a unit is that says nothing."""


def settings(unit: Path) -> list[tuple[str, str]]:
    """Keys and values of a unit, in order."""
    lines = (line.strip() for line in unit.read_text().splitlines())
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return [(key.strip(), value.strip()) for key, _, value in pairs]


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on this machine")
    return program


def test_there_is_one_for_the_controller_and_one_for_the_agent() -> None:
    assert [unit.stem for unit in UNITS] == ["evac-agent", "evac-controller"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_it(unit: Path, analyze: str, tmp_path: Path) -> None:
    """With a program that is there: evac is not installed where tests run."""
    here = tmp_path / unit.name
    here.write_text(unit.read_text().replace("/opt/evac/bin/evac", "/bin/true"))
    command = [analyze, "verify", "--man=no", str(here)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert unit.stem not in done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_little_of_it_is_exposed(unit: Path, analyze: str) -> None:
    command = [analyze, "security", "--offline=true", f"--threshold={EXPOSED_MOST}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_it_is_watched_and_holds_no_secret(unit: Path) -> None:
    told = dict(settings(unit))
    assert (told["Type"], told["ProtectSystem"]) == ("notify", "strict")
    assert told["User"] not in ("", "root")
    assert int(told["WatchdogSec"]) > 0
    assert "LoadCredential" in told
    for key, value in settings(unit):
        assert not re.search(r"whsec_|password|token=|BEGIN ", value, re.IGNORECASE), key
        if key == "Environment":
            assert not re.search(r"SECRET|KEY|PASS", value)


def test_the_agent_is_one_user_for_its_unit_its_rules_and_those_who_make_users() -> None:
    """dbus-daemon turns away a user of `DynamicUser=`: systemd could be asked for nothing."""
    told = dict(settings(PACKAGING / "systemd" / "evac-agent.service"))
    assert "DynamicUser" not in told
    rules = (PACKAGING / "systemd" / "50-evac-agent.rules").read_text()
    assert f'subject.user === "{told["User"]}"' in rules
    made = (PACKAGING / "systemd" / "evac-agent.sysusers.conf").read_text()
    home = f"/var/lib/{told['StateDirectory']}"
    assert re.search(rf'^u {told["User"]} - ".+" {home} /usr/sbin/nologin$', made, re.MULTILINE)


def test_the_recipe_locks_what_it_installs_and_runs_as_nobody_special() -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", RECIPE, re.MULTILINE)
    assert [name for _, name in stages] == ["build", ""]
    assert all(base == "${BASE}" for base, _ in stages)
    assert "\nARG BASE\n" in RECIPE, "no base that moves"
    assert "*@sha256:*" in RECIPE
    assert RECIPE.count("uv sync --frozen --no-default-groups") == 2
    last = RECIPE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert 'ENTRYPOINT ["evac"]' in last
    assert not re.search(r"^(ADD|RUN curl|RUN wget)", RECIPE, re.MULTILINE)


def test_the_image_runs_code_that_it_cannot_change_and_was_built_from_known_files() -> None:
    last = RECIPE.rpartition("\nFROM ")[2]
    owned = re.findall(r"^COPY --from=build --chown=\S+ (\S+)", last, re.MULTILINE)
    assert owned == ["/opt/evac-kernels"], "only compiled kernels are the service's own"
    assert re.search(r"^COPY --from=build /opt/evac /opt/evac$", last, re.MULTILINE)
    assert "--require-hashes" in RECIPE
    assert not re.search(r"pip install (?!.*--require-hashes)", RECIPE)
    pinned = (PACKAGING / "container" / "uv.txt").read_text()
    assert re.match(r"uv==\d+\.\d+\.\d+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+$", pinned)


def test_the_recipe_names_what_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(re.findall(r"--extra (\S+)", RECIPE))
    optional = project["optional-dependencies"]
    (every,) = optional["all"]
    assert extras == {"all"}
    assert set(every.removeprefix("evac[").removesuffix("]").split(",")) == set(optional) - {"all", "lab"}
    ignored = (ROOT / ".containerignore").read_text().split()
    for line in re.findall(r"^COPY (?!--from)(.+)$", RECIPE, re.MULTILINE):
        for source in line.split()[:-1]:
            name = source.removeprefix("./")
            assert (ROOT / name).exists()
            assert f"!{name}" in ignored


def test_the_page_installs_where_the_units_look_and_never_by_a_copy() -> None:
    """An environment is made where it stays: its programs name their Python by its full path."""
    page = (ROOT / "docs" / "how-to" / "install.md").read_text()
    commands = " ".join(line.strip(" \\") for line in page.splitlines() if line.startswith("    "))
    (made,) = re.findall(
        r"UV_PROJECT_ENVIRONMENT=(\S+) UV_PYTHON=/usr/bin/python3 .*? uv sync --frozen", commands
    )
    version, link = re.findall(r"ln -sfn (\S+) (\S+)", commands)[0]
    assert made == f"{Path(link).parent}/{version}"
    assert all(dict(settings(unit))["ExecStart"].startswith(f"{link}/bin/evac ") for unit in UNITS)
    assert "--no-default-groups --no-editable" in commands
    assert not re.search(r"\b(cp|mv|rsync)\b", commands)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(r"--extra (\S+)", commands)) <= set(project["optional-dependencies"])


class _Room(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def room() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Room)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.enable_socket
def test_a_container_says_whether_it_is_well(room: str) -> None:
    assert check("") == ""
    assert check(f"{room}/healthz") == ""
    assert check(f"{room}/readyz") == "it returned status 503"
    assert check("http://127.0.0.1:1/healthz") == "no answer (ConnectionRefusedError)"
    assert check("http://192.0.2.7/healthz") == "EVAC_HEALTH is not an address of this machine"
    assert check("http://127.0.0.1:99999/") == "EVAC_HEALTH is not an address"


def test_no_dependency_installs_a_package_that_hides_a_folder_of_ours() -> None:
    """`python -m bench` finds what is installed first, as our folders are no packages."""
    assert {"tests", "bench", "scripts"}.isdisjoint(importlib.metadata.packages_distributions())


def test_a_library_is_pinned_where_more_of_it_is_used_than_its_manual_documents() -> None:
    """Its compiled code is run, and kept in files."""
    beyond = {path.stem for path in (ROOT / "src").rglob("*.py") if '"_nrt"' in path.read_text("utf-8")}
    assert beyond == {"compiling"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *(one for extra in project["project"]["optional-dependencies"].values() for one in extra),
        *(one for group in project["dependency-groups"].values() for one in group if isinstance(one, str)),
    ]
    known = [Requirement(one).specifier for one in wanted if Requirement(one).name == "numba"]
    assert len(known) == 2
    assert all(one.operator in {"<", ">="} for specifier in known for one in specifier)
    assert not any(specifier.contains("999") for specifier in known)
    locked = {
        one["name"]: one.get("version", "")
        for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    }
    assert all(specifier.contains(locked["numba"]) for specifier in known)
