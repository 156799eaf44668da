"""An opening that is cut off at any moment: nothing opened stays beside, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evac.bundle import sealing
from evac.bundle import sealing as bundle_folder
from evac.model.errors import InvalidInput, StoreError
from evac.net import secrets
from evac.store.generation import read_generation
from evac.store.port import Put, Store
from tests.unit.bundle.test_bundle import estate, fill, make, opening, with_store
from tests.unit.engine import agents

pytestmark = pytest.mark.enable_socket

KILLED = """\
import os, signal, sys
from pathlib import Path
from evac.bundle import opening as bundle_opening, sealing
from evac.bundle import sealing as bundle_folder
folder, bundle, store, *shares = sys.argv[1:]
def killed(made):
    assert (made / "opened.json").exists()
    os.kill(os.getpid(), signal.SIGKILL)
bundle_folder._make_durable = killed
bundle_opening.open_from(
    bundle_opening.OpeningRequest(
        Path(bundle), Path(folder) / "laptop", "kim", "fire",
        [sealing.read_share_file(Path(share)) for share in shares], ("north",), store=store,
    ),
    1_790_000_000_000,
)
"""


def left_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.startswith("."))


def cut_off(folder: Path, bundle: Path, store: str = "", shares: tuple[Path, ...] = ()) -> Path:
    """What a process leaves that was killed when everything was written, before it took its place."""
    words = [str(one) for one in (folder, bundle, store, *shares)]
    ended = subprocess.run([sys.executable, "-c", KILLED, *words], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = left_in(folder)
    return left


def leftover(folder: Path, name: str = ".laptop.999999999.new") -> Path:
    path = folder / name
    (path / "break-glass").mkdir(parents=True)
    (path / "break-glass" / "key").write_text("in the clear")
    return path


def test_what_a_killed_opening_left_is_gone_at_the_next_and_the_store_it_filled_is_taken(
    tmp_path: Path,
) -> None:
    estate(tmp_path)
    fill(f"sqlite:{tmp_path}/old.sqlite", ("open/run-1", {"incident": "i"}))
    bundle = make(tmp_path, shares=(2, 2), shares_to=(tmp_path,))
    files = tuple(sorted(tmp_path.glob("evac-share-*")))
    store = f"sqlite:{tmp_path}/elsewhere.sqlite"
    left = cut_off(tmp_path, bundle, store, files)
    assert any(agents.KEY in path.read_text() for path in (left / "break-glass").iterdir() if path.is_file())
    filled = with_store(store, read_generation)
    shares = [sealing.read_share_file(path) for path in files]

    def refused(**other: Any) -> None:
        with pytest.raises(StoreError) as error:
            opening(tmp_path, bundle, **({"store": store, "shares": shares} | other))
        assert (error.value.code, left_in(tmp_path)) == ("store-not-empty", [])
        assert not (tmp_path / "laptop").exists()

    refused(reason="another")
    refused(who="lee")
    refused(generation=2)
    opened = opening(tmp_path, bundle, store=store, shares=shares)
    assert (opened.generation, opened.again, opened.held) == (1, False, ("run-1",))
    assert with_store(store, read_generation) == filled
    assert filled.opener.encode() in (tmp_path / "laptop" / "opened.json").read_bytes()
    assert secrets.resolve(agents.REFERENCE, {secrets.OPENED: str(opened.secrets)}).reveal() == agents.KEY
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("key", "value"), [("sites", b"{}"), ("zones", b"{}"), ("generation", None)])
def test_a_store_that_holds_anything_else_is_not_taken(tmp_path: Path, key: str, value: bytes | None) -> None:
    """Something changed, something more, or another opener of the same number."""
    estate(tmp_path)
    fill(f"sqlite:{tmp_path}/old.sqlite")
    bundle, store = make(tmp_path), f"sqlite:{tmp_path}/elsewhere.sqlite"
    first = opening(tmp_path, bundle, store=store)

    async def changed(at: Store) -> bytes:
        entry = await at.get(key)
        new = value if value is not None else b'{"number":1,"opener":"0","at_ms":5}'
        await at.transact((), (Put(key, new),))
        assert entry is None or entry.value != new
        return new

    kept = with_store(store, changed)
    with pytest.raises(StoreError) as error:
        opening(tmp_path, bundle, store=store, into=tmp_path / "other")
    assert (error.value.code, "the same command" in str(error.value.hint)) == ("store-not-empty", True)

    async def still(at: Store) -> bytes | None:
        entry = await at.get(key)
        return None if entry is None else entry.value

    assert with_store(store, still) == kept
    assert first.folder.is_dir()


def test_only_leftovers_of_this_folder_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    estate(tmp_path)
    bundle = make(tmp_path, store=None)
    others = [
        leftover(tmp_path, name)
        for name in (".other.7.new", ".laptop.7", "laptop.7.new", ".laptop.07.new", ".laptop.7.new.new")
    ]
    dead, room = leftover(tmp_path), leftover(tmp_path, "room")
    (tmp_path / ".laptop.8.new").symlink_to(room)
    (tmp_path / ".laptop.9.new").write_text("a file")
    opening(tmp_path, bundle)
    assert not dead.exists()
    assert all((path / "break-glass" / "key").is_file() for path in (*others, room))
    assert (tmp_path / ".laptop.8.new").is_symlink()
    assert (tmp_path / ".laptop.9.new").is_file()
    again = leftover(tmp_path)
    assert opening(tmp_path, bundle).again
    assert not again.exists()


def test_one_at_a_time_opens_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estate(tmp_path)
    bundle = make(tmp_path, store=None)

    def refused(code: str) -> str:
        with pytest.raises(InvalidInput) as error:
            opening(tmp_path, bundle)
        assert (error.value.code, bool(error.value.hint)) == (code, True)
        assert not (tmp_path / "laptop").exists()
        return error.value.message

    with monkeypatch.context() as other, bundle_folder.beside(tmp_path / "laptop") as alive:
        (alive / "opened.json").write_text("{}")
        other.setattr(os, "getpid", lambda: 999_999_999)
        refused("bundle-busy")
        # Two that begin at the same moment: each sees the other at the latest when it has a place itself.
        with pytest.raises(InvalidInput) as error, bundle_folder.beside(tmp_path / "laptop"):
            raise AssertionError
        assert error.value.code == "bundle-busy"
        assert left_in(tmp_path) == [alive]
        assert (alive / "opened.json").is_file()
    assert left_in(tmp_path) == []
    foreign = leftover(tmp_path)
    (foreign / "diary").write_text("of somebody")
    assert "'diary'" in refused("bundle-leftover")
    assert (foreign / "diary").is_file()
    assert (foreign / "break-glass" / "key").is_file()
    (foreign / "diary").unlink()

    def no_locks(*_: object) -> None:
        raise OSError(9, os.strerror(9))

    monkeypatch.setattr(bundle_folder.fcntl, "flock", no_locks)
    assert "cannot tell" in refused("bundle-leftover")
    (foreign / "break-glass" / "key").unlink()
    (foreign / "break-glass").rmdir()
    foreign.rmdir()
    assert opening(tmp_path, bundle).generation == 1


def test_what_took_the_place_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, target = tmp_path / "made", tmp_path / "laptop"
    made.mkdir()
    (made / "new").write_text("new")
    target.mkdir()
    (target / "old").write_text("old")
    synced, real = [], os.fsync

    def told(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", told)
    with pytest.raises(InvalidInput) as error:
        bundle_folder.put(made, target)
    assert error.value.code == "bundle-folder"
    assert [path.name for path in target.iterdir()] == ["old"]
    synced.clear()
    bundle_folder.put(made, tmp_path / "free")
    assert synced == ["new", "made", tmp_path.name]
