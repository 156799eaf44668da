"""Someone who carries the file of a bundle, and may change it or exchange it.

The worst they can do: read the estate, its plans and journals, and destroy the file. They change nothing
that anyone starts from: a changed bundle is refused, and the shares of its people open nothing in it. How
that is shown, each way of proving it, and what bundles of older formats need:
`tests/unit/bundle/test_bundle_proof.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evac.bundle import sealing
from evac.cli import bundle_command
from evac.estate.codecs.bundle import Source, open_bundle, write_bundle
from evac.model.errors import EvacError, NotAllowed
from tests.unit.bundle.test_bundle import digest_of, estate, make, opening
from tests.unit.bundle.test_bundle_proof import made, rewritten, shares_of
from tests.unit.engine import agents

pytestmark = pytest.mark.enable_socket
__all__ = ["made"]


def test_no_secret_comes_out_next_to_a_changed_estate(made: Path, tmp_path: Path) -> None:
    carried = rewritten(made, "estate/endpoints.yaml", b"127.0.0.1:9", b"10.6.6.6:9")
    for more in ({"shares": shares_of(tmp_path), "digest": ""}, {"digest": digest_of(made)}):
        with pytest.raises(EvacError):
            opening(tmp_path, carried, **more)
    assert not list(tmp_path.glob(".laptop*"))
    assert not any(agents.KEY.encode() in one.read_bytes() for one in tmp_path.rglob("*") if one.is_file())


def test_a_bundle_of_their_own_is_not_opened_with_our_shares(made: Path, tmp_path: Path) -> None:
    """Their lock, their secrets, their estate; our people notice because their shares are of another lock."""
    ours = shares_of(tmp_path)
    other = tmp_path / "theirs"
    (other / "shares").mkdir(parents=True)
    estate(other)
    theirs = make(other, store=None, shares=(2, 3), shares_to=(other / "shares",))
    with pytest.raises(EvacError, match="belongs to another bundle"):
        opening(tmp_path, theirs, shares=ours, digest="")
    with open_bundle(made) as found:
        lock = found.values["sealed"]
    with open_bundle(theirs) as found:
        parts = {name: found.read(name) for name in found.parts}
        kept = {key: value for key, value in found.values.items() if key not in ("kind", "version", "parts")}
    renamed = tmp_path / "renamed.bundle"
    kept["sealed"] = {**kept["sealed"], "name": lock["name"]}
    write_bundle(renamed, kept, [Source(name, data) for name, data in parts.items()])
    with pytest.raises(EvacError, match="do not open the bundle"):
        opening(tmp_path, renamed, shares=ours, digest="")


def test_without_shares_or_digest_or_signer_nothing_starts(tmp_path: Path) -> None:
    estate(tmp_path)
    bundle = make(tmp_path, store=None)
    with pytest.raises(NotAllowed, match="nothing proves that two"):
        opening(tmp_path, bundle, digest="")
    assert not (tmp_path / "laptop").exists()


def test_fewer_shares_than_needed_open_nothing(made: Path, tmp_path: Path) -> None:
    one = [sealing.read_share_file(next(iter((tmp_path / "shares").iterdir())))]
    with pytest.raises(EvacError, match="1 of the 2 required shares were given"):
        opening(tmp_path, made, shares=one, digest="")


def test_one_bad_share_keeps_nobody_out(made: Path, tmp_path: Path) -> None:
    """One share is forged, copied or from another bundle, and given first, last or twice."""
    paths = sorted((tmp_path / "shares").iterdir())
    first, *good = (sealing.read_share_file(path) for path in paths)
    stranger = replace(first, lock=replace(first.lock, name="0" * 16))
    false = replace(first, part=bytes(16))
    posed = replace(good[0], part=bytes(16))
    for bad in (stranger, false, posed):
        for given in ([bad, *good], [*good, bad], [bad, *good, bad]):
            with open_bundle(made) as found:
                sealed = found.values["sealed"]
                lock = sealing.Lock(sealed["name"], sealed["needed"], sealed["people"])
                opened = sealing.unlock(lock, found.read(sealed["part"]), given, found.content)
            assert agents.KEY in opened.values.values()
        with pytest.raises(EvacError):
            opening(tmp_path, made, shares=[bad, good[0]], digest="")


def test_a_share_file_that_is_spoiled_is_named_and_left_out(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted((tmp_path / "shares").iterdir())
    paths[0].write_text("evac-share-1 spoiled")
    assert [share.point for share in bundle_command._from_files(paths)] == [2, 3]
    assert f"left out: {paths[0]} is not a share line" in capsys.readouterr().err
    with pytest.raises(EvacError, match="is not a share line"):
        bundle_command._from_files(paths[:1])
