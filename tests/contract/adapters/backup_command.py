"""Programs that keep copies of a folder in another one, for the suites."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from evac.drivers.backup_command import DRIVER
from evac.drivers.backup_command.driver import BackupCommandDriver
from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.port import Action, Value, Verb
from tests.contract.adapters.command import script
from tests.contract.adapters.restic import flip, places_below, write_files
from tests.contract.capabilities.hostile import ProgramWire
from tests.contract.capabilities.story import Case
from tests.contract.capabilities.suites import Adapter, AskedBackups, AskedRestore

SECRET = "key-of-the-shed-5"
PROGRAM = """
import hashlib, json, os, shutil, sys, time
what, root = sys.argv[1], sys.argv[2]
kept = os.path.join(root, "kept")

def read(folder):
    found = {}
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            if not os.path.islink(path):
                found[path] = open(path, "rb").read()
    return found

def digest(folder):
    parts = sorted((os.path.relpath(path, folder), body) for path, body in read(folder).items())
    return hashlib.sha256(repr(parts).encode()).hexdigest()

def listed():
    notes = [os.path.join(kept, name) for name in os.listdir(kept) if name.endswith(".json")]
    return sorted((json.load(open(note)) for note in notes), key=lambda one: one["id"])

if what == "list":
    said = {"repository": "shed", "copies": listed(), "tool": "shed", "version": "1", "deletable": True}
elif what == "take":
    id_ = str(len(listed()) + 1)
    shutil.copytree(os.path.join(root, "data"), os.path.join(kept, id_), symlinks=True)
    sizes = [len(body) for body in read(os.path.join(kept, id_)).values()]
    copy = {"id": id_, "taken_at": int(time.time()), "bytes": sum(sizes), "files": len(sizes)}
    copy["tree"] = digest(os.path.join(kept, id_))
    json.dump(copy, open(os.path.join(kept, id_ + ".json"), "w"))
    said = {"copy": copy, "bytes_read": sum(sizes), "bytes_stored": sum(sizes)}
elif what == "prove":
    part, of, read_ = int(os.environ["EVAC_PART"]), int(os.environ["EVAC_OF"]), 0
    good, all_ = True, sum(one["bytes"] for one in listed())
    for place, one in enumerate(listed()):
        if os.environ["EVAC_LEVEL"] == "2" and place % of == part - 1:
            read_ += one["bytes"]
            good = good and digest(os.path.join(kept, one["id"])) == one["tree"]
    said = {"outcome": "passed" if good else "damaged", "bytes_read": read_, "repository": "shed"}
    said["share_read"] = read_ * 1000000 // all_
elif what == "restore":
    id_ = os.environ["EVAC_COPY"]
    (copy,) = [one for one in listed() if one["id"] == id_]
    if digest(os.path.join(kept, id_)) != copy["tree"]:
        sys.exit("the copy is damaged: " + os.environ["KEY"])
    shutil.copytree(os.path.join(kept, id_), os.environ["EVAC_PLACE"], symlinks=True, dirs_exist_ok=True)
    said = {"bytes": copy["bytes"], "reached_at": copy["taken_at"], "facts": {"rows": 4}}
print(json.dumps(said))
"""


@contextmanager
def shed(folder: Path) -> Iterator[tuple[Action, Path]]:
    """The action, and a file that makes every program wait while it is there."""
    os.environ["SHED_KEY"] = SECRET
    write_files(folder / "data")
    (folder / "kept").mkdir()
    (folder / "shed.py").write_text(PROGRAM, encoding="utf-8")
    slow = folder / "slow"
    wait = f"while [ -e {slow} ]; do sleep 0.05; done"
    program = script(folder, "shed", wait, f'exec {sys.executable} -SE {folder}/shed.py "$@"')
    settings: dict[str, Value] = {
        f"{what}_argv": (program, what, str(folder)) for what in ("list", "take", "prove", "restore")
    }
    settings |= {"env": ("KEY=env:SHED_KEY",), "place": str(folder / "places" / "here")}
    (folder / "places").mkdir()
    subprocess.run((program, "take", str(folder)), check=True, stdout=subprocess.DEVNULL)
    yield Action("restore", "store-messages", "backup_command", "ansan", settings), slow
    del os.environ["SHED_KEY"]


def through(action: Action, program: str) -> Action:
    argv = (program, *action.settings["list_argv"][1:])  # type: ignore[index]
    return replace(action, settings={**action.settings, "list_argv": argv})


async def _spoil(folder: Path) -> None:
    flip(folder / "kept" / "1" / "inner" / "file-3")


@contextmanager
def _backups(folder: Path) -> Iterator[AskedBackups]:
    with shed(folder) as (action, slow):
        (folder / "wire").mkdir()

        async def silence() -> None:
            slow.touch()

        async def speak() -> None:
            slow.unlink()

        async def change() -> None:
            (folder / "data" / "another").write_bytes(b"1")

        async def spoil() -> None:
            await _spoil(folder)

        def with_(**settings: Value) -> Action:
            return replace(action, settings={**action.settings, **settings})

        yield AskedBackups(
            BackupCommandDriver(),
            action,
            silence,
            speak,
            secrets=(SECRET,),
            wires=(ProgramWire(str(folder / "shed"), folder / "wire", through, turns=1, bounded=False),),
            change=change,
            spoil=spoil,
            wrong={
                "backup-other-repository": with_(repository_id="another"),
                "backup-tool-missing": with_(list_argv=("/nowhere/shed",)),
                "setting-missing": with_(list_argv=()),
                "backup-output": with_(list_argv=("/bin/echo", json.dumps({"copies": [{"id": 5}]}))),
            },
            deletable=True,
        )


@contextmanager
def _restores(folder: Path) -> Iterator[AskedRestore]:
    with shed(folder) as (action, _):
        left, holds, fill = places_below(folder)

        async def spoil() -> None:
            await _spoil(folder)

        yield AskedRestore(
            BackupCommandDriver(),
            action,
            spoil,
            secrets=(SECRET,),
            place=folder / "places" / "here",
            holds=holds,
            spoil=spoil,
            left=left,
            fill=fill,
        )


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with shed(folder) as (action, _):
        left, holds, _ = places_below(folder)

        async def is_done() -> bool:
            return await holds(folder / "places" / "here")

        yield Case(BackupCommandDriver(), action, left, is_done, tokens=True, epochs=True, secrets=(SECRET,))


ADAPTER = Adapter(
    DRIVER,
    acts={RestoresData: _acts},
    asks={TakesBackups: _backups, RestoresData: _restores},
    marks=(),
)
