"""A program that answers from a folder, for the suites."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from evac.drivers.backup_request import DRIVER
from evac.drivers.backup_request.driver import BackupRequestDriver
from evac.drivers.capabilities import AsksRestored
from evac.drivers.port import Action, Value
from tests.contract.adapters.command import script
from tests.contract.capabilities.hostile import ProgramWire
from tests.contract.capabilities.suites import Adapter, AskedRequest

SECRET = "key-of-the-wiki-7"


@contextmanager
def _asks(folder: Path) -> Iterator[AskedRequest]:
    os.environ["WIKI_KEY"] = SECRET
    slow, place = folder / "slow", folder / "place"
    place.mkdir()
    (folder / "wire").mkdir()
    (place / "page").write_text("Restart the pager\n", encoding="utf-8")
    wait = f"while [ -e {slow} ]; do sleep 0.05; done"
    program = script(folder, "ask", wait, 'cat "$EVAC_PLACE/page" || exit 1', 'echo "with $KEY"')
    settings: dict[str, Value] = {
        "argv": (program,),
        "answer": "Restart the pager",
        "env": ("KEY=env:WIKI_KEY",),
    }
    action = Action("verify", "wiki", "backup_request", "ansan", settings)

    def through(action: Action, program: str) -> Action:
        return with_(argv=(program,))

    def with_(**more: Value) -> Action:
        return replace(action, settings={**settings, **more})

    async def silence() -> None:
        slow.touch()

    async def speak() -> None:
        slow.unlink()

    yield AskedRequest(
        BackupRequestDriver(),
        action,
        silence,
        speak,
        secrets=(SECRET,),
        wires=(ProgramWire(program, folder / "wire", through, turns=1),),
        place=place,
        page=place / "page",
        wrong={
            "command-missing": with_(argv=("/nowhere/ask",)),
            "request-failed": with_(argv=("/bin/sh", "-c", "echo Restart the pager; exit 3")),
            "request-silent": with_(argv=("/bin/sleep", "60"), seconds=1),
            "setting-missing": with_(answer="  "),
        },
    )
    del os.environ["WIKI_KEY"]


ADAPTER = Adapter(DRIVER, acts={}, asks={AsksRestored: _asks}, marks=())
