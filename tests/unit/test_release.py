"""A release says what it is made of and from what, and a changed file is found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from evac.engine.runs.signatures import new_key

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "release.py"


def release(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)


def test_a_release_is_signed_and_says_what_it_needs(tmp_path: Path) -> None:
    public = new_key(tmp_path / "key")
    dist = tmp_path / "dist"
    dist.mkdir()
    assert release("make", str(dist)).returncode == 2
    (dist / "evac-0.1.0-py3-none-any.whl").write_bytes(b"a wheel")
    made = release("make", str(dist), "--key", str(tmp_path / "key"))
    assert made.returncode == 0, made.stderr
    sbom = json.loads((dist / "sbom.cdx.json").read_text())
    names = {one["name"] for one in sbom["components"]}
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    assert {"click", "cryptography", "fastapi", "argon2-cffi"} <= names
    assert not names & {"pytest", "mypy", "evac"}, "what only development needs is not in it"
    assert all(
        file["hashes"][0]["content"] for one in sbom["components"] for file in one["externalReferences"]
    )
    told = json.loads((dist / "provenance.json").read_text())
    assert [one["name"] for one in told["subject"]] == ["evac-0.1.0-py3-none-any.whl"]
    assert release("check", str(dist), "--public", public).returncode == 0
    other = new_key(tmp_path / "other")
    assert "not signed with this key" in release("check", str(dist), "--public", other).stderr
    (dist / "evac-0.1.1-py3-none-any.whl").write_bytes(b"planted")
    planted = release("check", str(dist), "--public", public)
    assert planted.returncode == 1
    assert planted.stderr == "error: evac-0.1.1-py3-none-any.whl is in the folder and was not signed\n"
    (dist / "evac-0.1.1-py3-none-any.whl").unlink()
    signature = dist / "SHA256SUMS.sig"
    for changed in (signature.read_text()[:-1] + "\r", None):
        signature.write_text(changed) if changed else signature.unlink()
        assert "not signed with this key" in release("check", str(dist), "--public", public).stderr
    assert release("make", str(dist), "--key", str(tmp_path / "key")).returncode == 0
    (dist / "evac-0.1.0-py3-none-any.whl").write_bytes(b"another wheel")
    changed = release("check", str(dist), "--public", public)
    assert (changed.returncode, "evac-0.1.0-py3-none-any.whl is not what was signed" in changed.stderr) == (
        1,
        True,
    )


def test_openssl_checks_a_release_as_the_page_says(tmp_path: Path) -> None:
    """Before anything of it runs. A changed file or signature ends the commands with an error."""
    public, dist = new_key(tmp_path / "key"), tmp_path / "dist"
    dist.mkdir()
    (dist / "evac-0.1.0-py3-none-any.whl").write_bytes(b"a wheel")
    assert release("make", str(dist), "--key", str(tmp_path / "key")).returncode == 0
    page = (SCRIPT.parents[1] / "SECURITY.md").read_text()
    block = re.findall(r"^    (.*)$", page.split("obtained separately:")[1], re.MULTILINE)
    commands = "\n".join(block).replace("DIST", "dist").replace("KEY", public)

    def fails() -> bool:
        done = subprocess.run(["bash", "-ec", commands], cwd=tmp_path, capture_output=True, check=False)
        return done.returncode != 0

    assert "openssl" in commands
    assert not fails()
    assert release("check", str(dist), "--public", public).returncode == 0, "the commands leave nothing there"
    whole = {path: path.read_bytes() for path in dist.iterdir()}
    for path, data in whole.items():
        path.write_bytes(data[:-2] + b"0" + data[-1:])
        assert fails(), path.name
        path.write_bytes(data)
    assert not fails()
