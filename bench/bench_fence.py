"""`python -m bench fence`: whether a primary whose permit runs out stops in time, whatever the agent lacks.

Each case is an agent in a process of its own with a unit and a permit of six seconds. Something is taken from
the agent, nobody renews the permit, and the figure is how much of the permit was left when the last process
of the unit was gone; below zero the primary outlived it. `--only NAME,...` picks cases. What needs root, a
loop device or many descriptors, and cannot be had here, is printed as not measured.

`CASES` that need neither are also tested, all at once, by `tests/security/test_fence_under_pressure.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from bench.figures import Figure, Table, parts_of
from evac.agent.config import AgentConfig, FenceConfig
from evac.drivers.process.client import AgentClient
from evac.drivers.process.driver import AgentPermits
from evac.model.errors import ActionError
from tests.unit.engine import agents

STORE: Final = "chat-store"
PERMIT_MS: Final = 6_000
MARGIN_MS: Final = 3_000
TIMES: Final = 3
MANY: Final = 10_000
FEW_DESCRIPTORS: Final = 200
HALF_A_HEAD: Final = b"POST /v1/unit HTTP/1.1\r\nHost: agent\r\nContent-Le"


class CannotHave(Exception):
    """What a case needs is not to be had on this machine."""


@dataclass(slots=True)
class Trial:
    """One agent under one pressure. folder: of its state. agent: the pid of its process. pid: of its unit."""

    folder: Path
    made: AgentConfig
    agent: int
    pid: int = 0


Pressure = Callable[[Trial], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Case:
    """what: for people. press: is entered once the unit runs and is permitted. descriptors: that the agent
    may open; 0: as many as this process. place: makes the folder of the agent, where it is a special one.
    piped: its log goes to a pipe that nobody reads. small: needs neither root nor many descriptors.
    """

    what: str
    press: Pressure
    descriptors: int = 0
    place: Callable[[ExitStack, Path], Path] | None = None
    piped: bool = False
    small: bool = False


@contextmanager
def nothing(trial: Trial) -> Iterator[None]:
    yield


def silent(count: int, says: bytes = HALF_A_HEAD) -> Pressure:
    """So many connections that say half a head, from many addresses. Those that the agent ends are opened
    again at once, until the end.
    """

    def opened(number: int, trial: Trial) -> socket.socket:
        line = socket.socket()
        line.bind((f"127.0.{1 + number // 250 % 200}.{1 + number % 250}", 0))
        line.setblocking(False)
        with contextlib.suppress(OSError):
            line.connect((trial.made.host, trial.made.port))
        return line

    def ended(line: socket.socket) -> bool:
        try:
            line.send(says)
            return line.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    @contextmanager
    def press(trial: Trial) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < count + 500:
            raise CannotHave(f"only {hard} descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        lines, over = [opened(number, trial) for number in range(count)], threading.Event()

        def again() -> None:
            while not over.wait(0.01):
                for number, line in enumerate(lines):
                    if ended(line):
                        line.close()
                        lines[number] = opened(number, trial)

        thread = threading.Thread(target=again)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            for line in lines:
                line.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return press


@contextmanager
def no_memory(trial: Trial) -> Iterator[None]:
    """Neither the address space of the agent nor its data may grow by a page, and it can start no thread."""
    with limited(trial.agent, resource.RLIMIT_AS, 0), limited(trial.agent, resource.RLIMIT_DATA, 0):
        yield


@contextmanager
def limited(pid: int, limit: int, most: int) -> Iterator[None]:
    """A limit of a process that may be raised again, as whoever is not root may do."""
    before = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (most, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, limit, before)


@contextmanager
def full_disk(trial: Trial) -> Iterator[None]:
    """Nothing more can be written: neither state nor a line of the log."""
    with (trial.folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4_096))
    yield


@contextmanager
def stopped_disk(trial: Trial) -> Iterator[None]:
    """Every write to the disk of the agent hangs."""
    at = str(trial.folder.parent)
    subprocess.run(["fsfreeze", "--freeze", at], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", at], check=True)


def tmpfs(held: ExitStack, folder: Path) -> Path:
    """A disk of one megabyte."""
    return _mounted(held, folder, ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none"])


def loop(held: ExitStack, folder: Path) -> Path:
    """An ext4 of its own, which can be frozen."""
    if shutil.which("fsfreeze") is None or shutil.which("mkfs.ext4") is None:
        raise CannotHave("fsfreeze or mkfs.ext4 is not installed")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
    return _mounted(held, folder, ["mount", "-o", "loop", str(image)])


def _mounted(held: ExitStack, folder: Path, command: Sequence[str]) -> Path:
    at = folder / "disk"
    at.mkdir()
    done = subprocess.run([*command, str(at)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotHave(f"{command[0]} is refused: {done.stderr.strip()[:80]}")
    held.callback(subprocess.run, ["umount", "--lazy", str(at)], check=False)
    inside = at / "agent"
    inside.mkdir()
    return inside


@contextmanager
def limited_files(trial: Trial) -> Iterator[None]:
    """As `full_disk`, for those who may not mount: no file of the agent may grow."""
    resource.prlimit(trial.agent, resource.RLIMIT_FSIZE, (0, 0))
    yield


CASES: Final[Mapping[str, Case]] = {
    "calm": Case("nothing is taken from the agent", nothing),
    "descriptors": Case(
        f"{FEW_DESCRIPTORS} descriptors, 400 silent connections", silent(400), FEW_DESCRIPTORS, small=True
    ),
    "connections": Case(f"{MANY:,} silent connections", silent(MANY)),
    "memory": Case("not one more page of memory", no_memory, small=True),
    "files": Case("no file may grow", limited_files, small=True),
    "log": Case("a log that nobody reads, which is full", nothing, piped=True, small=True),
    "full-disk": Case("a full disk, the log on it", full_disk, place=tmpfs),
    "stopped-disk": Case("a stopped disk, the log on it", stopped_disk, place=loop),
}


@contextmanager
def agent(case: Case, folder: Path) -> Iterator[Trial]:
    """The agent of a case in a process of its own, answering."""
    unit = agents.sleeper(store=STORE)
    rule = FenceConfig(STORE, margin_ms=MARGIN_MS, timeout_ms=2_500, again_ms=100, units=(unit.name,))
    made = agents.config(folder, unit, fences=(rule,))
    file = folder / "agent.toml"
    file.write_text(
        agents.header(made)
        + f'[[units]]\nname = "{unit.name}"\nargv = {list(unit.argv)!r}\nstore = "{STORE}"\nstop_ms = 500\n'
        + f'[[fences]]\nstore = "{STORE}"\nmargin_ms = {rule.margin_ms}\ntimeout_ms = {rule.timeout_ms}\n'
        + f'again_ms = {rule.again_ms}\nunits = ["{unit.name}"]\n',
        encoding="utf-8",
    )
    most = case.descriptors or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))\n"
        "import asyncio, logging, pathlib, sys; from evac.agent.service import run_agent\n"
        "from evac.agent.config import read_config; logging.basicConfig(level=logging.INFO)\n"
        "asyncio.run(run_agent(read_config(pathlib.Path(sys.argv[1]))))"
    )
    with ExitStack() as held:
        if case.piped:
            reading, writing = os.pipe()
            held.callback(os.close, reading)
            log = held.enter_context(os.fdopen(writing, "wb"))
        else:
            log = held.enter_context((folder / "agent.log").open("wb"))
        process = subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=log, stderr=log)
        held.callback(process.wait)
        held.callback(process.kill)
        trial = Trial(folder, made, process.pid)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                agents.health(made)
                break
            time.sleep(0.05)
        if case.piped:
            _fill(log)
        yield trial


def _fill(pipe: IO[bytes]) -> None:
    os.set_blocking(pipe.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe.fileno(), bytes(64))
    os.set_blocking(pipe.fileno(), True)


async def _permitted(trial: Trial) -> float:
    """The unit runs, and may for `PERMIT_MS`; the end of that on the clock of this machine."""
    order = {"run": "r", "step": "s", "attempt": 1, "token": 5, "epoch": 3, "reason": "bench"}
    order |= {"timeout_ms": 5_000, "key": "r/s", "ticket": "", "dry_run": False}
    values = {"what": "execute", "verb": "start", "unit": "sleeper", "replicas": 1, "order": order}
    client, keeper = AgentClient(), AgentPermits(agents.at(trial.made))
    try:
        await client.send(agents.at(trial.made), "/v1/unit", values, 10)
        trial.pid = agents.pid_of(trial.made, "sleeper")
        # The grant answers how much is left. Half the way back is the most that this can be wrong by.
        left_ms = (await keeper.renew(STORE, 3, PERMIT_MS, 5, 5))["fences"][0]["left_ms"]
        return time.monotonic() + left_ms / 1_000
    finally:
        await client.close()
        await keeper.close()


def left_s(case: Case, folder: Path) -> float:
    """How much of the permit is left when the unit is gone. Raises CannotHave."""
    with ExitStack() as held:
        at = folder if case.place is None else case.place(held, folder)
        trial = held.enter_context(agent(case, at))
        end = asyncio.run(_permitted(trial))
        try:
            with case.press(trial):
                while agents.alive(trial.pid) and time.monotonic() < end + 10:
                    time.sleep(0.005)
                return end - time.monotonic()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(trial.pid, 9)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench fence", description="Fences under pressure.")
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    table = Table(
        f"Fences: a permit of {PERMIT_MS / 1_000:g} s, whose fence begins {MARGIN_MS / 1_000:g} s before"
    )
    table.open()
    table.section("Least of the permit that was left when the primary was gone")
    for name in parts_of(given.only, CASES, parser):
        case, found, why = CASES[name], list[float](), ""
        for _ in range(given.times):
            with tempfile.TemporaryDirectory(prefix="evac-fence-") as folder:
                try:
                    found.append(left_s(case, Path(folder)))
                except (CannotHave, ActionError) as error:
                    why = str(error)
                    break
        least = min(found, default=None)
        table.add(Figure(name, case.what, least, "s", 0, "at least", why, tuple(found)))
    return table.close(given.json)
