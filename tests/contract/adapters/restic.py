"""Real repositories of restic for the suites, behind an append-only rest-server."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from evac.drivers.capabilities import RestoresData, TakesBackups
from evac.drivers.places import manifest_of
from evac.drivers.port import Action, Value, Verb
from evac.drivers.restic import DRIVER
from evac.drivers.restic.driver import ResticDriver
from tests.contract.capabilities.hostile import ProgramWire
from tests.contract.capabilities.story import Case, until_stopped
from tests.contract.capabilities.suites import Adapter, AskedBackups, AskedRestore
from tests.contract.ports import free_port

PASSWORD = "harbour-of-copies-88"
VARIABLE = "EVAC_TEST_RESTIC"


def restic(
    *argv: str, repository: Path | str, allowed: tuple[int, ...] = (0,), more: Mapping[str, str] | None = None
) -> str:
    """Runs restic past the driver; more: of its environment."""
    env = {"RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(repository), "PATH": os.environ["PATH"]}
    env |= more or {}
    done = subprocess.run(
        ("restic", *argv, "--no-cache"), env=env, capture_output=True, text=True, timeout=60.0, check=False
    )
    assert done.returncode in allowed, done.stderr
    return done.stdout


def write_files(folder: Path, count: int = 12, size: int = 9_000) -> None:
    """Files whose content is known and does not compress."""
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / "inner" / f"file-{number}").write_bytes(os.urandom(size))
    (folder / "link").symlink_to("inner/file-0")


@cache
def _templates() -> Path:
    """A repository and an empty one, both made once: deriving their keys takes most of a test."""
    folder = Path(tempfile.mkdtemp(prefix="evac-restic-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("one", "two"):
        restic("init", repository=folder / name)
        _weaken(folder / name)
    return folder


def _weaken(repository: Path) -> None:
    """Keeps the key of a repository under its password in the cheapest way that restic reads. Deriving it
    from the password takes half a second in each call.
    """
    (path,) = (repository / "keys").iterdir()
    key = json.loads(path.read_text())
    sealed = b64decode(key["data"])
    plain = _seal(key, sealed[:16], sealed[16:-16])[16:-16]
    key |= {"N": 2, "r": 1, "p": 1}
    body = json.dumps(key | {"data": b64encode(_seal(key, sealed[:16], plain)).decode()}).encode()
    path.unlink()
    path.with_name(hashlib.sha256(body).hexdigest()).write_bytes(body)


def _seal(key: Mapping[str, Any], nonce: bytes, body: bytes) -> bytes:
    """What is sealed with the password, or opened: AES-256-CTR and Poly1305-AES. Source: the design document
    of restic, "Keys, Encryption and MAC".
    """
    scrypt = {"n": key["N"], "r": key["r"], "p": key["p"], "dklen": 64, "maxmem": 1 << 30}
    derived = hashlib.scrypt(PASSWORD.encode(), salt=b64decode(key["salt"]), **scrypt)
    sealed = Cipher(algorithms.AES(derived[:32]), modes.CTR(nonce)).encryptor().update(body)
    mask = Cipher(algorithms.AES(derived[32:48]), modes.ECB()).encryptor().update(nonce)
    return nonce + sealed + Poly1305.generate_tag(derived[48:] + mask, sealed)


@dataclass(slots=True)
class Copies:
    """Data in `folder/data`, a copy of it in the repository `one`, and an empty repository `two`."""

    folder: Path
    port: int = field(default_factory=free_port)
    server: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def settings(self, name: str = "one", **more: Value) -> dict[str, Value]:
        return {
            "repository": f"rest:http://127.0.0.1:{self.port}/{name}/",
            "password": f"env:{VARIABLE}",
            "paths": (str(self.data),),
            **more,
        }

    def action(self, name: str = "one", **more: Value) -> Action:
        return Action("restore", "store-messages", "restic", "ansan", self.settings(name, **more))

    def start(self, *more: str) -> None:
        """Starts the server and waits until it takes connections."""
        argv = ("restic-rest-server", "--no-auth", "--path", str(self.folder / "served"))
        self.server = subprocess.Popen(
            (*argv, "--listen", f"127.0.0.1:{self.port}", *more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("the rest-server does not start")

    def end(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGCONT)
            self.server.kill()
            self.server.wait(10.0)

    def packs(self, name: str = "one") -> list[Path]:
        return sorted((self.folder / "served" / name / "data").glob("*/*"))

    async def silence(self) -> None:
        assert self.server is not None
        self.server.send_signal(signal.SIGSTOP)
        await until_stopped(self.server.pid)

    async def speak(self) -> None:
        assert self.server is not None
        self.server.send_signal(signal.SIGCONT)

    async def change(self) -> None:
        (self.data / "inner" / "another").write_bytes(os.urandom(5_000))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Another restic holds the repository alone, and is stopped in the middle."""
        locks = self.folder / "served" / "one" / "locks"
        env = {"RESTIC_PASSWORD": PASSWORD, "PATH": os.environ["PATH"]}
        # So slow that it still holds its lock when the signal comes, however late that is.
        slow = ("--limit-download", "1")
        argv = ("restic", "check", "--read-data", "--no-cache", *slow, "-r", str(locks.parent))
        with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL) as process:
            try:
                while not any(is_whole(lock) for lock in locks.iterdir()):
                    assert process.poll() is None
                    time.sleep(0.002)
                process.send_signal(signal.SIGSTOP)
                yield
            finally:
                process.kill()

    async def corrupt(self) -> None:
        (index,) = (self.folder / "served" / "one" / "index").iterdir()
        flip(index)

    async def spoil(self) -> None:
        """One bit in the middle of the largest pack: in the content of a file."""
        flip(max(self.packs(), key=lambda path: path.stat().st_size))


