"""Places are filled once, by one restore, from empty to complete."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.drivers.backup_command.driver import BackupCommandDriver
from evac.drivers.copy_folder import files_of
from evac.drivers.places import (
    LARGE_BYTES,
    EarlyDigests,
    Record,
    RestorePlace,
    SourceWitness,
    everything_below,
    manifest_of,
    mounted_at,
    place_at,
    refuse_older,
)
from evac.drivers.port import Action
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
    with pytest.raises(Permanent, match="is a mount point") as raised:
        RestorePlace(Path("/proc")).refuse()
    assert raised.value.code == "place-wrong"
    with pytest.raises(Permanent, match="above does not exist") as raised:
        place_at(str(tmp_path / "above" / "here")).refuse()
    assert raised.value.hint == f"create it: mkdir -p {tmp_path / 'above'}"
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
    assert at.lock.exists(), "the program holds it"
    program.communicate(b"\n", timeout=20)
    with at.held():
        pass
    assert not at.is_held()
    assert list(tmp_path.iterdir()) == [], "no lock stays next to the folder"
    with mock.patch.object(Path, "unlink", side_effect=OSError), at.held():
        pass
    assert not at.is_held(), "though the file could not be removed"


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


SIZES = st.sampled_from((0, 5, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 7))


@given(st.lists(SIZES, min_size=1, max_size=4), st.data())
def test_files_that_were_read_early_give_the_same_manifest(sizes: list[int], data: st.DataObject) -> None:
    """Whichever were named as complete, also those that are not there, and those that were replaced since."""
    with TemporaryDirectory() as name:
        folder = Path(name, "place")
        folder.mkdir()
        for number, size in enumerate(sizes):
            (folder / f"f{number}").write_bytes(bytes([number]) * size)
        (folder / "link").symlink_to("f0")
        os.mkfifo(folder / "pipe")
        (folder.parent / "outside").write_bytes(b"o" * LARGE_BYTES)
        others = ["link", "pipe", "missing", "../outside", "f0/below"]
        named = [f"f{number}" for number in range(len(sizes))]
        with closing(EarlyDigests(folder)) as early:
            for one in data.draw(st.lists(st.sampled_from([*named, *others]))):
                early.written(f"/{one}", LARGE_BYTES)
            if data.draw(st.booleans()):
                again = folder / "again"
                again.write_bytes(b"another" * LARGE_BYTES)
                again.replace(folder / data.draw(st.sampled_from(named)))
            assert manifest_of(folder, early) == manifest_of(folder)


def test_what_was_read_early_is_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"1" * LARGE_BYTES)
    with closing(EarlyDigests(tmp_path)) as early:
        early.written("/large", LARGE_BYTES)
        with mock.patch("evac.drivers.places.length_and_digest", side_effect=AssertionError):
            assert manifest_of(tmp_path, early).bytes == LARGE_BYTES


def test_an_early_reader_stops_within_a_file(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(4 << 30)  # sparse, and many seconds to read
    with closing(EarlyDigests(tmp_path)) as early:
        early.written("/large", 4 << 30)
        early.close()
        assert early.digest(large, large.lstat()) is None


@contextmanager
def unreadable(folder: Path, code: int) -> Iterator[None]:
    """As if the disk refused a folder: also root is then refused, as by a file server or a bad disk."""
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == folder:
            raise OSError(code, os.strerror(code), str(path))
        return real(path)

    with mock.patch("os.scandir", scandir):
        yield


WALKS: tuple[Callable[[Path], object], ...] = (
    manifest_of,
    files_of,
    lambda folder: list(everything_below(folder)),
    lambda folder: SourceWitness().facts([str(folder)]),
)


@given(
    st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8),
    st.data(),
)
def test_no_walk_leaves_out_what_it_cannot_read(folders: set[tuple[str, ...]], data: st.DataObject) -> None:
    """Whichever folder of whatever tree refuses, and for whatever reason: no answer, and its name."""
    with TemporaryDirectory() as name:
        top = Path(name)
        for parts in folders:
            top.joinpath(*parts).mkdir(parents=True, exist_ok=True)
            top.joinpath(*parts, "file").write_bytes(b"content")
        every = sorted({top} | {path for path in top.rglob("*") if path.is_dir()})
        refuses = data.draw(st.sampled_from(every))
        code = data.draw(st.sampled_from([errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOENT]))
        for walk in WALKS:
            walk(top)
            with unreadable(refuses, code), pytest.raises((OSError, Retryable)) as raised:
                walk(top)
            if isinstance(raised.value, OSError):
                assert raised.value.filename == str(refuses)
            else:
                assert raised.value.code == "source-unread"
                assert str(refuses) in raised.value.message


def test_a_folder_too_deep_to_be_named_is_not_left_out(tmp_path: Path) -> None:
    """No patch: a path of more than 4,096 bytes cannot be opened by its name, whoever asks."""
    with chdir(tmp_path):
        for _ in range(30):
            Path("d" * 200).mkdir()
            os.chdir("d" * 200)
        Path("file").write_bytes(b"content")
    for walk in WALKS:
        with pytest.raises((OSError, Retryable)):
            walk(tmp_path)


def test_a_restored_folder_that_cannot_be_read_proves_nothing_and_is_removed(tmp_path: Path) -> None:
    """The tool says that all is well, and evac cannot look: neither good nor damaged."""
    listed = {"repository": "shed", "copies": [{"id": "1", "taken_at": 5}], "tool": "shed", "version": "1"}
    restore = (
        "import os; os.chdir(os.environ['EVAC_PLACE']); open('seen', 'w').write('x')\n"
        "for _ in range(30): os.mkdir('d' * 200); os.chdir('d' * 200)\n"
        "open('file', 'w').write('content'); print('{}')"
    )
    settings: dict[str, Any] = {
        "list_argv": (sys.executable, "-c", f"print({json.dumps(json.dumps(listed))})"),
        "restore_argv": (sys.executable, "-c", restore),
    }
    driver, place = BackupCommandDriver(), tmp_path / "place"
    action = Action("restore", "wiki", "backup_command", "here", settings)
    with pytest.raises(Retryable) as raised:
        asyncio.run(driver.restore(action, 60.0, "1", str(place), None))
    assert raised.value.code == "restore-unread"
    assert str(place.parent) in raised.value.message
    assert not place.exists()
    assert not place_at(str(place)).partial.exists()


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1))
def test_mount_points_are_read_as_the_kernel_writes_them(name: str) -> None:
    escaped = b"".join(
        b"\\%03o" % byte if byte in b" \t\n\\" else bytes((byte,)) for byte in f"/mnt/{name}".encode()
    )
    assert (
        mounted_at(b"36 35 98:0 / " + escaped + b" rw,noatime - ext4 /dev/root rw\n")
        == f"/mnt/{name}".encode()
    )


@pytest.mark.parametrize("of_a_run", [False, True])
def test_what_appears_in_a_place_while_it_is_filled_is_not_taken_for_the_restored_data(
    tmp_path: Path, of_a_run: bool
) -> None:
    place = tmp_path / "place"
    listed = {"repository": "r", "tool": "t", "version": "1", "copies": [{"id": "1", "taken_at": 5}]}
    restore = (
        "import os; os.chdir(os.environ['EVAC_PLACE']); open('file', 'w').write('content')\n"
        f"os.mkdir({str(place)!r}); open({str(place / 'foreign')!r}, 'w'); print('{{}}')"
    )
    settings: dict[str, Any] = {
        "list_argv": (sys.executable, "-c", f"print({json.dumps(json.dumps(listed))})"),
        "restore_argv": (sys.executable, "-c", restore),
        "place": str(place),
    }
    driver, at = BackupCommandDriver(), place_at(str(place))
    action = Action("restore", "wiki", "backup_command", "here", settings)
    asked = (
        driver.execute(action, order()) if of_a_run else driver.restore(action, 60.0, "1", str(place), None)
    )
    with pytest.raises(Permanent) as raised:
        asyncio.run(asked)  # type: ignore[arg-type]
    assert raised.value.code == "place-unusable"
    assert [path.name for path in place.iterdir()] == ["foreign"]
    assert not at.partial.exists()
    assert not at.read().complete
    assert at.record.exists() == of_a_run
    assert asyncio.run(driver.observe(action, order())).outcome == "absent"
    # Killed after the record, before the folder got its name.
    at.write(Record(order().key, complete=True))
    at.partial.mkdir()
    assert asyncio.run(driver.observe(action, order())).outcome == "absent"
    at.partial.rmdir()
    assert asyncio.run(driver.observe(action, order())).outcome == "done"
