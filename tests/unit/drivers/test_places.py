"""Places are filled once, by one restore, from empty to complete."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evac.drivers.places import Record, manifest_of, place_at, refuse_older
from evac.model.errors import Permanent, Retryable
from tests.contract.capabilities.story import order


@pytest.mark.parametrize("name", ["", "relative", "/", "/top", "/a/../b", "/a/b/.."])
def test_a_place_is_a_full_path_below_a_folder(name: str) -> None:
    with pytest.raises(Permanent) as raised:
        place_at(name)
    assert raised.value.code == "place-wrong"


def test_a_place_that_holds_anything_is_refused(tmp_path: Path) -> None:
    at = place_at(str(tmp_path / "here"))
    at.refuse()
    at.path.mkdir()
    at.refuse()
    (at.path / ".hidden").touch()
    with pytest.raises(Permanent) as raised:
        at.refuse()
    assert raised.value.code == "place-not-empty"
    for name, make in (("file", lambda p: p.touch()), ("link", lambda p: p.symlink_to(tmp_path))):
        make(tmp_path / name)
        with pytest.raises(Permanent, match="is not a folder"):
            place_at(str(tmp_path / name)).refuse()
    (tmp_path / "not empty").mkdir()
    for name in ("no/such", "not empty/no/such"):
        with pytest.raises(Permanent, match="does not exist") as raised:
            place_at(str(tmp_path / name)).refuse()
        assert raised.value.code == "place-wrong"


def test_one_restore_holds_a_place_until_its_last_program_ends(tmp_path: Path) -> None:
    at = place_at(str(tmp_path / "here"))
    with at.held() as lock:
        assert at.is_held()
        with pytest.raises(Retryable), at.held():
            pass
        program = subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE, pass_fds=(lock,))
    with pytest.raises(Retryable), at.held():
        pass
    program.communicate(b"\n", timeout=20)
    with at.held():
        pass
    assert not at.is_held()


def test_a_record_outlives_a_process_and_refuses_older_leaders(tmp_path: Path) -> None:
    at = place_at(str(tmp_path / "here"))
    assert at.read() == Record()
    made = Record("run-1/step-1", 7, 3, "copy", 5, 9, 1_700_000_000, True, {"rows": 4})
    at.write(made)
    assert at.read() == made
    refuse_older(at, made, order())
    for stale in (replace(order(), token=6), replace(order(), epoch=2)):
        with pytest.raises(Permanent) as raised:
            refuse_older(at, made, stale)
        assert raised.value.code in ("stale-token", "superseded", "stale-epoch")
    for body in (b"", b"[", b"[]", b'{"facts": 5}', b'{"facts": {}, "odd": 1}', b"\xff"):
        at.record.write_bytes(body)
        with pytest.raises(Permanent):
            at.read()


def test_a_manifest_changes_with_every_byte_and_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"1" * 10)
    (tmp_path / "a" / "two").symlink_to("b/one")
    (tmp_path / "a" / "three").symlink_to("b")
    os.mkfifo(tmp_path / "a" / "pipe")
    first = manifest_of(tmp_path)
    assert (first.files, first.bytes) == (1, 10)
    (tmp_path / "a" / "b" / "one").write_bytes(b"1" * 9 + b"2")
    assert manifest_of(tmp_path).digest != first.digest
    (tmp_path / "a" / "b" / "one").write_bytes(b"1" * 10)
    assert manifest_of(tmp_path) == first
    (tmp_path / "a" / "b" / "one").rename(tmp_path / "a" / "b" / "other")
    assert manifest_of(tmp_path).digest != first.digest