def is_whole(file: Path) -> bool:
    """Whether the server holds a file with all its bytes: restic names it by their SHA-256. Before that the
    server has it under another name, and a program stopped there holds no lock.
    """
    with suppress(FileNotFoundError):
        return hashlib.sha256(file.read_bytes()).hexdigest() == file.name
    return False


def flip(path: Path, at: int | None = None) -> None:
    """Flips one bit of a file."""
    path.chmod(0o600)
    body = bytearray(path.read_bytes())
    body[len(body) // 2 if at is None else at] ^= 1
    path.write_bytes(body)


@contextmanager
def copies(folder: Path, *more: str) -> Iterator[Copies]:
    """A repository with one copy, served append-only (or as `more` says); everything ends at the end."""
    for program in ("restic", "restic-rest-server"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    os.environ[VARIABLE] = PASSWORD
    world = Copies(folder)
    try:
        write_files(world.data)
        shutil.copytree(_templates(), folder / "served")
        restic("backup", "--quiet", str(world.data), repository=folder / "served" / "one")
        world.start(*(more or ("--append-only",)))
        yield world
    finally:
        world.end()
        del os.environ[VARIABLE]


def _through(action: Action, program: str) -> Action:
    return replace(action, settings={**action.settings, "program": program})


def _wires(folder: Path) -> tuple[ProgramWire, ...]:
    (folder / "wire").mkdir()
    return (ProgramWire(str(shutil.which("restic")), folder / "wire", _through, turns=1, bounded=False),)


@contextmanager
def _backups(folder: Path) -> Iterator[AskedBackups]:
    with copies(folder) as world:
        (folder / "wrong").write_text("another password")
        (folder / "wrong").chmod(0o600)
        yield AskedBackups(
            ResticDriver(),
            world.action(),
            world.silence,
            world.speak,
            secrets=(PASSWORD,),
            wires=_wires(folder),
            change=world.change,
            spoil=world.spoil,
            lacking=world.action(paths=(str(world.data), "/nowhere/at/all")),
            wrong={
                "backup-password": world.action(password=f"file:{folder}/wrong"),
                "backup-other-repository": world.action(repository_id="0" * 64),
                "backup-no-repository": world.action("three"),
                "backup-tool-missing": world.action(program="/nowhere/restic"),
                "secret-in-clear": world.action(repository="rest:http://me:pass@127.0.0.1:1/"),
            },
            to=world.action("two"),
            lost=world.action("three"),
            deletable=False,
            disk=folder / "served" / "one",
            held=world.held,
            corrupt=world.corrupt,
        )


Left = Callable[[], Awaitable[object]]
Holds = Callable[[Path], Awaitable[bool]]
Fills = Callable[[Path], Awaitable[None]]


def places_below(folder: Path) -> tuple[Left, Holds, Fills]:
    """Of the places in `folder/places`: what is there, whether one holds `folder/data`, and how others fill
    one.
    """
    places = folder / "places"

    async def left() -> object:
        found = sorted(places.rglob("*"))
        return [(str(path), path.read_bytes() if path.is_file() else b"") for path in found]

    async def holds(place: Path) -> bool:
        return place.is_dir() and manifest_of(place) == manifest_of(folder / "data")

    async def fill(place: Path) -> None:
        place.mkdir()
        (place / "theirs").write_text("of someone else", encoding="utf-8")

    return left, holds, fill


@contextmanager
def _restores(folder: Path) -> Iterator[AskedRestore]:
    with copies(folder) as world:
        left, holds, fill = places_below(folder)
        (folder / "places").mkdir()
        yield AskedRestore(
            ResticDriver(),
            world.action(),
            world.silence,
            world.speak,
            secrets=(PASSWORD,),
            place=folder / "places" / "here",
            holds=holds,
            spoil=world.spoil,
            left=left,
            fill=fill,
        )


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with copies(folder) as world:
        left, holds, _ = places_below(folder)
        place = folder / "places" / "here"
        place.parent.mkdir()

        async def is_done() -> bool:
            return await holds(place)

        yield Case(
            ResticDriver(),
            world.action(place=str(place)),
            left,
            is_done,
            tokens=True,
            epochs=True,
            secrets=(PASSWORD,),
        )


ASKS: dict[type, Any] = {TakesBackups: _backups, RestoresData: _restores}
ADAPTER = Adapter(DRIVER, acts={RestoresData: _acts}, asks=ASKS)
