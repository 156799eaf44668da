"""A list of another tool, printed by a program, for the suites."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from evac.drivers.backup_reader import DRIVER
from evac.drivers.backup_reader.driver import BackupReaderDriver
from evac.drivers.capabilities import TakesBackups
from evac.drivers.port import Action, Value
from tests.contract.adapters.command import script
from tests.contract.capabilities.hostile import ProgramWire
from tests.contract.capabilities.suites import Adapter, AskedBackups


def snapshot(number: int, **more: Any) -> dict[str, Any]:
    """As Kopia 0.17 lists one."""
    return {
        "id": f"{number:032x}",
        "source": {"host": "wiki-1", "userName": "root", "path": "/srv/wiki"},
        "startTime": f"2026-11-2{number}T01:00:00.123456789Z",
        "endTime": f"2026-11-2{number}T01:00:09.5Z",
        "stats": {"totalSize": 9_000, "fileCount": 3, "errorCount": 0},
        "rootEntry": {"name": "wiki", "type": "d", "obj": f"k{number}", "summ": {"size": 9_000, "files": 3}},
        **more,
    }


def through(action: Action, program: str) -> Action:
    return replace(action, settings={**action.settings, "argv": (program,)})


@contextmanager
def _backups(folder: Path) -> Iterator[AskedBackups]:
    listed, slow = folder / "listed.json", folder / "slow"
    listed.write_text(json.dumps([snapshot(1)]))
    program = script(folder, "kopia", f"while [ -e {slow} ]; do sleep 0.05; done", f"exec cat {listed}")
    settings: dict[str, Value] = {"format": "kopia", "argv": (program,), "check_argv": ("/bin/true",)}
    action = Action("verify", "store-messages", "backup_reader", "ansan", settings)
    (folder / "wire").mkdir()

    async def silence() -> None:
        slow.touch()

    async def speak() -> None:
        slow.unlink()

    async def change() -> None:
        listed.write_text(json.dumps([snapshot(1), snapshot(2)]))

    async def nothing() -> None:
        return

    def with_(**more: Value) -> Action:
        return replace(action, settings={**settings, **more})

    yield AskedBackups(
        BackupReaderDriver(),
        action,
        silence,
        speak,
        wires=(ProgramWire(program, folder / "wire", through, turns=1, bounded=False),),
        change=change,
        spoil=nothing,
        wrong={
            "backup-tool-missing": with_(argv=("/nowhere/kopia",)),
            "setting-missing": with_(argv=()),
            "setting-wrong": with_(format="tape"),
            "backup-no-repository": with_(argv=(), file="/nowhere/list.json"),
            "backup-output": with_(argv=("/bin/echo", '[{"id": 5}]')),
        },
        takes=False,
        levels=(1,),
    )


ADAPTER = Adapter(DRIVER, acts={}, asks={TakesBackups: _backups}, marks=())
