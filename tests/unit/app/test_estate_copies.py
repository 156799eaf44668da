"""Copies of an estate: whole, moved in one step, refused where files are not what they seem."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evac import estate as estates
from evac.app.estates.copies import (
    PREFIX,
    Copies,
    NotCopied,
    Standing,
    arguments_of,
    edition_of,
    read_standing,
    sweep,
    words_of,
)
from evac.model.errors import EstateError

ESTATE = "evac: 1\nname: {name}\nsites: {{pangyo: {{}}, anyang: {{}}}}\nservices: {{}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "estate"
    found.mkdir()
    (found / "estate.yaml").write_text(ESTATE.format(name="one"))
    (found / "access.yaml").write_text("not copied")
    (tmp_path / "base").mkdir()
    return found


def test_everybody_goes_over_by_one_move_of_a_link_and_an_edition_never_changes(folder: Path) -> None:
    copies = Copies(folder, base=folder.parent / "base")
    first = edition_of(copies.estate)
    assert estates.load(first).name == "one"
    assert [one.name for one in Path(first).iterdir()] == ["estate.yaml"]
    (folder / "estate.yaml").write_text(ESTATE.format(name="two"))
    made = copies.copy()
    assert made.digest != copies.used.digest
    assert edition_of(copies.estate) == first, "nobody uses it yet"
    copies.use(made)
    assert (estates.load(edition_of(copies.estate)).name, estates.load(first).name) == ("two", "one")
    copies.use(copies.copy())
    assert not Path(first).exists(), "the one before is kept, those before it are not"
    assert oct(copies.root.stat().st_mode)[-3:] == "700"
    copies.close()
    assert list((folder.parent / "base").iterdir()) == []


def test_the_policy_goes_with_it_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    (folder / "policy.yaml").write_text("mode: hold\n")
    named = tmp_path / "other.yaml"
    named.write_text("mode: act\n")
    beside = Copies(folder, base=tmp_path / "base")
    other = Copies(folder / "estate.yaml", named, tmp_path / "base")
    assert beside.policy is not None
    assert beside.policy.read_text() == "mode: hold\n"
    assert other.policy is not None
    assert other.policy.read_text() == "mode: act\n"
    assert estates.load(other.estate).name == "one"
    told = ["x", "--store", "s", "--policy", "p"]
    assert arguments_of(beside, told[:3]) == [str(beside.estate), "--store", "s"]
    assert arguments_of(other, told, room=True) == [
        str(other.estate),
        "--store",
        "s",
        "--policy",
        str(other.policy),
        "--standing",
        str(other.standing),
    ]
    (folder / "policy.yaml").write_text("mode: act\n")
    made = beside.with_policy_of(beside.copy(), beside.used)
    assert made.policy is not None
    assert made.policy.read_text() == "mode: hold\n"
    for copies in (beside, other):
        copies.close()


def test_what_is_not_what_it_seems_is_not_copied(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (tmp_path / "secret.yaml").write_text("evac: 1\n")
    link = folder / "b.yaml"
    link.symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(NotCopied, match="points outside"):
        Copies(folder, base=base)
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(NotCopied, match="regular file"):
        Copies(folder, base=base)
    link.unlink()
    for name in ("servers.csv", "servers.parquet"):
        (folder / name).write_text("")
    with pytest.raises(EstateError, match="1 problem"):
        Copies(folder, base=base)
    with pytest.raises(EstateError):
        Copies(tmp_path / "nowhere", base=base)
    assert list(base.iterdir()) == [], "nothing is left of what failed"


def test_what_a_killed_controller_left_is_taken_away_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    code = (
        "import os, sys; from pathlib import Path; from evac.app.estates.copies import Copies; "
        "print(Copies(Path(sys.argv[1]), base=Path(sys.argv[2])).root, flush=True); os._exit(9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, folder, base], capture_output=True, text=True, check=False
    )
    left = Path(killed.stdout.strip())
    sweep(base)
    assert left.is_dir(), "it may just be made"
    os.utime(left, (1_000_000_000, 1_000_000_000))
    stranger = base / f"{PREFIX}stranger"
    stranger.mkdir()
    (base / f"{PREFIX}link").symlink_to(folder)
    lives = Copies(folder, base=base)
    assert not left.exists()
    os.utime(lives.root, (1_000_000_000, 1_000_000_000))
    sweep(base)
    assert lives.root.is_dir(), "its controller holds it"
    assert stranger.is_dir()
    assert (folder / "estate.yaml").is_file()
    lives.close()


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"taken_ms": 1}', b'{"taken_ms": "x", "problems": 0}'])
def test_a_standing_that_cannot_be_read_is_none(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "standing.json").write_bytes(text)
    assert read_standing(tmp_path / "standing.json") is None
    assert read_standing(tmp_path / "nothing") is None


def test_a_standing_is_read_as_it_was_said_and_put_into_words(folder: Path, tmp_path: Path) -> None:
    copies = Copies(folder, base=tmp_path / "base")
    at_ms = 14 * 3_600_000 + 17 * 60_000
    bad = Standing(at_ms, 3, "estate.yaml:4:2: no such site", "", at_ms + 1, placed=True)
    copies.say(bad)
    assert read_standing(copies.standing) == bad
    assert words_of(bad) == (
        "the estate on disk has 3 problems, evac continues with the one from 14:17 UTC; the first is "
        "estate.yaml:4:2: no such site"
    )
    assert words_of(Standing(at_ms)) == ""
    copies.close()


@pytest.mark.parametrize("first", ["cannot copy it", "a:1:2: no such file"])
def test_whether_a_problem_has_a_place_is_not_read_from_its_text(first: str) -> None:
    loaded = Standing(0, 1, first, "", 1, placed=True)
    assert words_of(loaded).startswith("the estate on disk has 1 problem")
    assert words_of(replace(loaded, placed=False)).startswith(f"the estate on disk was not loaded: {first}")


FULL = """
import os, sys
from dataclasses import replace
from pathlib import Path
from evac.app.estates.copies import Copies, NotCopied, Standing, read_standing, words_of
estate, base = Path(sys.argv[1]), Path(sys.argv[2])
copies = Copies(estate, base=base)
copies.say(Standing(1_000))
with (base / "fill").open("wb", buffering=0) as fill:
    try:
        while True:
            fill.write(bytes(4096))
    except OSError:
        pass
