"""Real programs for the suites."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evac.drivers.capabilities import Fences
from evac.drivers.command import DRIVER
from evac.drivers.command.driver import CommandDriver
from evac.drivers.port import Action, Verb
from tests.contract.capabilities.story import Case
from tests.contract.capabilities.suites import Adapter

SECRET = "pass-word-of-the-router"


def script(folder: Path, name: str, *lines: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@contextmanager
def _fence(folder: Path, verb: Verb) -> Iterator[Case]:
    os.environ["ROUTER_KEY"] = SECRET
    done, slow = folder / "done", folder / "slow"
    wait = f"while [ -e {slow} ]; do sleep 0.05; done"
    settings = {
        "argv": (
            script(folder, "do", wait, f"[ -e {done} ] || echo $EVAC_PARAMETER_TO > {done}", "echo $KEY"),
        ),
        "observe_argv": (script(folder, "look", wait, f"test -e {done}"),),
        "undo_argv": (script(folder, "undo", f"rm -f {done}"),),
        "env": ("KEY=env:ROUTER_KEY",),
    }

    async def state() -> object:
        return sorted((path.name, path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir())

    async def is_done() -> bool:
        return done.exists()

    async def silence() -> None:
        slow.touch()

    async def speak() -> None:
        slow.unlink()

    yield Case(
        CommandDriver(),
        Action(verb, "router", "command", "pangyo", settings, {"proof": "network", "to": "anyang"}),
        state,
        is_done,
        silence=silence,
        speak=speak,
        undo="done",
        secrets=(SECRET,),
        silent_codes=("command-unknown",),
    )
    del os.environ["ROUTER_KEY"]


ADAPTER = Adapter(DRIVER, acts={Fences: _fence}, marks=())
