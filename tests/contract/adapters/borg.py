"""Real repositories of Borg for the suites."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from evac.drivers.borg import DRIVER
from evac.drivers.borg.driver import BorgDriver
from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.port import Action, Value, Verb
from tests.contract.adapters.command import script
from tests.contract.adapters.restic import flip, places_below, write_files
from tests.contract.capabilities.story import Case
from tests.contract.capabilities.suites import Adapter, AskedBackups, AskedRestore

PASSPHRASE = "harbour-of-archives-12"
VARIABLE = "EVAC_TEST_BORG"


@dataclass(slots=True)
class Archives:
    """Data in `folder/data`, and one archive of it in the repository `one`."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def env(self) -> dict[str, str]:
        return {
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_REPO": str(self.folder / "one"),
            "BORG_BASE_DIR": str(self.folder / "base"),
            "BORG_EXIT_CODES": "modern",
            "BORG_CHECK_I_KNOW_WHAT_I_AM_DOING": "YES",
            "PATH": os.environ["PATH"],
        }

    def borg(self, *argv: str, allowed: tuple[int, ...] = (0,)) -> str:
        """Runs Borg past the driver."""
        done = subprocess.run(("borg", *argv), env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode in allowed, done.stderr
        return done.stdout

    def action(self, **more: Value) -> Action:
        settings: dict[str, Value] = {
            "repository": str(self.folder / "one"),
            "passphrase": f"env:{VARIABLE}",
            "base": str(self.folder / "base"),
            "paths": (str(self.data),),
            **more,
        }
        return Action("restore", "store-messages", "borg", "ansan", settings)

    async def change(self) -> None:
        (self.data / "inner" / "another").write_bytes(os.urandom(5_000))

    @contextmanager
    def held(self) -> Iterator[None]:
        holds = ("borg", "with-lock", str(self.folder / "one"), "cat")
        with subprocess.Popen(holds, env=self.env, stdin=subprocess.PIPE) as holder:
            while not list((self.folder / "one").glob("lock.exclusive/*")):
                assert holder.poll() is None
                time.sleep(0.02)
            yield
            assert holder.stdin is not None
            holder.stdin.close()

    async def corrupt(self) -> None:
        """Which segments hold what: Borg writes it again from the segments."""
        (index,) = (self.folder / "one").glob("index.*")
        flip(index)

    async def spoil(self) -> None:
        """One bit of the content of a file."""
        segments = (path for path in (self.folder / "one" / "data").glob("*/*"))
        flip(max(segments, key=lambda path: path.stat().st_size), 9_000)


@contextmanager
def archives(folder: Path) -> Iterator[Archives]:
    if shutil.which("borg") is None:
        pytest.skip("borg is not installed")
    os.environ[VARIABLE] = PASSPHRASE
    world = Archives(folder)
    try:
        write_files(world.data)
        (folder / "places").mkdir()
        world.borg("init", "--encryption=repokey-blake2")
        world.borg("create", "::first", str(world.data))
        yield world
    finally:
        del os.environ[VARIABLE]


@contextmanager
def _backups(folder: Path) -> Iterator[AskedBackups]:
    with archives(folder) as world:
        (folder / "wrong").write_text("another passphrase")
        (folder / "wrong").chmod(0o600)
        slow, real = folder / "slow", shutil.which("borg")
        wait = f"while [ -e {slow} ]; do sleep 0.05; done"
        program = script(folder, "borg", wait, f'exec {real} "$@"')

        async def silence() -> None:
            slow.touch()

        async def speak() -> None:
            slow.unlink()

        yield AskedBackups(
            BorgDriver(),
            world.action(program=program),
            silence,
            speak,
            secrets=(PASSPHRASE,),
            change=world.change,
            spoil=world.spoil,
            lacking=world.action(paths=(str(world.data), "/nowhere/at/all")),
            wrong={
                "backup-password": world.action(passphrase=f"file:{folder}/wrong"),
                "backup-other-repository": world.action(repository_id="0" * 64),
                "backup-no-repository": world.action(repository=f"{folder}/three"),
                "backup-tool-missing": world.action(program="/nowhere/borg"),
            },
            deletable=True,
            parts=1,
            disk=folder / "one",
            held=world.held,
            corrupt=world.corrupt,
        )


@contextmanager
def _restores(folder: Path) -> Iterator[AskedRestore]:
    with archives(folder) as world:
        left, holds, fill = places_below(folder)

        async def ready() -> None:
            return

        yield AskedRestore(
            BorgDriver(),
            world.action(),
            ready,
            secrets=(PASSPHRASE,),
            place=folder / "places" / "here",
            holds=holds,
            spoil=world.spoil,
            left=left,
            fill=fill,
        )


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with archives(folder) as world:
        left, holds, _ = places_below(folder)
        place = folder / "places" / "here"

        async def is_done() -> bool:
            return await holds(place)

        action = world.action(place=str(place))
        yield Case(BorgDriver(), action, left, is_done, tokens=True, epochs=True, secrets=(PASSPHRASE,))


ADAPTER = Adapter(DRIVER, acts={RestoresData: _acts}, asks={TakesBackups: _backups, RestoresData: _restores})