(estate / "estate.yaml").write_text("evac: 1\\nname: two\\n")
try:
    copies.copy()
except NotCopied as error:
    print(error.message)
copies.say(Standing(1_000, 1, "it is full"))
print(read_standing(copies.standing).first)
(base / "fill").unlink()
print(copies.copy().estate.exists())
copies.say(Standing(2_000))
print((copies.root / "spare").stat().st_size)
copies.close()
print(list(base.iterdir()))
"""


def test_a_full_disk_is_said_and_gone_on_from(folder: Path, tmp_path: Path) -> None:
    """On a real one, which takes a mount of its own."""
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=128k none {small}"
    own = ["unshare", "--mount", "--map-root-user", "sh", "-ec"]
    if shutil.which("unshare") is None or subprocess.run([*own, mount], check=False).returncode:
        pytest.skip("no mount of its own can be had here")
    code = f'{mount}; exec "$0" -c "$1" "$2" "$3"'
    told = subprocess.run(
        [*own, code, sys.executable, FULL, folder, small], capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines() == [
        f"cannot copy it to {small}: No space left on device",
        "it is full",
        "True",
        "16384",
        "[]",
    ]


def test_what_has_no_line_of_a_file_is_said_as_it_is() -> None:
    standing = Standing(1_000, 1, "cannot copy it to /tmp: No space left on device", "", 1_000)
    assert words_of(standing).startswith("the estate on disk was not loaded: cannot copy it to /tmp")
