"""A release says what it is made of and from what, and a changed file is found."""

from __future__ import annotations

import json
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
