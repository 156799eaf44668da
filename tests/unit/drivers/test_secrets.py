"""Secrets by reference: what is read, what is refused, and that nothing shows them."""

from __future__ import annotations

import copy
import os
import pickle
import traceback
from pathlib import Path

import pytest

from evac.model.errors import Permanent
from evac.net.secrets import HIDDEN, MAX_SECRET_BYTES, Secret, resolve, scrub

TEXT = "correct-horse"


def file(folder: Path, data: bytes, mode: int = 0o600) -> str:
    path = folder / "secret"
    path.write_bytes(data)
    path.chmod(mode)
    return f"file:{path}"


def test_a_reference_is_read_late(tmp_path: Path) -> None:
    assert resolve("env:KEY", {"KEY": TEXT}).reveal() == TEXT
    assert resolve(file(tmp_path, b"correct-horse\n")).reveal() == TEXT
    assert resolve(file(tmp_path, b"correct-horse\r\n")).reveal() == TEXT
    assert resolve(file(tmp_path, b" two\nlines \n")).reveal() == " two\nlines "


def test_nothing_shows_it() -> None:
    secret = Secret(TEXT, "env:KEY")
    shown = f"{secret} {secret!r} {secret:>40} {[secret]} {vars.__name__}" + "%s" % secret  # noqa: UP031
    assert TEXT not in shown
    assert "env:KEY" in shown
    assert HIDDEN in repr(Secret(TEXT))
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="never be written anywhere"):
            write(secret)


@pytest.mark.parametrize(
    "reference", [TEXT, "", "env:", "file:", "file:relative/path", "command:cat /etc/shadow", "ENV:KEY", ":x"]
)
def test_a_secret_written_in_place_of_a_reference_is_refused_and_not_repeated(reference: str) -> None:
    with pytest.raises(Permanent) as caught:
        resolve(reference, {"KEY": TEXT})
    words = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert not reference or reference == ":x" or reference not in words.replace("env:NAME or file:/path", "")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for reference in ("env:NOT_THERE", f"file:{tmp_path}/not-there"):
        with pytest.raises(Permanent) as caught:
            resolve(reference, {})
        assert caught.value.code == "secret-missing"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o646, 0o777])
def test_a_file_that_everybody_can_read_or_write_is_no_secret(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Permanent, match="by everyone"):
        resolve(file(tmp_path, b"x", mode))


def test_a_file_is_bounded_and_plain(tmp_path: Path) -> None:
    for data, code in [
        (b"x" * (MAX_SECRET_BYTES + 1), "secret-too-large"),
        (b"\xff\xfe", "secret-unreadable"),
        (b"\n", "secret-missing"),
    ]:
        with pytest.raises(Permanent) as caught:
            resolve(file(tmp_path, data))
        assert caught.value.code == code
    with pytest.raises(Permanent, match="is not a file"):
        resolve(f"file:{tmp_path}")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(Permanent, match="is not a file"):
        resolve(f"file:{tmp_path / 'pipe'}")
    with pytest.raises(Permanent, match="more than"):
        resolve("env:KEY", {"KEY": "x" * (MAX_SECRET_BYTES + 1)})


def test_a_link_to_a_closed_file_is_read_as_orchestrators_mount_them(tmp_path: Path) -> None:
    reference = file(tmp_path, b"correct-horse\n")
    (tmp_path / "link").symlink_to(reference.removeprefix("file:"))
    assert resolve(f"file:{tmp_path / 'link'}").reveal() == TEXT


def test_bytes_of_a_secret_that_is_no_text_are_not_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(Permanent) as caught:
        resolve(file(tmp_path, TEXT.encode() + b"\xff"))
    assert TEXT not in "".join(traceback.format_exception(caught.value))


def test_words_of_others_are_scrubbed() -> None:
    said = scrub("login root:correct-horse failed, correct-horse!", [Secret(TEXT), Secret("")])
    assert said == f"login root:{HIDDEN} failed, {HIDDEN}!"


def test_equal_secrets_are_equal_and_keys_of_a_table() -> None:
    assert Secret("a", "env:A") == Secret("a", "env:A")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a", "env:A"), Secret("a", "env:A")}) == 1
