"""What shows that a bundle is the one that was made, and what a changed one gives away: nothing."""

from __future__ import annotations

import base64
import subprocess
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from evac.bundle import sealing
from evac.bundle.making import CHECK
from evac.bundle.proof import check_signer, signed_by
from evac.cli import console
from evac.cli.main import run
from evac.estate.codecs import bundle as bundle_format
from evac.estate.codecs.bundle import BundleDamaged, Source, open_bundle, write_bundle
from evac.model.errors import InvalidInput, NotAllowed
from tests.unit.bundle.test_bundle import digest_of, estate, fill, make, opening

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A bundle whose secrets two of three people open."""
    estate(tmp_path)
    fill(f"sqlite:{tmp_path}/old.sqlite")
    (tmp_path / "shares").mkdir()
    return make(tmp_path, shares=(2, 3), shares_to=(tmp_path / "shares",))


def shares_of(folder: Path) -> list[sealing.Share]:
    return [sealing.read_share_file(path) for path in sorted((folder / "shares").iterdir())[:2]]


def key_file(folder: Path) -> tuple[Path, str]:
    """A new private key, and its public one in base64."""
    key = Ed25519PrivateKey.generate()
    path = folder / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return path, base64.b64encode(raw).decode()


def rewritten(bundle: Path, part: str, old: bytes, new: bytes, values: dict[str, Any] | None = None) -> Path:
    """As someone does who carries it: a part is changed, and the manifest is made to fit."""
    target = bundle.with_name("carried.bundle")
    with open_bundle(bundle) as found:
        parts = {name: found.read(name) for name in found.parts}
        kept = {key: value for key, value in found.values.items() if key not in ("kind", "version", "parts")}
    assert old in parts[part]
    parts[part] = parts[part].replace(old, new)
    sources = [Source(name, data) for name, data in parts.items()]
    write_bundle(target, {**kept, **(values or {})}, sources)
    return target


def test_shares_open_nothing_in_a_bundle_in_which_anything_was_changed(made: Path, tmp_path: Path) -> None:
    shares = shares_of(tmp_path)
    for part, old, new in (
        ("estate/endpoints.yaml", b"127.0.0.1:9", b"10.6.6.6:9"),
        ("estate/policy.yaml", b"advise", b"act   "),
        ("START.txt", b"evac", b"EVAC"),
    ):
        carried = rewritten(made, part, old, new)
        assert run(["bundle", "verify", str(carried)]) == console.DONE, "in itself it is whole"
        with pytest.raises(InvalidInput) as caught:
            opening(tmp_path, carried, shares=shares, digest="")
        assert caught.value.code == "share-wrong"
        assert not (tmp_path / "laptop").exists()
    assert opening(tmp_path, made, shares=shares, digest="").secrets is not None


def test_no_bundle_is_opened_that_nothing_proves(made: Path, tmp_path: Path) -> None:
    carried = rewritten(made, "estate/endpoints.yaml", b"127.0.0.1:9", b"10.6.6.6:9")
    for digest, code in (
        ("", "bundle-unproven"),
        (digest_of(made)[:8], "digest-short"),
        (digest_of(made), "bundle-other"),
    ):
        with pytest.raises((NotAllowed, InvalidInput)) as caught:
            opening(tmp_path, carried, digest=digest)
        assert caught.value.code == code
    assert opening(tmp_path, made, digest=f"sha256:{digest_of(made)[:16]}").generation == 1
    assert opening(tmp_path, made, digest="").again, "what was opened here before goes on"


def test_a_signature_shows_who_made_it(tmp_path: Path) -> None:
    estate(tmp_path)
    key, public = key_file(tmp_path)
    made = make(tmp_path, store=None, sign=key)
    with open_bundle(made) as found:
        assert signed_by(found) == public
    (tmp_path / "public").write_text(public + "\n")
    for trusted in (public, str(tmp_path / "public")):
        assert run(["bundle", "verify", str(made), "--signer", trusted]) == console.DONE
    other = base64.b64encode(bytes(32)).decode()
    assert run(["bundle", "verify", str(made), "--signer", other]) == console.NOT_ALLOWED
    with pytest.raises(NotAllowed, match="is signed by the owner of"):
        opening(tmp_path, made, digest="", signer=other)
    carried = rewritten(made, "estate/policy.yaml", b"advise", b"act   ")
    with open_bundle(carried) as found, pytest.raises(BundleDamaged, match="does not match this manifest"):
        check_signer(found, public)
    assert run(["bundle", "verify", str(carried)]) == console.FAILED
    unsigned = rewritten(made, "estate/policy.yaml", b"advise", b"act   ", {"signature": None})
    with pytest.raises(NotAllowed, match="signed by nobody"):
        opening(tmp_path, unsigned, digest="", signer=public)
    assert opening(tmp_path, made, digest="", signer=public).generation == 1


def test_a_bundle_of_an_older_format_needs_its_digest(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seal covers only itself, so shares prove nothing of the estate next to it."""
    lock, data, _, shares = sealing.lock_up(sealing.Material({"env:A": "secret"}, {}), b"", 2, 3)
    with open_bundle(made) as found:
        parts = {name: found.read(name) for name in found.parts}
        kept = {key: value for key, value in found.values.items() if key not in ("kind", "version", "parts")}
    parts[kept["sealed"]["part"]] = data
    kept["sealed"] = {**kept["sealed"], **lock.values(), "files": []}
    monkeypatch.setattr(bundle_format, "VERSION", 1)
    older = tmp_path / "older.bundle"
    write_bundle(older, kept, [Source(name, one) for name, one in parts.items()])
    monkeypatch.undo()
    with pytest.raises(NotAllowed, match="older format, whose seal covers only itself"):
        opening(tmp_path, older, shares=shares[:2], digest="")
    assert opening(tmp_path, older, shares=shares[:2]).secrets is not None


def test_every_share_file_has_the_digest(made: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "shares").iterdir():
        assert f"sha256:{digest_of(made)}" in path.read_text()
        assert CHECK.format(file=made.name) in path.read_text()


def printed(bundle: Path) -> str:
    """What the command of the guide prints, typed without evac."""
    guide = (Path(__file__).parents[3] / "docs" / "how-to" / "bundle.md").read_text()
    command = CHECK.format(file="shop.bundle")
    assert command in guide
    told = subprocess.run(
        ["/bin/sh", "-c", command.replace("shop.bundle", bundle.name)],
        cwd=bundle.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip()


def test_a_bundle_is_checked_before_evac_is_installed_from_it(made: Path) -> None:
    whole = made.read_bytes()
    assert printed(made) == f"sha256:{digest_of(made)}"
    with warnings.catch_warnings(action="ignore"):  # zipfile warns of a name that is there twice
        for name in ("wheelhouse/evac-99-py3-none-any.whl", "START.txt", "manifest.json"):
            made.write_bytes(whole)
            with zipfile.ZipFile(made, "a") as archive:
                archive.writestr(name, b"theirs")
            assert not printed(made).startswith("sha256:"), name
    made.write_bytes(whole)
    other = rewritten(made, "START.txt", b"evac", b"EVAC")
    assert printed(other) not in ("", f"sha256:{digest_of(made)}"), "another digest, which a person compares"
