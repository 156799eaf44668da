"""`evac access list`: who may do what, for the people who certify it again."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from evac.cli.main import run as command

KEY = "N3MJrD6+ePcWnxQqMT5MxtOOIZWGjirexqBQmDUyf0U="
ACCESS = f"""\
people:
  kim: {{role: approver, key: "{KEY}", password: env:KIM}}
  sam: {{role: viewer, certificate: "sha256:{"a" * 64}"}}
  vi: {{role: viewer}}
tokens:
  ci: {{role: operator, hash: "sha256:{"b" * 64}", ends: "2027-01-01T00:00:00Z"}}
  dash: {{role: viewer, hash: "sha256:{"c" * 64}", of: kim}}
tls: {{cert: /c.pem, key: /k.pem, client_ca: /a.pem}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "access.yaml").write_text(ACCESS)
    (tmp_path / "policy.yaml").write_text(f'approvers: {{kim: "{KEY}"}}\ncontrollers: {{east: "{KEY}"}}\n')
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], folder: Path, output: str) -> str:
    assert command(["access", "list", str(folder), "--output", output]) == 0
    return capsys.readouterr().out


def test_everyone_whom_the_files_name_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(told(capsys, folder, "json"))["rows"]
    found = {(one["kind"], one["name"]): one for one in rows}
    assert found.keys() == {
        *(("person", name) for name in ("kim", "sam", "vi")),
        *(("token", name) for name in ("ci", "dash")),
        ("approver", "kim"),
        ("controller", "east"),
    }
    assert "approve" in found["person", "kim"]["may"]
    assert found["person", "kim"]["proof"] == "password, signature, break-glass credential"
    assert found["person", "sam"]["proof"] == "client certificate"
    assert found["person", "vi"]["proof"] == "none: cannot sign in"
    assert found["token", "ci"]["may"].endswith("cannot attest or approve anything")
    assert found["token", "ci"]["until"]
    assert found["token", "dash"]["proof"] == "token, acts for kim"
    assert "person kim (approver): read, hold" in told(capsys, folder, "text")
    table = list(csv.DictReader(io.StringIO(told(capsys, folder, "csv"))))
    assert [dict(row) for row in table] == rows


def test_no_cell_is_a_formula_and_no_file_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evac.app.access import MayDo
    from evac.cli.access_command import may_csv

    assert ",'=1+1," in may_csv([MayDo("group", "=1+1", "viewer", "read", "login")])
    assert command(["access", "list", str(tmp_path)]) == 2
    assert "is not a folder with an access.yaml or a policy.yaml" in capsys.readouterr().err
