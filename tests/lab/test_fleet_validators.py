"""DMTF's own validators, run for real against one controller of a fleet."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.fleets import Running, running

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers, pytest.mark.slow]

_SCHEMAS = "EVAC_REDFISH_SCHEMAS"
_OPTIONS = ("--servers", "3", "--faults", "none", "--latency", "0", "--tls")


def _need(module: str, program: str) -> str:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def _run(argv: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and output."""
    # These would take the place of the authority that is named.
    env = {name: value for name, value in os.environ.items() if not name.endswith("CA_BUNDLE")}
    done = subprocess.run(
        argv, cwd=folder, env=env, timeout=120, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _login(fleet: Running, address: str) -> list[str]:
    return ["--user", fleet.about["user"], f"--password={fleet.password}", "--rhost", address]


@pytest.mark.parametrize("which", ["server", "switchgear"])
def test_the_protocol_validator_finds_no_failure(tmp_path: Path, which: str) -> None:
    program = _need("redfish_protocol_validator", "rf_protocol_validator")
    with running(tmp_path, *_OPTIONS) as fleet:
        address = fleet.url(0) if which == "server" else fleet.circuits
        argv = [program, *_login(fleet, address), "--ca-bundle", fleet.about["ca"], "--avoid-http-redirect"]
        _, output = _run([*argv, "--report-dir", str(tmp_path / "report"), "--report-type", "tsv"], tmp_path)
    report = next((tmp_path / "report").glob("*.tsv"), None)
    assert report is not None, output
    with report.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if len(row) > 5]
    failed = [row for row in rows if "FAIL" in row]
    assert not failed, failed
    assert sum("PASS" in row for row in rows) > 250, output


def test_the_service_validator_finds_no_failure(tmp_path: Path) -> None:
    program = _need("redfish_service_validator", "rf_service_validator")
    schemas = os.environ.get(_SCHEMAS, "")
    if not schemas or not any(Path(schemas).glob("*.xml")):
        pytest.skip(
            f"it needs DMTF's schema files (DSP8010, the folder csdl), from the network: set {_SCHEMAS}"
        )
    with running(tmp_path, *_OPTIONS) as fleet:
        argv = [program, *_login(fleet, fleet.url(0)), "--skipschema", "--schema_directory", schemas]
        code, output = _run([*argv, "--logdir", str(tmp_path)], tmp_path)
    assert code == 0, output[-3_000:]
    # Without the schemas it passes over everything with a warning, and calls that a success.
    counts = re.findall(r"\|\s*(\d+)\s*\|\s*(\d+)\s*\|\s*(\d+)\s*\|", re.sub(r"\x1b\[\d*m", "", output))
    assert counts, output[-3_000:]
    assert int(counts[-1][0]) > 100, output[-3_000:]
